//! A policy explained: what would happen to a request and which rule says so, and which rules would allow what was
//! refused.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::Policy;
use super::decide::{Decision, HttpRequest, Protocol, Request};
use super::document::{Document, RuleText};
use super::host::{HostPattern, host_name};
use super::text::{Ports, Range};
use crate::refusal::Refusal;

/// What a policy says to a request, step by step as it would happen.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// Each step that is decided: its name and the decision. The first refusal ends it.
    pub steps: Vec<(&'static str, Decision)>,
}

impl Explanation {
    /// Whether the request would cross.
    pub fn allowed(&self) -> bool {
        self.steps.iter().all(|(_, decision)| decision.allowed)
    }

    /// The rule that decides.
    pub fn rule(&self) -> &str {
        self.steps.last().map_or("default", |(_, decision)| &decision.rule)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, decision) in &self.steps {
            match decision.allowed {
                true => write!(out, "{step}: allowed by {}", decision.rule)?,
                false => write!(out, "{step}: refused by {}: {}", decision.rule, decision.reason)?,
            }
            writeln!(out, "{}", if decision.inspect { " (TLS is opened)" } else { "" })?;
        }
        Ok(())
    }
}

/// What would happen to a request for `host` (a name or an address) at `port`; with a method and path, if it is one
/// of HTTP. Nothing is resolved: a name's addresses are decided when it is used.
///
/// # Errors
/// If `host` is neither a name nor an address.
pub fn check(policy: &Policy, host: &str, port: u16, http: Option<(&str, &str)>) -> Result<Explanation, String> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address: Option<IpAddr> = bare.parse().ok();
    let name = match address {
        Some(_) => None,
        None => Some(host_name(host)?),
    };
    let protocol = match (port, http) {
        (80, _) => Protocol::Http,
        (_, Some(_)) | (443, _) => Protocol::Tls,
        (_, None) => Protocol::Opaque,
    };
    let mut request = Request {
        host: name.as_deref(),
        claimed: None,
        address,
        port: Some(port),
        protocol,
        http: None,
    };
    let mut steps: Vec<(&'static str, Decision)> = Vec::new();
    if let Some(name) = &name {
        steps.push(("name", policy.decide(&Request::name(name))));
    }
    let refused = |steps: &[(_, Decision)]| steps.last().is_some_and(|(_, decision)| !decision.allowed);
    if !refused(&steps) {
        steps.push(("connection", policy.decide(&request)));
    }
    if let Some((method, target)) = http
        && !refused(&steps)
    {
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        request.protocol = match protocol {
            Protocol::Http => Protocol::Http,
            Protocol::Dns | Protocol::Tls | Protocol::Https | Protocol::Opaque => Protocol::Https,
        };
        request.http = Some(HttpRequest { method, path, query });
        steps.push(("request", policy.decide(&request)));
    }
    Ok(Explanation { steps })
}

/// Rules that would allow what was refused: one for each host or address, with the ports and, where requests were
/// read, the methods and paths that were asked for. A proposal to read, not to apply unread.
pub fn suggest(refusals: &[Refusal]) -> Document {
    #[derive(Default)]
    struct Seen {
        ports: Vec<u16>,
        methods: Vec<String>,
        paths: Vec<String>,
        whole: bool,
    }
    let mut hosts: BTreeMap<Result<String, IpAddr>, Seen> = BTreeMap::new();
    for refusal in refusals {
        let key = match (&refusal.host, refusal.address) {
            (Some(host), _) if host_name(host).is_ok() => Ok(host.clone()),
            (_, Some(address)) if crate::address::never(&ipnet::IpNet::from(address)).is_none() => Err(address),
            _ => continue,
        };
        let seen = hosts.entry(key).or_default();
        let port = refusal.port.unwrap_or(443);
        if !seen.ports.contains(&port) {
            seen.ports.push(port);
        }
        match (&refusal.method, &refusal.path) {
            (Some(method), Some(path)) if refusal.protocol != Protocol::Dns => {
                if !seen.methods.contains(method) {
                    seen.methods.push(method.clone());
                }
                let literal = escape(path);
                if !seen.paths.contains(&literal) && super::path::Readings::of(path).is_some() {
                    seen.paths.push(literal);
                }
            }
            _ => seen.whole = true,
        }
    }
    let rule = |(key, seen): (Result<String, IpAddr>, Seen)| {
        let mut rule = RuleText {
            ports: seen.ports.iter().map(|port| Ports::one(*port)).collect(),
            ..RuleText::default()
        };
        match key {
            Ok(host) => {
                rule.name = Some(host.clone());
                rule.host = vec![HostPattern::Exact(host)];
            }
            Err(address) => rule.cidr = vec![Range(address.to_canonical().into())],
        }
        if !seen.whole && !seen.paths.is_empty() && seen.paths.len() <= 20 {
            rule.methods = seen.methods;
            rule.paths = seen.paths;
        }
        rule
    };
    Document {
        allow: hosts.into_iter().map(rule).collect(),
        ..Document::default()
    }
}

/// A path as a pattern that matches only itself.
fn escape(path: &str) -> String {
    globset::escape(path)
}
