//! Which records an export or a redaction is about. There is no default: everything has to be asked for by name.

use outwork_wire::Time;
use serde::{Deserialize, Serialize};

use crate::kind::Kind;
use crate::record::Record;

/// A choice of records: those that match every field that is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workspace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tunnel: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Time>,
}

impl Filter {
    /// Every record; narrow it with the other methods.
    pub fn everything() -> Self {
        Self {
            workspace: None,
            session: None,
            tunnel: None,
            kind: None,
            first: None,
            last: None,
            since: None,
            before: None,
        }
    }

    /// The records of one session.
    pub fn session(session: impl Into<String>) -> Self {
        Self {
            session: Some(session.into()),
            ..Self::everything()
        }
    }

    /// The records of one tunnel.
    pub fn tunnel(tunnel: impl Into<String>) -> Self {
        Self {
            tunnel: Some(tunnel.into()),
            ..Self::everything()
        }
    }

    /// Only those of this workspace.
    pub fn in_workspace(self, workspace: impl Into<String>) -> Self {
        Self {
            workspace: Some(workspace.into()),
            ..self
        }
    }

    /// Only those of this kind.
    pub fn of_kind(self, kind: Kind) -> Self {
        Self {
            kind: Some(kind),
            ..self
        }
    }

    /// Only those with a sequence from `first` to `last`, both included.
    pub fn range(self, first: u64, last: u64) -> Self {
        Self {
            first: Some(first),
            last: Some(last),
            ..self
        }
    }

    /// Only those whose time is `time` or later.
    pub fn since(self, time: Time) -> Self {
        Self {
            since: Some(time),
            ..self
        }
    }

    /// Only those whose time is earlier than `time`.
    pub fn before(self, time: Time) -> Self {
        Self {
            before: Some(time),
            ..self
        }
    }

    /// Whether the record at `sequence` is one of them.
    pub fn matches(&self, sequence: u64, record: &Record) -> bool {
        fn same(wanted: &Option<String>, found: &Option<String>) -> bool {
            wanted.is_none() || wanted == found
        }
        same(&self.workspace, &record.workspace)
            && same(&self.session, &record.session)
            && same(&self.tunnel, &record.tunnel)
            && self.kind.is_none_or(|kind| kind == record.kind)
            && self.first.is_none_or(|first| sequence >= first)
            && self.last.is_none_or(|last| sequence <= last)
            && self.since.is_none_or(|since| record.at >= since)
            && self.before.is_none_or(|before| record.at < before)
    }
}
