//! What the server says about a session's boundary. Only a server of this project has these endpoints; from others (404)
//! there is nothing, and the worker's own policy holds alone.

use std::time::Duration;

use outwork_client::{Client, ClientError, Mount, Query, SessionSecrets, path};
use outwork_egress::Networking;
use outwork_egress::policy::HostPattern;
use outwork_image::Packages;
use serde::Deserialize;

use super::error::BoundaryError;

/// How long the server may hold the question for a change.
const WAIT: Duration = Duration::from_secs(50);
/// What its answer may take beyond that.
const GRACE: Duration = Duration::from_secs(15);

/// What the server says.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Said {
    /// Of all that is below, and of mounts and secrets. Another one says that something changed.
    pub hash: String,
    /// Whose session it is.
    #[serde(default)]
    pub ids: Ids,
    /// The kind of environment.
    pub environment: Kind,
    /// The environment's network; nothing for `self_hosted`.
    #[serde(default)]
    pub networking: Option<Networking>,
    /// What is installed beforehand.
    #[serde(default)]
    pub packages: Option<Packages>,
    /// Hosts of the session's MCP servers.
    #[serde(default)]
    pub mcp_hosts: Vec<McpHost>,
}

/// Whose session it is, for records.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Ids {
    #[serde(default)]
    pub workspace: Option<String>,
    #[serde(default)]
    pub environment: Option<String>,
    #[serde(default)]
    pub agent: Option<String>,
    #[serde(default)]
    pub agent_version: Option<u64>,
}

/// The kind of environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Cloud,
    SelfHosted,
}

/// A host of an MCP server.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct McpHost {
    pub host: String,
    pub port: u16,
}

impl Said {
    /// As the policy wants them. One that is no name cannot be reached by one, and is left out.
    pub fn mcp_hosts(&self) -> Vec<(HostPattern, u16)> {
        let named = self.mcp_hosts.iter();
        named
            .filter_map(|at| Some((at.host.parse().ok()?, at.port)))
            .collect()
    }
}

/// All that the server says of a session.
pub(crate) struct Answers {
    /// `None` from a server that does not know boundaries.
    pub said: Option<Said>,
    pub mounts: Vec<Mount>,
    pub secrets: Option<SessionSecrets>,
}

/// Asks for everything.
pub(crate) async fn ask(client: &Client, session: &str) -> Result<Answers, BoundaryError> {
    let files = client.session_files(session);
    let (said, mounts, secrets) = tokio::join!(first(client, session), files.mounts(), files.secrets());
    Ok(Answers {
        said: known("the session's boundary", said)?,
        mounts: known("what is mounted", mounts)?.unwrap_or_default(),
        secrets: known("the session's secrets", secrets)?,
    })
}

async fn first(client: &Client, session: &str) -> Result<Said, ClientError> {
    client.get(address(session)?, &Query::new()).await
}

/// Asks until something has changed: what the server says then, at the latest when it is tired of waiting.
pub(crate) async fn changed(client: &Client, session: &str, hash: &str) -> Result<Said, ClientError> {
    let query = Query::new().with("after", hash).with("wait", WAIT.as_secs());
    let asked = client.get(address(session)?, &query);
    tokio::time::timeout(WAIT + GRACE, asked).await.unwrap_or_else(|_| {
        Err(ClientError::Timeout {
            call: "GET the session's boundary".to_owned(),
            after: WAIT + GRACE,
        })
    })
}

fn address(session: &str) -> Result<String, ClientError> {
    path(&["v1", "outwork", "sessions", session, "boundary"])
}

fn known<T>(what: &'static str, answer: Result<T, ClientError>) -> Result<Option<T>, BoundaryError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(source) => Err(BoundaryError::Server { what, source }),
    }
}
