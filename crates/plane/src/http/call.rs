//! One call of one operation, as a handler sees it: who calls, and the request's parts, to be taken strictly.

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use bytes::Bytes;
use http::HeaderMap;
use serde::de::DeserializeOwned;

use super::query::{Query, shortened};
use crate::app::App;
use crate::auth::Access;
use crate::error::ApiError;

/// One call of an operation.
pub(crate) struct Call {
    /// What operations work on.
    pub(crate) app: Arc<App>,
    /// Who calls; every operation asks for it.
    pub(crate) access: Access,
    /// The query, to be taken by name and then finished.
    pub(crate) query: Query,
    /// The request's headers.
    pub(crate) headers: HeaderMap,
    pub(super) path: Vec<(String, String)>,
    pub(super) body: Bytes,
    /// The body that is still to be read, where the operation does that itself.
    pub(super) incoming: Mutex<Option<Body>>,
}

impl Call {
    /// The id in the path. An id that cannot be one is not found, like an id that is none.
    pub(crate) fn id<T: FromStr>(&self, name: &str, what: &str) -> Result<T, ApiError> {
        let text = self.text(name);
        text.parse().map_err(|_| ApiError::not_found(what, &shortened(text)))
    }

    /// A part of the path as it is.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.path
            .iter()
            .find(|(n, _)| n == name)
            .map_or("", |(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        super::body::json(&self.headers, &self.body, self.app.limits().max_json_depth)
    }

    /// The body to be read piece by piece; nothing the second time.
    pub(super) fn take_body(&self) -> Body {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        incoming.take().unwrap_or_default()
    }

    /// Refuses query parameters that nobody took.
    pub(crate) fn finish_query(&mut self) -> Result<(), ApiError> {
        std::mem::replace(&mut self.query, Query::parse(None)).finish()
    }

    /// Refuses a body where none is taken; `{}` is none.
    pub(crate) fn no_body(&self) -> Result<(), ApiError> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Empty {}
        self.json::<Empty>().map(drop)
    }
}
