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

/// What kind of crossing a [`Record`] tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// A tool ran (or was refused) in a sandbox.
    ToolCall,
    /// A call of an MCP server, directly or through a tunnel.
    McpCall,
    /// A connection out of a sandbox, or a request on one.
    Connection,
    /// A name that a sandbox asked for.
    DnsQuery,
    /// A credential was put into a request.
    CredentialUse,
    /// A credential was made, replaced or removed.
    CredentialChange,
    /// A file came into a sandbox.
    FileIn,
    /// A file was taken out of a sandbox.
    FileOut,
    /// A person was asked, or answered.
    Approval,
    /// A gateway connected to the edge, or left it.
    TunnelConnection,
    /// A sandbox began.
    SandboxStart,
    /// A sandbox ended.
    SandboxEnd,
    /// A sandbox came back from a checkpoint.
    SandboxRestore,
    /// Something was stopped: by whom and why is in the record.
    Stop,
    /// A policy, a configuration or a certificate changed.
    PolicyChange,
    /// An identity was refused.
    AuthenticationFailure,
}

/// How a crossing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It was let through.
    Allowed,
    /// Policy refused it.
    Denied,
    /// It was let through and did not succeed.
    Failed,
}

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
    /// The HTTP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_method: Option<String>,
    /// The path of an HTTP request, without its query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_path: Option<String>,
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
    ($($name:ident: $type:ty;)*) => {$(
        #[doc = concat!("Sets [`", stringify!($name), "`](Record#structfield.", stringify!($name), ").")]
        pub fn $name(mut self, $name: impl Into<$type>) -> Self {
            self.$name = Some($name.into());
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
            input_hash: None,
            output_hash: None,
            destination: None,
            address: None,
            http_method: None,
            http_path: None,
            tunnel: None,
            hostname: None,
            route: None,
            mcp_method: None,
            decision: None,
            rule: None,
            credential: None,
            output_location: None,
            approval: None,
            approver: None,
            actor: None,
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
        workspace: String;
        environment: String;
        session: String;
        worker: String;
        image_digest: String;
        policy_hash: Hash;
        tool: String;
        call: String;
        input_hash: Hash;
        output_hash: Hash;
        destination: String;
        address: String;
        http_method: String;
        http_path: String;
        tunnel: String;
        hostname: String;
        route: String;
        mcp_method: String;
        decision: Decision;
        rule: String;
        credential: Credential;
        output_location: String;
        approval: String;
        approver: String;
        actor: String;
        status: i64;
        bytes_in: u64;
        bytes_out: u64;
        duration_micros: u64;
        reason: String;
        input: Payload;
        output: Payload;
    }

    /// Sets the agent and the version of its configuration.
    pub fn agent(mut self, id: impl Into<String>, version: Option<u64>) -> Self {
        self.agent = Some(Agent { id: id.into(), version });
        self
    }

    /// Sets the decision and the rule that made it.
    pub fn decided(self, decision: Decision, rule: impl Into<String>) -> Self {
        self.decision(decision).rule(rule)
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
