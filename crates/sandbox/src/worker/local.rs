//! This machine's own sandboxes, as a provider.

use std::sync::Arc;

use super::error::WorkerError;
use super::hand::Provider;
use super::options::ServiceOptions;

pub(crate) async fn provider(_options: &ServiceOptions) -> Result<Arc<dyn Provider>, WorkerError> {
    Err(WorkerError::Isolation("not there yet".into()))
}
