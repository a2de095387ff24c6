//! Every operation: its method, its path, the beta header it needs, and who may call it.
//!
//! This is the whole authorization of the API. Rows for credentials narrower than an API key also say what the
//! credential must belong to: an environment key opens its own environment and the sessions in it, the token of
//! a work item opens that item and its session. Source: the authorization matrix of the hosted service.

use http::Method;

use super::versions;
use crate::auth::Role;
use crate::federation::Scope;

/// Who may call an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Anybody, without a credential.
    Anybody,
    /// An API key with at least this role.
    ApiKey(Role),
    /// An environment key, for its environment and the sessions in it.
    EnvironmentKey,
    /// The token of a work item, for that item and its session.
    SessionsToken,
    /// The key of the server's own workers, for cloud environments.
    WorkerKey,
    /// A token of a workload with this scope.
    Workload(Scope),
}

/// One operation's row.
pub struct Row {
    /// The operation.
    pub operation: Operation,
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: &'static str,
    /// Whether it needs a beta header.
    pub beta: bool,
    /// Who may call it.
    pub who: &'static [Who],
}

impl Row {
    /// Whether its body is read by the operation itself, piece by piece.
    pub(crate) fn streams_body(&self) -> bool {
        matches!(
            self.operation,
            Operation::FilesUpload | Operation::SessionOutputsAdd | Operation::SessionEvidenceAdd
        )
    }

    /// The beta header that it needs: each part of the surface has one of its own.
    pub(crate) fn beta_header(&self) -> Option<&'static str> {
        let header = if self.path.starts_with("/v1/tunnels") {
            versions::TUNNELS
        } else if self.path == TOKEN_PATH {
            versions::FEDERATION
        } else {
            versions::MANAGED_AGENTS
        };
        self.beta.then_some(header)
    }
}

/// Where tokens of identity providers are exchanged. OAuth knows no `anthropic-version`.
pub(crate) const TOKEN_PATH: &str = "/v1/oauth/token";

const READ: &[Who] = &[Who::ApiKey(Role::Viewer)];
const WRITE: &[Who] = &[Who::ApiKey(Role::Developer)];
const ADMIN: &[Who] = &[Who::ApiKey(Role::Admin)];
const OPEN: &[Who] = &[Who::Anybody];
const QUEUE: &[Who] = &[Who::EnvironmentKey];
const HOLD: &[Who] = &[Who::EnvironmentKey, Who::SessionsToken];
const STOP: &[Who] = &[Who::ApiKey(Role::Developer), Who::EnvironmentKey, Who::SessionsToken];
const STATS: &[Who] = &[Who::ApiKey(Role::Viewer), Who::EnvironmentKey];
const SESSION_READ: &[Who] = &[Who::ApiKey(Role::Viewer), Who::EnvironmentKey, Who::SessionsToken];
const SESSION_SEND: &[Who] = &[Who::ApiKey(Role::Developer), Who::EnvironmentKey, Who::SessionsToken];
const FILE_CONTENT: &[Who] = &[Who::ApiKey(Role::Viewer), Who::SessionsToken];
const OWN_SESSION: &[Who] = &[Who::SessionsToken];
const OWN_SESSION_READ: &[Who] = &[Who::ApiKey(Role::Viewer), Who::SessionsToken];
const OWN_QUEUE: &[Who] = &[Who::WorkerKey];
const TUNNEL_READ: &[Who] = &[Who::ApiKey(Role::Viewer), Who::Workload(Scope::ManageTunnels)];
const TUNNEL_WRITE: &[Who] = &[Who::ApiKey(Role::Developer), Who::Workload(Scope::ManageTunnels)];

macro_rules! operations {
    ($($name:ident $method:ident $path:literal $beta:literal $who:ident;)*) => {
        /// Every operation of the API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "the rows of the table say what each one is")]
        pub enum Operation { $($name,)* }

        /// Every operation's row.
        pub const TABLE: &[Row] = &[$(Row {
            operation: Operation::$name,
            method: Method::$method,
            path: $path,
            beta: $beta,
            who: $who,
        },)*];
    };
}

operations! {
    Healthz             GET    "/healthz"                                              false OPEN;
    Readyz              GET    "/readyz"                                               false OPEN;
    Metrics             GET    "/metrics"                                              false OPEN;

    AgentsCreate        POST   "/v1/agents"                                            true  WRITE;
    AgentsList          GET    "/v1/agents"                                            true  READ;
    AgentsRetrieve      GET    "/v1/agents/{agent_id}"                                 true  READ;
    AgentsUpdate        POST   "/v1/agents/{agent_id}"                                 true  WRITE;
    AgentsArchive       POST   "/v1/agents/{agent_id}/archive"                         true  WRITE;
    AgentVersionsList   GET    "/v1/agents/{agent_id}/versions"                        true  READ;

    EnvironmentsCreate  POST   "/v1/environments"                                      true  WRITE;
    EnvironmentsList    GET    "/v1/environments"                                      true  READ;
    EnvironmentsRetrieve GET   "/v1/environments/{environment_id}"                     true  READ;
    EnvironmentsUpdate  POST   "/v1/environments/{environment_id}"                     true  WRITE;
    EnvironmentsDelete  DELETE "/v1/environments/{environment_id}"                     true  WRITE;
    EnvironmentsArchive POST   "/v1/environments/{environment_id}/archive"             true  WRITE;

    WorkList            GET    "/v1/environments/{environment_id}/work"                true  STATS;
    WorkPoll            GET    "/v1/environments/{environment_id}/work/poll"           true  QUEUE;
    WorkStats           GET    "/v1/environments/{environment_id}/work/stats"          true  STATS;
    WorkRetrieve        GET    "/v1/environments/{environment_id}/work/{work_id}"      true  READ;
    WorkUpdate          POST   "/v1/environments/{environment_id}/work/{work_id}"      true  WRITE;
    WorkAck             POST   "/v1/environments/{environment_id}/work/{work_id}/ack"  true  QUEUE;
    WorkHeartbeat       POST   "/v1/environments/{environment_id}/work/{work_id}/heartbeat" true HOLD;
    WorkStop            POST   "/v1/environments/{environment_id}/work/{work_id}/stop" true  STOP;

    SessionsCreate      POST   "/v1/sessions"                                          true  WRITE;
    SessionsList        GET    "/v1/sessions"                                          true  READ;
    SessionsRetrieve    GET    "/v1/sessions/{session_id}"                             true  SESSION_READ;
    SessionsUpdate      POST   "/v1/sessions/{session_id}"                             true  WRITE;
    SessionsDelete      DELETE "/v1/sessions/{session_id}"                             true  WRITE;
    SessionsArchive     POST   "/v1/sessions/{session_id}/archive"                     true  WRITE;

    EventsSend          POST   "/v1/sessions/{session_id}/events"                      true  SESSION_SEND;
    EventsList          GET    "/v1/sessions/{session_id}/events"                      true  SESSION_READ;
    EventsStream        GET    "/v1/sessions/{session_id}/events/stream"               true  SESSION_READ;

    ThreadsList         GET    "/v1/sessions/{session_id}/threads"                     true  READ;
    ThreadsRetrieve     GET    "/v1/sessions/{session_id}/threads/{thread_id}"         true  READ;
    ThreadsArchive      POST   "/v1/sessions/{session_id}/threads/{thread_id}/archive" true  WRITE;
    ThreadEventsList    GET    "/v1/sessions/{session_id}/threads/{thread_id}/events"  true  READ;
    ThreadEventsStream  GET    "/v1/sessions/{session_id}/threads/{thread_id}/stream"  true  READ;

    ResourcesList       GET    "/v1/sessions/{session_id}/resources"                   true  SESSION_READ;
    ResourcesAdd        POST   "/v1/sessions/{session_id}/resources"                   true  WRITE;
    ResourcesRetrieve   GET    "/v1/sessions/{session_id}/resources/{resource_id}"     true  READ;
    ResourcesUpdate     POST   "/v1/sessions/{session_id}/resources/{resource_id}"     true  WRITE;
    ResourcesDelete     DELETE "/v1/sessions/{session_id}/resources/{resource_id}"     true  WRITE;

    FilesUpload         POST   "/v1/files"                                             false WRITE;
    FilesList           GET    "/v1/files"                                             false READ;
    FilesRetrieve       GET    "/v1/files/{file_id}"                                   false READ;
    FilesDelete         DELETE "/v1/files/{file_id}"                                   false WRITE;
    FilesContent        GET    "/v1/files/{file_id}/content"                           false FILE_CONTENT;

    VaultsCreate        POST   "/v1/vaults"                                           true  WRITE;
    VaultsList          GET    "/v1/vaults"                                           true  READ;
    VaultsRetrieve      GET    "/v1/vaults/{vault_id}"                                true  READ;
    VaultsUpdate        POST   "/v1/vaults/{vault_id}"                                true  WRITE;
    VaultsDelete        DELETE "/v1/vaults/{vault_id}"                                true  WRITE;
    VaultsArchive       POST   "/v1/vaults/{vault_id}/archive"                        true  WRITE;
    VaultCredentialsCreate POST   "/v1/vaults/{vault_id}/credentials"                    true  WRITE;
    VaultCredentialsList GET    "/v1/vaults/{vault_id}/credentials"                    true  READ;
    VaultCredentialsRetrieve GET    "/v1/vaults/{vault_id}/credentials/{credential_id}"    true  READ;
    VaultCredentialsUpdate POST   "/v1/vaults/{vault_id}/credentials/{credential_id}"    true  WRITE;
    VaultCredentialsDelete DELETE "/v1/vaults/{vault_id}/credentials/{credential_id}"    true  WRITE;
    VaultCredentialsArchive POST   "/v1/vaults/{vault_id}/credentials/{credential_id}/archive" true  WRITE;
    VaultCredentialsValidate POST   "/v1/vaults/{vault_id}/credentials/{credential_id}/mcp_oauth_validate" true  WRITE;

    ModelsList          GET    "/v1/models"                                            false READ;
    ModelsRetrieve      GET    "/v1/models/{model_id}"                                 false READ;

    ApiKeysCreate       POST   "/v1/api_keys"                                          false ADMIN;
    ApiKeysList         GET    "/v1/api_keys"                                          false ADMIN;
    ApiKeysRevoke       POST   "/v1/api_keys/{api_key_id}/revoke"                      false ADMIN;
    EnvironmentKeysCreate POST "/v1/environments/{environment_id}/keys"                false ADMIN;
    EnvironmentKeysList GET    "/v1/environments/{environment_id}/keys"                false ADMIN;
    EnvironmentKeysRevoke DELETE "/v1/environments/{environment_id}/keys/{key_id}"     false ADMIN;
    WorkspacesCreate    POST   "/v1/workspaces"                                        false ADMIN;
    WorkspacesList      GET    "/v1/workspaces"                                        false ADMIN;

    TunnelsCreate       POST   "/v1/tunnels"                                           true  TUNNEL_WRITE;
    TunnelsList         GET    "/v1/tunnels"                                           true  TUNNEL_READ;
    TunnelsRetrieve     GET    "/v1/tunnels/{tunnel_id}"                               true  TUNNEL_READ;
    TunnelsArchive      POST   "/v1/tunnels/{tunnel_id}/archive"                       true  TUNNEL_WRITE;
    TunnelsRevealToken  POST   "/v1/tunnels/{tunnel_id}/reveal_token"                  true  TUNNEL_WRITE;
    TunnelsRotateToken  POST   "/v1/tunnels/{tunnel_id}/rotate_token"                  true  TUNNEL_WRITE;
    TunnelsPause        POST   "/v1/tunnels/{tunnel_id}/pause"                         true  TUNNEL_WRITE;
    TunnelsResume       POST   "/v1/tunnels/{tunnel_id}/resume"                        true  TUNNEL_WRITE;
    TunnelsStatus       GET    "/v1/tunnels/{tunnel_id}/status"                        true  TUNNEL_READ;
    TunnelsConnections  GET    "/v1/tunnels/{tunnel_id}/connections"                   true  TUNNEL_READ;
    TunnelsUsage        GET    "/v1/tunnels/{tunnel_id}/usage"                         true  TUNNEL_READ;
    TunnelCertificatesCreate POST "/v1/tunnels/{tunnel_id}/certificates"               true  TUNNEL_WRITE;
    TunnelCertificatesList GET "/v1/tunnels/{tunnel_id}/certificates"                  true  TUNNEL_READ;
    TunnelCertificatesRetrieve GET "/v1/tunnels/{tunnel_id}/certificates/{certificate_id}" true TUNNEL_READ;
    TunnelCertificatesArchive POST "/v1/tunnels/{tunnel_id}/certificates/{certificate_id}/archive" true TUNNEL_WRITE;

    OauthToken          POST   "/v1/oauth/token"                                       true  OPEN;
    OpenidConfiguration GET    "/.well-known/openid-configuration"                     false OPEN;
    Jwks                GET    "/.well-known/jwks.json"                                false OPEN;

    OwnWorkPoll         GET    "/v1/outwork/work/poll"                                 true  OWN_QUEUE;
    OwnEdge             GET    "/v1/outwork/edge"                                      true  TUNNEL_READ;
    OwnWorkAck          POST   "/v1/outwork/work/{work_id}/ack"                        true  OWN_QUEUE;

    SessionBoundary     GET    "/v1/outwork/sessions/{session_id}/boundary"            true  OWN_SESSION;
    SessionEvidence     GET    "/v1/outwork/sessions/{session_id}/evidence"            true  ADMIN;
    SessionEvidenceAdd  POST   "/v1/outwork/sessions/{session_id}/evidence"            true  OWN_SESSION;
    CallHalt            POST   "/v1/outwork/calls/{event_id}/halt"                     true  WRITE;
    SessionHalt         POST   "/v1/outwork/sessions/{session_id}/halt"                true  WRITE;
    EnvironmentHalt     POST   "/v1/outwork/environments/{environment_id}/halt"        true  WRITE;
    WorkspaceHalt       POST   "/v1/outwork/workspaces/{workspace_id}/halt"            true  ADMIN;
    SessionMounts       GET    "/v1/outwork/sessions/{session_id}/mounts"              true  OWN_SESSION;
    SessionSecrets      GET    "/v1/outwork/sessions/{session_id}/secrets"             true  OWN_SESSION;
    SessionOutputsAdd   POST   "/v1/outwork/sessions/{session_id}/outputs"             true  OWN_SESSION;
    SessionOutputsList  GET    "/v1/outwork/sessions/{session_id}/outputs"             true  OWN_SESSION_READ;
    SessionOutputsRefuse POST  "/v1/outwork/sessions/{session_id}/outputs/refused"     true  OWN_SESSION;
    SessionTextsList    GET    "/v1/outwork/sessions/{session_id}/texts"               true  OWN_SESSION_READ;
    SessionTextsRetrieve GET   "/v1/outwork/sessions/{session_id}/texts/{event_id}"    true  OWN_SESSION_READ;
}

/// Parts of the contract that are not served, by path prefix, with the words for them.
pub(crate) const NOT_SERVED: &[(&str, &str)] = &[
    ("/v1/deployment_runs", "deployments are"),
    ("/v1/deployments", "deployments are"),
    ("/v1/dreams", "dreams are"),
    ("/v1/memory_stores", "memory stores are"),
    ("/v1/skills", "skills are"),
    ("/v1/user_profiles", "user profiles are"),
    ("/v1/messages", "the Messages API is"),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_rows_are_the_same_request() {
        let mut seen = HashSet::new();
        for row in TABLE {
            assert!(
                seen.insert((row.method.clone(), row.path)),
                "{} {}",
                row.method,
                row.path
            );
            assert!(!row.who.is_empty());
        }
    }

    #[test]
    fn a_viewer_changes_nothing() {
        for row in TABLE.iter().filter(|r| r.method != Method::GET) {
            assert!(!row.who.contains(&Who::ApiKey(Role::Viewer)), "{}", row.path);
        }
    }

    #[test]
    fn a_workload_reaches_what_its_scope_says_and_nothing_else() {
        for row in TABLE {
            assert_eq!(
                row.who.contains(&Who::Workload(Scope::ManageTunnels)),
                row.path.starts_with("/v1/tunnels") || row.path == "/v1/outwork/edge",
                "{}",
                row.path
            );
        }
    }

    #[test]
    fn a_worker_never_reaches_what_only_an_api_key_may() {
        for row in TABLE
            .iter()
            .filter(|r| !r.path.contains("/work") && !r.path.contains("/sessions/"))
            // A session's worker reads the files of its session; which ones these are is asked for each.
            .filter(|r| r.operation != Operation::FilesContent)
        {
            assert!(!row.who.contains(&Who::EnvironmentKey), "{}", row.path);
            assert!(!row.who.contains(&Who::SessionsToken), "{}", row.path);
        }
    }
}
