//! One compiled document. A policy is one or more of them, and all of them must allow.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use globset::GlobMatcher;

use super::decide::{HttpRequest, Protocol, Request};
use super::document::{Document, QuotaText, RuleText, glob};
use super::host::HostPattern;
use super::path::{Readings, values};
use super::presets;
use super::quota::Quota;
use super::text::Ports;
use crate::address;

/// The ports of an allowing rule that names none.
const DEFAULT_PORTS: [Ports; 2] = [Ports::one(443), Ports::one(80)];

/// A compiled rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) id: Arc<str>,
    text: RuleText,
    ports: Vec<Ports>,
    paths: Vec<GlobMatcher>,
    query: Vec<(String, GlobMatcher)>,
    pub(super) quota: Option<Arc<Quota>>,
}

/// How a rule fits a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// Not its host or address.
    Elsewhere,
    /// Its host, at another address.
    Address,
    /// Its host, another port.
    Port,
    /// Its host and port, for another protocol.
    Protocol,
    /// Its host and port, another method.
    Method,
    /// Its host and port, another path.
    Path,
    /// Its host and port, a path that can be read in more than one way.
    Ambiguous,
    /// Its host and port, another query.
    Query,
    /// It fits.
    Fits,
}

impl Rule {
    fn new(id: String, text: RuleText, allows: bool) -> Rule {
        let ports = match (text.ports.is_empty(), allows) {
            (false, _) => text.ports.clone(),
            (true, true) => DEFAULT_PORTS.to_vec(),
            (true, false) => vec![Ports::ALL],
        };
        // The patterns were compiled once when the rule was read.
        let compiled = |pattern: &String| glob(pattern).ok();
        Rule {
            paths: text.paths.iter().filter_map(compiled).collect(),
            query: text
                .query
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), compiled(value)?)))
                .collect(),
            quota: Quota::of(&id, &text.quota),
            id: id.into(),
            ports,
            text,
        }
    }

    /// Whether it can only be decided on an opened request.
    pub(super) fn has_conditions(&self) -> bool {
        !(self.text.methods.is_empty() && self.text.paths.is_empty() && self.text.query.is_empty())
    }

    pub(super) fn inspects(&self) -> bool {
        self.text.inspect || self.has_conditions()
    }

    /// The hosts' pattern that matches a name.
    pub(super) fn pattern(&self, name: &str) -> Option<&HostPattern> {
        self.text.host.iter().find(|pattern| pattern.matches(name))
    }

    fn is_any(&self) -> bool {
        self.text.host.contains(&HostPattern::Any)
    }

    fn by_cidr(&self) -> bool {
        !self.text.cidr.is_empty()
    }

    /// Whether it names a range that opens this address.
    fn opens(&self, address: IpAddr) -> bool {
        let opens = |range: &super::text::Range| address::opens(&range.0, address);
        self.text.cidr.iter().any(opens) || self.text.addresses.iter().any(opens)
    }

    fn port(&self, port: Option<u16>) -> bool {
        port.is_none_or(|port| self.ports.iter().any(|ports| ports.contains(port)))
    }

    /// Whether an allowing rule fits. `opened`: some layer opens the address by a range.
    pub(super) fn allows(&self, request: &Request<'_>, opened: bool) -> Fit {
        let by_name = request.host.is_some_and(|host| self.pattern(host).is_some());
        match request.address {
            _ if by_name && request.address.is_none() => {}
            Some(address) if self.by_cidr() => {
                if !self.opens(address) {
                    return Fit::Elsewhere;
                }
            }
            Some(address) if by_name || self.is_any() => {
                // Said before the address: a range that a rule opens is open at the rule's ports only.
                if request.protocol != Protocol::Dns && !self.port(request.port) {
                    return Fit::Port;
                }
                let within = |range: &super::text::Range| range.0.contains(&address.to_canonical());
                if !self.text.addresses.is_empty() && !self.text.addresses.iter().any(within) {
                    return Fit::Address;
                }
                if address::class(address).is_some() && !opened {
                    return Fit::Address;
                }
            }
            Some(_) | None => return Fit::Elsewhere,
        }
        if request.protocol == Protocol::Dns {
            return Fit::Fits;
        }
        if !self.port(request.port) {
            return Fit::Port;
        }
        match request.protocol {
            Protocol::Dns | Protocol::Tls => Fit::Fits,
            Protocol::Opaque if self.inspects() => Fit::Protocol,
            // What is neither TLS nor HTTP has no business at their ports, unless the address was given.
            Protocol::Opaque if !self.by_cidr() && !self.is_any() && matches!(request.port, Some(80 | 443)) => {
                Fit::Protocol
            }
            Protocol::Opaque => Fit::Fits,
            Protocol::Http | Protocol::Https => match &request.http {
                Some(http) => self.http_allows(http),
                None => Fit::Fits,
            },
        }
    }

    fn http_allows(&self, http: &HttpRequest<'_>) -> Fit {
        if !self.text.methods.is_empty() && !self.text.methods.iter().any(|method| method == http.method) {
            return Fit::Method;
        }
        if !self.paths.is_empty() {
            let Some(readings) = Readings::of(http.path) else {
                return Fit::Ambiguous;
            };
            if !self
                .paths
                .iter()
                .any(|path| readings.all(|reading| path.is_match(reading)))
            {
                return Fit::Path;
            }
        }
        for (key, pattern) in &self.query {
            let values = values(http.query.unwrap_or(""), key);
            if values.is_empty() || !values.iter().all(|value| pattern.is_match(value)) {
                return Fit::Query;
            }
        }
        Fit::Fits
    }

    /// Whether a refusing rule is about a request's host or address, and port.
    pub(super) fn concerns(&self, request: &Request<'_>) -> bool {
        let by_name = [request.host, request.claimed]
            .into_iter()
            .flatten()
            .any(|name| self.pattern(name).is_some());
        let address = request.address.map(|address| address.to_canonical());
        let by_address = address.is_some_and(|address| self.text.cidr.iter().any(|range| range.0.contains(&address)));
        (by_name || by_address || self.is_any()) && self.port(request.port)
    }

    /// Whether a refusing rule fits: it does as soon as one reading of the request does.
    pub(super) fn denies(&self, request: &Request<'_>) -> bool {
        if !self.concerns(request) {
            return false;
        }
        if request.protocol == Protocol::Dns {
            return !self.has_conditions() && self.ports == [Ports::ALL];
        }
        if !self.has_conditions() {
            return true;
        }
        let Some(http) = &request.http else {
            // Cannot be known: what stays closed is refused, what will be opened is decided then.
            return request.protocol == Protocol::Opaque;
        };
        let method = |method: &String| method.eq_ignore_ascii_case(http.method);
        (self.text.methods.is_empty() || self.text.methods.iter().any(method))
            && (self.paths.is_empty()
                || Readings::of(http.path).is_none_or(|readings| {
                    self.paths
                        .iter()
                        .any(|path| readings.any(|reading| path.is_match(reading)))
                }))
            && self.query.iter().all(|(key, pattern)| {
                values(http.query.unwrap_or(""), key)
                    .iter()
                    .any(|value| pattern.is_match(value))
            })
    }

    pub(super) fn text(&self) -> &RuleText {
        &self.text
    }
}

/// A compiled document.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) label: String,
    pub(super) inspect: bool,
    pub(super) quota: Option<Arc<Quota>>,
    pub(super) allow: Vec<Rule>,
    pub(super) deny: Vec<Rule>,
    exact: HashMap<String, Vec<usize>>,
    below: HashMap<String, Vec<usize>>,
    /// Rules that are looked at for every request: ranges, and hosts of every name.
    general: Vec<usize>,
    /// The id of the decision that no rule made.
    pub(super) default: Arc<str>,
    /// What the hash is taken of.
    pub(super) canonical: String,
}

impl Layer {
    pub(super) fn new(label: &str, document: &Document, mcp_hosts: &[(HostPattern, Ports)]) -> Layer {
        let name = |kind: &str, at: usize, rule: &RuleText| {
            let own = rule.name.clone().unwrap_or_else(|| format!("{kind}[{at}]"));
            format!("{label}/{own}")
        };
        let mut allow: Vec<Rule> = Vec::new();
        for (at, rule) in document.allow.iter().enumerate() {
            allow.push(Rule::new(name("allow", at, rule), rule.clone(), true));
        }
        for preset in document
            .presets
            .iter()
            .filter_map(|name| presets::named(name.as_str()))
            .flatten()
        {
            // The table holds patterns that parse; a test reads all of it.
            let hosts = preset.hosts.iter().filter_map(|host| host.parse().ok()).collect();
            let rule = RuleText::hosts(format!("preset:{}", preset.name), hosts, preset.ports.to_vec());
            allow.push(Rule::new(format!("{label}/preset:{}", preset.name), rule, true));
        }
        if document.mcp_servers {
            for (host, ports) in mcp_hosts {
                let rule = RuleText::hosts(format!("mcp:{host}"), vec![host.clone()], vec![*ports]);
                allow.push(Rule::new(format!("{label}/mcp:{host}"), rule, true));
            }
        }
        let deny: Vec<Rule> = document
            .deny
            .iter()
            .enumerate()
            .map(|(at, rule)| Rule::new(name("deny", at, rule), rule.clone(), false))
            .collect();
        let mut layer = Layer {
            label: label.to_owned(),
            inspect: document.inspect,
            quota: Quota::of(&format!("{label}/quota"), &document.quota),
            exact: HashMap::new(),
            below: HashMap::new(),
            general: Vec::new(),
            default: format!("{label}/default").into(),
            canonical: canonical(label, document, &allow, &deny),
            allow,
            deny,
        };
        layer.index();
        layer
    }

    fn index(&mut self) {
        for (at, rule) in self.allow.iter().enumerate() {
            if rule.by_cidr() || rule.is_any() {
                self.general.push(at);
                continue;
            }
            for host in &rule.text.host {
                match host {
                    HostPattern::Exact(name) => self.exact.entry(name.clone()).or_default().push(at),
                    HostPattern::Below(parent) => self.below.entry(parent.clone()).or_default().push(at),
                    HostPattern::Any => {}
                }
            }
        }
    }

    /// Allowing rules that can fit, the most specific first.
    pub(super) fn candidates<'a>(&'a self, host: Option<&'a str>) -> impl Iterator<Item = &'a Rule> {
        let exact = host.and_then(|host| self.exact.get(host)).into_iter().flatten();
        let parents = host.into_iter().flat_map(move |host| {
            host.match_indices('.').filter_map(move |(dot, _)| {
                let parent = &host[dot + 1..];
                if self.below.is_empty() {
                    None
                } else {
                    self.below.get(parent)
                }
            })
        });
        exact
            .chain(parents.flatten())
            .chain(&self.general)
            .map(|at| &self.allow[*at])
    }

    /// Whether a rule names a range that opens the address, at this port.
    pub(super) fn opens(&self, request: &Request<'_>) -> bool {
        let Some(address) = request.address else { return false };
        self.allow.iter().any(|rule| {
            let named = rule.by_cidr() || request.host.is_some_and(|host| rule.pattern(host).is_some());
            named && rule.opens(address) && (request.protocol == Protocol::Dns || rule.port(request.port))
        })
    }
}

/// The text that a policy's hash is taken of: every rule in full, in one form.
fn canonical(label: &str, document: &Document, allow: &[Rule], deny: &[Rule]) -> String {
    #[derive(serde::Serialize)]
    struct Form<'a> {
        label: &'a str,
        inspect: bool,
        quota: &'a QuotaText,
        allow: Vec<(&'a str, &'a RuleText, &'a [Ports])>,
        deny: Vec<(&'a str, &'a RuleText, &'a [Ports])>,
    }
    fn rows(rules: &[Rule]) -> Vec<(&str, &RuleText, &[Ports])> {
        rules.iter().map(|rule| (&*rule.id, &rule.text, &*rule.ports)).collect()
    }
    let form = Form {
        label,
        inspect: document.inspect,
        quota: &document.quota,
        allow: rows(allow),
        deny: rows(deny),
    };
    serde_json::to_string(&form).expect("a policy holds only strings, numbers and lists")
}
