//! The worker's side of the launcher process: starting it, asking it for sandboxes, hearing of their ends.
//!
//! The launcher process gets an empty environment and one socket. It ends when the last handle to it is dropped or
//! the worker dies, and every sandbox with it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, socketpair};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{oneshot, watch};

use crate::error::SandboxError;
use crate::fence::Fence;
use crate::handle::{KillOnDrop, Pieces, Sandbox, SandboxEnd};
use crate::jail::HIDDEN;
use crate::jail::wire::{self, Boot, Launch, Said};
use crate::launch_check::check;
use crate::options::{Isolation, Network, SandboxOptions};
use crate::sweep::Sweep;

/// How long the launcher may take to start, and a sandbox to stand. Far over what either needs.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// Without isolation programs need some of the worker's own variables; these hold no secrets.
const PASSED_VARIABLES: &[&str] = &[
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TMPDIR", "TZ",
];

/// How the launcher process is started.
#[derive(Clone, Debug)]
pub struct LauncherOptions {
    /// The program to execute; it must call [`crate::entry`] first in `main`. Default: this program.
    pub program: PathBuf,
    /// Whether sandboxes are isolated.
    pub isolation: Isolation,
    /// Folders of the host, outside its system folders, that sandboxes see read-only under the same name.
    pub read_only_paths: Vec<PathBuf>,
    /// What sandboxes usually ask for. The first ones are prepared for it, later ones for what the last one asked.
    pub usual_network: Network,
}

impl Default for LauncherOptions {
    fn default() -> Self {
        Self {
            program: PathBuf::from("/proc/self/exe"),
            isolation: Isolation::Full,
            read_only_paths: Vec::new(),
            usual_network: Network::default(),
        }
    }
}

/// A running launcher process. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Launcher {
    shared: Arc<Shared>,
}

/// The end of a program that was run as the first process of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOutcome {
    /// Exit code or signal.
    pub end: SandboxEnd,
    /// What it wrote, when that was asked for; at most the limit `max_output_bytes`, from the start.
    pub output: Vec<u8>,
}

#[derive(Debug)]
struct Shared {
    control: Arc<UnixStream>,
    table: Arc<Mutex<Table>>,
    next_id: AtomicU64,
    isolation: Isolation,
    memory: String,
}

type Started = Result<FirstProcess, SandboxError>;

/// What the launcher hands over of a sandbox that it cloned.
#[derive(Debug)]
struct FirstProcess {
    pidfd: OwnedFd,
    fence: Option<Fence>,
    sweep: Sweep,
}

#[derive(Debug, Default)]
struct Table {
    /// Set once the launcher has ended.
    gone: Option<String>,
    entries: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    started: Option<oneshot::Sender<Started>>,
    ended: watch::Sender<Option<SandboxEnd>>,
}

impl Launcher {
    /// Starts the launcher process and waits until it can make sandboxes.
    pub async fn start(options: LauncherOptions) -> Result<Self, SandboxError> {
        let failed = |source: io::Error| SandboxError::StartLauncher {
            program: options.program.clone(),
            source,
        };
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|error| failed(error.into()))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|error| failed(error.into()))?;
        let child = tokio::process::Command::new(&options.program)
            .arg0("outwork-launcher")
            .arg(HIDDEN)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        // A sequenced socket in the type of a stream: only readiness is taken from that type.
        let control = UnixStream::from_std(std::os::unix::net::UnixStream::from(ours)).map_err(failed)?;
        let control = Arc::new(control);
        let boot = Boot {
            isolation: options.isolation,
            read_only_paths: options.read_only_paths.clone(),
            fenced: options.usual_network == Network::Fenced,
        };
        send(&control, &boot, None, None).await.map_err(failed)?;
        let first = tokio::time::timeout(START_PATIENCE, receive(&control)).await;
        let memory = match first {
            Ok(Ok(Some((Said::Up { memory }, _)))) => memory,
            Ok(Ok(Some((Said::Down(error), _)))) => {
                return Err(SandboxError::Step {
                    step: error.step,
                    reason: error.reason,
                });
            }
            Ok(Ok(_)) => {
                return Err(SandboxError::LauncherGone(
                    "it ended at once; does its program call `outwork_sandbox::entry()` first in `main`?".to_owned(),
                ));
            }
            Ok(Err(error)) => return Err(failed(error)),
            Err(_) => {
                return Err(SandboxError::LauncherGone(format!(
                    "it was not ready within {START_PATIENCE:?}"
                )));
            }
        };
        let table = Arc::new(Mutex::new(Table::default()));
        tokio::spawn(listen(Arc::clone(&control), Arc::clone(&table), child));
        let shared = Shared {
            control,
            table,
            next_id: AtomicU64::new(1),
            isolation: options.isolation,
            memory,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// How memory and processes are limited here, in words.
    pub fn limits_by(&self) -> &str {
        &self.shared.memory
    }

    /// Whether sandboxes of this launcher are isolated.
    pub fn isolation(&self) -> Isolation {
        self.shared.isolation
    }

    /// Makes a sandbox. When this returns, it stands and takes calls; if any step failed, nothing ran.
    pub async fn launch(&self, options: SandboxOptions) -> Result<Sandbox, SandboxError> {
        let workspace = check(&options, self.shared.isolation)?;
        let limits = options.limits.clone();
        let born = self.bear(options, workspace, None, None).await?;
        let root = if self.shared.isolation == Isolation::Full {
            PathBuf::from("/workspace")
        } else {
            born.workspace.clone()
        };
        let pieces = Pieces {
            socket: born.socket,
            pidfd: born.pidfd,
            ended: born.ended,
            fence: born.fence,
            sweep: born.sweep,
            limits,
        };
        let stand = Sandbox::stand(self.clone(), pieces, root);
        match tokio::time::timeout(START_PATIENCE, stand).await {
            Ok(result) => result,
            Err(_) => Err(SandboxError::Unresponsive(START_PATIENCE)),
        }
    }

    /// Runs a program (a path inside the sandbox) as the only process of a new sandbox, to its end.
    pub async fn run_once(
        &self,
        options: SandboxOptions,
        argv: Vec<String>,
        keep_output: bool,
    ) -> Result<RunOutcome, SandboxError> {
        let workspace = check(&options, self.shared.isolation)?;
        if argv.is_empty() {
            return Err(SandboxError::Option {
                option: "argv",
                reason: "name a program".to_owned(),
            });
        }
        let most = options.limits.max_output_bytes;
        let wall_clock = options.limits.wall_clock;
        let (output, output_in) = if keep_output {
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                .map_err(|error| SandboxError::io("make a pipe")(error.into()))?;
            (Some(reader), Some(writer))
        } else {
            (None, None)
        };
        let mut born = self.bear(options, workspace, Some(argv), output_in).await?;
        let collecting = output.map(|reader| tokio::spawn(collect(reader, most)));
        let wait = born.ended.wait_for(Option::is_some);
        let end = match wall_clock {
            None => wait.await.ok(),
            // What is left of it is killed when this returns.
            Some(limit) => match tokio::time::timeout(limit, wait).await {
                Ok(end) => end.ok(),
                Err(_) => return Err(SandboxError::wall_clock(limit)),
            },
        }
        .and_then(|end| end.clone());
        let output = match collecting {
            Some(task) => task.await.unwrap_or_default(),
            None => Vec::new(),
        };
        if let Some(failure) = Sandbox::setup_failure(&born.socket) {
            return Err(failure);
        }
        match end {
            Some(end) => Ok(RunOutcome { end, output }),
            None => Err(self.gone()),
        }
    }

    async fn bear(
        &self,
        options: SandboxOptions,
        workspace: PathBuf,
        run: Option<Vec<String>>,
        output: Option<OwnedFd>,
    ) -> Result<Born, SandboxError> {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        let (socket, theirs) = UnixStream::pair().map_err(SandboxError::io("make a socket pair"))?;
        let theirs = theirs.into_std().map_err(SandboxError::io("make a socket pair"))?;
        theirs
            .set_nonblocking(false)
            .map_err(SandboxError::io("make a socket pair"))?;
        let theirs = OwnedFd::from(theirs);
        let env = match self.shared.isolation {
            Isolation::Full => options.env,
            Isolation::None => passed_variables().chain(options.env).collect(),
        };
        let launch = Launch {
            id,
            workspace: workspace.clone(),
            hostname: options.hostname,
            env,
            limits: options.limits,
            image: options.image,
            mounts: options.mounts,
            outputs: options.outputs,
            ca_pem: options.ca_pem,
            devices: options.devices,
            build: options.build,
            fenced: options.network == Network::Fenced,
            run,
        };
        let (started, wait_started) = oneshot::channel();
        let (ended, wait_ended) = watch::channel(None);
        {
            let mut table = lock(&self.shared.table);
            if let Some(reason) = &table.gone {
                return Err(SandboxError::LauncherGone(reason.clone()));
            }
            table.entries.insert(
                id,
                Entry {
                    started: Some(started),
                    ended,
                },
            );
        }
        if let Err(error) = send(&self.shared.control, &launch, Some(&theirs), output.as_ref()).await {
            lock(&self.shared.table).entries.remove(&id);
            return Err(SandboxError::io("ask the launcher for a sandbox")(error));
        }
        drop((theirs, output));
        match tokio::time::timeout(START_PATIENCE, wait_started).await {
            Ok(Ok(Ok(first))) => {
                let pidfd = KillOnDrop::new(first.pidfd);
                if first.fence.is_some() != (options.network == Network::Fenced) {
                    return Err(SandboxError::LauncherGone(
                        "it made a sandbox without the fence that was asked for".to_owned(),
                    ));
                }
                Ok(Born {
                    socket,
                    pidfd,
                    ended: wait_ended,
                    fence: first.fence,
                    sweep: first.sweep,
                    workspace,
                })
            }
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err(self.gone()),
            Err(_) => Err(SandboxError::LauncherGone(format!(
                "it did not make a sandbox within {START_PATIENCE:?}"
            ))),
        }
    }

    fn gone(&self) -> SandboxError {
        let reason = lock(&self.shared.table).gone.clone();
        SandboxError::LauncherGone(reason.unwrap_or_else(|| "unknown".to_owned()))
    }
}

struct Born {
    socket: UnixStream,
    pidfd: KillOnDrop,
    ended: watch::Receiver<Option<SandboxEnd>>,
    fence: Option<Fence>,
    sweep: Sweep,
    workspace: PathBuf,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The listener still holds the descriptor; this hangs up on both sides.
        let _ = rustix::net::shutdown(&*self.control, Shutdown::Both);
    }
}

/// Hears the launcher until it ends, then tells everyone who waits.
async fn listen(control: Arc<UnixStream>, table: Arc<Mutex<Table>>, mut child: tokio::process::Child) {
    let reason = loop {
        let heard = tokio::select! {
            biased;
            heard = receive(&control) => heard,
            // Cradles that are held still keep the socket open when the launcher has gone.
            ended = child.wait() => match ended {
                Ok(status) => break format!("its process ended: {status}"),
                Err(error) => break error.to_string(),
            },
        };
        match heard {
            Ok(Some((said, fds))) => note(&table, said, fds),
            Ok(None) => break "it closed its socket".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    {
        let mut table = lock(&table);
        table.gone = Some(reason);
        table.entries.clear();
    }
    let _ = rustix::net::shutdown(&*control, Shutdown::Both);
    if let Err(error) = child.wait().await {
        tracing::warn!(%error, "the sandbox launcher's end could not be read");
    }
}

fn note(table: &Mutex<Table>, said: Said, fds: Vec<OwnedFd>) {
    let mut table = lock(table);
    match said {
        Said::Started {
            id,
            host_pid,
            cradle,
            freezer,
        } => {
            tracing::debug!(id, host_pid, "sandbox cloned");
            let mut fds = fds.into_iter();
            if let (Some(entry), Some(pidfd)) = (table.entries.get_mut(&id), fds.next())
                && let Some(started) = entry.started.take()
            {
                let sweep = Sweep {
                    first: host_pid,
                    cradle,
                    group: freezer,
                };
                let fence = fds.next().zip(fds.next()).map(|(tcp, dns)| Fence::new(tcp, dns));
                let _ = started.send(Ok(FirstProcess { pidfd, fence, sweep }));
            }
        }
        Said::Refused { id, error } => {
            if let Some(started) = table.entries.remove(&id).and_then(|entry| entry.started) {
                let _ = started.send(Err(SandboxError::Step {
                    step: error.step,
                    reason: error.reason,
                }));
            }
        }
        Said::Exited { id, code, signal } => {
            if let Some(entry) = table.entries.remove(&id) {
                let _ = entry.ended.send(Some(SandboxEnd { code, signal }));
            }
        }
        Said::Up { .. } | Said::Down(_) => {}
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    // Every change of the table is one insertion or removal, so it is whole even after a panic.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn send<T: serde::Serialize>(
    control: &UnixStream,
    message: &T,
    first: Option<&OwnedFd>,
    second: Option<&OwnedFd>,
) -> io::Result<()> {
    loop {
        control.writable().await?;
        let fds: Vec<_> = first.into_iter().chain(second).map(AsFd::as_fd).collect();
        match control.try_io(Interest::WRITABLE, || wire::send(control, message, &fds)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

async fn receive(control: &UnixStream) -> io::Result<Option<(Said, Vec<OwnedFd>)>> {
    loop {
        control.readable().await?;
        match control.try_io(Interest::READABLE, || wire::receive(control)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

async fn collect(reader: OwnedFd, most: usize) -> Vec<u8> {
    use tokio::io::AsyncReadExt;
    let mut kept = Vec::new();
    let Ok(mut reader) = rustix::io::ioctl_fionbio(&reader, true)
        .map_err(io::Error::from)
        .and_then(|()| tokio::net::unix::pipe::Receiver::from_owned_fd(reader))
    else {
        return kept;
    };
    let mut chunk = vec![0_u8; 64 << 10];
    while let Ok(read @ 1..) = reader.read(&mut chunk).await {
        let room = most.saturating_sub(kept.len()).min(read);
        kept.extend_from_slice(chunk.get(..room).unwrap_or_default());
    }
    kept
}

fn passed_variables() -> impl Iterator<Item = (String, String)> {
    PASSED_VARIABLES
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
}
