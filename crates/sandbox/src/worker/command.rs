//! `on-work`: another program serves the item.
//!
//! It gets the item's ids, the environment key and the address in its environment and the whole item, with its
//! secret, as JSON on standard input. Its exit releases the item, so it must not leave the session to a process in
//! the background.
//!
//! Of the credentials in the worker's own environment none is handed down: keys of the API and of the model are not
//! needed to serve an item. Variables of other programs are left alone.

use std::ffi::OsStr;
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
    /// The environment key, if the program may have it.
    pub key: Option<&'a SecretString>,
    pub session_id: &'a str,
}

/// Runs the program until it exits. When told to drain it is sent SIGTERM, and SIGKILL if it does not end.
pub(crate) async fn serve(
    context: CommandContext<'_>,
    item: &PolledWork,
    drain: &CancellationToken,
) -> std::io::Result<ExitStatus> {
    let mut command = Command::new("/bin/sh");
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_kept_back(name)) {
        command.env_remove(name);
    }
    if let Some(key) = context.key {
        command.env("ANTHROPIC_ENVIRONMENT_KEY", key.expose_secret());
    }
    let mut child = command
        .args(["-c", context.command])
        .env("ANTHROPIC_SESSION_ID", context.session_id)
        .env("ANTHROPIC_WORK_ID", &item.id)
        .env("ANTHROPIC_ENVIRONMENT_ID", &item.environment_id)
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

/// True for a variable of the worker that its program does not get: credentials, and what would be read in place of
/// the address and the environment that the program is told.
fn is_kept_back(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let Some(rest) = name
        .strip_prefix("OUTWORK_")
        .or_else(|| name.strip_prefix("ANTHROPIC_"))
    else {
        return false;
    };
    let is_credential = rest.split('_').any(|word| {
        // Headers that a program is to send may carry an authorization.
        ["KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL", "AUTH", "HEADER"]
            .into_iter()
            .any(|w| word == w || word.strip_suffix('S') == Some(w))
    });
    is_credential || matches!(&*name, "OUTWORK_BASE_URL" | "OUTWORK_ENVIRONMENT_ID")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_kept_back_and_other_variables_are_not() {
        for name in [
            "OUTWORK_API_KEY",
            "OUTWORK_MODEL_API_KEY",
            "OUTWORK_ENVIRONMENT_KEY",
            "OUTWORK_TLS_KEY",
            "OUTWORK_BASE_URL",
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_AUTH_TOKEN",
            "ANTHROPIC_WORK_SECRET",
            "ANTHROPIC_ENVIRONMENT_KEY",
            "ANTHROPIC_CUSTOM_HEADERS",
        ] {
            assert!(is_kept_back(OsStr::new(name)), "{name}");
        }
        for name in [
            "OUTWORK_CA_FILE",
            "OUTWORK_LOG_LEVEL",
            "ANTHROPIC_MODEL",
            "PATH",
            "OTHER_API_KEY",
            "OUTWORK_KEYBOARD",
        ] {
            assert!(!is_kept_back(OsStr::new(name)), "{name}");
        }
    }
}
