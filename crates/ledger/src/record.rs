//! A record: one crossing of the boundary, as it is kept in the ledger.
//!
//! A record is JSON with a fixed order of fields; what is absent has no field. Reading refuses unknown kinds and
//! fields. Records carry names, ids and hashes, never a secret; the bytes that crossed are kept only in [`Payload`]s,
//! which a ledger refuses unless its owner turned them on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outwork_wire::Time;
use serde::{Deserialize, Serialize};

use crate::Hash;
use crate::kind::{Decision, Field, Kind, Scope};

/// The agent that acted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its id.
    pub id: String,
    /// The version of its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// The credential that was used: its name, never its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Its id, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The name that its owner gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How it authenticated: `bearer`, `basic`, `oauth`, `sigv4`, `mtls` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

/// What a stop was: how far it reached and what it ended. Who and why are the record's actor and reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// How far it reached.
    pub scope: Scope,
    /// Whether it was forced: nothing was asked to end by itself.
    pub forced: bool,
    /// The ids of what it ended: calls, sessions.
    pub ended: Vec<String>,
    /// How many processes it ended, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
}

/// Bytes that crossed. Refused by a ledger whose owner did not turn payloads on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// They are UTF-8.
    Text(String),
    /// They are not, and are kept in base 64.
    Base64(String),
}

impl Payload {
    /// `bytes` in the form that suits them.
    pub fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Base64(STANDARD.encode(bytes)),
        }
    }
}

/// One crossing. Made by [`Record::new`] and the methods that are named like the fields.
///
/// ```
/// use outwork_ledger::{Decision, Hash, Kind, Record};
/// use outwork_wire::Time;
///
/// let record = Record::new(Kind::McpCall, Time::now())
///     .session("sesn_01abc")
///     .agent("agent_01abc", Some(3))
///     .tunnel("tunl_01abc")
///     .hostname("wiki.example.internal")
///     .mcp_method("tools/call")
///     .tool("search")
///     .input_hash(Hash::of(b"{}"))
///     .decided(Decision::Allowed, "route wiki")
///     .status(200);
/// assert_eq!(record.tool.as_deref(), Some("search"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Record {
    /// What kind of crossing.
    pub kind: Kind,
    /// When it happened, by the clock of the one who records.
    pub at: Time,
    /// The workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// The environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// The session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The agent and its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Agent>,
    /// The worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// The digest of the sandbox's image, as `sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// The hash of the policy that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_hash: Option<Hash>,
    /// The tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The id of the call or the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// The connection on which a request went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// The hash of what went in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_hash: Option<Hash>,
    /// The hash of what came out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_hash: Option<Hash>,
    /// Where it went, as `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// The address that the name was resolved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What was spoken: `tcp`, `tls`, `http/1.1`, `h2`, `websocket`, `dns` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The type of a DNS question, such as `A`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_type: Option<String>,
    /// What a DNS question was answered with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
    /// The HTTP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_method: Option<String>,
    /// The path of an HTTP request, without its query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_path: Option<String>,
    /// The path of a file inside of the sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
    /// The hostname that was called through the tunnel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The route that took the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// The MCP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp_method: Option<String>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// The rule that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The credential that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<Credential>,
    /// Where in the request the credential was put: `header authorization`, `body`, `query` and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_location: Option<String>,
    /// Where a result was put.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_location: Option<String>,
    /// The approval: what was asked and what was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<String>,
    /// Who approved or refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approver: Option<String>,
    /// Who caused it, where that is not the agent: a person, a key, a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// What was stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// How many events the session's log had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
    /// The status: of HTTP, of JSON-RPC, or an exit status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i64>,
    /// Bytes that came in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    /// Bytes that went out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    /// How long it took, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_micros: Option<u64>,
    /// Why, in words for people. Never a payload, never a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What went in, if the owner turned payloads on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Payload>,
    /// What came out, if the owner turned payloads on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Payload>,
}

macro_rules! setters {
    ($($name:ident: $type:ty, $argument:ty;)*) => {$(
        #[doc = concat!("Sets [`", stringify!($name), "`](Record#structfield.", stringify!($name), ").")]
        pub fn $name(mut self, $name: $argument) -> Self {
            let value: $type = $name.into();
            self.$name = Some(value);
            self
        }
    )*};
}

impl Record {
    /// A record of `kind` at `at`, with nothing else in it.
    pub fn new(kind: Kind, at: Time) -> Self {
        Self {
            kind,
            at,
            workspace: None,
            environment: None,
            session: None,
            agent: None,
            worker: None,
            image_digest: None,
            policy_hash: None,
            tool: None,
            call: None,
            connection: None,
            input_hash: None,
            output_hash: None,
            destination: None,
            address: None,
            protocol: None,
            query_type: None,
            answers: Vec::new(),
            http_method: None,
            http_path: None,
            path: None,
            tunnel: None,
            hostname: None,
            route: None,
            mcp_method: None,
            decision: None,
            rule: None,
            credential: None,
            credential_location: None,
            output_location: None,
            approval: None,
            approver: None,
            actor: None,
            stop: None,
            events: None,
            status: None,
            bytes_in: None,
            bytes_out: None,
            duration_micros: None,
            reason: None,
            input: None,
            output: None,
        }
    }

    setters! {
        workspace: String, impl Into<String>;
        environment: String, impl Into<String>;
        session: String, impl Into<String>;
        worker: String, impl Into<String>;
        image_digest: String, impl Into<String>;
        policy_hash: Hash, Hash;
        tool: String, impl Into<String>;
        call: String, impl Into<String>;
        connection: String, impl Into<String>;
        input_hash: Hash, Hash;
        output_hash: Hash, Hash;
        destination: String, impl Into<String>;
        address: String, impl Into<String>;
        protocol: String, impl Into<String>;
        query_type: String, impl Into<String>;
        http_method: String, impl Into<String>;
        http_path: String, impl Into<String>;
        path: String, impl Into<String>;
        tunnel: String, impl Into<String>;
        hostname: String, impl Into<String>;
        route: String, impl Into<String>;
        mcp_method: String, impl Into<String>;
        decision: Decision, Decision;
        rule: String, impl Into<String>;
        credential: Credential, Credential;
        credential_location: String, impl Into<String>;
        output_location: String, impl Into<String>;
        approval: String, impl Into<String>;
        approver: String, impl Into<String>;
        actor: String, impl Into<String>;
        stop: Stop, Stop;
        events: u64, u64;
        status: i64, i64;
        bytes_in: u64, u64;
        bytes_out: u64, u64;
        duration_micros: u64, u64;
        reason: String, impl Into<String>;
        input: Payload, Payload;
        output: Payload, Payload;
    }

    /// Sets the agent and the version of its configuration.
    pub fn agent(mut self, id: impl Into<String>, version: Option<u64>) -> Self {
        self.agent = Some(Agent { id: id.into(), version });
        self
    }

    /// Sets what a DNS question was answered with.
    pub fn answers<T: Into<String>>(mut self, answers: impl IntoIterator<Item = T>) -> Self {
        self.answers = answers.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the decision and the rule that made it.
    pub fn decided(self, decision: Decision, rule: impl Into<String>) -> Self {
        self.decision(decision).rule(rule)
    }

    /// A sentence for people. No payload is in it.
    pub fn sentence(&self) -> String {
        let mut text = self.kind.name().replace('_', " ");
        let subject = [
            &self.mcp_method,
            &self.tool,
            &self.http_method,
            &self.path,
            &self.image_digest,
        ];
        for part in subject.into_iter().flatten() {
            text = format!("{text} {part}");
        }
        if let Some(to) = self.destination.as_ref().or(self.hostname.as_ref()) {
            text = format!("{text} to {to}");
        }
        if let Some(path) = &self.http_path {
            text = format!("{text} {path}");
        }
        if let Some(name) = self.credential.as_ref().and_then(|c| c.name.as_ref().or(c.id.as_ref())) {
            text = format!("{text} with the credential {name}");
        }
        if let Some(stop) = &self.stop {
            let how = if stop.forced { "forced" } else { "graceful" };
            text = format!("{text} of a {}, {how}", stop.scope.name());
        }
        if let Some(decision) = self.decision {
            text = format!("{text}: {}", decision.name());
        }
        if let Some(rule) = &self.rule {
            text = format!("{text} by {rule}");
        }
        if let Some(who) = self.approver.as_ref().or(self.actor.as_ref()) {
            text = format!("{text} ({who})");
        }
        match &self.reason {
            Some(reason) => format!("{text}; {reason}"),
            None => text,
        }
    }

    /// Which of the fields that its kind demands are absent or empty.
    pub fn missing(&self) -> Vec<&'static str> {
        let required = self.kind.required().iter();
        required.filter(|field| !self.has(**field)).map(|f| f.name()).collect()
    }

    fn has(&self, field: Field) -> bool {
        fn text(value: &Option<String>) -> bool {
            value.as_ref().is_some_and(|value| !value.is_empty())
        }
        match field {
            Field::Session => text(&self.session),
            Field::Worker => text(&self.worker),
            Field::ImageDigest => text(&self.image_digest),
            Field::PolicyHash => self.policy_hash.is_some(),
            Field::Tool => text(&self.tool),
            Field::Call => text(&self.call),
            Field::InputHash => self.input_hash.is_some(),
            Field::OutputHash => self.output_hash.is_some(),
            Field::Destination => text(&self.destination),
            Field::HttpMethod => text(&self.http_method),
            Field::HttpPath => text(&self.http_path),
            Field::Path => text(&self.path),
            Field::Tunnel => text(&self.tunnel),
            Field::Hostname => text(&self.hostname),
            Field::McpMethod => text(&self.mcp_method),
            Field::Decision => self.decision.is_some(),
            Field::Rule => text(&self.rule),
            Field::Credential => self
                .credential
                .as_ref()
                .is_some_and(|credential| text(&credential.name) || text(&credential.id)),
            Field::OutputLocation => text(&self.output_location),
            Field::Approval => text(&self.approval),
            Field::Approver => text(&self.approver),
            Field::Actor => text(&self.actor),
            Field::Reason => text(&self.reason),
            Field::Stop => self.stop.is_some(),
            Field::Events => self.events.is_some(),
        }
    }

    /// Whether bytes that crossed are in it.
    pub fn has_payload(&self) -> bool {
        self.input.is_some() || self.output.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_one_order_and_absent_ones_are_absent() {
        let record = Record::new(Kind::FileOut, Time::from_micros(1_700_000_000_000_001))
            .reason("because")
            .agent("agent_1", None)
            .session("sesn_1")
            .output(Payload::of(&[0xff]));
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(
            text,
            r#"{"kind":"file_out","at":"2023-11-14T22:13:20.000001Z","session":"sesn_1","agent":{"id":"agent_1"},"reason":"because","output":{"base64":"/w=="}}"#
        );
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }

    #[test]
    fn what_a_kind_demands_is_known_by_name() {
        let at = Time::from_micros(1_700_000_000_000_001);
        let bare = Record::new(Kind::Stop, at).actor("");
        assert_eq!(bare.missing(), ["actor", "reason", "stop"]);
        let stop = Stop {
            scope: Scope::Session,
            forced: true,
            ended: vec!["sesn_1".into()],
            processes: Some(3),
        };
        let whole = bare.actor("key_1").reason("it went wrong").stop(stop);
        assert!(whole.missing().is_empty());
        let text = serde_json::to_string(&whole).unwrap();
        assert!(text.contains(r#""stop":{"scope":"session","forced":true,"ended":["sesn_1"],"processes":3}"#));
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), whole);
        for kind in Kind::ALL {
            assert_eq!(Record::new(kind, at).missing().len(), kind.required().len(), "{kind:?}");
            assert!(!kind.required().is_empty(), "{kind:?}");
        }
    }

    #[test]
    fn what_is_unknown_is_refused() {
        for text in [
            r#"{"kind":"teleport","at":"2023-11-14T22:13:20.000001Z"}"#,
            r#"{"kind":"stop","at":"2023-11-14T22:13:20.000001Z","colour":"red"}"#,
            r#"{"kind":"stop","at":"2023-11-14T22:13:20.000001Z","agent":{"id":"a","mood":"good"}}"#,
            r#"{"kind":"stop"}"#,
        ] {
            assert!(serde_json::from_str::<Record>(text).is_err(), "{text}");
        }
    }
}
