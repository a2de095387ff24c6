//! The assembly: settings become running roles. The only module that knows how a plane, a worker and a sandbox are
//! built from what a person configured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use outwork_plane::{ModelProvider, Plane, PlaneOptions, TlsPaths};
use outwork_sandbox::worker::{Layout, Queue, ServiceOptions, Stop, Summary, Worker, WorkerError, WorkerOptions};
use outwork_sandbox::{
    Isolation, Launcher, LauncherOptions, Limits, Report, SandboxOptions, StepState, ToolCall, ToolOutput, probe,
};
use secrecy::SecretString;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::worker::Isolation as Asked;
use crate::config::{PlaneConfig, WorkerConfig};

/// How long a worker may take to release its sessions when the process ends.
const WORKER_DRAIN: Duration = Duration::from_secs(20);

/// Starts a plane.
pub(crate) async fn start_plane(config: &PlaneConfig) -> Result<Plane> {
    let mut options = PlaneOptions::new(config.data_dir.clone());
    options.listen = config.listen;
    options.tls = config.tls.as_ref().map(|tls| TlsPaths {
        cert: tls.cert.clone(),
        key: tls.key.clone(),
    });
    options.api_key = config.api_key.clone();
    options.model = config.model.as_ref().map(|model| ModelProvider {
        base_url: model.base_url.clone(),
        api_key: model.api_key.clone(),
        first_byte_timeout: model.first_byte_timeout,
        idle_timeout: model.idle_timeout,
    });
    options.prompt = config.prompt.clone();
    options.retry = config.retry;
    options.mcp = config.mcp.clone();
    options.limits = config.limits.clone();
    options.master_key = config.master_key.clone();
    options.tunnels = config.tunnels.clone();
    options.federation = config.federation.clone();
    options.identity = config.identity.clone();
    options.files = config.files.clone();
    options.ledger = config.ledger.clone();
    options.drain_timeout = config.drain_timeout;
    Ok(Plane::start(options).await?)
}

/// The address under which this machine reaches a plane.
pub(crate) fn local_url(plane: &Plane, tls: bool) -> String {
    let addr = plane.address();
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    format!(
        "{}://{}",
        if tls { "https" } else { "http" },
        SocketAddr::new(ip, addr.port())
    )
}

/// The key with which workers of this process serve cloud environments.
pub(crate) fn worker_key(plane: &Plane) -> SecretString {
    SecretString::from(plane.worker_key().expose())
}

/// Whose work a worker of this process takes, from where, and where its sessions work.
pub(crate) struct Job {
    pub(crate) base_url: String,
    pub(crate) ca_files: Vec<PathBuf>,
    pub(crate) queue: Queue,
    pub(crate) key: SecretString,
    pub(crate) workdir: PathBuf,
    /// Each session in a folder of its own, also when only one is served at a time.
    pub(crate) apart: bool,
}

/// How a worker serves sessions.
pub(crate) fn service_options(
    base_url: &str,
    ca_files: &[PathBuf],
    workdir: &Path,
    apart: bool,
    config: &WorkerConfig,
) -> Result<ServiceOptions> {
    let mut options = ServiceOptions::new(base_url, workdir);
    for path in ca_files {
        let pem = std::fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
        options.ca_certificates.push(pem);
    }
    options.layout = if apart || config.concurrency > 1 {
        Layout::PerSession
    } else {
        Layout::Shared
    };
    options.max_idle = config.max_idle;
    options.isolation = isolation(config.isolation);
    options.limits = limits(config);
    options.call_timeout = config.call_limit;
    options.boundary = config.boundary.options()?;
    options.boundary.devices.clone_from(&config.devices);
    let apart = options.layout == Layout::PerSession;
    options.state_dir = config.boundary.state_dir(workdir, apart)?;
    Ok(options)
}

/// What a worker of this job runs with.
pub(crate) fn worker_options(job: Job, config: &WorkerConfig) -> Result<WorkerOptions> {
    let service = service_options(&job.base_url, &job.ca_files, &job.workdir, job.apart, config)?;
    let mut options = WorkerOptions::new(service, job.queue, job.key);
    options.concurrency = config.concurrency;
    Ok(options)
}

fn isolation(asked: Asked) -> Isolation {
    match asked {
        Asked::Full => Isolation::Full,
        Asked::None => Isolation::None,
    }
}

fn limits(config: &WorkerConfig) -> Limits {
    Limits {
        memory_bytes: config.memory_limit,
        cpu_percent: config.cpu_limit.map(|cores| (cores * 100.0).round().max(1.0) as u32),
        max_processes: config.process_limit,
        disk_bytes: config.disk_limit,
        max_output_bytes: config.output_limit,
        wall_clock: config.time_limit,
        total_output_bytes: config.total_output_limit,
    }
}

/// A worker in this process.
pub(crate) struct LocalWorker {
    stop: Stop,
    task: JoinHandle<Result<Summary, WorkerError>>,
}

impl LocalWorker {
    /// Starts a worker beside whatever else this process does.
    pub(crate) fn start(job: Job, config: &WorkerConfig) -> Result<Self> {
        Self::with(worker_options(job, config)?)
    }

    /// The same with options that were changed.
    pub(crate) fn with(options: WorkerOptions) -> Result<Self> {
        let worker = Worker::new(options)?;
        let stop = Stop::from(CancellationToken::new());
        let task = tokio::spawn(worker.run(stop.clone()));
        Ok(Self { stop, task })
    }

    /// Returns when the worker ended without being told to: why.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Ok(_)) => anyhow!("the local worker ended by itself"),
            Ok(Err(error)) => anyhow::Error::new(error).context("the local worker ended"),
            Err(error) => anyhow::Error::new(error).context("the local worker broke down"),
        }
    }

    /// Stops running calls, posts their results, releases the sessions.
    pub(crate) async fn drain(mut self) {
        self.stop.drain.cancel();
        if self.task.is_finished() {
            return;
        }
        if tokio::time::timeout(WORKER_DRAIN, &mut self.task).await.is_err() {
            tracing::warn!("the local worker did not release its sessions in time");
            self.stop.now.cancel();
        }
    }
}

/// Runs single commands, each in a sandbox of its own.
pub(crate) struct Checks {
    launcher: Launcher,
    limits: Limits,
}

impl Checks {
    /// Makes sandboxes possible. Fails where tools cannot be kept apart, unless no isolation was asked for.
    pub(crate) async fn start(config: &WorkerConfig) -> Result<Self> {
        let options = LauncherOptions {
            isolation: isolation(config.isolation),
            ..LauncherOptions::default()
        };
        let launcher = Launcher::start(options).await?;
        Ok(Self {
            launcher,
            limits: limits(config),
        })
    }

    /// Runs a command in a folder, by the same way as an agent's call.
    pub(crate) async fn run(&self, folder: &Path, command: &str) -> Result<ToolOutput> {
        let mut options = SandboxOptions::new(folder);
        options.limits = self.limits.clone();
        let sandbox = self.launcher.launch(options).await?;
        let output = sandbox
            .call(ToolCall::new("bash", json!({ "command": command })))
            .await?;
        sandbox.kill().await?;
        Ok(output)
    }

    /// What keeps a sandbox apart here, in words.
    pub(crate) async fn facts(&self) -> Result<Vec<String>> {
        if self.launcher.isolation() == Isolation::None {
            return Ok(vec!["NO isolation: tools run as the user who started this".to_owned()]);
        }
        let report = tokio::task::spawn_blocking(probe)
            .await
            .context("could not look at what keeps sandboxes apart")?;
        let mut facts = facts(&report);
        facts.push(format!("limits by {}", self.launcher.limits_by()));
        Ok(facts)
    }
}

/// The isolation steps of a report that work, in words for people.
fn facts(report: &Report) -> Vec<String> {
    let works = |name: &str| report.step(name).is_some_and(|step| !step.is_missing());
    let mut facts = Vec::new();
    let namespaces: Vec<&str> = report
        .steps
        .iter()
        .filter(|step| !step.is_missing())
        .filter_map(|step| step.name.strip_suffix(" namespace"))
        .collect();
    if !namespaces.is_empty() {
        facts.push(format!(
            "{} namespaces of its own ({})",
            namespaces.len(),
            namespaces.join(", ")
        ));
    }
    if works("net namespace") {
        facts.push("no network".to_owned());
    }
    if let Some(StepState::Available(detail)) = report.step("landlock").map(|step| &step.state) {
        facts.push(format!("Landlock {detail}").trim().to_owned());
    }
    for (name, fact) in [
        ("seccomp", "a system call filter"),
        ("capabilities", "no capabilities"),
        ("whole sandbox", "read-only system folders"),
    ] {
        if works(name) {
            facts.push(fact.to_owned());
        }
    }
    facts
}
