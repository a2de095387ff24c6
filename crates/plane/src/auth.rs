//! Who calls, and what that opens.
//!
//! A request's credential becomes a [`Principal`]; a row of the table and the request's path make it an
//! [`Access`]. Nothing else makes one, and every operation asks for one, so an operation that forgets its
//! authorization does not compile. Keys are kept as SHA-256 of a secret with more than 200 bits of chance.

use std::fmt;
use std::str::FromStr;

use http::HeaderMap;
use outwork_wire::id::{
    ApiKeyId, EnvironmentId, EnvironmentKeyId, FederationRuleId, SessionId, WorkId, WorkspaceId, fresh_secret,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::error::{ApiError, ErrorKind};
use crate::federation::Scope;
use crate::http::{Row, Who};

/// What an API key may do, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads and changes everything but keys.
    Developer,
    /// Everything in its workspace; in the default workspace, also workspaces and their keys.
    Admin,
}

impl Role {
    /// The role's name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Developer => "developer",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Viewer, Self::Developer, Self::Admin]
            .into_iter()
            .find(|r| r.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a role; use viewer, developer or admin"))
    }
}

/// The text of a credential. Has no `Debug` and no `Serialize`; it is wiped when it is dropped.
#[derive(Clone)]
pub struct SecretText(String);

impl SecretText {
    /// Takes a credential's text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Makes a fresh credential: a prefix that scanners of leaked secrets can find, and 48 characters of chance.
    pub(crate) fn fresh(prefix: &str) -> Self {
        Self(format!("{prefix}{}", fresh_secret(48, &mut rand::rng())))
    }

    /// The text, for the one answer that shows it and for files of mode 0600.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The header by which a caller says which workspace it means.
const WORKSPACE_HEADER: &str = "anthropic-workspace-id";

/// What API keys start with.
pub(crate) const API_KEY_PREFIX: &str = "outwork_api_";
/// What environment keys start with.
pub(crate) const ENVIRONMENT_KEY_PREFIX: &str = "outwork_env_";
/// What tokens of work items start with.
pub(crate) const SESSIONS_TOKEN_PREFIX: &str = "outwork_sess_";
/// What keys of the server's own workers start with.
pub(crate) const WORKER_KEY_PREFIX: &str = "outwork_wrk_";
/// What tokens of workloads start with.
pub(crate) const FEDERATED_TOKEN_PREFIX: &str = "outwork_fed_";
/// What tokens of tunnels start with.
pub(crate) const TUNNEL_TOKEN_PREFIX: &str = "outwork_tnl_";

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    /// Nobody in particular, where anybody may call.
    Anybody,
    /// The holder of an API key.
    ApiKey {
        id: ApiKeyId,
        workspace: WorkspaceId,
        role: Role,
    },
    /// A worker of one environment.
    EnvironmentKey {
        id: EnvironmentKeyId,
        workspace: WorkspaceId,
        environment: EnvironmentId,
    },
    /// A worker with one work item.
    Session {
        workspace: WorkspaceId,
        environment: EnvironmentId,
        work: WorkId,
        session: SessionId,
    },
    /// A workload that an identity provider vouched for.
    Workload {
        rule: FederationRuleId,
        subject: String,
        workspace: WorkspaceId,
        scope: Scope,
    },
    /// One of the server's own workers.
    Worker,
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("nobody"),
            Self::ApiKey { id, .. } => write!(f, "{id}"),
            Self::EnvironmentKey { id, .. } => write!(f, "{id}"),
            Self::Session { work, .. } => write!(f, "{work}"),
            Self::Workload { rule, subject, .. } => write!(f, "{rule} ({subject})"),
            Self::Worker => f.write_str("worker"),
        }
    }
}

/// A caller that was let through to one operation. Only [`authorize`] makes one.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    principal: Principal,
}

impl Access {
    /// The workspace that the caller sees.
    pub(crate) fn workspace(&self) -> Result<&WorkspaceId, ApiError> {
        match &self.principal {
            Principal::ApiKey { workspace, .. }
            | Principal::EnvironmentKey { workspace, .. }
            | Principal::Session { workspace, .. }
            | Principal::Workload { workspace, .. } => Ok(workspace),
            Principal::Anybody | Principal::Worker => Err(ApiError::internal(anyhow::anyhow!(
                "an operation on a workspace was opened to a caller without one"
            ))),
        }
    }

    /// Who calls.
    pub(crate) fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Whether the caller may see a session: in its workspace, and within what its credential opens.
    pub(crate) fn opens_session(&self, session: &SessionId, environment: &EnvironmentId) -> bool {
        match &self.principal {
            Principal::ApiKey { .. } => true,
            Principal::EnvironmentKey { environment: own, .. } => own == environment,
            Principal::Session { session: own, .. } => own == session,
            Principal::Anybody | Principal::Workload { .. } | Principal::Worker => false,
        }
    }

    /// Whether the caller is a worker, which may not act for a person.
    pub(crate) fn is_worker(&self) -> bool {
        match &self.principal {
            Principal::EnvironmentKey { .. } | Principal::Session { .. } | Principal::Worker => true,
            Principal::ApiKey { .. } | Principal::Workload { .. } | Principal::Anybody => false,
        }
    }
}

/// Takes the credential out of a request: `Authorization: Bearer`, or `x-api-key`.
pub(crate) fn credential(headers: &HeaderMap) -> Result<Option<SecretText>, ApiError> {
    if let Some(value) = headers.get(http::header::AUTHORIZATION) {
        let text = value.to_str().unwrap_or_default();
        let token = text
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        return match token {
            Some(token) if !token.is_empty() => Ok(Some(SecretText::new(token.to_owned()))),
            _ => Err(unauthenticated(
                "authorization: only `Bearer` followed by a key is taken",
            )),
        };
    }
    match headers.get("x-api-key").map(|v| v.to_str().unwrap_or_default()) {
        Some("") | None => Ok(None),
        Some(key) => Ok(Some(SecretText::new(key.to_owned()))),
    }
}

/// Decides whether a caller may call the operation of a row. `path_id` gives the ids in the request's path.
pub(crate) fn authorize<'p>(
    row: &Row,
    principal: Principal,
    path_id: impl Fn(&str) -> Option<&'p str>,
) -> Result<Access, ApiError> {
    if row.who.contains(&Who::Anybody) {
        return Ok(Access {
            principal: Principal::Anybody,
        });
    }
    let allowed = |who: &Who| row.who.contains(who);
    match &principal {
        Principal::Anybody => Err(credential_required()),
        Principal::ApiKey { role, .. } => {
            let least = row.who.iter().find_map(|who| match who {
                Who::ApiKey(least) => Some(*least),
                _ => None,
            });
            match least {
                Some(least) if *role >= least => Ok(Access { principal }),
                Some(least) => Err(forbidden(format!(
                    "this needs an API key with the role {}; the role of this one is {}",
                    least.as_str(),
                    role.as_str()
                ))),
                None => Err(forbidden("this is for workers: use an environment key, not an API key")),
            }
        }
        Principal::EnvironmentKey { environment, .. } => {
            if !allowed(&Who::EnvironmentKey) {
                return Err(unauthenticated("an environment key is not valid here: use an API key"));
            }
            match path_id("environment_id") {
                Some(id) if id != environment.as_str() => Err(forbidden(format!(
                    "this key belongs to another environment than `{}`",
                    crate::http::shortened(id)
                ))),
                _ => Ok(Access { principal }),
            }
        }
        Principal::Session {
            environment,
            work,
            session,
            ..
        } => {
            if !allowed(&Who::SessionsToken) {
                return Err(forbidden("the token of a work item does not open this"));
            }
            let fits = |name, own: &str| path_id(name).is_none_or(|id| id == own);
            if fits("environment_id", environment.as_str())
                && fits("work_id", work.as_str())
                && fits("session_id", session.as_str())
            {
                Ok(Access { principal })
            } else {
                Err(forbidden("this token belongs to another work item"))
            }
        }
        Principal::Workload { scope, .. } => {
            if allowed(&Who::Workload(*scope)) {
                Ok(Access { principal })
            } else {
                Err(forbidden(format!(
                    "the scope of this token is {}, which does not open this",
                    scope.as_str()
                )))
            }
        }
        Principal::Worker => {
            if allowed(&Who::WorkerKey) {
                Ok(Access { principal })
            } else {
                Err(forbidden("the key of the server's own workers does not open this"))
            }
        }
    }
}

/// A caller that names a workspace must name its own: every credential opens one, or none.
pub(crate) fn check_workspace(headers: &HeaderMap, access: &Access, default: &WorkspaceId) -> Result<(), ApiError> {
    let Some(named) = headers.get(WORKSPACE_HEADER) else {
        return Ok(());
    };
    if access.principal == Principal::Anybody {
        return Ok(());
    }
    let own = match &access.principal {
        Principal::Worker => None,
        _ => Some(access.workspace()?),
    };
    let named = named.to_str().unwrap_or_default();
    if own.is_some_and(|own| own.as_str() == named || (named == "default" && own == default)) {
        return Ok(());
    }
    Err(forbidden(format!(
        "{WORKSPACE_HEADER}: this credential does not open the workspace `{}`; leave the header out, or send the \
         credential's own",
        crate::http::shortened(named)
    )))
}

/// No valid credential.
pub(crate) fn unauthenticated(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::Authentication, message)
}

/// No credential at all.
pub(crate) fn credential_required() -> ApiError {
    unauthenticated("a credential is required: send `x-api-key` or `Authorization: Bearer`")
}

fn forbidden(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::Permission, message)
}
