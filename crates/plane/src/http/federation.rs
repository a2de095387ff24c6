//! `POST /v1/oauth/token`: the JWT bearer grant of RFC 7523, in JSON, as the published SDKs send it.

use serde::{Deserialize, Serialize};

use super::call::Call;
use super::render::Reply;
use super::shortened;
use crate::app::federation::{self, Exchange};
use crate::auth::SecretText;
use crate::error::ApiError;

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// `POST /v1/oauth/token`
pub(crate) async fn token(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let exchange = call.json::<TokenParams>()?.resolve()?;
    let granted = federation::exchange(&call.app, &call.access, exchange).await?;
    Reply::uncached(&TokenView {
        access_token: granted.token.expose(),
        token_type: "Bearer",
        expires_in: granted.lifetime.as_secs(),
        scope: granted.scope.as_str(),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenParams {
    grant_type: String,
    assertion: String,
    federation_rule_id: String,
    organization_id: String,
    #[serde(default)]
    workspace_id: Option<String>,
    #[serde(default)]
    service_account_id: Option<String>,
}

impl TokenParams {
    fn resolve(self) -> Result<Exchange, ApiError> {
        let assertion = SecretText::new(self.assertion);
        if self.grant_type != GRANT {
            return Err(ApiError::invalid(format!(
                "grant_type: `{}` is not supported by this server; use {GRANT}",
                shortened(&self.grant_type)
            )));
        }
        if self.service_account_id.is_some() {
            return Err(ApiError::invalid(
                "service_account_id: this server has no service accounts; leave the field out, and \
                 ANTHROPIC_SERVICE_ACCOUNT_ID unset",
            ));
        }
        Ok(Exchange {
            assertion,
            rule: self.federation_rule_id,
            organization: self.organization_id,
            workspace: self.workspace_id,
        })
    }
}

#[derive(Serialize)]
struct TokenView<'a> {
    access_token: &'a str,
    token_type: &'static str,
    expires_in: u64,
    scope: &'static str,
}
