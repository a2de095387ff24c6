//! The worker's ledger as one session sees it: a record of everything that begins, crosses or ends, by the session's
//! names.
//!
//! What has to be recorded before it happens is refused if the ledger does not take the record.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outwork_client::Client;
use outwork_egress::{Labels, Policy};
use outwork_ledger::{Decision, Filter, Hash, Kind, Ledger, Record, Scope, Stop};
use outwork_wire::Time;
use serde_json::Value;

use super::error::BoundaryError;
use super::said::Said;
use crate::worker::calls::Call;

/// What a sandbox without an image has as its digest: the host's system folders are not digested.
pub(crate) const HOST_SYSTEM: &str = "host system folders";

/// Records of one session.
pub(crate) struct Journal {
    ledger: Ledger,
    marks: Mutex<Marks>,
}

#[derive(Default)]
struct Marks {
    labels: Labels,
    policy: Option<Hash>,
    /// Every policy that records name, in its one form.
    policies: HashMap<Hash, String>,
}

impl Journal {
    pub fn new(ledger: Ledger, labels: Labels) -> Self {
        Self {
            ledger,
            marks: Mutex::new(Marks {
                labels,
                ..Marks::default()
            }),
        }
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        // Fields are replaced one by one, each of them whole, so it is whole even after a panic.
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn labels(&self) -> Labels {
        self.marks().labels.clone()
    }

    /// Whose session it is.
    pub fn label(&self, said: &Said) {
        said.label(&mut self.marks().labels);
    }

    fn record(&self, kind: Kind) -> Record {
        let (labels, policy) = {
            let marks = self.marks();
            (marks.labels.clone(), marks.policy)
        };
        let mut record = Record::new(kind, Time::now());
        record.workspace = labels.workspace;
        record.environment = labels.environment;
        record.session = labels.session;
        record.worker = labels.worker;
        record.image_digest = labels.image_digest;
        record.policy_hash = policy;
        match labels.agent {
            Some((id, version)) => record.agent(id, version),
            None => record,
        }
    }

    async fn must(&self, record: Record) -> Result<(), BoundaryError> {
        let kept = self.ledger.append_later(record).await;
        kept.map_err(|error| BoundaryError::Ledger(error.to_string()))
    }

    /// What has happened cannot be stopped any more; that it was not recorded is said in the log.
    async fn note(&self, record: Record) {
        let kind = record.kind.name();
        if let Err(error) = self.must(record).await {
            tracing::error!(kind, %error, "a record was not kept");
        }
    }

    /// The session begins to be served.
    pub async fn session_begins(&self) -> Result<(), BoundaryError> {
        self.must(self.record(Kind::SessionStart)).await
    }

    /// It is not served any more.
    pub async fn session_ended(&self, reason: &str) {
        self.note(self.record(Kind::SessionEnd).reason(reason)).await;
    }

    /// A policy holds from here on.
    pub async fn policy_applied(&self, policy: &Policy) -> Result<(), BoundaryError> {
        let hash = policy.hash();
        if self.marks().policy == Some(hash) {
            return Ok(());
        }
        self.policy_known(policy);
        self.must(self.record(Kind::PolicyApplied).policy_hash(hash)).await?;
        self.marks().policy = Some(hash);
        Ok(())
    }

    /// Records are going to name a policy.
    pub fn policy_known(&self, policy: &Policy) {
        let mut marks = self.marks();
        marks
            .policies
            .entry(policy.hash())
            .or_insert_with(|| policy.canonical());
    }

    /// Every policy that records name, in its one form.
    fn policies(&self) -> Vec<String> {
        self.marks().policies.values().cloned().collect()
    }

    /// A sandbox begins.
    pub async fn sandbox_begins(&self) -> Result<(), BoundaryError> {
        self.must(self.record(Kind::SandboxStart)).await
    }

    /// A sandbox has ended.
    pub async fn sandbox_ended(&self, reason: &str) {
        self.note(self.record(Kind::SandboxEnd).reason(reason)).await;
    }

    /// Packages are about to be installed on an image, in a sandbox of their own.
    pub async fn installation_begins(
        &self,
        list: &str,
        image: &str,
        input: Hash,
        policy: &Policy,
    ) -> Result<(), BoundaryError> {
        self.policy_known(policy);
        let record = self.record(Kind::SandboxStart).policy_hash(policy.hash());
        let record = record.image_digest(image);
        let reason = format!("packages are installed: {list}");
        self.must(record.input_hash(input).reason(reason)).await
    }

    /// That sandbox has ended. With the layer's hash, `image` is what it has become.
    pub async fn installation_ended(&self, list: &str, image: &str, input: Hash, layer: Option<Hash>, took: Duration) {
        // What was said at last is in the session's answer: it is the words of a stranger.
        let (ended, decision) = match layer {
            Some(_) => ("packages were installed", Decision::Allowed),
            None => ("packages could not be installed", Decision::Failed),
        };
        let mut end = self.record(Kind::SandboxEnd).reason(ended);
        end.image_digest = Some(image.to_owned());
        self.note(end).await;
        let record = self.record(Kind::Image).image_digest(image).input_hash(input);
        let mut record = record.decided(decision, "packages").reason(format!("{ended}: {list}"));
        record.output_hash = layer;
        record.duration_micros = u64::try_from(took.as_micros()).ok();
        self.note(record).await;
    }

    /// The root filesystem of the session's sandboxes from here on.
    pub fn set_image(&self, digest: &str) {
        self.marks().labels.image_digest = Some(digest.to_owned());
    }

    /// A call is about to run.
    pub async fn call_begins(&self, call: &Call) -> Result<(), BoundaryError> {
        self.must(self.call(call).decided(Decision::Allowed, "session")).await
    }

    /// A call has run; `answer` is the event that answers it. None of one that was stopped: its answer is another's.
    pub async fn call_ended(&self, call: &Call, answer: Option<&Value>, took: Duration) {
        let failed = answer.is_none_or(|answer| answer["is_error"] == Value::Bool(true));
        let decision = if failed { Decision::Failed } else { Decision::Allowed };
        let mut record = self.call(call).decided(decision, "session");
        record.output_hash = answer.map(|answer| Hash::of_json(&answer["content"]));
        record.duration_micros = u64::try_from(took.as_micros()).ok();
        self.note(record).await;
    }

    fn call(&self, call: &Call) -> Record {
        let input = Value::Object(call.input.clone());
        self.record(Kind::ToolCall)
            .tool(&call.name)
            .call(&call.id)
            .input_hash(Hash::of_json(&input))
    }

    /// A file comes into the sandbox.
    pub async fn file_in(&self, path: &str, hash: Option<Hash>) -> Result<(), BoundaryError> {
        let mut record = self.record(Kind::FileIn).path(path).decision(Decision::Allowed);
        record.input_hash = hash;
        self.must(record).await
    }

    /// A file that was to come into the sandbox does not.
    pub async fn file_not_in(&self, path: &str, reason: &str) {
        let record = self.record(Kind::FileIn).path(path);
        self.note(record.decision(Decision::Denied).reason(reason)).await;
    }

    /// A result is about to leave.
    pub async fn file_out(&self, path: &str, hash: Hash) -> Result<(), BoundaryError> {
        let record = self.record(Kind::FileOut).path(path).output_hash(hash);
        self.must(record.decided(Decision::Allowed, "outputs")).await
    }

    /// A result has left, and is at this place.
    pub async fn file_is_out(&self, path: &str, hash: Hash, place: &str) {
        let record = self.record(Kind::FileOut).path(path).output_hash(hash);
        self.note(record.decided(Decision::Allowed, "outputs").output_location(place))
            .await;
    }

    /// A result is kept back.
    pub async fn file_kept_back(&self, path: &str, hash: Option<Hash>, rule: &str, reason: &str) {
        let mut record = self.record(Kind::FileOut).path(path);
        record.output_hash = hash;
        self.note(record.decided(Decision::Denied, rule).reason(reason)).await;
    }

    /// Something was stopped.
    pub async fn stopped(&self, scope: Scope, forced: bool, actor: &str, reason: &str, ended: Vec<String>) {
        let stop = Stop {
            scope,
            forced,
            ended,
            processes: None,
        };
        let record = self.record(Kind::Stop).actor(actor).reason(reason).stop(stop);
        self.note(record).await;
    }

    /// Hands the records of the session over to the server, with the policies that they name.
    pub async fn hand_over(&self, client: &Client, session: &str) -> Result<(), String> {
        let (ledger, filter) = (self.ledger.clone(), Filter::session(session));
        let bundle = tokio::task::spawn_blocking(move || {
            let mut bundle = Vec::new();
            ledger.export(&filter, &mut bundle).map(|_| bundle)
        });
        let bundle = bundle.await.map_err(|error| error.to_string())?;
        let bundle = bundle.map_err(|error| error.to_string())?;
        let files = client.session_files(session);
        let policies = self
            .policies()
            .into_iter()
            .map(|policy| ("policy", policy.into_bytes()));
        for (part, bytes) in policies.chain([("records", bundle)]) {
            match files.add_evidence(part, bytes).await {
                Ok(_) => {}
                // A server that takes none.
                Err(error) if error.status() == Some(404) => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }
}
