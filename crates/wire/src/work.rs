//! Work items: what an environment's queue hands to a worker.
//!
//! A work item says that a session has something to do in its environment. It is claimed by a poll, taken by an
//! acknowledgement, held by heartbeats and ended by a stop. The strings are those of the contract.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Time;
use crate::id::{EnvironmentId, SessionId, WorkId};

/// What a worker sends as `expected_last_heartbeat` with its first beat.
pub const NO_HEARTBEAT: &str = "NO_HEARTBEAT";

/// The lease that an ordinary heartbeat gives, in seconds.
pub const DEFAULT_TTL_SECONDS: u32 = 300;

/// The lease between an acknowledgement and the first heartbeat, in seconds.
pub const FIRST_TTL_SECONDS: u32 = 120;

/// Where a work item is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkState {
    /// It waits, or it was polled and not yet acknowledged.
    Queued,
    /// It was acknowledged.
    Starting,
    /// Its worker beats.
    Active,
    /// Its worker was asked to stop.
    Stopping,
    /// It is over.
    Stopped,
}

impl WorkState {
    /// The state's name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Active => "active",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for WorkState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no state of a work item.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a state of a work item")]
pub struct UnknownWorkState(String);

impl FromStr for WorkState {
    type Err = UnknownWorkState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [
            Self::Queued,
            Self::Starting,
            Self::Active,
            Self::Stopping,
            Self::Stopped,
        ]
        .into_iter()
        .find(|s| s.as_str() == text)
        .ok_or_else(|| UnknownWorkState(text.to_owned()))
    }
}

/// One item of an environment's queue.
#[derive(Clone, Serialize, Deserialize)]
pub struct Work {
    /// Its id.
    pub id: WorkId,
    /// Always `work`.
    #[serde(rename = "type")]
    pub kind: WorkKind,
    /// Whose queue it is in.
    pub environment_id: EnvironmentId,
    /// What is to be done.
    pub data: WorkData,
    /// Where it is on its way.
    pub state: WorkState,
    /// When it was made.
    pub created_at: Time,
    /// When a worker took it.
    pub acknowledged_at: Option<Time>,
    /// When the worker's first heartbeat came.
    pub started_at: Option<Time>,
    /// When the worker's last heartbeat came.
    pub latest_heartbeat_at: Option<Time>,
    /// When a stop was first asked for.
    pub stop_requested_at: Option<Time>,
    /// When it ended.
    pub stopped_at: Option<Time>,
    /// What its owner wrote on it.
    pub metadata: Map<String, Value>,
    /// The packed [`WorkSecret`]; only in the answer to a poll.
    pub secret: Option<String>,
}

/// The constant `work`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkKind {
    /// The only value.
    Work,
}

/// What a work item is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WorkData {
    /// Run the tools of a session.
    Session {
        /// The session.
        id: SessionId,
    },
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Always `work_heartbeat`.
    #[serde(rename = "type")]
    pub kind: HeartbeatKind,
    /// What the next beat must echo, byte for byte.
    pub last_heartbeat: String,
    /// True if the worker still holds the item.
    pub lease_extended: bool,
    /// The item's state.
    pub state: WorkState,
    /// How long the lease lasts from now.
    pub ttl_seconds: u32,
}

/// The constant `work_heartbeat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HeartbeatKind {
    /// The only value.
    WorkHeartbeat,
}

/// The credentials of one work item. Has no `Debug`: it must not reach a log.
pub struct WorkSecret {
    /// The bearer token for this item's session.
    pub sessions_token: String,
}

impl WorkSecret {
    /// Packs it as the `secret` of a work item: URL-safe base64 of a JSON object.
    pub fn pack(&self) -> String {
        let json = serde_json::json!({ "sessions_token": self.sessions_token });
        URL_SAFE_NO_PAD.encode(json.to_string())
    }

    /// Unpacks the `secret` of a work item, padded or not; `None` if it holds no token.
    pub fn unpack(secret: &str) -> Option<Self> {
        let bytes = if secret.contains('=') {
            URL_SAFE.decode(secret).ok()?
        } else {
            URL_SAFE_NO_PAD.decode(secret).ok()?
        };
        let json: Value = serde_json::from_slice(&bytes).ok()?;
        let sessions_token = json.get("sessions_token")?.as_str()?.to_owned();
        (!sessions_token.is_empty()).then_some(Self { sessions_token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_unpacks_with_and_without_padding() {
        let packed = WorkSecret {
            sessions_token: "tok".into(),
        }
        .pack();
        assert_eq!(WorkSecret::unpack(&packed).unwrap().sessions_token, "tok");
        let padded = format!("{packed}{}", "=".repeat((4 - packed.len() % 4) % 4));
        assert_eq!(WorkSecret::unpack(&padded).unwrap().sessions_token, "tok");
        assert!(WorkSecret::unpack("e30").is_none());
        assert!(WorkSecret::unpack("!").is_none());
    }

    #[test]
    fn states_have_one_name() {
        for state in [WorkState::Queued, WorkState::Stopping] {
            assert_eq!(state.as_str().parse::<WorkState>().unwrap(), state);
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
        assert!("gone".parse::<WorkState>().is_err());
    }
}
