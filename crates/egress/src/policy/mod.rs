//! What a sandbox may reach.
//!
//! A [`Policy`] is made of one or more documents that must all allow a request ([`narrower`]); with none it allows
//! nothing. [`Policy::decide`] is the one decision of the boundary. Addresses of special kinds stay closed whatever a
//! document says (see [`crate::address`]).

mod decide;
pub mod document;
mod explain;
mod host;
mod layer;
mod path;
pub mod presets;
mod quota;
pub mod text;

use std::sync::Arc;

use outwork_ledger::Hash;
use serde::{Deserialize, Serialize};

pub(crate) use decide::Shown;
pub use decide::{Decision, HttpRequest, Protocol, Request};
pub use document::Document;
pub use explain::{Explanation, check, suggest};
pub use host::{HostPattern, host_name};
pub(crate) use quota::limiter_of;
pub use quota::{Exhausted, Meter, Quota, Usage, Way};

use crate::error::Error;
use document::{PresetName, RuleText};
use layer::Layer;
use text::Ports;

/// The network of an environment as the API describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Networking {
    /// Everything that is public.
    Unrestricted,
    /// What is named.
    Limited {
        /// Hosts; `*.example.com` stands for every name below.
        #[serde(default)]
        allowed_hosts: Vec<String>,
        /// Whether package registries are allowed.
        #[serde(default)]
        allow_package_managers: bool,
        /// Whether the session's MCP servers are allowed.
        #[serde(default)]
        allow_mcp_servers: bool,
    },
}

/// A compiled policy. Clones share it.
#[derive(Debug, Clone)]
pub struct Policy {
    layers: Arc<[Arc<Layer>]>,
    hash: Hash,
    unchecked: bool,
}

impl Policy {
    /// A policy that allows nothing.
    pub fn nothing() -> Policy {
        Policy::of(Vec::new())
    }

    /// The policy of a document. `label` names it in decisions (`worker`, `environment`); `mcp_hosts` are the hosts
    /// and ports of the session's MCP servers, which it allows if it says so.
    pub fn new(label: &str, document: &Document, mcp_hosts: &[(HostPattern, u16)]) -> Policy {
        let hosts: Vec<_> = mcp_hosts
            .iter()
            .map(|(host, port)| (host.clone(), Ports::one(*port)))
            .collect();
        Policy::of(vec![Arc::new(Layer::new(label, document, &hosts))])
    }

    /// The policy of an environment's `networking`.
    ///
    /// # Errors
    /// [`Error::Policy`] if a host is none.
    pub fn from_networking(
        label: &str,
        networking: &Networking,
        mcp_hosts: &[(HostPattern, u16)],
    ) -> Result<Policy, Error> {
        Ok(Policy::new(label, &networking.document()?, mcp_hosts))
    }

    /// The same policy, with every refusal turned into consent and every check of the boundary off: what the attack
    /// suite is run against once, to see that it fails. Not in a build without the feature `unchecked`.
    #[cfg(feature = "unchecked")]
    pub fn unchecked(mut self) -> Policy {
        self.unchecked = true;
        self
    }

    fn of(layers: Vec<Arc<Layer>>) -> Policy {
        let mut policy = Policy {
            layers: layers.into(),
            hash: Hash::ZERO,
            unchecked: false,
        };
        policy.hash = Hash::of(policy.canonical().as_bytes());
        policy
    }

    /// The policy in its one form: the text that [`hash`](Policy::hash) is of. Kept with records, it says what they mean.
    pub fn canonical(&self) -> String {
        let form: Vec<&str> = self.layers.iter().map(|layer| layer.canonical.as_str()).collect();
        format!("outwork-policy-1\n{}", form.join("\n"))
    }

    /// SHA-256 of the policy in one form.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Whether it lets everything pass; only tests can make it so.
    pub(crate) fn is_unchecked(&self) -> bool {
        self.unchecked
    }

    /// Decides.
    pub fn decide(&self, request: &Request<'_>) -> Decision {
        decide::decide(self, request)
    }

    /// The part of a name that the policy leaves to whoever asks, and that could carry data: the labels that a `*`
    /// stands for. Nothing where every name is allowed anyway.
    pub(crate) fn free_part<'a>(&self, name: &'a str) -> &'a str {
        let free = |layer: &Arc<Layer>| {
            layer
                .candidates(Some(name))
                .filter_map(|rule| rule.pattern(name))
                .map(|pattern| pattern.free_part(name).len())
                .min()
        };
        // The narrowest layer leaves least.
        let length = self.layers.iter().filter_map(free).min().unwrap_or(0);
        &name[..length]
    }

    /// What it is made of, for people: each document's label, rules and hosts, one to a line.
    pub fn summary(&self) -> String {
        let mut out = format!("policy sha256:{}\n", self.hash);
        for layer in self.layers.iter() {
            out.push_str(&format!(
                "{}: {} rules\n",
                layer.label,
                layer.allow.len() + layer.deny.len()
            ));
        }
        out
    }
}

/// The policy that allows what both allow.
pub fn narrower(a: Policy, b: Policy) -> Policy {
    // A policy without documents allows nothing, and so does everything narrower.
    if a.layers.is_empty() || b.layers.is_empty() {
        return Policy::nothing();
    }
    Policy::of(a.layers.iter().chain(b.layers.iter()).cloned().collect())
}

impl Networking {
    /// The document that says the same.
    ///
    /// # Errors
    /// [`Error::Policy`] if a host is none.
    pub fn document(&self) -> Result<Document, Error> {
        let (allowed_hosts, packages, mcp) = match self {
            Networking::Unrestricted => {
                let everything = RuleText::hosts("unrestricted", vec![HostPattern::Any], vec![Ports::ALL]);
                return Ok(Document {
                    allow: vec![everything],
                    ..Document::default()
                });
            }
            Networking::Limited {
                allowed_hosts,
                allow_package_managers,
                allow_mcp_servers,
            } => (allowed_hosts, *allow_package_managers, *allow_mcp_servers),
        };
        let mut allow = Vec::new();
        for (at, host) in allowed_hosts.iter().enumerate() {
            let name = format!("allowed_hosts[{at}]");
            let wrong = |reason| Error::Policy {
                file: "networking".to_owned(),
                line: 1,
                rule: name.clone(),
                reason,
            };
            let (host, ports) = match host.rsplit_once(':') {
                Some((host, port)) if !host.contains([':', '/']) && !port.contains('/') => {
                    (host, vec![port.parse().map_err(wrong)?])
                }
                _ => (host.as_str(), Vec::new()),
            };
            let pattern: HostPattern = host.parse().map_err(wrong)?;
            if pattern == HostPattern::Any {
                return Err(wrong(
                    "`*` is every host; the network `unrestricted` is for that".to_owned(),
                ));
            }
            allow.push(RuleText::hosts(name, vec![pattern], ports));
        }
        let presets = packages.then(|| PresetName::try_from(presets::PACKAGE_MANAGERS.to_owned()));
        Ok(Document {
            presets: presets.into_iter().flatten().collect(),
            mcp_servers: mcp,
            allow,
            ..Document::default()
        })
    }
}
