//! What is decided: the machine of a session, without I/O, clock or randomness of its own.
//!
//! A [`Session`] is folded from its [`Genesis`](outwork_wire::log::Genesis) and the entries of its log. Inputs
//! (events of clients, answers and failures of the model, the passing of time) make it emit further entries; it
//! changes only by applying entries, those of the log and its own alike, so the same log always folds to the
//! same state. The caller commits what [`Session::take_outbox`] gives before anybody is told of it, and carries
//! out the [`Effect`] that [`Session::advance`] asks for. If a commit fails the session in memory is thrown
//! away and folded anew.
#![forbid(unsafe_code)]

mod advance;
mod answer;
mod apply;
mod halt;
mod mcp;
mod prompt;
mod retry;
mod session;
mod submit;
pub mod toolset;

pub use advance::Effect;
pub use answer::{PreviewIds, validate_answer};
pub use mcp::{Catalog, McpCall, McpTool, ServerFailure};
pub use prompt::PromptOptions;
pub use retry::RetryPolicy;
pub use session::{FoldError, Session, SessionView, Status};
pub use submit::{Refused, SessionChange, Submitter};

use outwork_wire::Time;
use outwork_wire::id::EventId;

/// What an input brings with it from outside: the time and fresh ids.
pub struct Context<'a> {
    /// The time of the input.
    pub now: Time,
    /// Makes a fresh event id for that time.
    pub event_id: &'a mut dyn FnMut(Time) -> EventId,
    /// A number from 0 to 1 that spreads retries.
    pub jitter: f64,
    /// The tools of the MCP servers, once the run is connected to them.
    pub catalog: Option<&'a Catalog>,
}
