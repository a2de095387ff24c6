//! The servers that cases measure: a plane and a rehearsal model of the release build, each with a folder of its
//! own, gone when dropped; and the few calls that cases make of them.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::process::Group;
use crate::workspace::Workspace;

const KEY: &str = "sk-ow-bench-0123456789abcdefghijklmnopqrstuvwxyz";
const READY: Duration = Duration::from_secs(30);

/// A folder that goes with its owner.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// A fresh folder under the build folder, so that it is on the same disk as everything else.
    pub(crate) fn fresh(workspace: &Workspace, name: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = workspace
            .kept("bench")?
            .join(format!("{name}-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("could not make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays behind is under the build folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server that said that it is ready.
pub(crate) struct Server {
    group: Group,
    /// Its address.
    pub(crate) url: String,
    /// From its start to its ready line.
    pub(crate) took: Duration,
    _folder: Option<Folder>,
}

impl Server {
    /// `outwork serve` on an empty folder.
    pub(crate) fn plane(workspace: &Workspace, model: Option<&str>) -> Result<Self> {
        let folder = Folder::fresh(workspace, "plane")?;
        let mut command = Command::new(workspace.binary("release"));
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&folder.0)
            .env("OUTWORK_API_KEY", KEY);
        if let Some(url) = model {
            command
                .env("OUTWORK_MODEL_BASE_URL", url)
                .env("OUTWORK_MODEL_API_KEY", "sk-rehearsal");
        }
        Self::start(command, "outwork: listening on ", Some(folder))
    }

    /// `outwork rehearsal`, which answers at once.
    pub(crate) fn rehearsal(workspace: &Workspace) -> Result<Self> {
        let mut command = Command::new(workspace.binary("release"));
        command.args(["rehearsal", "--listen", "127.0.0.1:0"]);
        Self::start(command, "rehearsal: listening on ", None)
    }

    fn start(mut command: Command, ready: &'static str, folder: Option<Folder>) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let started = Instant::now();
        let mut group = Group::start(&mut command)?;
        let output = group.child().stdout.take().context("a server has no output")?;
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                if let Some(url) = line.strip_prefix(ready) {
                    // Nobody listens any more once the server is given up.
                    let _ = tell.send((url.trim().to_owned(), Instant::now()));
                }
            }
        });
        let (url, at) = told
            .recv_timeout(READY)
            .map_err(|_| anyhow::anyhow!("a server did not say `{ready}`"))?;
        Ok(Self {
            group,
            url,
            took: at - started,
            _folder: folder,
        })
    }

    /// Its resident memory, in MB.
    pub(crate) fn resident(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.group.id());
        let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
        let line = text
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .context("no VmRSS in the status of a server")?;
        let kilobytes: f64 = line
            .split_whitespace()
            .nth(1)
            .and_then(|number| number.parse().ok())
            .context("VmRSS is not a number")?;
        Ok(kilobytes * 1024.0 / 1e6)
    }
}

/// A caller with one credential.
#[derive(Clone)]
pub(crate) struct Api {
    agent: ureq::Agent,
    base: String,
    header: (&'static str, String),
}

impl Api {
    /// With the admin key.
    pub(crate) fn admin(server: &Server) -> Self {
        Self::with(server, ("x-api-key", KEY.to_owned()))
    }

    /// With an environment key.
    pub(crate) fn worker(server: &Server, key: &str) -> Self {
        Self::with(server, ("authorization", format!("Bearer {key}")))
    }

    fn with(server: &Server, header: (&'static str, String)) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            .build();
        Self {
            agent: config.into(),
            base: server.url.clone(),
            header,
        }
    }

    /// GET; an empty body is null.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        let request = self.agent.get(format!("{}{path}", self.base));
        let request = request
            .header(self.header.0, &self.header.1)
            .header("anthropic-version", "2023-06-01");
        read(
            path,
            request.header("anthropic-beta", "managed-agents-2026-04-01").call(),
        )
    }

    /// POST with a JSON body.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.agent.post(format!("{}{path}", self.base));
        let request = request
            .header(self.header.0, &self.header.1)
            .header("anthropic-version", "2023-06-01");
        read(
            path,
            request
                .header("anthropic-beta", "managed-agents-2026-04-01")
                .send_json(body),
        )
    }

    /// POST whose answer is read to its end and thrown away.
    pub(crate) fn send(&self, path: &str, body: &Value) -> Result<()> {
        let request = self.agent.post(format!("{}{path}", self.base));
        let request = request
            .header(self.header.0, &self.header.1)
            .header("anthropic-version", "2023-06-01");
        let mut answer = request
            .send_json(body)
            .with_context(|| format!("could not call {path}"))?;
        let text = answer
            .body_mut()
            .read_to_string()
            .with_context(|| format!("could not read {path}"))?;
        if !answer.status().is_success() {
            bail!("{path} answered {}: {text}", answer.status());
        }
        Ok(())
    }

    /// The id of something that was just made.
    pub(crate) fn made(&self, path: &str, body: &Value) -> Result<String> {
        let made = self.post(path, body)?;
        made["id"]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("{path} gave no id: {made}"))
    }

    /// An agent with the toolset, on the rehearsal model.
    pub(crate) fn agent(&self) -> Result<String> {
        let toolset = json!({"type": "agent_toolset_20260401",
            "default_config": {"enabled": true, "permission_policy": {"type": "always_allow"}}});
        self.made(
            "/v1/agents",
            &json!({"name": "bench", "model": "rehearsal/script", "tools": [toolset]}),
        )
    }

    /// A self-hosted environment and a key for it.
    pub(crate) fn environment(&self) -> Result<(String, String)> {
        let id = self.made(
            "/v1/environments",
            &json!({"name": "bench", "config": {"type": "self_hosted"}}),
        )?;
        let made = self.post(&format!("/v1/environments/{id}/keys"), &json!({"name": "bench"}))?;
        let key = made["key"].as_str().context("no environment key came back")?.to_owned();
        Ok((id, key))
    }
}

fn read(path: &str, answer: std::result::Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Value> {
    let mut answer = answer.with_context(|| format!("could not call {path}"))?;
    let status = answer.status();
    let text = answer
        .body_mut()
        .read_to_string()
        .with_context(|| format!("could not read the answer of {path}"))?;
    if !status.is_success() {
        bail!("{path} answered {status}: {text}");
    }
    if text.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).with_context(|| format!("the answer of {path} is not JSON"))
}

/// A message that carries what the rehearsal model shall do.
pub(crate) fn script(number: usize, steps: &Value) -> Value {
    // Numbered, so that no two conversations are the same to the model's cache of prompts.
    let words = format!("bench {number} {}\n```json\n{steps}\n```", std::process::id());
    json!({"type": "user.message", "content": [{"type": "text", "text": words}]})
}
