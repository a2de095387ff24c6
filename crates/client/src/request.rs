//! One call: building, sending, repeating, reading the answer.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rand::Rng;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::root_cause;
use crate::options::{RetryPolicy, TUNNELS_BETA};
use crate::transfer::Download;
use crate::{ApiError, Client, ClientError, EventStream, Result};

/// Query parameters, in order; the same name may come several times.
#[derive(Clone, Debug, Default)]
pub struct Query(pub(crate) Vec<(String, String)>);

impl Query {
    /// No parameters.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more parameter.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.0.push((name.into(), value.to_string()));
        self
    }

    /// With one more parameter if there is a value for it.
    #[must_use]
    pub fn maybe(self, name: impl Into<String>, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }
}

/// A path from its segments, each percent-encoded. Refuses segments that are empty or would change the path.
pub fn path(segments: &[&str]) -> Result<String> {
    let mut path = String::new();
    for segment in segments {
        if matches!(*segment, "" | "." | "..") {
            return Err(ClientError::Invalid(format!(
                "`{segment}` cannot be an id in a path; give the whole id"
            )));
        }
        path.push('/');
        for byte in segment.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b':') {
                path.push(byte as char);
            } else {
                path.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    Ok(path)
}

/// One call that is being built.
#[must_use = "a request does nothing until it is sent"]
pub struct Request<'a> {
    client: &'a Client,
    method: Method,
    path: String,
    query: Query,
    headers: HeaderMap,
    body: Option<Bytes>,
    content_type: &'static str,
    timeout: Duration,
    retry: RetryPolicy,
    idempotent: bool,
}

impl<'a> Request<'a> {
    pub(crate) fn new(client: &'a Client, method: Method, path: String) -> Self {
        let mut headers = HeaderMap::new();
        if path.starts_with("/v1/tunnels") {
            // In place of the one that all other calls carry.
            headers.insert("anthropic-beta", HeaderValue::from_static(TUNNELS_BETA));
        }
        Self {
            timeout: client.settings.timeouts.request,
            retry: client.settings.retry,
            idempotent: method == Method::GET || method == Method::DELETE,
            client,
            method,
            path,
            query: Query::default(),
            headers,
            body: None,
            content_type: "application/json",
        }
    }

    /// With one more query parameter.
    pub fn query(mut self, name: impl Into<String>, value: impl ToString) -> Self {
        self.query = self.query.with(name, value);
        self
    }

    /// With more query parameters.
    pub fn queries(mut self, query: &Query) -> Self {
        self.query.0.extend(query.0.iter().cloned());
        self
    }

    /// With a JSON body.
    pub fn json(mut self, body: &(impl Serialize + ?Sized)) -> Result<Self> {
        let json = serde_json::to_vec(body)
            .map_err(|e| ClientError::Invalid(format!("the body of {} cannot be written as JSON: {e}", self.call())))?;
        self.body = Some(json.into());
        Ok(self)
    }

    /// With a body of any kind.
    pub fn bytes(mut self, content_type: &'static str, body: Bytes) -> Self {
        self.body = Some(body);
        self.content_type = content_type;
        self
    }

    /// With a header; one that cannot be sent is refused.
    pub fn header(mut self, name: &'static str, value: &str) -> Result<Self> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| ClientError::Invalid(format!("the value of the header {name} cannot be sent")))?;
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(self)
    }

    /// With another deadline for each attempt.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With another retry policy.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Carrying it out twice is the same as once, so it may be repeated even if it may have been carried out. This
    /// is so for GET and DELETE.
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Sends it and reads the answer, which must be JSON of this type.
    pub async fn send<T: DeserializeOwned>(self) -> Result<T> {
        let body = self.send_bytes().await?;
        serde_json::from_slice(&body).map_err(|e| self.decode_error(&e))
    }

    /// Sends it and reads the answer; an empty body and `null` are `None`.
    pub async fn send_optional<T: DeserializeOwned>(self) -> Result<Option<T>> {
        let body = self.send_bytes().await?;
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        serde_json::from_slice(&body).map_err(|e| self.decode_error(&e))
    }

    /// Sends it and drops a successful answer, whatever it is.
    pub async fn send_unit(self) -> Result<()> {
        self.send_bytes().await.map(drop)
    }

    /// Sends it and returns the stream once the server has opened it. Not repeated here: who follows a stream
    /// reconnects by its own rules.
    pub(crate) async fn stream(mut self) -> Result<EventStream> {
        self.headers
            .insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let call = self.call();
        let opening = tokio::time::timeout(self.timeout, async {
            let response = self.start(None).await?;
            self.check(response).await
        });
        let response = opening.await.map_err(|_| self.timeout_error())??;
        Ok(EventStream::new(response, call, &self.client.settings))
    }

    /// Sends a form, once: its body cannot be sent again. The answer must be JSON of this type.
    pub(crate) async fn send_form<T: DeserializeOwned>(self, form: reqwest::multipart::Form) -> Result<T> {
        let mut request = self.client.http.request(self.method.clone(), self.url()?);
        request = request
            .headers((*self.client.headers).clone())
            .headers(self.headers.clone());
        let sent = request.multipart(form).timeout(self.timeout).send().await;
        let response = self.check(sent.map_err(|e| self.transport_error(&e))?).await?;
        let body = self.read(response).await?;
        serde_json::from_slice(&body).map_err(|e| self.decode_error(&e))
    }

    /// Sends it and gives the answer's body piece by piece, however large it is. The deadline is that of the answer's
    /// beginning, and of each silence after it.
    pub(crate) async fn download(self) -> Result<Download> {
        let opening = tokio::time::timeout(self.timeout, async {
            let response = self.start(None).await?;
            self.check(response).await
        });
        let response = opening.await.map_err(|_| self.timeout_error())??;
        Ok(Download::new(response, self.call(), self.timeout))
    }

    async fn send_bytes(&self) -> Result<Bytes> {
        let mut attempt = 0;
        loop {
            let error = match self.attempt().await {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            if attempt >= self.retry.retries || !self.may_repeat(&error) {
                return Err(error);
            }
            attempt += 1;
            let wait = self.wait_before(attempt, &error);
            tracing::debug!(call = %self.call(), attempt, ?wait, %error, "call failed; trying again");
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(&self) -> Result<Bytes> {
        let response = self.start(Some(self.timeout)).await?;
        let response = self.check(response).await?;
        self.read(response).await
    }

    async fn start(&self, timeout: Option<Duration>) -> Result<Response> {
        let mut request = self.client.http.request(self.method.clone(), self.url()?);
        request = request.headers((*self.client.headers).clone());
        request = request.headers(self.headers.clone());
        if let Some(timeout) = timeout {
            request = request.timeout(timeout);
        }
        if let Some(body) = &self.body {
            request = request.header(CONTENT_TYPE, self.content_type).body(body.clone());
        }
        request.send().await.map_err(|e| self.transport_error(&e))
    }

    async fn check(&self, response: Response) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let headers = response.headers().clone();
        // A body that cannot be read does not hide the status.
        let body = self.read(response).await.unwrap_or_default();
        let error = ApiError::read(self.call(), status.as_u16(), &headers, &body);
        Err(ClientError::Api(Box::new(error)))
    }

    async fn read(&self, mut response: Response) -> Result<Bytes> {
        let limit = self.client.settings.max_answer_bytes;
        let too_large = || ClientError::TooLarge {
            call: self.call(),
            limit,
        };
        // An answer that says beforehand that it is too large is not read at all.
        if response.content_length().is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| self.transport_error(&e))? {
            if body.len() + chunk.len() > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    fn url(&self) -> Result<Url> {
        let text = format!("{}{}", self.client.settings.base_url, self.path);
        let mut url: Url = text
            .parse()
            .map_err(|e| ClientError::Invalid(format!("`{}` is not a path of this API: {e}", self.path)))?;
        {
            let mut pairs = url.query_pairs_mut();
            pairs.append_pair("beta", "true");
            pairs.extend_pairs(self.query.0.iter());
        }
        Ok(url)
    }

    fn call(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// A call that may have been carried out is repeated only if carrying it out twice is the same.
    fn may_repeat(&self, error: &ClientError) -> bool {
        match error {
            ClientError::Connect { .. } => true,
            ClientError::Timeout { .. } | ClientError::Transport { .. } => self.idempotent,
            ClientError::Api(e) if self.idempotent => e.says_try_again(),
            ClientError::Api(e) => e.should_retry.unwrap_or(e.status == 429),
            ClientError::Invalid(_)
            | ClientError::TooLarge { .. }
            | ClientError::Decode { .. }
            | ClientError::Stream(_) => false,
        }
    }

    fn wait_before(&self, attempt: u32, error: &ClientError) -> Duration {
        let asked = error.api().and_then(|e| e.retry_after);
        let wait = match asked {
            Some(asked) => asked,
            None => {
                let doubled = self.retry.first_wait.saturating_mul(1 << (attempt - 1).min(16));
                doubled.mul_f64(rand::rng().random_range(0.75..1.0))
            }
        };
        wait.min(self.retry.max_wait)
    }

    fn transport_error(&self, error: &reqwest::Error) -> ClientError {
        if error.is_timeout() && !error.is_connect() {
            self.timeout_error()
        } else if error.is_connect() {
            ClientError::Connect {
                base_url: self.client.settings.base_url.clone(),
                cause: root_cause(error),
            }
        } else {
            ClientError::Transport {
                call: self.call(),
                cause: root_cause(error),
            }
        }
    }

    fn timeout_error(&self) -> ClientError {
        ClientError::Timeout {
            call: self.call(),
            after: self.timeout,
        }
    }

    fn decode_error(&self, error: &serde_json::Error) -> ClientError {
        ClientError::Decode {
            call: self.call(),
            cause: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_cannot_change_the_path() {
        assert_eq!(path(&["v1", "sessions", "sesn_1"]).unwrap(), "/v1/sessions/sesn_1");
        assert_eq!(path(&["v1", "a/../b?x#y"]).unwrap(), "/v1/a%2F..%2Fb%3Fx%23y");
        assert!(path(&["v1", ".."]).is_err());
        assert!(path(&["v1", ""]).is_err());
    }
}
