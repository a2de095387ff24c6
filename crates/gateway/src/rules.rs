//! The rules of one route, compiled from its configuration. Plain data: what they count and learn while the gateway
//! runs is kept beside them.
//!
//! Empty means deny: an empty list of tools, callers or headers allows none of them.

use std::collections::{BTreeMap, HashSet};

use globset::{Glob, GlobMatcher, GlobSet, GlobSetBuilder};
use http::header::{self, HeaderName, HeaderValue};

use crate::caller::IDENTITY;
use crate::config::text::Rate;
use crate::config::{ApprovalFile, CallersFile, HeadersFile, LimitsFile, RouteKeys, ToolsFile};
use crate::redact::{Direction, Redactor};

/// The largest request body when a route does not say.
const REQUEST_MAX: usize = 4 << 20;
/// The largest answer (or event of a stream) when a route does not say.
const RESPONSE_MAX: usize = 32 << 20;

/// What holds on a route.
pub struct Rules {
    pub(crate) tools: Option<ToolRules>,
    pub(crate) limits: Limits,
    pub(crate) request_max: usize,
    pub(crate) response_max: usize,
    /// The owner set the limit on answers, so events of streams are measured too.
    measured: bool,
    pub(crate) headers: HeaderRules,
    pub(crate) preserve_host: bool,
    pub(crate) approvals: Vec<ApprovalRule>,
    pub(crate) arguments: Option<Redactor>,
    pub(crate) results: Option<Redactor>,
    pub(crate) callers: Option<Callers>,
    pub(crate) pass_identity: bool,
}

impl Rules {
    pub(crate) fn compile(keys: &RouteKeys) -> Result<Rules, String> {
        let arguments = Redactor::compile(&keys.redact, Direction::Arguments)?;
        Ok(Rules {
            tools: keys.tools.as_ref().map(ToolRules::compile).transpose()?,
            limits: keys
                .limits
                .as_ref()
                .map(Limits::compile)
                .transpose()?
                .unwrap_or_default(),
            request_max: keys.request_max.map_or(REQUEST_MAX, |size| size.0),
            response_max: keys.response_max.map_or(RESPONSE_MAX, |size| size.0),
            measured: keys.response_max.is_some(),
            headers: keys
                .headers
                .as_ref()
                .map(HeaderRules::compile)
                .transpose()?
                .unwrap_or_default(),
            preserve_host: keys.preserve_host,
            approvals: keys
                .approvals
                .iter()
                .map(ApprovalRule::compile)
                .collect::<Result<_, _>>()?,
            results: Redactor::compile_beside(&keys.redact, Direction::Results, arguments.as_ref())?,
            arguments,
            callers: keys.callers.as_ref().map(Callers::compile).transpose()?,
            pass_identity: keys.pass_identity,
        })
    }

    /// The kinds of rules that hold, for people.
    pub fn summary(&self) -> Vec<String> {
        let mut out = Vec::new();
        if let Some(tools) = &self.tools {
            let kinds = [
                (tools.allow.is_some(), "allow"),
                (!tools.deny.is_empty(), "deny"),
                (tools.read_only, "read_only"),
            ];
            let kinds: Vec<&str> = kinds
                .iter()
                .filter(|(there, _)| *there)
                .map(|(_, kind)| *kind)
                .collect();
            out.push(format!("tools ({})", kinds.join(", ")));
        }
        let limits = &self.limits;
        for (there, name) in [
            (
                !limits.per_tool.is_empty() || limits.per_session.is_some() || limits.per_route.is_some(),
                "limits",
            ),
            (!self.approvals.is_empty(), "approvals"),
            (self.arguments.is_some() || self.results.is_some(), "redact"),
            (self.callers.is_some(), "callers"),
            (!self.headers.is_empty(), "headers"),
            (self.pass_identity, "pass_identity"),
        ] {
            if there {
                out.push(name.to_owned());
            }
        }
        out
    }

    /// Whether a rule has to read what the upstream answers.
    pub(crate) fn reads_results(&self) -> bool {
        self.tools.is_some() || self.results.is_some() || self.measured
    }

    /// Whether a rule depends on what a request's body says, so that no body may pass unread.
    pub(crate) fn reads_requests(&self) -> bool {
        self.tools.is_some()
            || !self.approvals.is_empty()
            || self.arguments.is_some()
            || !self.limits.per_tool.is_empty()
            || self.callers.is_some()
    }
}

/// Which tools may be called.
pub(crate) struct ToolRules {
    allow: Option<GlobSet>,
    deny: GlobSet,
    pub read_only: bool,
}

impl ToolRules {
    fn compile(file: &ToolsFile) -> Result<ToolRules, String> {
        if file.allow.is_none() && file.deny.is_empty() && !file.read_only {
            return Err("tools says nothing: give allow, deny or read_only: true".to_owned());
        }
        Ok(ToolRules {
            allow: file
                .allow
                .as_deref()
                .map(|list| patterns("tools.allow", list))
                .transpose()?,
            deny: patterns("tools.deny", &file.deny)?,
            read_only: file.read_only,
        })
    }

    /// The rule by which a tool's name is refused, if any. `deny` wins over `allow`.
    pub fn refusing(&self, tool: &str) -> Option<&'static str> {
        if self.deny.is_match(tool) {
            return Some("tools.deny");
        }
        match &self.allow {
            Some(allow) if !allow.is_match(tool) => Some("tools.allow"),
            _ => None,
        }
    }
}

/// How often.
#[derive(Default)]
pub(crate) struct Limits {
    /// The first pattern that matches a tool gives its rate.
    pub per_tool: Vec<(GlobMatcher, Rate)>,
    pub per_session: Option<Rate>,
    pub per_route: Option<Rate>,
}

impl Limits {
    fn compile(file: &LimitsFile) -> Result<Limits, String> {
        let mut per_tool = Vec::new();
        for (text, rate) in file.per_tool.iter().flat_map(|rates| &rates.0) {
            per_tool.push((pattern("limits.per_tool", text)?, *rate));
        }
        Ok(Limits {
            per_tool,
            per_session: file.per_session,
            per_route: file.per_route,
        })
    }
}

/// What happens to a request's headers.
#[derive(Default)]
pub(crate) struct HeaderRules {
    set: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
    allow: Option<HashSet<HeaderName>>,
}

/// Headers without which no MCP request is one: `allow` does not have to list them.
fn needed(name: &HeaderName) -> bool {
    matches!(*name, header::ACCEPT | header::CONTENT_TYPE)
        || name.as_str().starts_with("mcp-")
        || name == "last-event-id"
}

/// Headers that the gateway makes itself or has checked, so that no rule may touch them.
fn fixed(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::HOST
            | header::CONTENT_LENGTH
            | header::TRANSFER_ENCODING
            | header::CONNECTION
            | header::UPGRADE
            | header::TE
            | header::TRAILER
            | header::EXPECT
            | header::CONTENT_TYPE
            | header::CONTENT_ENCODING
            | header::ACCEPT_ENCODING
    ) || matches!(
        name.as_str(),
        "keep-alive" | "proxy-connection" | "mcp-method" | "mcp-name" | "mcp-protocol-version" | IDENTITY
    )
}

impl HeaderRules {
    fn compile(file: &HeadersFile) -> Result<HeaderRules, String> {
        let name = |key: &str, text: &str| {
            let name: HeaderName = text
                .parse()
                .map_err(|_| format!("headers.{key}: `{text}` is not the name of a header"))?;
            if fixed(&name) && key != "allow" {
                return Err(format!(
                    "headers.{key}: `{name}` is the gateway's own and cannot be changed"
                ));
            }
            Ok(name)
        };
        let mut set = Vec::new();
        for (text, value) in &file.set {
            let mut value: HeaderValue = value
                .parse()
                .map_err(|_| format!("headers.set.{text}: the value cannot be in a header"))?;
            value.set_sensitive(true);
            set.push((name("set", text)?, value));
        }
        Ok(HeaderRules {
            set,
            remove: file
                .remove
                .iter()
                .map(|text| name("remove", text))
                .collect::<Result<_, _>>()?,
            allow: file
                .allow
                .as_ref()
                .map(|list| list.iter().map(|text| name("allow", text)).collect::<Result<_, _>>())
                .transpose()?,
        })
    }

    fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty() && self.allow.is_none()
    }

    /// Applies the rules to the headers of a request.
    pub fn apply(&self, headers: &mut http::HeaderMap) {
        if let Some(allow) = &self.allow {
            let dropped: Vec<HeaderName> = headers
                .keys()
                .filter(|name| !allow.contains(*name) && !needed(name))
                .cloned()
                .collect();
            for name in dropped {
                headers.remove(name);
            }
        }
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
    }
}

/// Calls that need a named approval.
pub(crate) struct ApprovalRule {
    pub tool: GlobMatcher,
    /// Only where these arguments look so; everywhere when there are none.
    pub arguments: BTreeMap<String, GlobMatcher>,
}

impl ApprovalRule {
    fn compile(file: &ApprovalFile) -> Result<ApprovalRule, String> {
        let arguments = file
            .arguments
            .iter()
            .map(|(name, text)| Ok((name.to_lowercase(), pattern("approvals.arguments", text)?)))
            .collect::<Result<_, String>>()?;
        Ok(ApprovalRule {
            tool: pattern("approvals.tool", &file.tool)?,
            arguments,
        })
    }
}

/// Who may call. Each list that is there must match.
pub(crate) struct Callers {
    pub workspaces: Option<GlobSet>,
    pub agents: Option<GlobSet>,
    pub sessions: Option<GlobSet>,
}

impl Callers {
    fn compile(file: &CallersFile) -> Result<Callers, String> {
        let list = |key: &str, list: &Option<Vec<String>>| list.as_deref().map(|list| patterns(key, list)).transpose();
        Ok(Callers {
            workspaces: list("callers.workspaces", &file.workspaces)?,
            agents: list("callers.agents", &file.agents)?,
            sessions: list("callers.sessions", &file.sessions)?,
        })
    }
}

/// A pattern with `*` and `?`.
pub(crate) fn pattern(key: &str, text: &str) -> Result<GlobMatcher, String> {
    Ok(Glob::new(text)
        .map_err(|error| format!("{key}: `{text}` is not a pattern: {}", error.kind()))?
        .compile_matcher())
}

fn patterns(key: &str, list: &[String]) -> Result<GlobSet, String> {
    let mut set = GlobSetBuilder::new();
    for text in list {
        set.add(Glob::new(text).map_err(|error| format!("{key}: `{text}` is not a pattern: {}", error.kind()))?);
    }
    set.build().map_err(|error| format!("{key}: {error}"))
}
