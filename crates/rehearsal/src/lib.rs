#![forbid(unsafe_code)]
//! A Messages API server that plays a scenario file.
//!
//! It is for demonstrations and tests of a client that runs an agent loop. It is a real server: it streams the exact
//! event sequence of the Messages API, judges every request as strictly as the service does (see `validate`), signs
//! its thinking and refuses thinking that comes back altered, counts usage and caches prompts. Only the words come
//! from a file. It refuses to pretend: where a tool result is not what the play expects, the answer says so.
//!
//! It keeps no conversation. The place in the play follows from the request, so any number of sessions can play at
//! once and a restart of either side changes nothing. Only two things are remembered, neither for long: prompt
//! cache prefixes, and how often a step with faults was asked for.
//!
//! # Models
//!
//! | model | plays |
//! |---|---|
//! | `rehearsal` | the first play whose `match` fits the first user message, else the `default` play, else the first |
//! | `rehearsal/NAME` | the play NAME |
//! | `rehearsal/script` | the steps that the user message itself carries as JSON, within a `json` code fence or bare |
//! | `rehearsal/echo` | answers with the user message |
//! | those in `models` of the file | like `rehearsal` |
//!
//! # Scenario files
//!
//! ```toml
//! default = "greet"                  # optional
//! models = ["some-model-id"]         # optional: further ids, played like `rehearsal`
//!
//! [[play]]
//! name = "greet"
//! match = "(?i)hello"                # optional
//! context_tokens = 200000            # optional: longer prompts are refused
//! pace = { first_token_ms = 50, per_chunk_ms = 5, chunk_chars = 24 }   # optional; also in a step
//!
//! [[play.step]]                      # or [[play.scene]] with [[play.scene.step]]: scene n answers human message n,
//! say = [                            # the last scene answers all later ones
//!   { thinking = "They greet." },    # left out unless the request asks for thinking
//!   { text = "Hello, {{user}}" },
//!   { tool_use = { name = "bash", input = { command = "date" } } },
//! ]
//!
//! [[play.step]]
//! expect = 'CES?T (?P<year>\d+)'     # on the tool results; named groups become names for templates
//! capture.hour = '(\d\d):'           # group 1, or the whole match; or { from = "user", pattern = '…', default = "" }
//! when = [                           # the first that fits is said instead of `say`
//!   { if.error = true, say = [{ text = "It failed: {{result}}" }] },
//! ]
//! say = [{ text = "It is {{hour}} o'clock in {{year}}." }]
//! ```
//!
//! Step n is the nth answer after the human message. The stop reason follows from the blocks, or is named:
//! `stop_reason = "refusal"` (with `stop_details`), `"max_tokens"`, `"pause_turn"` and so on. `say` may be empty then.
//!
//! *Blocks*: `thinking`, `redacted_thinking`, `text`, `tool_use` (`name`, `input`, or `input_json` for raw text;
//! `unlisted = true` calls a tool that the request does not offer), `raw` (a block sent as it is; kinds that begin
//! with `rehearsal_` are accepted back). `repeat = N` sends the block N times, `multiply = N` repeats its text.
//!
//! *Conditions* (`when[].if`, `until`): `result`, `not_result`, `user`, `system` (expressions), `error` (whether a tool
//! result is an error), `offered` (a tool's name). All that are named must hold.
//!
//! *Loops*: `repeat = 200` on a step plays it 200 times; with `steps = [...]` instead of `say` it plays those; `until`
//! (a condition, looked at before each round) ends it early.
//!
//! *Templates* in texts and in the strings of inputs: captured names, and `user`, `first_user`, `system`, `result`
//! (the tool results), `count` (answers so far), `scene`, `step`, `round` (of the loop), `index` (of a repeated block),
//! `model`, `session` (digest of the first user message), `tools`, `open` (two braces). A string that is only
//! `{{name|int}}` becomes a number.
//!
//! *Faults*: `faults = [{ times = 2, status = 529, retry_after = 1 }]` come before the step succeeds, in order, each
//! `times` times per conversation (without `times`: always). One of: `status` (with `error_type`, `message`,
//! `retry_after`, `retry_after_ms`, `should_retry`, `body`, `content_type`), `cut_after_events = N`, `disconnect = true`,
//! `nonsense = "json" | "order" | "duplicate_start" | "utf8" | "shape" | "early_end"`,
//! `hang = "headers" | "silence" | "ping"`, `error_event = "overloaded_error"`, `oversized = BYTES` (`one_line = true`),
//! `content_type = "text/html"` with `body`. `after_events = N` says how many events come before it.
//!
//! A script is the same in JSON: ` ```json [{"say": [{"text": "Hello"}]}] ``` `.
//!
//! # Besides the API
//!
//! `GET /rehearsal/requests?after=N` lists the requests that the server received (with the key, like the API),
//! `GET /healthz` says that it runs.

mod answer;
mod conversation;
mod demo;
mod error;
mod events;
mod fault;
mod models;
mod pattern;
mod play;
mod record;
mod scenario;
mod seal;
mod server;
mod template;
mod usage;
mod validate;

use std::net::SocketAddr;
use std::sync::Arc;

pub use demo::{CHECK as DEMO_CHECK, TASK as DEMO_TASK, project as demo_project};
pub use error::Error;
pub use fault::{Fault, FaultKind, Hang, Nonsense, StatusFault};
pub use pattern::{Capture, CaptureSource, Pattern};
pub use record::RecordedRequest;
pub use scenario::{Block, Branch, Condition, Pace, Play, Scenario, Scene, Step, StopReason, ToolUse};

use tokio_util::sync::CancellationToken;

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// What is played.
    pub scenario: Scenario,
    /// The only key that is accepted; without it, any key is.
    pub api_key: Option<String>,
    /// Larger request bodies are refused with 413. The service allows 32 MB.
    pub max_body_bytes: usize,
}

impl Options {
    /// A free loopback port, any key.
    pub fn new(scenario: Scenario) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            scenario,
            api_key: None,
            max_body_bytes: 32 << 20,
        }
    }
}

/// Starts servers.
#[derive(Debug)]
pub struct Rehearsal;

impl Rehearsal {
    /// Binds the address and serves until the handle is shut down or dropped.
    pub async fn start(options: Options) -> Result<RehearsalHandle, Error> {
        let server::Running {
            addr,
            shared,
            cancel,
            task,
        } = server::start(options).await?;
        Ok(RehearsalHandle {
            addr,
            shared,
            cancel,
            task: Some(task),
        })
    }
}

/// A running server. Dropping it stops the server and cuts its connections.
#[derive(Debug)]
pub struct RehearsalHandle {
    addr: SocketAddr,
    shared: Arc<server::Shared>,
    cancel: CancellationToken,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl RehearsalHandle {
    /// The bound address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL for a client, without a path.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// The requests that were received, oldest first; a bounded number of them is kept.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.shared.ring.after(0)
    }

    /// Stops accepting, lets answers end for at most two seconds, then cuts them.
    pub async fn shutdown(mut self) {
        self.cancel.cancel();
        if let Some(task) = self.task.take() {
            task.await.ok();
        }
    }
}

impl Drop for RehearsalHandle {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}
