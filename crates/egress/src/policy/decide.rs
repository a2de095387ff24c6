//! The one decision of the boundary. DNS, TCP, TLS and HTTP all ask here, and nothing else decides.

use std::net::IpAddr;
use std::sync::Arc;

use super::Policy;
use super::layer::{Fit, Layer};
use super::quota::Quota;
use crate::address::{self, Reach};

/// On what level something crosses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// A name is asked for.
    Dns,
    /// A TLS connection begins.
    Tls,
    /// A request on TLS that is opened.
    Https,
    /// A request in the clear.
    Http,
    /// Bytes that are neither.
    Opaque,
}

impl Protocol {
    /// The name in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Dns => "dns",
            Protocol::Tls => "tls",
            Protocol::Https => "https",
            Protocol::Http => "http",
            Protocol::Opaque => "tcp",
        }
    }
}

/// What crosses.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The host's name in its one form, where it is known that the address is one of its addresses.
    pub host: Option<&'a str>,
    /// A name that the client said and that could not be shown to be right. Only refusing rules look at it.
    pub claimed: Option<&'a str>,
    /// The address that is dialled.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: Option<u16>,
    /// The level.
    pub protocol: Protocol,
    /// The request, where it is read.
    pub http: Option<HttpRequest<'a>>,
}

impl<'a> Request<'a> {
    /// A question for a name.
    pub fn name(host: &'a str) -> Request<'a> {
        Request {
            host: Some(host),
            claimed: None,
            address: None,
            port: None,
            protocol: Protocol::Dns,
            http: None,
        }
    }
}

/// A request of HTTP.
#[derive(Debug, Clone, Copy)]
pub struct HttpRequest<'a> {
    /// The method.
    pub method: &'a str,
    /// The path as it was sent.
    pub path: &'a str,
    /// The query as it was sent.
    pub query: Option<&'a str>,
}

/// What was decided.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Whether it may cross.
    pub allowed: bool,
    /// The rule that decided, as `layer/rule`; several layers are joined by ` + `.
    pub rule: Arc<str>,
    /// Why, for people.
    pub reason: String,
    /// Whether TLS must be opened, and requests be decided one by one.
    pub inspect: bool,
    /// What it is counted against.
    pub quotas: Vec<Arc<Quota>>,
}

impl Decision {
    pub(crate) fn deny(rule: Arc<str>, reason: String) -> Decision {
        Decision {
            allowed: false,
            rule,
            reason,
            inspect: false,
            quotas: Vec::new(),
        }
    }
}

/// What the layers of a policy say to a request.
pub(super) fn decide(policy: &Policy, request: &Request<'_>) -> Decision {
    let decision = decide_layers(policy, request);
    if policy.is_unchecked() {
        return Decision {
            allowed: true,
            quotas: Vec::new(),
            ..decision
        };
    }
    decision
}

fn decide_layers(policy: &Policy, request: &Request<'_>) -> Decision {
    if let Some(class) = request.address.and_then(address::class)
        && class.reach == Reach::Never
    {
        let reason = format!(
            "{} is an address of the kind {}, which no sandbox may reach",
            Shown(request),
            class.name
        );
        return Decision::deny("address-class".into(), reason);
    }
    let opened = policy.layers.iter().any(|layer| layer.opens(request));
    let mut whole: Option<Decision> = None;
    for layer in policy.layers.iter() {
        let mut one = decide_layer(layer, request, opened);
        if !one.allowed {
            return one;
        }
        whole = Some(match whole.take() {
            None => one,
            Some(before) => {
                one.rule = format!("{} + {}", before.rule, one.rule).into();
                one.inspect |= before.inspect;
                one.quotas.extend(before.quotas);
                one
            }
        });
    }
    whole.unwrap_or_else(|| Decision::deny("default".into(), "there is no policy, so nothing is allowed".to_owned()))
}

fn decide_layer(layer: &Layer, request: &Request<'_>, opened: bool) -> Decision {
    if let Some(rule) = layer.deny.iter().find(|rule| rule.denies(request)) {
        return Decision::deny(rule.id.clone(), format!("{} is refused by a rule", Shown(request)));
    }
    let mut best = (Fit::Elsewhere, None);
    let mut fitting = None;
    let mut unconditional = false;
    let mut inspect = layer.inspect;
    for rule in layer.candidates(request.host) {
        match rule.allows(request, opened) {
            Fit::Fits => {
                inspect |= rule.text().inspect;
                unconditional |= !rule.has_conditions();
                fitting = fitting.or(Some(rule));
            }
            other if best.0 < other => best = (other, Some(rule)),
            _ => {}
        }
    }
    if let Some(rule) = fitting {
        let mut conditions = layer.deny.iter().filter(|rule| rule.has_conditions());
        let quotas = rule.quota.iter().chain(&layer.quota).cloned().collect();
        return Decision {
            allowed: true,
            rule: rule.id.clone(),
            reason: String::new(),
            inspect: inspect || !unconditional || conditions.any(|rule| rule.concerns(request)),
            quotas,
        };
    }
    let shown = Shown(request);
    let reason = match best.0 {
        Fit::Elsewhere if request.host.is_none() && request.address.is_some() => format!(
            "{shown} was not answered to this sandbox for an allowed name, and no rule allows the plain address"
        ),
        Fit::Elsewhere | Fit::Fits => format!("no rule allows {shown}"),
        Fit::Address => format!("{shown}: the rule for the host does not allow this address"),
        Fit::Port => format!("{shown}: the rule for the host does not allow this port"),
        Fit::Protocol => format!("{shown}: only TLS or HTTP is allowed here"),
        Fit::Method => format!("{shown}: the rule for the host does not allow this method"),
        Fit::Path => format!("{shown}: the rule for the host does not allow this path"),
        Fit::Ambiguous => format!("{shown}: the path can be read in more than one way"),
        Fit::Query => format!("{shown}: the rule for the host does not allow this query"),
    };
    let rule = best.1.map_or(&layer.default, |rule| &rule.id);
    Decision::deny(rule.clone(), reason)
}

/// A request in words: host, port, method and path without its query.
pub(crate) struct Shown<'a>(pub(crate) &'a Request<'a>);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Request {
            host,
            claimed,
            address,
            port,
            http,
            ..
        } = self.0;
        if let Some(http) = http {
            write!(out, "{} ", http.method)?;
        }
        match (host, claimed, address) {
            (Some(host), _, _) => out.write_str(host)?,
            (None, Some(claimed), Some(address)) => write!(out, "{address} (as {claimed})")?,
            (None, Some(claimed), None) => out.write_str(claimed)?,
            (None, None, Some(IpAddr::V6(address))) => write!(out, "[{address}]")?,
            (None, None, Some(address)) => write!(out, "{address}")?,
            (None, None, None) => out.write_str("a connection")?,
        }
        if let Some(port) = port {
            write!(out, ":{port}")?;
        }
        if let Some(http) = http {
            out.write_str(http.path)?;
        }
        Ok(())
    }
}
