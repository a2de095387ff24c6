//! One attempt: the request, the stream, its limits, its cancellation.

use std::fmt;
use std::future::Future;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, header};
use outwork_wire::model::{FailureKind, ModelAnswer, ModelDelta, ModelFailure, ModelRequest};
use outwork_wire::sse::SseDecoder;
use reqwest::{Response, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::assemble::Assembler;
use crate::failure::{cut, failure, from_body, from_send, from_status, nonsense};
use crate::options::{AuthStyle, Error, Options, Timeouts, base_url, header};

/// Bytes of an error's body that are read.
const ERROR_BYTES: usize = 64 << 10;
/// Bytes of a list of models.
const LIST_BYTES: usize = 8 << 20;
/// How long to wait for the end of a stream after the end of its answer, so that the connection can be used again.
const DRAIN: Duration = Duration::from_millis(20);

/// A client of one model provider. Cheap to clone; connections are shared.
#[derive(Clone)]
pub struct ModelClient {
    http: reqwest::Client,
    base: Url,
    api_key: SecretString,
    timeouts: Timeouts,
    max_answer_bytes: usize,
}

impl fmt::Debug for ModelClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ModelClient")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

/// The body of a streamed request.
#[derive(Serialize)]
struct Streamed<'a> {
    #[serde(flatten)]
    request: &'a ModelRequest,
    stream: bool,
}

/// What ended a wait.
enum Waited<T> {
    Value(T),
    Cancelled,
    TooLong,
}

impl ModelClient {
    /// Checks the options and makes a client; nothing is sent.
    pub fn new(options: Options) -> Result<Self, Error> {
        let base = base_url(&options.base_url)?;
        let mut headers = HeaderMap::new();
        let key = options.api_key.expose_secret();
        let (name, value) = match options.auth {
            AuthStyle::ApiKey => ("x-api-key", key.to_owned()),
            AuthStyle::Bearer => ("authorization", format!("Bearer {key}")),
        };
        let mut value = HeaderValue::try_from(value).map_err(|_| Error::ApiKey)?;
        if key.trim().is_empty() {
            return Err(Error::ApiKey);
        }
        value.set_sensitive(true);
        headers.insert(name, value);
        for (name, value) in &options.headers {
            let (name, value) = header(name, value)?;
            headers.append(name, value);
        }
        let (name, value) = header("anthropic-version", &options.api_version)?;
        headers.insert(name, value);
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(&options.user_agent)
            .connect_timeout(options.timeouts.connect)
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .pool_idle_timeout(Duration::from_secs(60));
        if base.scheme() == "http" {
            // Without TLS there is no need to load the certificates of the system.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(Error::Client)?;
        let Options {
            api_key,
            timeouts,
            max_answer_bytes,
            ..
        } = options;
        Ok(Self {
            http,
            base,
            api_key,
            timeouts,
            max_answer_bytes,
        })
    }

    /// Sends a request and brings its answer, in one attempt.
    ///
    /// `deltas` sees the answer as it is written; what it saw of a text is a prefix of that text in the answer. On
    /// cancellation the answer is what there is so far, marked as partial: a block that could not be sent back
    /// (thinking without its signature, an unfinished tool call) is left out of it.
    pub async fn stream(
        &self,
        request: &ModelRequest,
        cancel: CancellationToken,
        mut deltas: impl FnMut(ModelDelta),
    ) -> Result<ModelAnswer, ModelFailure> {
        let result = self.attempt(request, &cancel, &mut deltas).await;
        result.map_err(|failure| self.without_key(failure))
    }

    async fn attempt(
        &self,
        request: &ModelRequest,
        cancel: &CancellationToken,
        deltas: &mut impl FnMut(ModelDelta),
    ) -> Result<ModelAnswer, ModelFailure> {
        if request.extra.contains_key("stream") {
            let message = "the model request must not have `stream` among its parameters; it is always streamed";
            return Err(failure(FailureKind::Rejected, message));
        }
        let deadline = in_the_future(self.timeouts.total);
        let sent = self
            .http
            .post(self.url("v1/messages"))
            .json(&Streamed { request, stream: true })
            .send();
        let response = match self.wait(sent, self.timeouts.first_byte, deadline, cancel).await {
            Waited::Value(response) => response.map_err(from_send)?,
            Waited::Cancelled => return Ok(Assembler::default().finish_early()),
            Waited::TooLong => {
                return Err(self.late("to begin its answer", self.timeouts.first_byte, deadline));
            }
        };
        let response = self.accept(response, deadline, cancel).await?;
        let Some(mut response) = response else {
            return Ok(Assembler::default().finish_early());
        };
        let mut decoder = SseDecoder::new(self.max_answer_bytes);
        let mut assembler = Assembler::default();
        let mut size = 0;
        loop {
            let chunk = match self.wait(response.chunk(), self.timeouts.idle, deadline, cancel).await {
                Waited::Value(Ok(Some(chunk))) => chunk,
                Waited::Value(Ok(None)) => {
                    let message = "the model provider's stream ended before the answer did";
                    return Err(failure(FailureKind::Cut, message));
                }
                Waited::Value(Err(error)) => return Err(from_body(error)),
                Waited::Cancelled => return Ok(assembler.finish_early()),
                Waited::TooLong => {
                    return Err(self.late("to go on with its answer", self.timeouts.idle, deadline));
                }
            };
            size += chunk.len();
            if size > self.max_answer_bytes {
                return Err(nonsense(format!("it is larger than {} bytes", self.max_answer_bytes)));
            }
            decoder.push(&chunk).map_err(nonsense)?;
            while let Some(event) = decoder.next_event() {
                assembler.take(&event, deltas)?;
                if assembler.is_done() {
                    // Read to its end, the connection serves the next request; if not, it is closed.
                    tokio::time::timeout(DRAIN, response.chunk()).await.ok();
                    return assembler.finish();
                }
            }
        }
    }

    /// Accepts the head of a streamed answer, or reads the failure; `None` when cancelled.
    async fn accept(
        &self,
        response: Response,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Result<Option<Response>, ModelFailure> {
        let status = response.status();
        let headers = response.headers().clone();
        let content_type = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let kind = content_type.split(';').next().unwrap_or_default().trim();
        if status.is_success() && kind.eq_ignore_ascii_case("text/event-stream") {
            return Ok(Some(response));
        }
        let (body, _) = match self
            .wait(read(response, ERROR_BYTES), self.timeouts.idle, deadline, cancel)
            .await
        {
            Waited::Value(body) => body,
            Waited::Cancelled => return Ok(None),
            // The status alone says enough.
            Waited::TooLong => (Vec::new(), None),
        };
        if !status.is_success() {
            return Err(from_status(status, &headers, &body, SystemTime::now()));
        }
        let body = cut(&String::from_utf8_lossy(&body));
        Err(nonsense(format!(
            "its content type is `{content_type}`, not `text/event-stream`. It begins with: {body}"
        )))
    }

    /// A call of another endpoint that answers with JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, ModelFailure> {
        let limit = self.timeouts.first_byte.min(self.timeouts.total);
        let call = async {
            let response = self.http.get(url).send().await.map_err(from_send)?;
            let (status, headers) = (response.status(), response.headers().clone());
            let (body, fault) = read(response, LIST_BYTES).await;
            if !status.is_success() {
                return Err(from_status(status, &headers, &body, SystemTime::now()));
            }
            match fault {
                Some(fault) => Err(fault),
                None => serde_json::from_slice(&body)
                    .map_err(|error| nonsense(format!("it is not the JSON of the API: {error}"))),
            }
        };
        let result = match tokio::time::timeout(limit, call).await {
            Ok(result) => result,
            Err(_) => Err(self.late("to answer", limit, in_the_future(limit))),
        };
        result.map_err(|failure| self.without_key(failure))
    }

    /// The URL of an endpoint.
    pub(crate) fn url(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path()));
        url
    }

    async fn wait<T>(
        &self,
        work: impl Future<Output = T>,
        limit: Duration,
        deadline: Instant,
        cancel: &CancellationToken,
    ) -> Waited<T> {
        let until = deadline.min(in_the_future(limit));
        tokio::select! {
            biased;
            () = cancel.cancelled() => Waited::Cancelled,
            value = work => Waited::Value(value),
            () = tokio::time::sleep_until(until) => Waited::TooLong,
        }
    }

    fn late(&self, what: &str, limit: Duration, deadline: Instant) -> ModelFailure {
        let message = match Instant::now() >= deadline {
            true => format!(
                "the model provider's answer was not complete after {:?}",
                self.timeouts.total
            ),
            false => format!("the model provider took longer than {limit:?} {what}"),
        };
        failure(FailureKind::Timeout, message)
    }

    /// Takes the key out of words that may echo it.
    fn without_key(&self, mut failure: ModelFailure) -> ModelFailure {
        let key = self.api_key.expose_secret();
        if failure.message.contains(key) {
            failure.message = failure.message.replace(key, "[key]");
        }
        failure
    }
}

/// So long from now, within what a clock can hold.
fn in_the_future(duration: Duration) -> Instant {
    const A_YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    Instant::now() + duration.min(A_YEAR)
}

/// Reads at most so many bytes of a body, and says why there are no more.
async fn read(mut response: Response, limit: usize) -> (Vec<u8>, Option<ModelFailure>) {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > limit => {
                body.extend_from_slice(&chunk[..limit - body.len()]);
                return (body, Some(nonsense(format!("it is larger than {limit} bytes"))));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return (body, None),
            Err(error) => return (body, Some(from_body(error))),
        }
    }
}
