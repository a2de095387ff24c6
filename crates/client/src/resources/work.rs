//! The work queue of an environment: poll, acknowledge, beat, stop.
//!
//! A worker key polls and acknowledges the work of every `cloud` environment under another path; what follows names
//! the item's environment and is called with the item's own token.

use std::time::Duration;

use outwork_wire::work::WorkSecret;
use reqwest::Method;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::options::RetryPolicy;
use crate::{Client, ClientError, Pages, Query, Result, path};

/// The work queue of one environment, or of all cloud environments.
pub struct Work<'a> {
    client: &'a Client,
    environment_id: Option<String>,
}

/// How to poll.
#[derive(Clone, Debug, Default)]
pub struct PollParams {
    /// How long the server may hold the poll, 1 to 999 ms; `None` does not wait.
    pub block_ms: Option<u32>,
    /// Take over what another worker polled and did not acknowledge for this long.
    pub reclaim_older_than_ms: Option<u64>,
    /// Who polls: unique for each process.
    pub worker_id: Option<String>,
}

/// A work item as a poll gives it. Has no `Debug`: it may hold a credential.
#[derive(Clone)]
pub struct PolledWork {
    /// Its id.
    pub id: String,
    /// Whose queue it is from.
    pub environment_id: String,
    /// What is to be done.
    pub data: WorkItemData,
    /// The whole item, `secret` included: for a program that is given the item.
    pub raw: Map<String, Value>,
}

/// What a work item is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkItemData {
    /// Run the tools of a session.
    Session {
        /// The session.
        id: String,
    },
    /// Something else, for example `healthcheck`: nothing to run.
    Other {
        /// Its type.
        kind: String,
    },
}

impl PolledWork {
    /// The item in this JSON object; `None` if it has no id.
    fn read(raw: Map<String, Value>) -> Result<Option<Self>, String> {
        let text = |field: &str| raw.get(field).and_then(Value::as_str).filter(|t| !t.is_empty());
        let Some(id) = text("id").map(str::to_owned) else {
            return Ok(None);
        };
        let environment_id = text("environment_id")
            .ok_or("a work item without environment_id")?
            .to_owned();
        let data = raw.get("data").and_then(Value::as_object);
        let field = |name: &str| data?.get(name)?.as_str().map(str::to_owned);
        let kind = field("type").ok_or("a work item without data.type")?;
        let data = match kind.as_str() {
            "session" => WorkItemData::Session {
                id: field("id")
                    .filter(|id| !id.is_empty())
                    .ok_or("a work item of a session without data.id")?,
            },
            _ => WorkItemData::Other { kind },
        };
        Ok(Some(Self {
            id,
            environment_id,
            data,
            raw,
        }))
    }

    /// True if the item carries a `secret`, readable or not.
    pub fn has_secret(&self) -> bool {
        self.raw.get("secret").is_some_and(|s| !s.is_null())
    }

    /// The token for the item's session, if its secret holds one.
    pub fn sessions_token(&self) -> Option<SecretString> {
        let secret = self.raw.get("secret")?.as_str()?;
        WorkSecret::unpack(secret).map(|s| SecretString::from(s.sessions_token))
    }
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, Deserialize)]
pub struct HeartbeatAnswer {
    /// What the next beat must echo, byte for byte.
    #[serde(default)]
    pub last_heartbeat: String,
    /// True if the worker still holds the item.
    #[serde(default)]
    pub lease_extended: bool,
    /// The item's state.
    #[serde(default)]
    pub state: String,
    /// How long the lease lasts from now, in seconds.
    #[serde(default)]
    pub ttl_seconds: f64,
}

/// How full a queue is.
#[derive(Clone, Debug, Deserialize)]
pub struct WorkStats {
    /// Items that wait.
    #[serde(default)]
    pub depth: u64,
    /// Items that were polled and not acknowledged.
    #[serde(default)]
    pub pending: u64,
    /// Since when the oldest of both waits.
    #[serde(default)]
    pub oldest_queued_at: Option<String>,
    /// Workers that polled in the last 30 seconds.
    #[serde(default)]
    pub workers_polling: Option<u64>,
}

impl<'a> Work<'a> {
    pub(crate) fn new(client: &'a Client, environment_id: Option<String>) -> Self {
        Self { client, environment_id }
    }

    fn path(&self, rest: &[&str]) -> Result<String> {
        let Some(environment_id) = &self.environment_id else {
            return Err(ClientError::Invalid(
                "this call needs an environment: only poll and ack are for all cloud environments".into(),
            ));
        };
        let mut segments = vec!["v1", "environments", environment_id, "work"];
        segments.extend(rest);
        path(&segments)
    }

    /// Claims the next item; `None` if the queue is empty. Not repeated here: who polls decides when to poll again.
    pub async fn poll(&self, params: &PollParams) -> Result<Option<PolledWork>> {
        let path = match &self.environment_id {
            Some(_) => self.path(&["poll"])?,
            None => "/v1/outwork/work/poll".to_owned(),
        };
        let query = Query::new()
            .maybe("block_ms", params.block_ms)
            .maybe("reclaim_older_than_ms", params.reclaim_older_than_ms);
        let block = Duration::from_millis(params.block_ms.unwrap_or(0).into());
        let mut request = self
            .client
            .request(Method::GET, path.clone())
            .queries(&query)
            .timeout(block + Duration::from_secs(15))
            .retry(RetryPolicy::NONE);
        if let Some(worker_id) = &params.worker_id {
            request = request.header("anthropic-worker-id", worker_id)?;
        }
        match request.send_optional::<Map<String, Value>>().await? {
            None => Ok(None),
            Some(raw) => PolledWork::read(raw).map_err(|cause| ClientError::Decode {
                call: format!("GET {path}"),
                cause,
            }),
        }
    }

    /// Takes a polled item off the queue. The worker's id lets a server tell a repetition from a second worker.
    pub async fn ack(&self, work_id: &str, worker_id: Option<&str>) -> Result<()> {
        let path = match &self.environment_id {
            Some(_) => self.path(&[work_id, "ack"])?,
            None => path(&["v1", "outwork", "work", work_id, "ack"])?,
        };
        let mut request = self.client.request(Method::POST, path);
        if let Some(worker_id) = worker_id {
            request = request.header("anthropic-worker-id", worker_id)?;
        }
        request.send_unit().await
    }

    /// Beats for an item: `expected` is [`outwork_wire::work::NO_HEARTBEAT`] first, then what the last answer said.
    /// One attempt within `timeout`.
    pub async fn heartbeat(
        &self,
        work_id: &str,
        expected: &str,
        desired_ttl_seconds: Option<u32>,
        timeout: Duration,
    ) -> Result<HeartbeatAnswer> {
        let query = Query::new()
            .with("expected_last_heartbeat", expected)
            .maybe("desired_ttl_seconds", desired_ttl_seconds);
        self.client
            .request(Method::POST, self.path(&[work_id, "heartbeat"])?)
            .queries(&query)
            .timeout(timeout)
            .retry(RetryPolicy::NONE)
            .send()
            .await
    }

    /// Asks for an item's stop, or forces it. Any successful answer will do: some servers send no body.
    pub async fn stop(&self, work_id: &str, force: bool) -> Result<()> {
        let body = if force { json!({ "force": true }) } else { json!({}) };
        let path = self.path(&[work_id, "stop"])?;
        let request = self.client.request(Method::POST, path).json(&body)?;
        request.idempotent().send_unit().await
    }

    /// An item.
    pub async fn get(&self, work_id: &str) -> Result<Value> {
        self.client.get(self.path(&[work_id])?, &Query::new()).await
    }

    /// Every item.
    pub fn list(&self, query: Query) -> Result<Pages<Value>> {
        Ok(self.client.pages(self.path(&[])?, query))
    }

    /// How full the queue is.
    pub async fn stats(&self) -> Result<WorkStats> {
        self.client.get(self.path(&["stats"])?, &Query::new()).await
    }
}
