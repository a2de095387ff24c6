//! Models: what the model provider offers.
//!
//! Nothing is kept here; every call asks the provider. What it does not tell is filled in as the contract allows.

use outwork_model::{ModelClient, ModelInfo};
use outwork_wire::model::{FailureKind, ModelFailure};

use super::App;
use crate::auth::Access;
use crate::error::{ApiError, ErrorKind};

/// Every model of the provider, in its order.
pub(crate) async fn list(app: &App, _access: &Access) -> Result<Vec<ModelInfo>, ApiError> {
    client(app)?.list_models().await.map_err(failed)
}

/// One model of the provider.
pub(crate) async fn retrieve(app: &App, _access: &Access, id: &str) -> Result<ModelInfo, ApiError> {
    client(app)?
        .retrieve_model(id)
        .await
        .map_err(|failure| match failure.kind {
            FailureKind::Rejected => ApiError::not_found("model", &crate::http::shortened(id)),
            _ => failed(failure),
        })
}

fn client(app: &App) -> Result<&ModelClient, ApiError> {
    app.model.as_deref().ok_or_else(|| {
        ApiError::invalid(
            "no model provider is configured: set OUTWORK_MODEL_BASE_URL and OUTWORK_MODEL_API_KEY (or [model] in \
             outwork.toml) and restart the server",
        )
    })
}

/// What a caller is told of a provider that did not answer. Only what can pass by itself is to be tried again.
fn failed(failure: ModelFailure) -> ApiError {
    let message = format!("the model provider could not be asked: {}", failure.message);
    let kind = match failure.kind {
        FailureKind::Overloaded
        | FailureKind::RateLimited
        | FailureKind::Server
        | FailureKind::Connection
        | FailureKind::Timeout
        | FailureKind::Cut
        | FailureKind::Nonsense => ErrorKind::Unavailable,
        FailureKind::Authentication
        | FailureKind::Billing
        | FailureKind::Rejected
        | FailureKind::TooLong
        | FailureKind::NotConfigured => ErrorKind::InvalidRequest,
    };
    ApiError::new(kind, message)
}
