//! `outwork tunnel`: the gateway as a process of its own, beside a real MCP server, for sessions of a real plane.

mod by_hand;
mod demo;
mod renewal;
mod running;
mod sessions;
mod setup;
mod strangers;

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::world::process::{BINARY, clean, keep_log, show_log};
use crate::world::{ADMIN_KEY, Api, SCRIPT, SOON, ServerOptions, World, script_message, until};

/// A plane with an edge.
async fn plane() -> World {
    World::start_with(ServerOptions::default().flags(&["--tunnel-listen", "127.0.0.1:0"])).await
}

/// What a command came to.
struct Ran {
    status: ExitStatus,
    out: String,
    error: String,
}

impl Ran {
    /// What it said, if it went well.
    #[track_caller]
    fn ok(self) -> String {
        assert!(self.status.success(), "{}\n{}", self.out, self.error);
        self.out
    }

    /// The object that it said, if it went well.
    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(self.ok().lines().next().unwrap()).unwrap()
    }

    /// What it said against it, which names these.
    #[track_caller]
    fn refused(self, named: &[&str]) -> String {
        assert_eq!(self.status.code(), Some(1), "{}\n{}", self.out, self.error);
        let said = format!("{}{}", self.out, self.error);
        for name in named {
            assert!(said.contains(name), "`{name}` is not in: {said}");
        }
        said
    }
}

/// Runs `outwork tunnel …` against a server.
async fn tunnel(base_url: &str, words: &[&str]) -> Ran {
    let mut command = Command::new(BINARY);
    clean(&mut command);
    let output = command
        .arg("tunnel")
        .args(words)
        .env("OUTWORK_BASE_URL", base_url)
        .env("OUTWORK_API_KEY", ADMIN_KEY)
        .output();
    let output = timeout(SOON, output).await.expect("it did not end").unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran {
        status: output.status,
        out: text(&output.stdout),
        error: text(&output.stderr),
    }
}

/// A real MCP server: that of the demonstration, as a process of its own.
struct Orders {
    _child: Child,
    _input: ChildStdin,
    address: String,
    /// What it alone knows.
    parcel: String,
}

impl Orders {
    async fn start() -> Self {
        let mut command = Command::new(BINARY);
        clean(&mut command);
        let mut child = command
            .args(["demo-host", "server", "--listen", "127.0.0.1:0"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = timeout(SOON, lines.next_line()).await.unwrap().unwrap().unwrap();
        let told: Value = serde_json::from_str(&line).unwrap();
        Self {
            _child: child,
            _input: input,
            address: told["listening"].as_str().unwrap().to_owned(),
            parcel: told["parcel"].as_str().unwrap().to_owned(),
        }
    }
}

/// A folder that `outwork tunnel setup` wrote.
struct Office {
    folder: TempDir,
    tunnel_id: String,
    domain: String,
}

impl Office {
    /// Sets up a tunnel whose one route leads to a server on loopback; health is on a free port.
    async fn set_up(world: &World, orders: &Orders) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("gateway");
        let route = format!("orders=http://{}", orders.address);
        let words = [
            "setup",
            "--folder",
            path.to_str().unwrap(),
            "--name",
            "office",
            "--route",
            &route,
            "--allow",
            "127.0.0.1/32",
            "--health",
            "127.0.0.1:0",
            "--identity",
            "--json",
        ];
        let set = tunnel(world.server.base_url(), &words).await.json();
        Self {
            tunnel_id: set["tunnel_id"].as_str().unwrap().to_owned(),
            domain: set["domain"].as_str().unwrap().to_owned(),
            folder,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("gateway")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.file(name)).unwrap()
    }

    /// Changes the configuration.
    fn configure(&self, from: &str, to: &str) {
        let text = self.read("config.yaml");
        assert!(text.contains(from), "{text}");
        std::fs::write(self.file("config.yaml"), text.replace(from, to)).unwrap();
    }

    /// Runs `outwork tunnel …` on this folder.
    async fn tunnel(&self, world: &World, words: &[&str]) -> Ran {
        let path = self.path();
        let words = [words, &["--folder", path.to_str().unwrap()]].concat();
        tunnel(world.server.base_url(), &words).await
    }

    fn url(&self) -> String {
        format!("https://orders.{}/mcp", self.domain)
    }
}

/// `outwork tunnel run`. Dropping it kills it.
struct Gateway {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Its first line.
    announced: String,
    log: Arc<Mutex<String>>,
}

impl Gateway {
    /// Starts it and waits until it has announced itself.
    async fn start(path: &Path) -> Self {
        Self::start_with(&["--folder", path.to_str().unwrap()], &[]).await
    }

    async fn start_with(words: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(BINARY);
        clean(&mut command);
        let mut child = command
            .args(["tunnel", "run"])
            .args(words)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::default();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        keep_log(&mut child, &log);
        let announced = timeout(SOON, lines.next_line()).await.unwrap().unwrap();
        let gateway = Self {
            child,
            lines,
            announced: announced.unwrap_or_default(),
            log,
        };
        assert!(gateway.announced.contains("gateway of"), "{}", gateway.log());
        gateway
    }

    /// Starts it and waits until the plane sees both of its connections.
    async fn connected(world: &World, office: &Office) -> Self {
        let gateway = Self::start(&office.path()).await;
        connections(&world.api, &office.tunnel_id, 2).await;
        gateway
    }

    fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().expect("it runs").try_into().unwrap()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Where health and metrics are.
    fn health(&self) -> &str {
        self.announced.rsplit(' ').next().unwrap()
    }

    /// Waits until its log says this one more time than `before`.
    async fn says(&self, text: &str, before: usize) {
        until(&format!("the gateway's log says {text}"), SOON, || async {
            (self.log().matches(text).count() > before).then_some(())
        })
        .await;
    }

    /// Sends SIGTERM and waits until it has ended.
    async fn drain(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        let status = timeout(SOON, self.child.wait()).await.expect("it did not end").unwrap();
        assert_eq!(
            self.lines.next_line().await.unwrap(),
            None,
            "it says one line on standard output"
        );
        status
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        show_log("gateway", &self.log);
    }
}

/// Waits until the plane sees so many connections of a tunnel.
async fn connections(api: &Api, tunnel: &str, wanted: usize) -> Vec<Value> {
    until(&format!("{wanted} connections"), SOON, || async {
        let seen = api.get(&format!("/v1/tunnels/{tunnel}/connections")).await.ok();
        let seen = seen["data"].as_array().unwrap().clone();
        (seen.len() == wanted).then_some(seen)
    })
    .await
}

/// The events of a session that calls a tool of the server at `url` once.
async fn called(world: &World, url: &str, tool: &str, input: Value) -> Vec<Value> {
    called_by(&world.api, url, tool, input).await
}

/// As [`called`], in the name of whoever `api` is for.
async fn called_by(api: &Api, url: &str, tool: &str, input: Value) -> Vec<Value> {
    let agent = json!({
        "name": "clerk", "model": SCRIPT,
        "mcp_servers": [{ "type": "url", "name": "orders", "url": url }],
        "tools": [{
            "type": "mcp_toolset", "mcp_server_name": "orders",
            "default_config": { "permission_policy": { "type": "always_allow" } },
        }],
    });
    let agent = api.make("/v1/agents", agent).await;
    let environment = api.environment("self_hosted").await;
    let session = api.session(&agent, &environment).await;
    let steps = json!([
        { "say": [{ "tool_use": { "name": format!("mcp__orders__{tool}"), "input": input, "unlisted": true } }] },
        { "say": [{ "text": "done" }] },
    ]);
    api.send_events(&session, &[script_message(steps)]).await;
    api.wait_idle(&session).await
}

/// What the call of `late_orders` through the tunnel brings: the answer, or what the session says went wrong.
async fn late_orders(world: &World, office: &Office) -> Result<String, String> {
    let events = called(world, &office.url(), "late_orders", json!({ "customer": "Hartmann" })).await;
    outcome(&events)
}

fn outcome(events: &[Value]) -> Result<String, String> {
    if let Some(error) = events.iter().find(|event| event["type"] == "session.error") {
        return Err(error["error"].to_string());
    }
    let result = events
        .iter()
        .find(|event| event["type"] == "agent.mcp_tool_result")
        .unwrap_or_else(|| panic!("no result: {events:?}"));
    let text = result["content"][0]["text"].as_str().unwrap_or_default().to_owned();
    if result["is_error"] == true {
        Err(text)
    } else {
        Ok(text)
    }
}
