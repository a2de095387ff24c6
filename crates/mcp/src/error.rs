//! What can go wrong with a connection or a call.
//!
//! Messages name the server and the step. They hold no secret, no argument, no result and nothing that the server
//! wrote; what a server answered to a call in its own words is apart, in [`CallError::server_message`], for the model.

use std::fmt;

/// A connection that did not come about.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ConnectError {
    /// What kind of failure.
    pub kind: ConnectErrorKind,
    /// For a person: the server, what was attempted, what to do.
    pub message: String,
}

/// Kinds of failed connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectErrorKind {
    /// The server could not be reached, or what answers there is no MCP server.
    Connection,
    /// The server wants a credential that it does not have or does not take.
    Authentication,
}

/// A call, or a listing, that has no result.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// What kind of failure.
    pub kind: CallErrorKind,
    /// Whether the server may have taken the request up, so that repeating it may do its effect twice. False only if
    /// no byte of it left, or if the server said by a status that it did not take it.
    pub sent: bool,
    /// For a person: the server, what was attempted, what to do.
    pub message: String,
    /// What the server answered in its own words, bounded. It is material from outside: for the model and never for
    /// a log.
    pub server_message: Option<String>,
}

/// Kinds of failed calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallErrorKind {
    /// The server could not be reached, or the connection broke.
    Connection,
    /// The server wants a credential that it does not have or does not take.
    Authentication,
    /// The deadline passed.
    Timeout,
    /// The caller cancelled.
    Cancelled,
    /// The server answered something that is no answer, refused the request, or asked for what is not supported.
    Protocol,
    /// The answer is over a limit.
    TooLarge,
    /// The server says that there is no such tool.
    ToolGone,
}

impl fmt::Display for CallErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "connection",
            Self::Authentication => "authentication",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::Protocol => "protocol",
            Self::TooLarge => "too_large",
            Self::ToolGone => "tool_gone",
        })
    }
}
