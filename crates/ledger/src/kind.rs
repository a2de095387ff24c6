//! The kinds of crossings, and what a record of each kind has to say to be evidence of it.
//!
//! [`Kind::required`] is the table. A ledger that was opened with [`Options::complete`](crate::Options::complete)
//! refuses a record that lacks a field of its row. To add a kind or a field, raise [`FORMAT`](crate::FORMAT): the
//! crate's page says how.

use serde::{Deserialize, Serialize};

/// What kind of crossing a [`Record`](crate::Record) tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// A session began.
    SessionStart,
    /// A session ended.
    SessionEnd,
    /// The event log of a session up to here: how many events, and the hash of their lines, each with its end.
    SessionLog,
    /// A tool ran (or was refused) in a sandbox.
    ToolCall,
    /// A call of an MCP server, directly or through a tunnel.
    McpCall,
    /// A request that the edge carried through a tunnel.
    TunnelCall,
    /// A connection out of a sandbox.
    Connection,
    /// A request on a connection out of a sandbox.
    Request,
    /// A name that a sandbox asked for.
    DnsQuery,
    /// A credential was put into a request.
    CredentialUse,
    /// A credential was made, replaced or removed.
    CredentialChange,
    /// A file came into a sandbox.
    FileIn,
    /// A file was taken out of a sandbox, or kept from being.
    FileOut,
    /// A person was asked, or answered.
    Approval,
    /// A gateway connected to the edge, or left it.
    TunnelConnection,
    /// An image was fetched, verified or refused.
    Image,
    /// A sandbox began.
    SandboxStart,
    /// A sandbox ended.
    SandboxEnd,
    /// The files of a sandbox were kept in a checkpoint.
    SandboxCheckpoint,
    /// A sandbox came back from a checkpoint.
    SandboxRestore,
    /// A sandbox was paused.
    SandboxPause,
    /// A sandbox that was paused went on.
    SandboxResume,
    /// Something was stopped: by whom, why and what is in the record.
    Stop,
    /// A policy came into force for a session, a worker or a gateway.
    PolicyApplied,
    /// A policy, a configuration or a certificate changed.
    PolicyChange,
    /// An identity was refused.
    AuthenticationFailure,
    /// An export of this ledger began or ended, or was moved past records that it had not delivered.
    Export,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 27] = [
        Self::SessionStart,
        Self::SessionEnd,
        Self::SessionLog,
        Self::ToolCall,
        Self::McpCall,
        Self::TunnelCall,
        Self::Connection,
        Self::Request,
        Self::DnsQuery,
        Self::CredentialUse,
        Self::CredentialChange,
        Self::FileIn,
        Self::FileOut,
        Self::Approval,
        Self::TunnelConnection,
        Self::Image,
        Self::SandboxStart,
        Self::SandboxEnd,
        Self::SandboxCheckpoint,
        Self::SandboxRestore,
        Self::SandboxPause,
        Self::SandboxResume,
        Self::Stop,
        Self::PolicyApplied,
        Self::PolicyChange,
        Self::AuthenticationFailure,
        Self::Export,
    ];

    /// Its name in a record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SessionStart => "session_start",
            Self::SessionEnd => "session_end",
            Self::SessionLog => "session_log",
            Self::ToolCall => "tool_call",
            Self::McpCall => "mcp_call",
            Self::TunnelCall => "tunnel_call",
            Self::Connection => "connection",
            Self::Request => "request",
            Self::DnsQuery => "dns_query",
            Self::CredentialUse => "credential_use",
            Self::CredentialChange => "credential_change",
            Self::FileIn => "file_in",
            Self::FileOut => "file_out",
            Self::Approval => "approval",
            Self::TunnelConnection => "tunnel_connection",
            Self::Image => "image",
            Self::SandboxStart => "sandbox_start",
            Self::SandboxEnd => "sandbox_end",
            Self::SandboxCheckpoint => "sandbox_checkpoint",
            Self::SandboxRestore => "sandbox_restore",
            Self::SandboxPause => "sandbox_pause",
            Self::SandboxResume => "sandbox_resume",
            Self::Stop => "stop",
            Self::PolicyApplied => "policy_applied",
            Self::PolicyChange => "policy_change",
            Self::AuthenticationFailure => "authentication_failure",
            Self::Export => "export",
        }
    }

    /// The fields without which a record of this kind is not evidence of anything.
    pub const fn required(self) -> &'static [Field] {
        use Field as F;
        match self {
            Self::SessionStart | Self::SessionEnd => &[F::Session],
            Self::SessionLog => &[F::Session, F::Events, F::OutputHash],
            Self::ToolCall => &[F::Session, F::Tool, F::Call, F::InputHash, F::Decision, F::Rule],
            Self::McpCall => &[F::Hostname, F::McpMethod, F::Decision, F::Rule],
            Self::TunnelCall => &[F::Tunnel, F::Hostname, F::Decision, F::Rule],
            Self::Connection | Self::DnsQuery => &[F::Session, F::Destination, F::Decision, F::Rule],
            Self::Request => &[
                F::Session,
                F::Destination,
                F::HttpMethod,
                F::HttpPath,
                F::Decision,
                F::Rule,
            ],
            Self::CredentialUse => &[F::Session, F::Destination, F::Credential, F::Decision, F::Rule],
            Self::CredentialChange => &[F::Credential, F::Actor],
            Self::FileIn => &[F::Session, F::Path, F::Decision],
            Self::FileOut => &[F::Session, F::Path, F::Decision, F::Rule],
            Self::Approval => &[F::Session, F::Call, F::Approval, F::Approver, F::Decision],
            Self::TunnelConnection => &[F::Tunnel, F::Decision],
            Self::Image => &[F::ImageDigest, F::Decision],
            Self::SandboxStart => &[F::Session, F::Worker, F::ImageDigest, F::PolicyHash],
            Self::SandboxEnd | Self::SandboxPause | Self::SandboxResume => &[F::Session, F::Worker],
            Self::SandboxCheckpoint => &[F::Session, F::Worker, F::OutputHash, F::OutputLocation],
            Self::SandboxRestore => &[F::Session, F::Worker, F::InputHash, F::Decision],
            Self::Stop => &[F::Actor, F::Reason, F::Stop],
            Self::PolicyApplied => &[F::PolicyHash],
            Self::PolicyChange => &[F::Actor],
            Self::AuthenticationFailure => &[F::Reason],
            Self::Export => &[F::Destination, F::Reason],
        }
    }
}

/// A field of a record that a kind can demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the field of the same name")]
#[non_exhaustive]
pub enum Field {
    Session,
    Worker,
    ImageDigest,
    PolicyHash,
    Tool,
    Call,
    InputHash,
    OutputHash,
    Destination,
    HttpMethod,
    HttpPath,
    Path,
    Tunnel,
    Hostname,
    McpMethod,
    Decision,
    Rule,
    Credential,
    OutputLocation,
    Approval,
    Approver,
    Actor,
    Reason,
    Stop,
    Events,
}

impl Field {
    /// Its name in a record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Worker => "worker",
            Self::ImageDigest => "image_digest",
            Self::PolicyHash => "policy_hash",
            Self::Tool => "tool",
            Self::Call => "call",
            Self::InputHash => "input_hash",
            Self::OutputHash => "output_hash",
            Self::Destination => "destination",
            Self::HttpMethod => "http_method",
            Self::HttpPath => "http_path",
            Self::Path => "path",
            Self::Tunnel => "tunnel",
            Self::Hostname => "hostname",
            Self::McpMethod => "mcp_method",
            Self::Decision => "decision",
            Self::Rule => "rule",
            Self::Credential => "credential",
            Self::OutputLocation => "output_location",
            Self::Approval => "approval",
            Self::Approver => "approver",
            Self::Actor => "actor",
            Self::Reason => "reason",
            Self::Stop => "stop",
            Self::Events => "events",
        }
    }
}

/// How a crossing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It was let through.
    Allowed,
    /// Policy refused it.
    Denied,
    /// It was let through and did not succeed.
    Failed,
}

impl Decision {
    /// Its name in a record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// What was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One call of a tool.
    Call,
    /// A session.
    Session,
    /// All sessions of an environment.
    Environment,
    /// All sessions of a workspace.
    Workspace,
    /// All sessions of a worker.
    Worker,
    /// A tunnel.
    Tunnel,
}

impl Scope {
    /// Its name in a record.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Session => "session",
            Self::Environment => "environment",
            Self::Workspace => "workspace",
            Self::Worker => "worker",
            Self::Tunnel => "tunnel",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_wire() {
        for (i, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert!(!Kind::ALL[..i].contains(&kind));
        }
        for decision in [Decision::Allowed, Decision::Denied, Decision::Failed] {
            assert_eq!(serde_json::to_value(decision).unwrap(), decision.name());
        }
        for scope in [
            Scope::Call,
            Scope::Session,
            Scope::Environment,
            Scope::Workspace,
            Scope::Worker,
            Scope::Tunnel,
        ] {
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.name());
        }
    }
}
