//! What a worker is made from.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::boundary::BoundaryOptions;
use super::error::WorkerError;
use crate::{Isolation, Limits, ToolCall};

/// Whose work is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Queue {
    /// The work of one self-hosted environment, with an environment key.
    Environment(String),
    /// The work of every `cloud` environment, with a worker key. Only a server of this project hands it out.
    Cloud,
}

/// Where the workspaces of sessions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The folder itself is the workspace, one session at a time.
    Shared,
    /// Each session has a folder of its id below.
    PerSession,
}

/// How sessions are served.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// The server.
    pub base_url: String,
    /// More certificate authorities to trust, PEM.
    pub ca_certificates: Vec<Vec<u8>>,
    /// The folder for workspaces; made if it is missing.
    pub workdir: PathBuf,
    /// How `workdir` is used.
    pub layout: Layout,
    /// How long a session is kept after its turn has ended.
    pub max_idle: Duration,
    /// The lease that heartbeats ask for, in seconds.
    pub desired_ttl: Option<u32>,
    /// Whether tools are kept apart from this machine.
    pub isolation: Isolation,
    /// What one sandbox may use.
    pub limits: Limits,
    /// Folders of this machine, outside its system folders, that sandboxes see read-only.
    pub read_only_paths: Vec<PathBuf>,
    /// The longest that one call may take.
    pub call_timeout: Duration,
    /// The worker's own folder: its ledger, cached files, results that were not sent yet. It must not be in a workspace.
    /// Without it: `.outwork-worker` in `workdir` where each session has a folder of its own; else a temporary one.
    pub state_dir: Option<PathBuf>,
    /// What the worker's owner says about the boundary of its sessions.
    pub boundary: BoundaryOptions,
}

impl ServiceOptions {
    /// Sessions in `workdir` itself, as the defaults of the command line say.
    pub fn new(base_url: impl Into<String>, workdir: impl Into<PathBuf>) -> Self {
        Self {
            base_url: base_url.into(),
            ca_certificates: Vec::new(),
            workdir: workdir.into(),
            layout: Layout::Shared,
            max_idle: Duration::from_secs(60),
            desired_ttl: None,
            isolation: Isolation::Full,
            limits: Limits::default(),
            read_only_paths: Vec::new(),
            call_timeout: ToolCall::DEFAULT_TIMEOUT,
            state_dir: None,
            boundary: BoundaryOptions::default(),
        }
    }
}

/// What a worker is made from. Has no `Debug`, as the key in it has none.
#[derive(Clone)]
pub struct WorkerOptions {
    /// How sessions are served.
    pub service: ServiceOptions,
    /// Whose work is taken.
    pub queue: Queue,
    /// The environment key, or the worker key for [`Queue::Cloud`].
    pub key: SecretString,
    /// A command line that serves each item instead of this worker; the item is released when it exits.
    pub on_work: Option<String>,
    /// How many items are served at once.
    pub concurrency: usize,
    /// End when the queue is empty.
    pub drain: bool,
    /// Take over items that another worker polled and did not acknowledge for this long.
    pub reclaim_older_than_ms: Option<u64>,
    /// Who polls; by default the host's name and a random part.
    pub worker_id: Option<String>,
}

impl WorkerOptions {
    /// A worker that serves one session at a time.
    pub fn new(service: ServiceOptions, queue: Queue, key: impl Into<SecretString>) -> Self {
        Self {
            service,
            queue,
            key: key.into(),
            on_work: None,
            concurrency: 1,
            drain: false,
            reclaim_older_than_ms: None,
            worker_id: None,
        }
    }

    /// Serves `concurrency` sessions at once; more than one get a folder each.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        if concurrency > 1 {
            self.service.layout = Layout::PerSession;
        }
        self
    }

    pub(crate) fn check(&self) -> Result<(), WorkerError> {
        let refuse = |what, reason: &str| {
            Err(WorkerError::Option {
                what,
                reason: reason.to_owned(),
            })
        };
        if self.concurrency == 0 {
            return refuse("concurrency", "0 sessions at once would do nothing; give 1 or more");
        }
        if self.concurrency > 1 && self.service.layout == Layout::Shared && self.on_work.is_none() {
            return refuse(
                "concurrency",
                "several sessions at once cannot share one workspace; give each a folder of its own",
            );
        }
        if self.on_work.as_ref().is_some_and(|c| c.trim().is_empty()) {
            return refuse(
                "on-work",
                "the command is empty; give the command line to run for each item",
            );
        }
        if matches!(&self.queue, Queue::Environment(id) if id.is_empty()) {
            return refuse("environment-id", "it is empty; give the id of the environment, env_…");
        }
        Ok(())
    }
}

/// One item to serve, for a program that another worker's `on-work` started.
#[derive(Clone)]
pub struct ItemOptions {
    /// The session.
    pub session_id: String,
    /// The item.
    pub work_id: String,
    /// Whose queue it is from.
    pub environment_id: String,
    /// The environment key; needed if there is no secret.
    pub environment_key: Option<SecretString>,
    /// The item's `secret`; the token in it is preferred to the key.
    pub secret: Option<SecretString>,
}

impl ItemOptions {
    /// From the variables that an `on-work` command is given: `ANTHROPIC_SESSION_ID`, `ANTHROPIC_WORK_ID`,
    /// `ANTHROPIC_ENVIRONMENT_ID`, `ANTHROPIC_ENVIRONMENT_KEY` and `ANTHROPIC_WORK_SECRET`.
    pub fn from_variables(read: impl Fn(&str) -> Option<String>) -> Result<Self, WorkerError> {
        let optional = |name: &str| read(name).filter(|v| !v.is_empty());
        let required = |name: &'static str| {
            optional(name).ok_or_else(|| WorkerError::Option {
                what: name,
                reason: "it is not set; a command started with --on-work finds it in its environment".to_owned(),
            })
        };
        Ok(Self {
            session_id: required("ANTHROPIC_SESSION_ID")?,
            work_id: required("ANTHROPIC_WORK_ID")?,
            environment_id: required("ANTHROPIC_ENVIRONMENT_ID")?,
            environment_key: optional("ANTHROPIC_ENVIRONMENT_KEY").map(SecretString::from),
            secret: optional("ANTHROPIC_WORK_SECRET").map(SecretString::from),
        })
    }
}
