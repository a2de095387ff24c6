//! What the boundary of a session would be, for those who ask before it is made: the same rules, without a worker.

use outwork_client::{Boundary, BoundaryAgent, BoundaryServer};
use outwork_egress::{Document, Policy};
use serde_json::Value;

use super::error::BoundaryError;
use super::repository::Repository;
use super::rules;
use super::said::Said;

/// A session, or all sessions of an environment, as its server describes them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Foreseen {
    /// `cloud` or `self_hosted`.
    pub environment: String,
    /// The environment's `networking`; nothing of a `self_hosted` one.
    pub networking: Option<Value>,
    /// Hosts and ports of the agent's MCP servers.
    pub mcp_servers: Vec<(String, u16)>,
    /// Repositories: the resource's id, its address, and where it belongs in the sandbox.
    pub repositories: Vec<(String, String, String)>,
    /// Whether it has credentials, so that TLS is opened for every host.
    pub has_secrets: bool,
}

/// The policy that a worker whose owner says `own` puts in force; without a session, for servers that describe none.
///
/// # Errors
/// As the worker would refuse to serve the session.
pub fn foresee(session: Option<&Foreseen>, own: Option<&Document>) -> Result<Policy, BoundaryError> {
    let said = session.map(|session| Said::read(session.boundary())).transpose()?;
    let repositories = session.map_or(&[][..], |session| &session.repositories);
    let repositories: Result<Vec<_>, _> = repositories
        .iter()
        .map(|(id, url, place)| Repository::read(id, url, place, None, true))
        .collect();
    let has_secrets = session.is_some_and(|session| session.has_secrets);
    Ok(rules::of_session(said.as_ref(), own, &repositories?, has_secrets)?.policy)
}

impl Foreseen {
    /// As the server says it to the session's worker.
    fn boundary(&self) -> Boundary {
        let server = |(host, port): &(String, u16)| BoundaryServer {
            name: String::new(),
            host: host.clone(),
            port: *port,
        };
        Boundary {
            hash: String::new(),
            workspace_id: String::new(),
            session_id: String::new(),
            environment_id: String::new(),
            environment: self.environment.clone(),
            agent: BoundaryAgent {
                id: String::new(),
                version: 0,
            },
            networking: self.networking.clone(),
            packages: None,
            mcp_servers: self.mcp_servers.iter().map(server).collect(),
            resources: Vec::new(),
            variables: Vec::new(),
            stop: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use outwork_egress::policy::check;
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_what_the_worker_enforces() {
        let session = Foreseen {
            environment: "cloud".into(),
            networking: Some(json!({ "type": "limited", "allowed_hosts": ["a.example"], "allow_mcp_servers": true })),
            mcp_servers: vec![("mcp.example".into(), 8443)],
            repositories: vec![(
                "sesrsc_1".into(),
                "https://git.example/a/b".into(),
                "/workspace/b".into(),
            )],
            has_secrets: true,
        };
        let allows = |own: Option<&Document>, session: Option<&Foreseen>, host: &str, port, path| {
            let policy = foresee(session, own).unwrap();
            check(&policy, host, port, Some(("GET", path))).unwrap().allowed()
        };
        assert!(allows(None, Some(&session), "a.example", 443, "/"));
        assert!(allows(None, Some(&session), "mcp.example", 8443, "/"));
        assert!(allows(None, Some(&session), "git.example", 443, "/a/b/info/refs"));
        assert!(!allows(None, Some(&session), "git.example", 443, "/other"));
        let own = Document::from_toml("p", "[[allow]]\nhost = \"b.example\"").unwrap();
        assert!(!allows(Some(&own), Some(&session), "a.example", 443, "/"));
        assert!(allows(Some(&own), None, "b.example", 443, "/"));
        assert!(!allows(None, None, "b.example", 443, "/"));
        let unknown = Foreseen {
            environment: "another".into(),
            ..session
        };
        assert!(foresee(Some(&unknown), None).is_err());
    }
}
