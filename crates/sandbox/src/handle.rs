//! A running sandbox, as its worker holds it.

mod ends;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{oneshot, watch};

use crate::error::SandboxError;
use crate::fence::Fence;
use crate::hand::frame::{AnswerBody, CallBody, FromHand, MAX_TO_HAND, ToHand};
use crate::launcher::Launcher;
use crate::options::Limits;
use crate::output::{ContentBlock, ToolCall, ToolOutput};
use crate::sweep::Sweep;

/// How long a cancelled call may take to answer. Killing what runs and starting a shell takes milliseconds.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);
/// How long a killed sandbox may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxEnd {
    /// Exit code of its first process.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
}

impl std::fmt::Display for SandboxEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (_, Some(9)) => f.write_str("it was killed: it ran out of memory, or was told to end"),
            (_, Some(signal)) => write!(f, "it was ended by signal {signal}"),
            (Some(code), None) => write!(f, "its first process ended with code {code}"),
            (None, None) => f.write_str("its end is not known"),
        }
    }
}

/// A running sandbox. Dropping it kills everything inside.
#[derive(Debug)]
pub struct Sandbox {
    inner: Arc<Inner>,
    /// Keeps the launcher alive.
    _launcher: Launcher,
    root: PathBuf,
    fence: Mutex<Option<Fence>>,
}

/// What a sandbox is before its hand has spoken.
pub(crate) struct Pieces {
    pub(crate) socket: UnixStream,
    pub(crate) pidfd: KillOnDrop,
    pub(crate) ended: watch::Receiver<Option<SandboxEnd>>,
    pub(crate) fence: Option<Fence>,
    pub(crate) sweep: Sweep,
    pub(crate) limits: Limits,
}

#[derive(Debug)]
struct Inner {
    pidfd: OwnedFd,
    sweep: Sweep,
    killed: AtomicBool,
    /// Whether it is held still. Changed under this lock, so that a pause and a resume do not cross.
    paused: tokio::sync::Mutex<bool>,
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    calls: Mutex<Calls>,
    next_id: AtomicU64,
    /// Changes with every answer.
    progress: watch::Sender<()>,
    ended: watch::Receiver<Option<SandboxEnd>>,
}

#[derive(Debug, Default)]
struct Calls {
    /// Why no answer will come any more.
    over: Option<Over>,
    waiting: HashMap<u64, oneshot::Sender<AnswerBody>>,
}

#[derive(Clone, Debug)]
enum Over {
    Closed,
    BadFrame(String),
    Limit(&'static str, String),
}

impl Over {
    /// What a call is told; `None` when the sandbox's end says it.
    fn told(&self) -> Option<SandboxError> {
        match self {
            Self::BadFrame(reason) => Some(SandboxError::BadFrame(reason.clone())),
            Self::Limit(limit, value) => Some(SandboxError::Limit {
                limit,
                value: value.clone(),
            }),
            Self::Closed => None,
        }
    }
}

impl Sandbox {
    /// Waits until the hand is ready.
    pub(crate) async fn stand(
        launcher: Launcher,
        Pieces {
            mut socket,
            pidfd,
            ended,
            fence,
            sweep,
            limits,
        }: Pieces,
        root: PathBuf,
    ) -> Result<Self, SandboxError> {
        let mut bytes = Vec::with_capacity(256);
        let first = loop {
            match FromHand::decode(&bytes) {
                Ok(Some((frame, taken))) => {
                    bytes.drain(..taken);
                    break frame;
                }
                Ok(None) => {}
                Err(error) => return Err(SandboxError::BadFrame(error.to_string())),
            }
            match socket.read_buf(&mut bytes).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Err(SandboxError::Ended(describe(&ended).await)),
            }
        };
        match first {
            FromHand::Ready => {}
            FromHand::Failed(body) => {
                return Err(SandboxError::Step {
                    step: body.step,
                    reason: body.reason,
                });
            }
            FromHand::Answer(..) => {
                return Err(SandboxError::BadFrame(
                    "an answer before the sandbox was ready".to_owned(),
                ));
            }
        }
        let (reader, writer) = socket.into_split();
        let pidfd = pidfd.keep()?;
        let inner = Arc::new(Inner {
            pidfd,
            sweep,
            killed: AtomicBool::new(false),
            paused: tokio::sync::Mutex::new(false),
            writer: tokio::sync::Mutex::new(writer),
            calls: Mutex::new(Calls::default()),
            next_id: AtomicU64::new(1),
            progress: watch::channel(()).0,
            ended,
        });
        tracing::debug!(max_output = limits.max_output_bytes, "sandbox ready");
        tokio::spawn(read_answers(
            Arc::downgrade(&inner),
            reader,
            bytes,
            limits.total_output_bytes,
        ));
        tokio::spawn(ends::watch_over(
            Arc::downgrade(&inner),
            inner.ended.clone(),
            limits.wall_clock,
        ));
        Ok(Self {
            inner,
            _launcher: launcher,
            root,
            fence: Mutex::new(fence),
        })
    }

    /// The failure that a first process reported before it ended, if it did.
    pub(crate) fn setup_failure(socket: &UnixStream) -> Option<SandboxError> {
        let mut bytes = vec![0_u8; 4096];
        let mut read = 0;
        while let Ok(more @ 1..) = socket.try_read(bytes.get_mut(read..).unwrap_or_default()) {
            read += more;
        }
        match FromHand::decode(bytes.get(..read).unwrap_or_default()) {
            Ok(Some((FromHand::Failed(body), _))) => Some(SandboxError::Step {
                step: body.step,
                reason: body.reason,
            }),
            _ => None,
        }
    }

    /// Takes the sockets of the network fence, once. `None` without a fence, or when they were taken. Until then, and
    /// after they are dropped, the sandbox has no network.
    pub fn take_fence(&self) -> Option<Fence> {
        self.fence.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Where the workspace stands in the view of the tools: `/workspace`, or the host's folder without isolation.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Runs one call. Calls are run one after the other, in the order in which they are made. Dropping the future
    /// cancels the call.
    pub async fn call(&self, call: ToolCall) -> Result<ToolOutput, SandboxError> {
        let begun = Instant::now();
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let ToolCall { name, input, timeout } = call;
        let frame = ToHand::Call(
            id,
            CallBody {
                name: name.clone(),
                input,
            },
        )
        .encode();
        if frame.len() > MAX_TO_HAND {
            return Err(SandboxError::CallTooLarge {
                size: frame.len(),
                limit: MAX_TO_HAND,
            });
        }
        let mut answer = self.inner.expect(id)?;
        let mut on_drop = CancelOnDrop {
            inner: &self.inner,
            id: Some(id),
        };
        self.inner.send(&frame).await?;
        let mut late = false;
        let answer = match tokio::time::timeout(timeout, &mut answer).await {
            Ok(answer) => answer,
            Err(_) => {
                late = true;
                self.inner.send(&ToHand::Cancel(id).encode()).await?;
                match tokio::time::timeout(CANCEL_PATIENCE, &mut answer).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        self.inner.signal();
                        return Err(SandboxError::Unresponsive(CANCEL_PATIENCE));
                    }
                }
            }
        };
        on_drop.id = None;
        let Ok(mut answer) = answer else {
            return Err(self.inner.over().await);
        };
        if late && answer.is_error {
            let text = format!(
                "{name}: the call was stopped after {}s, the limit for a call",
                timeout.as_secs_f64()
            );
            answer.content = vec![ContentBlock::Text { text }];
        }
        let AnswerBody {
            content,
            is_error,
            exit_code,
        } = answer;
        Ok(ToolOutput {
            content,
            is_error,
            exit_code,
            duration: begun.elapsed(),
        })
    }

    /// Cancels every call that runs or waits. Each is answered, as an error that says so; what the command ran is
    /// dead by then. The sandbox lives on.
    pub async fn interrupt(&self) -> Result<(), SandboxError> {
        let ids: Vec<u64> = self.inner.calls().waiting.keys().copied().collect();
        for id in ids {
            self.inner.send(&ToHand::Cancel(id).encode()).await?;
        }
        Ok(())
    }

    /// Kills everything inside and waits until it is gone.
    pub async fn kill(&self) -> Result<SandboxEnd, SandboxError> {
        self.inner.signal();
        self.ended_within(KILL_PATIENCE).await
    }

    /// Waits for the sandbox's end.
    pub async fn ended(&self) -> SandboxEnd {
        let mut ended = self.inner.ended.clone();
        let end = ended.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        end.unwrap_or(SandboxEnd {
            code: None,
            signal: None,
        })
    }

    async fn ended_within(&self, patience: Duration) -> Result<SandboxEnd, SandboxError> {
        tokio::time::timeout(patience, self.ended())
            .await
            .map_err(|_| SandboxError::Unresponsive(patience))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.inner.signal();
    }
}

impl Inner {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        // Every change is one insertion or removal, so the table is whole even after a panic.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect(&self, id: u64) -> Result<oneshot::Receiver<AnswerBody>, SandboxError> {
        let (sender, receiver) = oneshot::channel();
        let mut calls = self.calls();
        match &calls.over {
            Some(over) => Err(over.told().unwrap_or_else(|| SandboxError::Ended(end_now(&self.ended)))),
            None => {
                calls.waiting.insert(id, sender);
                Ok(receiver)
            }
        }
    }

    async fn send(&self, frame: &[u8]) -> Result<(), SandboxError> {
        let mut writer = self.writer.lock().await;
        match writer.write_all(frame).await {
            Ok(()) => Ok(()),
            Err(_) => {
                drop(writer);
                Err(self.over().await)
            }
        }
    }

    async fn over(&self) -> SandboxError {
        let over = self.calls().over.clone();
        match over.and_then(|over| over.told()) {
            Some(error) => error,
            None => SandboxError::Ended(describe(&self.ended).await),
        }
    }

    /// SIGKILL to the first process and, on another thread, to all others.
    fn signal(&self) {
        let swept = self.killed.swap(true, Ordering::SeqCst);
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        // Who is held still cannot die. This is a write to a file of the kernel, which does not wait.
        if let Some(freezer) = &self.sweep.group
            && self.paused.try_lock().map_or(true, |paused| *paused)
        {
            let _ = freezer.tell(false);
        }
        // The kernel ends the others too, but later.
        if !swept && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let sweep = self.sweep.clone();
            drop(runtime.spawn_blocking(move || sweep.run()));
        }
    }

    fn limit(&self, limit: &'static str, value: String) {
        self.calls().over.get_or_insert(Over::Limit(limit, value));
        self.signal();
    }
}

/// The end, waited for a moment: the socket closes before the launcher has said how.
async fn describe(ended: &watch::Receiver<Option<SandboxEnd>>) -> String {
    let mut ended = ended.clone();
    let _ = tokio::time::timeout(Duration::from_secs(2), ended.wait_for(Option::is_some)).await;
    end_now(&ended)
}

fn end_now(ended: &watch::Receiver<Option<SandboxEnd>>) -> String {
    ended
        .borrow()
        .as_ref()
        .map_or_else(|| "its socket closed".to_owned(), ToString::to_string)
}

async fn read_answers(inner: std::sync::Weak<Inner>, mut reader: OwnedReadHalf, mut bytes: Vec<u8>, most: Option<u64>) {
    let mut answered = 0_u64;
    let over = loop {
        match FromHand::decode(&bytes) {
            Ok(Some((FromHand::Answer(id, body), taken))) => {
                bytes.drain(..taken);
                let Some(inner) = inner.upgrade() else { return };
                answered = answered.saturating_add(taken as u64);
                if let Some(most) = most.filter(|most| answered > *most) {
                    break Over::Limit("total_output_bytes", format!("{most} bytes"));
                }
                // An answer to a call that was given up is dropped.
                if let Some(waiting) = inner.calls().waiting.remove(&id) {
                    let _ = waiting.send(body);
                }
                inner.progress.send_replace(());
                continue;
            }
            Ok(Some((FromHand::Ready | FromHand::Failed(_), _))) => break Over::BadFrame("a second start".to_owned()),
            Ok(None) => {}
            Err(error) => break Over::BadFrame(error.to_string()),
        }
        match reader.read_buf(&mut bytes).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => break Over::Closed,
        }
    };
    if let Some(inner) = inner.upgrade() {
        inner.signal();
        let mut calls = inner.calls();
        calls.over.get_or_insert(over);
        calls.waiting.clear();
        drop(calls);
        inner.progress.send_replace(());
    }
}

/// Kills a sandbox that nobody holds: one that did not come to stand, or whose run was given up.
pub(crate) struct KillOnDrop(Option<OwnedFd>);

impl KillOnDrop {
    pub(crate) fn new(pidfd: OwnedFd) -> Self {
        Self(Some(pidfd))
    }

    fn keep(mut self) -> Result<OwnedFd, SandboxError> {
        self.0
            .take()
            .ok_or_else(|| SandboxError::Ended("it has no process".to_owned()))
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(pidfd) = &self.0 {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

/// Tells the hand when nobody waits for a call any more.
struct CancelOnDrop<'a> {
    inner: &'a Arc<Inner>,
    id: Option<u64>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        self.inner.calls().waiting.remove(&id);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let inner = Arc::clone(self.inner);
            runtime.spawn(async move {
                let _ = inner.send(&ToHand::Cancel(id).encode()).await;
            });
        }
    }
}
