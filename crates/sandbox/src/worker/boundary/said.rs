//! What the server says about a session's boundary. Only a server of this project has these endpoints; from others (404)
//! there is nothing, and the worker's own policy holds alone.

use std::time::Duration;

use outwork_client::{Boundary, BoundaryStop, Client, ClientError, Mount, SessionSecrets};
use outwork_egress::policy::HostPattern;
use outwork_egress::{Labels, Networking};
use outwork_image::Packages;

use super::error::BoundaryError;

/// How long the server may hold the question for a change.
const WAIT: Duration = Duration::from_secs(50);

/// What the server says, read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Said {
    /// Of all that it says; another one says that something changed, also among mounts and secrets.
    pub hash: String,
    pub workspace: String,
    pub environment: String,
    pub agent: (String, u64),
    pub kind: Kind,
    /// The environment's network; nothing for `self_hosted`.
    pub networking: Option<Networking>,
    /// What is installed beforehand.
    pub packages: Packages,
    /// Hosts and ports of the session's MCP servers.
    pub mcp_hosts: Vec<(HostPattern, u16)>,
    /// Whether the worker is to let go of the session.
    pub stop: Option<BoundaryStop>,
}

/// The kind of environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Cloud,
    SelfHosted,
}

impl Said {
    /// Reads it. What is not known is refused: it may be what makes the boundary narrower.
    pub fn read(boundary: Boundary) -> Result<Self, BoundaryError> {
        let wrong = |what: &str, error: &dyn std::fmt::Display| BoundaryError::Unreadable(format!("{what}: {error}"));
        let kind = match boundary.environment.as_str() {
            "cloud" => Kind::Cloud,
            "self_hosted" => Kind::SelfHosted,
            other => return Err(wrong("environment", &other)),
        };
        let networking = boundary.networking.map(serde_json::from_value).transpose();
        let packages = boundary.packages.map(serde_json::from_value).transpose();
        Ok(Self {
            hash: boundary.hash,
            workspace: boundary.workspace_id,
            environment: boundary.environment_id,
            agent: (boundary.agent.id, boundary.agent.version),
            kind,
            networking: networking.map_err(|error| wrong("networking", &error))?,
            packages: packages.map_err(|error| wrong("packages", &error))?.unwrap_or_default(),
            // One whose host is no name cannot be reached by one, and a pattern is not the host of one server.
            mcp_hosts: boundary
                .mcp_servers
                .iter()
                .filter_map(|server| match server.host.parse().ok()? {
                    name @ HostPattern::Exact(_) => Some((name, server.port)),
                    _ => None,
                })
                .collect(),
            stop: boundary.stop,
        })
    }

    /// Whose session it is, on every record.
    pub fn label(&self, labels: &mut Labels) {
        labels.workspace = Some(self.workspace.clone());
        labels.environment = Some(self.environment.clone());
        labels.agent = Some((self.agent.0.clone(), Some(self.agent.1)));
    }
}

/// All that the server says of a session.
pub(crate) struct Answers {
    /// `None` from a server that does not know boundaries.
    pub said: Option<Said>,
    pub mounts: Vec<Mount>,
    pub secrets: Option<SessionSecrets>,
}

impl Answers {
    /// What cannot be given without isolation is refused. The network is the machine's own then, as was asked for by name.
    pub fn without_isolation(&self, has_secrets: bool) -> Result<(), BoundaryError> {
        let packages = self.said.as_ref().is_some_and(|said| !said.packages.is_empty());
        for (asked, what) in [
            (packages, "packages"),
            (!self.mounts.is_empty(), "files and repositories"),
            (has_secrets, "credentials"),
        ] {
            if asked {
                return Err(BoundaryError::NoIsolation(what));
            }
        }
        Ok(())
    }
}

/// Asks for everything.
pub(crate) async fn ask(client: &Client, session: &str) -> Result<Answers, BoundaryError> {
    let files = client.session_files(session);
    // First: what changes after it is told with another hash, so it cannot be missed.
    let said = known("the session's boundary", files.boundary().await)?;
    let (mounts, secrets) = tokio::join!(files.mounts(), files.secrets());
    Ok(Answers {
        said: said.map(Said::read).transpose()?,
        mounts: known("what is mounted", mounts)?.unwrap_or_default(),
        secrets: known("the session's secrets", secrets)?,
    })
}

/// Waits until something has changed. `None` if nothing has for a while.
pub(crate) async fn changed(client: &Client, session: &str, hash: &str) -> Result<Option<Boundary>, ClientError> {
    client.session_files(session).boundary_after(hash, WAIT).await
}

fn known<T>(what: &'static str, answer: Result<T, ClientError>) -> Result<Option<T>, BoundaryError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(source) => Err(BoundaryError::Server {
            what: what.to_owned(),
            source,
        }),
    }
}
