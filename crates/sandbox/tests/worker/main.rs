//! The worker against a server that a test scripts: every rule of claiming, holding, running and letting go.
#![allow(clippy::unwrap_used, reason = "a test that fails here fails as it should")]

mod claiming;
mod commands;
mod hands;
mod holding;
mod plane;
mod real;
mod results;
mod running;

use std::sync::Arc;
use std::time::Duration;

use outwork_sandbox::worker::{Queue, ServiceOptions, Stop, Summary, Worker, WorkerError, WorkerOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use hands::Hands;
use plane::{ENVIRONMENT, KEY, Plane};

pub(crate) const SESSION: &str = "sesn_1";

/// A server, sandboxes and a worker between them.
pub(crate) struct Setup {
    pub plane: Plane,
    pub hands: Hands,
    pub folder: TempDir,
    pub stop: Stop,
}

impl Setup {
    pub async fn new() -> Self {
        Self {
            plane: Plane::start().await,
            hands: Hands::default(),
            folder: tempfile::tempdir().unwrap(),
            stop: Stop::default(),
        }
    }

    pub fn options(&self) -> WorkerOptions {
        let service = ServiceOptions::new(&self.plane.base_url, self.folder.path());
        WorkerOptions::new(service, Queue::Environment(ENVIRONMENT.into()), KEY.to_owned())
    }

    pub fn start(&self, change: impl FnOnce(&mut WorkerOptions)) -> Running {
        let mut options = self.options();
        change(&mut options);
        let worker = Worker::with_provider(options, Arc::new(self.hands.clone())).unwrap();
        Running(tokio::spawn(worker.run(self.stop.clone())))
    }

    /// A worker that serves the one session of a fresh server.
    pub fn serve(&self) -> Running {
        self.plane.offer("work_1", SESSION);
        self.start(|_| {})
    }

    pub fn emit(&self, event: Value) {
        self.plane.emit(SESSION, event);
    }

    /// Ends the session and waits until the worker has let go of its item.
    pub async fn finish(&self, running: Running) -> Summary {
        self.emit(json!({"type": "session.status_terminated", "id": "sevt_over"}));
        self.plane
            .until("the item is released", |s| s.count("POST", "/stop") > 0)
            .await;
        self.stop.drain.cancel();
        running.ended().await.unwrap()
    }
}

/// A worker that runs.
pub(crate) struct Running(JoinHandle<Result<Summary, WorkerError>>);

impl Running {
    pub async fn ended(self) -> Result<Summary, WorkerError> {
        tokio::time::timeout(Duration::from_secs(20), self.0)
            .await
            .expect("the worker ends")
            .expect("the worker does not panic")
    }
}

pub(crate) fn call(id: &str, does: &str) -> Value {
    json!({"type": "agent.tool_use", "id": id, "name": "bash", "input": {"tag": id, "does": does}})
}

pub(crate) fn ask(id: &str) -> Value {
    let mut event = call(id, "answer");
    event["evaluated_permission"] = json!("ask");
    event
}

pub(crate) fn result(call: &str) -> Value {
    json!({"type": "user.tool_result", "id": format!("sevt_r_{call}"), "tool_use_id": call, "content": [], "is_error": true})
}

pub(crate) fn verdict(call: &str, word: &str) -> Value {
    json!({"type": "user.tool_confirmation", "id": format!("sevt_v_{call}"), "tool_use_id": call, "result": word})
}

pub(crate) fn idle(reason: &str) -> Value {
    json!({"type": "session.status_idle", "id": format!("sevt_idle_{reason}"), "stop_reason": {"type": reason}})
}

pub(crate) fn answered(call: &str) -> (String, bool, String) {
    (call.to_owned(), false, format!("bash {call}"))
}
