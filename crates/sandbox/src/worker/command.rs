//! `on-work`: another program serves the item.
//!
//! It gets the item's ids, the environment key and the address in its environment and the whole item, with its
//! secret, as JSON on standard input. Its exit releases the item, so it must not leave the session to a process in
//! the background. The API key of the worker's own environment is not handed down.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use outwork_client::PolledWork;
use rustix::process::{Pid, Signal, kill_process_group};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// The exit code by which a program says that the item's lease was lost: the item is not stopped then, since it may
/// be another worker's.
pub const EXIT_LEASE_LOST: i32 = 75;

/// How long a program may take to end after SIGTERM.
const ENDING: Duration = Duration::from_secs(30);

/// What the program is told besides the item.
pub(crate) struct CommandContext<'a> {
    pub command: &'a str,
    pub base_url: &'a str,
    pub key: &'a SecretString,
    pub session_id: &'a str,
}

/// Runs the program until it exits. When told to drain it is sent SIGTERM, and SIGKILL if it does not end.
pub(crate) async fn serve(
    context: CommandContext<'_>,
    item: &PolledWork,
    drain: &CancellationToken,
) -> std::io::Result<ExitStatus> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", context.command])
        .env_remove("ANTHROPIC_API_KEY")
        .env_remove("ANTHROPIC_WORK_SECRET")
        .env("ANTHROPIC_SESSION_ID", context.session_id)
        .env("ANTHROPIC_WORK_ID", &item.id)
        .env("ANTHROPIC_ENVIRONMENT_ID", &item.environment_id)
        .env("ANTHROPIC_ENVIRONMENT_KEY", context.key.expose_secret())
        .env("ANTHROPIC_BASE_URL", context.base_url)
        .stdin(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let group = Group::of(&child);
    if let Some(mut stdin) = child.stdin.take() {
        let mut json = Value::Object(item.raw.clone()).to_string().into_bytes();
        json.push(b'\n');
        // A program that does not read it closes the pipe; that is its choice.
        tokio::spawn(async move {
            let _ = stdin.write_all(&json).await;
        });
    }
    let status = tokio::select! {
        status = child.wait() => status?,
        () = drain.cancelled() => {
            group.signal(Signal::TERM);
            match tokio::time::timeout(ENDING, child.wait()).await {
                Ok(status) => status?,
                Err(_) => {
                    group.signal(Signal::KILL);
                    child.wait().await?
                }
            }
        }
    };
    group.forget();
    Ok(status)
}

/// The process group of the program: killed if it is dropped before the program has ended.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.0 {
            // It may have ended by itself.
            let _ = kill_process_group(pid, signal);
        }
    }

    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}
