//! The exchange: a token of an identity provider for a short-lived one of this server.
//!
//! What is given out opens what the rule says and nothing else. It lasts as long as the rule says, but not more than
//! twice as long as the provider's token still does, and at least a minute.

use std::time::Duration;

use outwork_store::{KeyHash, NewFederatedToken};
use outwork_wire::Time;
use outwork_wire::id::FederationRuleId;

use super::App;
use crate::auth::{Access, FEDERATED_TOKEN_PREFIX, SecretText};
use crate::error::{ApiError, ErrorKind};
use crate::federation::{FederationError, Scope};

/// The shortest life of a token, in seconds.
const SHORTEST: i64 = 60;

/// What a workload asks for.
pub(crate) struct Exchange {
    pub(crate) assertion: SecretText,
    pub(crate) rule: String,
    pub(crate) organization: String,
    /// A workspace's id, or `default`.
    pub(crate) workspace: Option<String>,
}

/// What it gets.
pub(crate) struct Granted {
    pub(crate) token: SecretText,
    pub(crate) lifetime: Duration,
    pub(crate) scope: Scope,
}

/// Exchanges a token of an identity provider. Anybody may ask; the token itself is the credential.
pub(crate) async fn exchange(app: &App, _access: &Access, wish: Exchange) -> Result<Granted, ApiError> {
    let federation = &app.federation;
    let shown = |text: &str| crate::http::shortened(text);
    let rule = wish
        .rule
        .parse::<FederationRuleId>()
        .ok()
        .and_then(|id| federation.rule(&id))
        .ok_or_else(|| refused(format!("federation_rule_id: there is no rule `{}`", shown(&wish.rule))))?;
    if wish.organization != federation.organization_id {
        return Err(refused(format!(
            "organization_id: `{}` is not this server's; send what its setting federation.organization_id says",
            shown(&wish.organization)
        )));
    }
    match wish.workspace.as_deref() {
        None => {}
        Some("default") if rule.workspace == *app.store.default_workspace() => {}
        Some(id) if id == rule.workspace.as_str() => {}
        Some(other) => {
            return Err(refused(format!(
                "workspace_id: the rule {} is not for the workspace `{}`",
                rule.id,
                shown(other)
            )));
        }
    }
    let Some(_slot) = federation.slot() else {
        return Err(ApiError::new(
            ErrorKind::Unavailable,
            "too many tokens are being exchanged at the moment; try again",
        ));
    };
    let now = Time::now();
    let assertion = rule.verify(wish.assertion.expose(), now).await.map_err(|error| {
        tracing::warn!(rule = %rule.id, reason = %error, "a token of an identity provider was not exchanged");
        match error {
            FederationError::Refused(message) => refused(message),
            FederationError::Unavailable(message) => ApiError::new(ErrorKind::Unavailable, message),
        }
    })?;
    let left = (assertion.expires_at.as_micros() - now.as_micros()) / 1_000_000;
    let lifetime = lifetime(rule.asks.lifetime, left);
    let token = SecretText::fresh(FEDERATED_TOKEN_PREFIX);
    let new = NewFederatedToken {
        hash: KeyHash::of(token.expose()),
        workspace_id: rule.workspace.clone(),
        rule_id: rule.id.clone(),
        subject: assertion.subject.clone(),
        scope: rule.asks.scope.as_str().to_owned(),
        expires_at: now.plus_seconds(lifetime),
    };
    app.store.add_federated_token(new, now).await?;
    tracing::info!(
        rule = %rule.id, subject = assertion.subject, workspace = %rule.workspace, seconds = lifetime,
        "a token was given to a workload"
    );
    Ok(Granted {
        token,
        lifetime: Duration::from_secs(lifetime.unsigned_abs()),
        scope: rule.asks.scope,
    })
}

/// How long a token lasts, in seconds.
fn lifetime(most: Duration, left: i64) -> i64 {
    let most = i64::try_from(most.as_secs()).unwrap_or(i64::MAX);
    most.min(left.saturating_mul(2)).max(SHORTEST)
}

fn refused(message: String) -> ApiError {
    ApiError::new(ErrorKind::Authentication, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_ends_by_the_rule_or_soon_after_what_it_was_given_for() {
        let most = Duration::from_secs(600);
        assert_eq!(lifetime(most, 3600), 600);
        assert_eq!(lifetime(most, 100), 200);
        assert_eq!(lifetime(most, 1), 60);
        assert_eq!(lifetime(most, -10), 60);
    }
}
