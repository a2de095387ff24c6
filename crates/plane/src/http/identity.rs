//! `/.well-known/openid-configuration` and `/.well-known/jwks.json`: how others check the tokens of agents.

use serde_json::json;

use super::call::Call;
use super::render::Reply;
use crate::error::ApiError;

/// `GET /.well-known/openid-configuration`
pub(crate) async fn configuration(call: Call) -> Result<Reply, ApiError> {
    let issuer = call.app.identity.issuer();
    Reply::public(&json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["EdDSA"],
        "claims_supported": [
            "iss", "sub", "aud", "exp", "iat", "jti", "workspace_id", "agent_id", "agent_version", "session_id", "tool",
        ],
    }))
}

/// `GET /.well-known/jwks.json`
pub(crate) async fn keys(call: Call) -> Result<Reply, ApiError> {
    Reply::public(&call.app.identity.published())
}
