//! Why an exchange failed, in words that hold nothing of what was exchanged.

use crate::{CallErrorKind, ConnectErrorKind};

/// A failed exchange.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct HttpError {
    pub(crate) kind: HttpErrorKind,
    /// A clause without the server's name, for example "the answer is over 32 MiB".
    pub(crate) message: String,
}

/// Kinds of failed exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HttpErrorKind {
    Connection,
    Authentication,
    Timeout,
    Protocol,
    TooLarge,
}

impl HttpError {
    pub(crate) fn new(kind: HttpErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    pub(crate) fn connection(message: impl Into<String>) -> Self {
        Self::new(HttpErrorKind::Connection, message)
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(HttpErrorKind::Protocol, message)
    }

    pub(crate) fn too_large(what: &str, limit: u64) -> Self {
        Self::new(
            HttpErrorKind::TooLarge,
            format!("{what} is over the limit of {limit} bytes"),
        )
    }
}

impl HttpErrorKind {
    pub(crate) fn of_call(self) -> CallErrorKind {
        match self {
            Self::Connection => CallErrorKind::Connection,
            Self::Authentication => CallErrorKind::Authentication,
            Self::Timeout => CallErrorKind::Timeout,
            Self::Protocol => CallErrorKind::Protocol,
            Self::TooLarge => CallErrorKind::TooLarge,
        }
    }

    pub(crate) fn of_connect(self) -> ConnectErrorKind {
        match self {
            Self::Authentication => ConnectErrorKind::Authentication,
            Self::Connection | Self::Timeout | Self::Protocol | Self::TooLarge => ConnectErrorKind::Connection,
        }
    }
}
