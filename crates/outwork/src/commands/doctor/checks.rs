//! The checks of `doctor`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use outwork_client::{Client, Credential, Options, Query, RetryPolicy, Timeouts};
use outwork_sandbox::{Need, Step, StepState};

use super::Finding;
use crate::cli::task::Connection;
use crate::config::{default_data_dir, process_environment};
use crate::connection;

/// Descriptors below which a server soon runs out: every event stream is one.
const FEW_DESCRIPTORS: u64 = 4096;
const LITTLE_MEMORY: u64 = 512 << 20;
const LITTLE_DISK: u64 = 1 << 30;
/// No check of a server takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// All checks, by group.
pub(super) async fn all(connection: &Connection) -> Vec<(&'static str, Vec<Finding>)> {
    let sandbox = tokio::task::spawn_blocking(outwork_sandbox::probe).await;
    let sandbox = match sandbox {
        Ok(report) => report.steps.iter().map(step).collect(),
        Err(error) => vec![Finding::fail("probe", error.to_string(), "report this as a defect")],
    };
    vec![
        ("This machine", vec![kernel(), descriptors(), memory()]),
        ("Sandboxes", sandbox),
        ("Folders", folders(connection)),
        ("Servers", vec![model().await, plane(connection).await]),
    ]
}

fn step(step: &Step) -> Finding {
    match (&step.state, step.need) {
        (StepState::Available(detail), _) => Finding::ok(&step.name, detail),
        (StepState::Missing { reason, mend }, Need::Required) => Finding::fail(&step.name, reason, mend),
        (StepState::Missing { reason, mend }, Need::Optional) => Finding::warn(&step.name, reason, mend),
    }
}

fn kernel() -> Finding {
    let name = rustix::system::uname();
    let text = format!(
        "{} {} {}",
        name.sysname().to_string_lossy(),
        name.release().to_string_lossy(),
        name.machine().to_string_lossy()
    );
    Finding::ok("kernel", text)
}

fn descriptors() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let (Some(soft), hard) = (limit.current, limit.maximum) else {
        return Finding::ok("open files", "no limit");
    };
    let hard = hard.map_or("no limit".to_owned(), |hard| hard.to_string());
    let detail = format!("{soft} (may be raised to {hard})");
    if soft < FEW_DESCRIPTORS {
        let mend = "each event stream takes one: `ulimit -n 65536`, or LimitNOFILE=65536 in the systemd unit";
        Finding::warn("open files", detail, mend)
    } else {
        Finding::ok("open files", detail)
    }
}

fn memory() -> Finding {
    let free = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available(&text));
    match free {
        None => Finding::warn("memory", "/proc/meminfo does not say how much is free", "mount /proc"),
        Some(free) if free < LITTLE_MEMORY => Finding::warn(
            "memory",
            format!("{} free", ByteSize(free)),
            "free some, or give sandboxes less with --memory-limit and --concurrency",
        ),
        Some(free) => Finding::ok("memory", format!("{} free", ByteSize(free))),
    }
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

fn folders(connection: &Connection) -> Vec<Finding> {
    let data = match &connection.data_dir {
        Some(folder) => Ok(folder.clone()),
        None => default_data_dir(&process_environment),
    };
    let data = match data {
        Ok(folder) => folder_finding("data", &folder, "name another with --data-dir"),
        Err(error) => Finding::fail("data", format!("{error:#}"), "give --data-dir"),
    };
    vec![
        data,
        folder_finding("temporary", &std::env::temp_dir(), "name another with TMPDIR"),
    ]
}

/// Whether a folder, or the nearest one above it that is there, can be written.
fn folder_finding(what: &str, folder: &Path, mend: &str) -> Finding {
    let there = nearest(folder);
    let made = if there == folder {
        String::new()
    } else {
        " (made at the first start)".to_owned()
    };
    // A file that is made and gone again: permission bits do not know of read-only mounts and quotas.
    if let Err(error) = tempfile::Builder::new().prefix(".outwork-doctor-").tempfile_in(&there) {
        let owner = "let the user that runs outwork own it, or";
        return Finding::fail(what, format!("{}: {error}", there.display()), format!("{owner} {mend}"));
    }
    match rustix::fs::statvfs(&there) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let detail = format!("{}{made}, {} free", folder.display(), ByteSize(free));
            if free < LITTLE_DISK {
                Finding::warn(what, detail, format!("free some space, or {mend}"))
            } else {
                Finding::ok(what, detail)
            }
        }
        Err(error) => Finding::warn(
            what,
            format!("{}: free space is not known: {error}", folder.display()),
            mend,
        ),
    }
}

fn nearest(folder: &Path) -> PathBuf {
    let mut there = folder;
    while !there.is_dir() {
        match there.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => there = parent,
            _ => return PathBuf::from("."),
        }
    }
    there.to_owned()
}

async fn model() -> Finding {
    let what = "model provider";
    let (base_url, key) = match (
        process_environment("OUTWORK_MODEL_BASE_URL"),
        process_environment("OUTWORK_MODEL_API_KEY"),
    ) {
        (None, None) => {
            return Finding::skip(what, "none set (OUTWORK_MODEL_BASE_URL and OUTWORK_MODEL_API_KEY)");
        }
        (Some(base_url), Some(key)) => (base_url, key),
        (Some(_), None) => {
            return Finding::fail(what, "OUTWORK_MODEL_API_KEY is not set", "set it to the provider's key");
        }
        (None, Some(_)) => {
            let mend = "set it, for example to https://api.anthropic.com";
            return Finding::fail(what, "OUTWORK_MODEL_BASE_URL is not set", mend);
        }
    };
    let client = match client(&base_url, Credential::api_key(key)) {
        Ok(client) => client,
        Err(error) => return Finding::fail(what, error.to_string(), "correct OUTWORK_MODEL_BASE_URL"),
    };
    match client.models().list(Query::new().with("limit", 1)).next_page().await {
        Ok(_) => Finding::ok(what, format!("{base_url} answers and takes the key")),
        Err(error) => match error.status() {
            Some(401 | 403) => Finding::fail(
                what,
                format!("{base_url} refuses the key"),
                "correct OUTWORK_MODEL_API_KEY",
            ),
            // Many servers of the Messages API have no list of models: that they answer is all that can be known.
            Some(404 | 405) => Finding::ok(
                what,
                format!("{base_url} answers; it has no list of models to check the key by"),
            ),
            Some(status) if status < 500 => Finding::warn(what, error.to_string(), "check OUTWORK_MODEL_BASE_URL"),
            _ => Finding::fail(what, error.to_string(), "check OUTWORK_MODEL_BASE_URL and the network"),
        },
    }
}

async fn plane(connection: &Connection) -> Finding {
    let what = "outwork server";
    let named = connection.base_url.is_some()
        || ["OUTWORK_BASE_URL", "ANTHROPIC_BASE_URL"]
            .iter()
            .any(|name| process_environment(name).is_some());
    let base_url = match connection::base_url(connection.base_url.as_deref(), &process_environment) {
        Ok(base_url) => base_url,
        Err(error) => return Finding::fail(what, format!("{error:#}"), "correct the address"),
    };
    let target = match connection::target(connection, &process_environment) {
        Ok(target) => target,
        Err(error) if named => return Finding::fail(what, format!("{error:#}"), "set OUTWORK_API_KEY"),
        Err(_) => return Finding::skip(what, format!("none named, and no key for one at {base_url}")),
    };
    let client = match target
        .client()
        .map(|_| client(&base_url, Credential::ApiKey(target.key.clone())))
    {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return Finding::fail(what, error.to_string(), "correct the address or the key"),
        Err(error) => return Finding::fail(what, format!("{error:#}"), "correct the address or the key"),
    };
    match client.agents().list(Query::new().with("limit", 1)).next_page().await {
        Ok(_) => Finding::ok(
            what,
            format!("{base_url} answers and takes the key of {}", target.source),
        ),
        Err(error) if error.is_connect() && !named => {
            Finding::skip(what, format!("none runs at {base_url} (`outwork up` starts one)"))
        }
        Err(error) => match error.status() {
            Some(401 | 403) => Finding::fail(
                what,
                format!("{base_url} refuses the key of {}", target.source),
                "unset the variable that holds another server's key, or set OUTWORK_API_KEY",
            ),
            _ => Finding::fail(
                what,
                error.to_string(),
                "start it with `outwork up`, or correct --base-url",
            ),
        },
    }
}

fn client(base_url: &str, credential: Credential) -> Result<Client, outwork_client::ClientError> {
    let mut options = Options::new(base_url, credential);
    options.retry = RetryPolicy::NONE;
    options.timeouts = Timeouts {
        connect: PATIENCE,
        request: PATIENCE,
        ..Timeouts::default()
    };
    Client::new(options)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn free_memory_is_read() {
        assert_eq!(
            available("MemTotal:  9 kB\nMemAvailable:   2048 kB\n"),
            Some(2048 * 1024)
        );
        assert_eq!(available("MemTotal:  9 kB\n"), None);
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        let finding = folder_finding("data", &folder.path().join("a/b"), "x");
        assert_ne!(finding.state, State::Fail, "{finding:?}");
        assert!(finding.detail.contains("made at the first start"));
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(nearest(&file.join("x")), folder.path());
        assert_eq!(folder_finding("data", Path::new("/proc/1"), "x").state, State::Fail);
    }

    #[test]
    fn a_missing_step_says_how_to_mend_it() {
        let missing = StepState::Missing {
            reason: "r".into(),
            mend: "m".into(),
        };
        let required = step(&Step {
            name: "a".into(),
            need: Need::Required,
            state: missing.clone(),
        });
        assert_eq!((required.state, required.mend.as_deref()), (State::Fail, Some("m")));
        assert_eq!(
            step(&Step {
                name: "a".into(),
                need: Need::Optional,
                state: missing
            })
            .state,
            State::Warn
        );
    }
}
