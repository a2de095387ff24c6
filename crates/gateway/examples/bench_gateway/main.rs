//! Measures calls of MCP tools through edge and gateway beside the same calls made directly, and what one of two
//! connections does to them when it goes.
//!
//! `cargo run --release -p outwork-gateway --example bench_gateway -- [--quick] [--program OUTWORK]
//! [--only PART]... [--transport tcp|quic]`: with the product's binary, that is the gateway; otherwise this program is.
//!
//! `… --example bench_gateway -- config FILE...` reads configurations as a gateway does, and measures nothing.
//!
//! A line a figure: what, whose, unit, every value that was measured; tabs between. The gateway and the server that it
//! calls are processes of their own; this one is the load and the edge, as the plane is. Through the gateway a call has
//! TLS outside and inside, and is recorded in a ledger on disk; on the route `ruled` every kind of rule looks at it.

#![forbid(unsafe_code)]

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use outwork_gateway::config::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

mod killed;
#[path = "../../../tunnel/tests/it/relay.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod relay;
mod world;

use killed::{Trouble, killed};
use world::{Process, World, gateway};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Nothing of a call looks like what is taken out, so that every pattern is tried to its end.
const RESULT: &str = "The report of the second quarter is on the shared drive, and nobody has asked for it yet.";

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match words[..] {
        ["config", ref files @ ..] if !files.is_empty() => files.iter().try_for_each(|file| {
            Config::load(Path::new(file))?;
            Ok(())
        }),
        // The other processes of a run are this program again.
        ["upstream"] => runtime.block_on(upstream()),
        ["gateway", folder] => runtime.block_on(gateway(Path::new(folder))),
        // The load is a task like any other, as calls are in the plane.
        _ => runtime.block_on(async { tokio::spawn(measure(arguments.clone())).await? }),
    }
}

/// What is measured.
struct Plan {
    quick: bool,
    program: Option<PathBuf>,
    upstream: SocketAddr,
    only: Vec<String>,
    transports: Vec<&'static str>,
}

const PARTS: &[&str] = &["one", "load", "killed"];
const TRANSPORTS: &[&str] = &["tcp", "quic"];

impl Plan {
    fn read(words: &[&str], upstream: SocketAddr) -> Result<Self, Failure> {
        let mut plan = Self {
            quick: false,
            program: None,
            upstream,
            only: Vec::new(),
            transports: TRANSPORTS.to_vec(),
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--quick" => plan.quick = true,
                "--program" => plan.program = Some(words.next().ok_or("--program needs a program")?.into()),
                "--only" => match words.next() {
                    Some(part) if PARTS.contains(part) => plan.only.push((*part).to_owned()),
                    other => return Err(format!("--only {other:?}: the parts are {}", PARTS.join(", ")).into()),
                },
                "--transport" => plan.transports.retain(|mode| words.as_slice().first() == Some(mode)),
                word if TRANSPORTS.contains(&word) => {}
                other => return Err(format!("{other} is not known here; see the top of main.rs").into()),
            }
        }
        Ok(plan)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == part)
    }

    /// How often something is repeated.
    fn times(&self, whole: usize) -> usize {
        if self.quick { whole.div_ceil(4) } else { whole }
    }
}

async fn measure(arguments: Vec<String>) -> Result<(), Failure> {
    let (_server, upstream) = Process::upstream()?;
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let plan = &Plan::read(&words, upstream)?;
    let quick = plan.quick;
    let mut worlds = Vec::new();
    for mode in plan.transports.iter().copied() {
        worlds.push(World::start(mode, plan, false).await?);
    }
    // What the start took is given back or not by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for world in &worlds {
        let whose = format!("ours {}", world.mode);
        show("gateway, idle", &whose, "MB", &[world.gateway.resident("VmRSS")]);
        show(
            "gateway, idle, without its program",
            &whose,
            "MB",
            &[world.gateway.resident("RssAnon")],
        );
    }

    let mut ways: Vec<(String, Way)> = vec![("direct".to_owned(), Way::Direct(upstream))];
    for world in &worlds {
        ways.push((
            format!("ours {}, no rules", world.mode),
            Way::Through(world.clone(), "plain"),
        ));
        ways.push((
            format!("ours {}, rules", world.mode),
            Way::Through(world.clone(), "ruled"),
        ));
    }
    let (mut direct, mut added) = (Vec::new(), vec![Vec::new(); ways.len()]);
    let (mut rates, mut work) = (vec![Vec::new(); ways.len()], vec![Vec::new(); ways.len()]);
    for round in 0..if plan.wants("one") { plan.times(12) } else { 0 } {
        let mut medians = vec![0.0; ways.len()];
        for at in 0..ways.len() {
            let index = (at + round) % ways.len();
            let (way, count) = (&ways[index].1, if quick { 500 } else { 2000 });
            let before = way.spent();
            medians[index] = median(way, count).await?;
            work[index].push((way.spent() - before) * 1e6 / (count + WARM_UP) as f64);
        }
        direct.push(medians[0]);
        for (values, median) in added.iter_mut().zip(&medians) {
            values.push(median - medians[0]);
        }
    }
    for round in 0..if plan.wants("load") { plan.times(6) } else { 0 } {
        for at in 0..ways.len() {
            let index = (at + round) % ways.len();
            let time = Duration::from_millis(if quick { 500 } else { 2000 });
            rates[index].push(rate(&ways[index].1, 32, time).await?);
        }
    }
    show("MCP call, p50, one at a time", "direct", "us", &direct);
    for ((name, _), values) in ways.iter().zip(&added).skip(1) {
        show("MCP call, added p50, one at a time", name, "us", values);
    }
    for ((name, _), values) in ways.iter().zip(&work).skip(1) {
        show(
            "MCP call, the gateway's processor time, one at a time",
            name,
            "us",
            values,
        );
    }
    for ((name, _), values) in ways.iter().zip(&rates) {
        show("MCP calls, 32 at a time", name, "req/s", values);
    }
    for world in &worlds {
        let whose = format!("ours {}", world.mode);
        show("gateway, after load", &whose, "MB", &[world.gateway.resident("VmRSS")]);
    }
    drop((ways, worlds));
    if !plan.wants("killed") {
        return Ok(());
    }
    for (mode, how) in [
        ("tcp", Trouble::Cut),
        ("tcp", Trouble::Silence),
        ("quic", Trouble::Silence),
    ] {
        killed(mode, how, plan).await?;
    }
    Ok(())
}

fn show(what: &str, whose: &str, unit: &str, values: &[f64]) {
    if values.is_empty() {
        return;
    }
    let values: Vec<String> = values.iter().map(|value| format!("{value:.3}")).collect();
    println!("{what}\t{whose}\t{unit}\t{}", values.join(" "));
    // Lines come as they are measured, also into a pipe; nobody is there to be told if that fails.
    let _ = std::io::stdout().flush();
}

// Calls.

enum Way {
    Direct(SocketAddr),
    Through(Arc<World>, &'static str),
}

/// A connection for calls, one after the other.
struct Caller {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    number: u64,
}

impl Way {
    /// Seconds of processor time that its gateway has spent.
    fn spent(&self) -> f64 {
        match self {
            Self::Direct(_) => 0.0,
            Self::Through(world, _) => world.gateway.spent(),
        }
    }

    async fn caller(&self) -> Result<Caller, Failure> {
        match self {
            Self::Direct(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Caller::over(stream, address.to_string()).await
            }
            Self::Through(world, route) => world.caller(route).await,
        }
    }
}

impl Caller {
    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, host: String) -> Result<Self, Failure> {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Its end is the end of the calls on it.
        tokio::spawn(connection);
        Ok(Self {
            sender,
            host,
            number: 0,
        })
    }

    /// A call of a tool that reads.
    async fn call(&mut self) -> Result<(), Failure> {
        self.number += 1;
        let id = self.number;
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"read","arguments":{{"path":"reports/q2.txt"}}}}}}"#
        );
        let request = Request::post("/mcp")
            .header("host", &self.host)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .header("mcp-session-id", "bench")
            .body(Full::new(Bytes::from(body)))?;
        self.sender.ready().await?;
        let answer = self
            .sender
            .send_request(request)
            .await?
            .into_body()
            .collect()
            .await?
            .to_bytes();
        let answer: Value = serde_json::from_slice(&answer)?;
        if answer["id"] != id || answer["result"]["content"][0]["text"] != RESULT {
            return Err(format!("a call got another answer: {answer}").into());
        }
        Ok(())
    }
}

const WARM_UP: usize = 200;

async fn median(way: &Way, count: usize) -> Result<f64, Failure> {
    let mut caller = way.caller().await?;
    let mut times = Vec::with_capacity(count);
    for round in 0..count + WARM_UP {
        let start = Instant::now();
        caller.call().await?;
        if round >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

async fn rate(way: &Way, clients: usize, time: Duration) -> Result<f64, Failure> {
    let mut callers = Vec::new();
    for _ in 0..clients {
        callers.push(way.caller().await?);
    }
    let start = Instant::now();
    let tasks: Vec<_> = callers
        .into_iter()
        .map(|mut caller| {
            tokio::spawn(async move {
                while start.elapsed() < time {
                    caller.call().await?;
                }
                Ok::<_, Failure>(caller.number)
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await??;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

/// What the private server's process does: a list of two tools, and an answer to each call.
async fn upstream() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| async move {
                let body = request.into_body().collect().await?.to_bytes();
                Ok::<_, hyper::Error>(answer(&body))
            });
            // A caller that goes is no concern.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer(body: &[u8]) -> Response<Full<Bytes>> {
    let message: Value = serde_json::from_slice(body).unwrap_or_default();
    let result = match message["method"].as_str() {
        Some("tools/list") => json!({"tools": [
            {"name": "read", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": true}},
            {"name": "write", "inputSchema": {"type": "object"}},
        ]}),
        _ => json!({"content": [{"type": "text", "text": RESULT}]}),
    };
    let text = json!({"jsonrpc": "2.0", "id": message["id"], "result": result}).to_string();
    let mut response = Response::new(Full::new(Bytes::from(text)));
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    response
}
