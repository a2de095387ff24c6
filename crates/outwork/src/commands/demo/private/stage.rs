//! What the private demonstration stands on: a private server, perhaps in a network of its own, a plane whose edge is
//! tapped, a gateway. All of it is taken down at the end, also when this process is killed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use outwork_client::{Client, Credential, Options as ClientOptions, Query};
use outwork_ledger::{Expect, Filter, Record, scan, verify};
use outwork_plane::{
    EdgeOptions, FederationOptions, FileOptions, IdentityOptions, LedgerOptions, Limits, McpOptions, Plane,
    PromptOptions, RetryPolicy, TunnelOptions,
};
use outwork_rehearsal::{Options, Rehearsal, RehearsalHandle, Scenario};
use outwork_wire::id::fresh_secret;
use rustix::process::{Pid, Signal, kill_process};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::process::Child;

use super::host::{Host, program};
use super::network::{Network, Pair};
use super::seen::Seen;
use super::{QUESTION, SERVER, TOOLS};
use crate::cli::task::{Connection, DemoArgs};
use crate::cli::tunnel::{EdgeArgs, SetupArgs};
use crate::commands::tunnel;
use crate::config::{self, ModelConfig, PlaneConfig};
use crate::roles;

/// How long one part may take to be there, or to be gone.
pub(super) const PART: Duration = Duration::from_secs(15);
const PLAY: &str = include_str!("play.toml");

/// Everything that the demonstration needs, running.
pub(super) struct Stage {
    /// What the private server listens on.
    pub(super) server: SocketAddr,
    /// What it alone knows.
    pub(super) parcel: String,
    /// The network of its own, if there is one, and otherwise why not.
    pub(super) pair: Option<Pair>,
    pub(super) why_not: Option<String>,
    pub(super) seen: Seen,
    /// Behind a lock so that its end can be waited for while the rest is used.
    processes: tokio::sync::Mutex<Processes>,
    domain: String,
    edge: String,
    key: SecretString,
    plane: Plane,
    rehearsal: RehearsalHandle,
    gateway_folder: PathBuf,
    folder: Option<tempfile::TempDir>,
    kept: Option<PathBuf>,
}

/// What runs beside this process.
struct Processes {
    host: Host,
    gateway: Child,
}

impl Stage {
    /// Sets everything up.
    pub(super) async fn set(args: &DemoArgs) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("outwork-demo-")
            .tempdir()
            .context("could not make a folder")?;
        let (network, host, why_not) = private_server(args).await?;
        let seen = Seen::default();
        let key = SecretString::from(fresh_secret(40, &mut rand::rng()));
        let model_key = SecretString::from(fresh_secret(40, &mut rand::rng()));
        let scenario = Scenario::from_toml(PLAY).context("the play of the demonstration")?;
        let rehearsal = Rehearsal::start(Options {
            api_key: Some(model_key.expose_secret().to_owned()),
            ..Options::new(scenario)
        })
        .await?;
        let (worker, log) = config::worker(None, &crate::cli::worker::LimitArgs::default(), &args.log)?;
        let plane = roles::start_plane(&PlaneConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            data_dir: folder.path().join("server"),
            tls: None,
            api_key: Some(key.clone()),
            model: Some(ModelConfig::new(rehearsal.base_url(), model_key)?),
            prompt: PromptOptions::default(),
            retry: RetryPolicy::default(),
            mcp: McpOptions::default(),
            limits: Limits::default(),
            master_key: None,
            tunnels: TunnelOptions {
                edge: Some(EdgeOptions {
                    listen: SocketAddr::new(network.edge, 0),
                    public_address: None,
                    tls: None,
                    tap: Some(seen.tap()),
                }),
                ..TunnelOptions::default()
            },
            federation: FederationOptions::default(),
            identity: IdentityOptions::default(),
            files: FileOptions::default(),
            ledger: LedgerOptions::default(),
            drain_timeout: Duration::from_secs(5),
            log,
            worker,
        })
        .await?;
        let edge = plane.edge().context("the server has no edge")?.listen.to_string();
        let client = client(&plane, &key)?;
        let gateway_folder = folder.path().join("gateway");
        let set = set_up(&client, folder.path(), &gateway_folder, &key, host.address).await?;
        let pid = network.pair.as_ref().and(host.child.id());
        let mut gateway = start_gateway(&gateway_folder, folder.path(), pid)?;
        connected(&client, &set.tunnel_id, &mut gateway, folder.path()).await?;
        let (folder, kept) = if args.keep {
            (None, Some(folder.keep()))
        } else {
            (Some(folder), None)
        };
        Ok(Self {
            server: host.address,
            parcel: host.parcel.clone(),
            pair: network.pair,
            why_not,
            seen,
            processes: tokio::sync::Mutex::new(Processes { host, gateway }),
            domain: set.domain,
            edge,
            key,
            plane,
            rehearsal,
            gateway_folder,
            folder,
            kept,
        })
    }

    pub(super) fn base_url(&self) -> String {
        self.plane.base_url()
    }

    /// Where the gateway connected to.
    pub(super) fn edge(&self) -> &str {
        &self.edge
    }

    /// How agents name the private server.
    pub(super) fn tunnel_url(&self) -> String {
        format!("https://{SERVER}.{}/mcp", self.domain)
    }

    pub(super) fn kept(&self) -> Option<&Path> {
        self.kept.as_deref()
    }

    pub(super) fn client(&self) -> Result<Client> {
        client(&self.plane, &self.key)
    }

    /// Returns when a part ended that should not have.
    pub(super) async fn ended(&self) -> anyhow::Error {
        let mut processes = self.processes.lock().await;
        let Processes { host, gateway } = &mut *processes;
        tokio::select! {
            status = gateway.wait() => anyhow!("the gateway ended: {status:?}"),
            status = host.child.wait() => anyhow!("the private server ended: {status:?}"),
        }
    }

    /// A session of an agent with a server at this address.
    pub(super) async fn session(&self, client: &Client, model: &str, url: &str) -> Result<Value> {
        let environment = client
            .environments()
            .create(&json!({ "name": model, "config": { "type": "self_hosted" } }))
            .await
            .context("could not make the environment")?;
        let agent = json!({
            "name": "clerk",
            "model": model,
            "mcp_servers": [{ "type": "url", "name": SERVER, "url": url }],
            "tools": [{
                "type": "mcp_toolset",
                "mcp_server_name": SERVER,
                "default_config": { "permission_policy": { "type": "always_allow" } },
            }],
        });
        let agent = client
            .agents()
            .create(&agent)
            .await
            .context("could not make the agent")?;
        client
            .sessions()
            .create(&json!({ "agent": id(&agent)?, "environment_id": id(&environment)? }))
            .await
            .context("could not make the session")
    }

    /// Asks the question in a session that nobody watches. Its events once it rests.
    pub(super) async fn ask(&self, client: &Client, session: &str) -> Result<Vec<Value>> {
        let message = json!({ "type": "user.message", "content": [{ "type": "text", "text": QUESTION }] });
        client.sessions().events(session).send(&[message]).await?;
        within("the session comes to rest", async || {
            let events = events(client, session).await?;
            let rests = events
                .last()
                .is_some_and(|event| event["type"] == "session.status_idle");
            Ok(rests.then_some(events))
        })
        .await
    }

    /// The gateway's records of a session's calls of tools, and whether the ledger is sound.
    pub(super) async fn records(&self, session: &str) -> Result<(Vec<Record>, bool)> {
        let dir = self.gateway_folder.join("ledger");
        let calls = within("the gateway records the calls", async || {
            let mut calls = Vec::new();
            scan(&dir, &Filter::session(session), |_, record| {
                if record.tool.is_some() {
                    calls.push(record.clone());
                }
            })?;
            Ok((calls.len() >= TOOLS.len()).then_some(calls))
        })
        .await?;
        Ok((calls, verify(&dir, &Expect::any_key())?.is_sound()))
    }

    /// Takes everything down.
    pub(super) async fn strike(mut self) {
        let Processes { mut host, mut gateway } = self.processes.into_inner();
        terminate(&mut gateway).await;
        drop(host.input.take());
        if tokio::time::timeout(PART, host.child.wait()).await.is_err() {
            // It is killed when it is dropped.
            tracing::warn!("the private server did not end by itself");
        }
        drop(self.pair.take());
        self.plane.shutdown().await;
        self.rehearsal.shutdown().await;
        drop(self.folder);
    }
}

async fn terminate(child: &mut Child) {
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let Some(pid) = pid else { return };
    // It may have ended already.
    let _ = kill_process(pid, Signal::TERM);
    if tokio::time::timeout(PART, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

fn client(plane: &Plane, key: &SecretString) -> Result<Client> {
    Ok(Client::new(ClientOptions::new(
        plane.base_url(),
        Credential::api_key(key.expose_secret()),
    ))?)
}

/// The private server: in a network of its own if that can be made, on loopback otherwise, and why.
async fn private_server(args: &DemoArgs) -> Result<(Network, Host, Option<String>)> {
    let why = if args.loopback {
        None
    } else {
        match apart().await {
            Ok((network, host)) => return Ok((network, host, None)),
            Err(error) => Some(format!("{error:#}")),
        }
    };
    let network = Network::loopback();
    let host = Host::start(&network).await?;
    Ok((network, host, why))
}

async fn apart() -> Result<(Network, Host)> {
    let network = Network::apart(&mut rand::rng())?;
    let host = Host::start(&network).await?;
    Ok((network, host))
}

/// `outwork tunnel setup`, and a configuration with the private server as its one route.
async fn set_up(
    client: &Client,
    folder: &Path,
    gateway: &Path,
    key: &SecretString,
    server: SocketAddr,
) -> Result<tunnel::Set> {
    let key_file = folder.join("admin.key");
    write_secret(&key_file, key.expose_secret())?;
    let set = tunnel::setup(&SetupArgs {
        folder: Some(gateway.to_owned()),
        tunnel: None,
        name: Some("demo".to_owned()),
        routes: Vec::new(),
        allow: vec![format!("{}/32", server.ip())],
        health: "none".to_owned(),
        identity: false,
        token_file: None,
        certificate: None,
        key: None,
        authority: None,
        offline: false,
        domain: None,
        edge: EdgeArgs::default(),
        output: crate::cli::Output::default(),
        connection: Connection {
            base_url: Some(client.base_url().to_owned()),
            api_key_file: Some(key_file),
            ..Connection::default()
        },
    })
    .await
    .context("could not set the gateway up")?;
    let said: Value = client.get("/.well-known/openid-configuration", &Query::new()).await?;
    let keys: Value = client.get("/.well-known/jwks.json", &Query::new()).await?;
    std::fs::write(gateway.join("jwks.json"), keys.to_string()).context("could not write jwks.json")?;
    let path = gateway.join(tunnel::CONFIG);
    let mut text = std::fs::read_to_string(&path).context("could not read the gateway's configuration")?;
    text.push_str(&format!(
        "identity:\n  issuer: {}\n  jwks_file: jwks.json\n  required: true\nroutes:\n  {SERVER}:\n    url: http://{server}\n    \
         tools: {{read_only: true}}\n",
        said["issuer"]
    ));
    std::fs::write(&path, text).context("could not write the gateway's configuration")?;
    Ok(set)
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("could not write {}", path.display()))
}

/// `outwork tunnel run`, in the network of a process if one is named.
fn start_gateway(gateway: &Path, folder: &Path, pid: Option<u32>) -> Result<Child> {
    let log = std::fs::File::create(log_file(folder)).context("could not make the gateway's log")?;
    let mut command = program()?;
    command.args(["demo-host", "enter"]);
    if let Some(pid) = pid {
        command.args(["--pid", &pid.to_string()]);
    }
    command
        .args(["--", "tunnel", "run", "--folder"])
        .arg(gateway)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("could not start the gateway")
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("gateway.log")
}

/// Waits until both connections of the gateway are there.
async fn connected(client: &Client, tunnel_id: &str, gateway: &mut Child, folder: &Path) -> Result<()> {
    let up = within("the gateway connects", async || {
        if let Some(status) = gateway.try_wait()? {
            bail!("the gateway ended: {status}");
        }
        let connections = client.tunnels().connections(tunnel_id).await?;
        Ok((connections["data"].as_array().map_or(0, Vec::len) >= 2).then_some(()))
    });
    up.await.with_context(|| {
        let log = std::fs::read_to_string(log_file(folder)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!(
            "the end of the gateway's log:\n{}",
            lines[lines.len().saturating_sub(5)..].join("\n")
        )
    })
}

/// Looks until something is there.
async fn within<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let end = tokio::time::Instant::now() + PART;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if tokio::time::Instant::now() > end {
            bail!("this did not come within {PART:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

/// The id of what the server made.
pub(super) fn id(value: &Value) -> Result<String> {
    let id = value.get("id").and_then(Value::as_str);
    id.map(str::to_owned).context("the server answered without an id")
}

/// The events of a session.
pub(super) async fn events(client: &Client, session: &str) -> Result<Vec<Value>> {
    let pages = client.sessions().events(session).list(Query::new())?;
    let events = pages.collect(usize::MAX).await?;
    events.iter().map(|event| Ok(serde_json::to_value(event)?)).collect()
}
