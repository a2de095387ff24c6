//! Sessions within their boundary: a scripted server, the worker with this machine's own sandboxes, and servers of a small
//! internet on loopback. Names are resolved by the test and every connection is led to its servers, so nothing leaves the
//! machine.
#![allow(clippy::unwrap_used, reason = "a test that fails here fails as it should")]
#![allow(dead_code, reason = "the scripted server is shared with the tests of the worker")]

mod crossing;
mod files;
mod images;
mod internet;
mod outputs;
mod packages;
#[path = "../worker/plane.rs"]
mod plane;
mod stopping;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outwork_ledger::{Kind, Record};
use outwork_sandbox::worker::{
    BoundaryOptions, LocalSandboxes, Queue, ServiceOptions, Stop, Summary, Worker, WorkerError, WorkerOptions,
};
use outwork_sandbox::{LauncherOptions, Limits};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use internet::Internet;
use plane::own::Own;
use plane::{ENVIRONMENT, KEY, Plane};

pub(crate) const SESSION: &str = "sesn_1";

/// A server, an internet, and a worker between them.
pub(crate) struct World {
    pub(crate) plane: Plane,
    pub(crate) internet: Arc<Internet>,
    pub(crate) folder: TempDir,
    pub(crate) state: TempDir,
    pub(crate) stop: Stop,
    worker: JoinHandle<Result<Summary, WorkerError>>,
    calls: std::sync::atomic::AtomicU32,
}

/// Only what is named.
pub(crate) fn limited(hosts: &[&str]) -> Value {
    json!({"type": "limited", "allowed_hosts": hosts, "allow_package_managers": false, "allow_mcp_servers": false})
}

impl World {
    /// With this project's server.
    pub(crate) async fn new(own: Own) -> Self {
        Self::with(Some(own), |_| {}).await
    }

    pub(crate) async fn with(own: Option<Own>, change: impl FnOnce(&mut BoundaryOptions)) -> Self {
        let plane = Plane::start().await;
        plane.script().own = own;
        plane.offer("work_1", SESSION);
        let internet = Internet::start().await;
        let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let stop = Stop::default();
        let mut world = Self {
            plane,
            internet,
            folder,
            state,
            stop,
            worker: tokio::spawn(async { Ok(Summary::default()) }),
            calls: 0.into(),
        };
        world.start(change).await;
        world
    }

    /// Starts the worker, the first time or again.
    pub(crate) async fn start(&mut self, change: impl FnOnce(&mut BoundaryOptions)) {
        self.stop = Stop::default();
        let mut service = ServiceOptions::new(&self.plane.base_url, self.folder.path());
        service.state_dir = Some(self.state.path().to_owned());
        service.boundary.resolver = Some(self.internet.clone());
        service.boundary.connector = Some(self.internet.clone());
        service.boundary.upstream_roots = vec![self.internet.authority_pem.clone().into_bytes()];
        change(&mut service.boundary);
        let launcher = LauncherOptions {
            program: env!("CARGO_BIN_EXE_outwork-jail").into(),
            ..LauncherOptions::default()
        };
        let sandboxes = LocalSandboxes::start(launcher, Limits::default()).await.unwrap();
        let options = WorkerOptions::new(service, Queue::Environment(ENVIRONMENT.into()), KEY.to_owned());
        let worker = Worker::with_provider(options, Arc::new(sandboxes)).unwrap();
        self.worker = tokio::spawn(worker.run(self.stop.clone()));
    }

    /// Asks for a command, and does not wait for it.
    pub(crate) fn ask(&self, command: &str) -> String {
        let number = self.calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let id = format!("call_{number}");
        self.plane.emit(
            SESSION,
            json!({"type": "agent.tool_use", "id": id, "name": "bash", "input": {"command": command}}),
        );
        id
    }

    /// What a call was answered with, and whether that is an error.
    pub(crate) async fn answer(&self, id: &str) -> (bool, String) {
        let found = |script: &plane::Script| script.results().into_iter().find(|(call, ..)| call == id);
        self.plane
            .until("the call is answered", |script| script.answered(SESSION).contains(&id))
            .await;
        let (_, is_error, text) = found(&self.plane.script()).unwrap();
        (is_error, text)
    }

    /// What a command says.
    pub(crate) async fn bash(&self, command: &str) -> String {
        let id = self.ask(command);
        self.answer(&id).await.1
    }

    /// What a request says, with its status at the end.
    pub(crate) async fn curl(&self, arguments: &str) -> String {
        self.bash(&format!("curl -sS -m 20 -w ' %{{http_code}}' {arguments} 2>&1"))
            .await
    }

    /// Changes what the server says of the session.
    pub(crate) fn say(&self, change: impl FnOnce(&mut Own)) {
        self.plane.set(|script| change(script.own.as_mut().unwrap()));
    }

    /// The turn ends.
    pub(crate) fn idle(&self) {
        let event = json!({"type": "session.status_idle", "id": "sevt_idle", "stop_reason": {"type": "end_turn"}});
        self.plane.emit(SESSION, event);
    }

    pub(crate) fn until_own<'a>(
        &'a self,
        what: &'a str,
        holds: impl Fn(&Own) -> bool + 'a,
    ) -> impl std::future::Future<Output = ()> + 'a {
        self.plane
            .until(what, move |script| script.own.as_ref().is_some_and(&holds))
    }

    /// Ends the worker in order.
    pub(crate) async fn end(&mut self) -> Summary {
        self.stop.drain.cancel();
        self.ended().await
    }

    /// Waits for the worker's end.
    pub(crate) async fn ended(&mut self) -> Summary {
        let ended = tokio::time::timeout(Duration::from_secs(30), &mut self.worker).await;
        ended.expect("the worker ends").unwrap().unwrap()
    }

    /// Ends the worker and gives its records, after they were verified.
    pub(crate) async fn records(&mut self) -> Vec<Record> {
        self.end().await;
        self.kept()
    }

    /// The records of a worker that has ended.
    pub(crate) fn kept(&self) -> Vec<Record> {
        let folder: PathBuf = self.state.path().join("ledger");
        let mut records = Vec::new();
        outwork_ledger::scan(&folder, &outwork_ledger::Filter::everything(), |_, record| {
            records.push(record.clone())
        })
        .unwrap();
        for record in &records {
            assert!(record.missing().is_empty(), "{record:?}");
        }
        records
    }
}

/// Records of one kind.
pub(crate) fn of_kind(records: &[Record], kind: Kind) -> Vec<&Record> {
    records.iter().filter(|record| record.kind == kind).collect()
}
