//! What a worker builds the boundary of a session from: which hosts, which packages, which resources and variables.

use std::time::Duration;

use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::session_files::SessionFiles;
use crate::Result;

/// How much longer than the server's wait a call may take.
const GRACE: Duration = Duration::from_secs(15);

/// The boundary of a session. It names credentials and holds no secret.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Boundary {
    /// The hash of everything else in it, in hexadecimal digits.
    pub hash: String,
    /// The workspace.
    pub workspace_id: String,
    /// The session.
    pub session_id: String,
    /// Its environment.
    pub environment_id: String,
    /// `cloud` or `self_hosted`.
    pub environment: String,
    /// Its agent.
    pub agent: BoundaryAgent,
    /// `{"type": "unrestricted"}` or `{"type": "limited", …}` as the environment has it; none if the workers decide.
    pub networking: Option<Value>,
    /// Lists of names by package manager; none if the workers decide.
    pub packages: Option<Value>,
    /// Where the agent's MCP servers are.
    pub mcp_servers: Vec<BoundaryServer>,
    /// What is mounted, by name. A change of it means that [`SessionFiles::mounts`] has news.
    pub resources: Vec<BoundaryResource>,
    /// Variables of the session's vaults. A change of them means that [`SessionFiles::secrets`] has news.
    pub variables: Vec<BoundaryVariable>,
    /// Whether the worker is to let go of the session.
    pub stop: Option<BoundaryStop>,
}

/// An agent and its version.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BoundaryAgent {
    /// Its id.
    pub id: String,
    /// The version of its configuration.
    pub version: u64,
}

/// Where an MCP server is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BoundaryServer {
    /// Its name in the agent.
    pub name: String,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// A resource by its names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BoundaryResource {
    /// Its id.
    pub id: String,
    /// `file` or `github_repository`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Where it belongs in the sandbox.
    pub mount_path: String,
    /// When it, or its token, was last changed.
    pub updated_at: String,
}

/// A variable by its names.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct BoundaryVariable {
    /// Its vault.
    pub vault_id: String,
    /// The credential.
    pub credential_id: String,
    /// The variable's name.
    pub name: String,
    /// `{"type": "unrestricted"}`, or `{"type": "limited", "allowed_hosts": […]}`.
    pub networking: Value,
    /// `{"body": …, "header": …}`.
    pub injection_location: Value,
    /// When it, or its value, was last changed.
    pub updated_at: String,
}

/// How a worker lets go of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoundaryStop {
    /// What runs may come to its end.
    Graceful,
    /// Everything in the sandbox is ended at once.
    Forced,
}

impl SessionFiles<'_> {
    /// The boundary as it is now.
    pub async fn boundary(&self) -> Result<Boundary> {
        let request = self.client.request(Method::GET, self.path(&["boundary"])?);
        request.send().await
    }

    /// The boundary as soon as it is another than the one with the hash `after`; `None` if it still is that one after
    /// `wait` (in whole seconds, at most 50).
    pub async fn boundary_after(&self, after: &str, wait: Duration) -> Result<Option<Boundary>> {
        let request = self.client.request(Method::GET, self.path(&["boundary"])?);
        let request = request.query("after", after).query("wait", wait.as_secs());
        request.timeout(wait + GRACE).send_optional().await
    }
}
