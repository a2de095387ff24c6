//! Results on their way out: collected when a turn has ended and at the end, looked at, and handed to the server.
//!
//! A file is first copied into the worker's own folder, so that what was looked at is what is sent, whatever the session
//! writes meanwhile. What is kept back is told to the server with the reason. What cannot be sent, because the server is
//! away, stays in that folder and is sent later.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use outwork_client::{Client, ClientError, Upload};
use outwork_egress::secret::{Fit, Limits, SecretSet};
use outwork_ledger::Hash;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::process::Command;

use super::error::BoundaryError;
use super::journal::Journal;
use super::options::OutputOptions;
use super::session::Boundary;
use crate::outputs::{OutputFile, collect};
use crate::worker::backoff;
use crate::worker::error::WorkerError;
use crate::worker::item::make_folder;

/// How long the scan command may look at one file.
const SCAN: Duration = Duration::from_secs(300);
/// What of its words is passed on.
const SAID: usize = 300;
const PIECE: usize = 256 << 10;
const FIRST_WAIT: Duration = Duration::from_secs(2);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The results of one session.
pub(crate) struct Outputs {
    folder: PathBuf,
    spool: PathBuf,
    options: OutputOptions,
    allowed: Option<GlobSet>,
    /// What was dealt with, by path. One pass at a time.
    seen: tokio::sync::Mutex<HashMap<String, Seen>>,
}

/// What a file was when it was dealt with.
#[derive(Clone, PartialEq)]
struct Seen {
    size: u64,
    inode: u64,
    changed: (i64, i64),
    reason: String,
}

/// Something for the server, as it lies in the spool.
#[derive(Serialize, Deserialize)]
struct Entry {
    path: String,
    sha256: Option<String>,
    size: Option<u64>,
    /// Why it is kept back, if it is.
    refused: Option<String>,
}

/// Refuses patterns that are none.
pub(crate) fn check(options: &OutputOptions) -> Result<(), WorkerError> {
    globs(options).map(drop).map_err(|reason| WorkerError::Option {
        what: "outputs.allowed",
        reason,
    })
}

fn globs(options: &OutputOptions) -> Result<Option<GlobSet>, String> {
    if options.allowed.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    for pattern in &options.allowed {
        // `*.csv` fits in every folder, `reports/*.csv` in that one.
        let glob = GlobBuilder::new(pattern)
            .literal_separator(pattern.contains('/'))
            .build()
            .map_err(|error| error.to_string())?;
        set.add(glob);
    }
    set.build().map(Some).map_err(|error| error.to_string())
}

impl Outputs {
    /// `folder` is the worker's own one for the session.
    pub fn new(folder: &Path, options: &OutputOptions) -> Result<Self, BoundaryError> {
        let (outputs, spool) = (folder.join("outputs"), folder.join("spool"));
        for path in [&outputs, &spool] {
            make_folder(path).map_err(BoundaryError::folder(path))?;
        }
        Ok(Self {
            folder: outputs,
            spool,
            allowed: globs(options).map_err(BoundaryError::Unreadable)?,
            options: options.clone(),
            seen: tokio::sync::Mutex::default(),
        })
    }

    /// The folder that sandboxes write to.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether everything has been sent.
    pub fn is_sent(&self) -> bool {
        entries(&self.spool).is_empty()
    }

    /// Collects what is new and sends it, and what was kept from before.
    pub async fn pass(&self, boundary: &Boundary) {
        let mut seen = self.seen.lock().await;
        if let Err(error) = self.gather(boundary, &mut seen).await {
            tracing::error!(session = boundary.session, %error, "results could not be collected");
        }
        drop(seen);
        if let Err(error) = send_all(&self.spool, &boundary.client, &boundary.session, &boundary.journal).await {
            tracing::warn!(
                session = boundary.session, %error,
                "results could not be sent; they are kept, and sent as soon as the server takes them"
            );
            self.send_later(boundary);
        }
    }

    async fn gather(&self, boundary: &Boundary, seen: &mut HashMap<String, Seen>) -> Result<(), BoundaryError> {
        let failed = BoundaryError::folder(&self.folder);
        let (folder, limits) = (self.folder.clone(), self.options.limits.clone());
        let collected = tokio::task::spawn_blocking(move || collect(&folder, &limits)).await;
        let collected = collected
            .map_err(std::io::Error::other)
            .and_then(|collected| collected.map_err(std::io::Error::other))
            .map_err(failed)?;
        for left in collected.left_out {
            let news = Seen {
                size: 0,
                inode: 0,
                changed: (0, 0),
                reason: left.reason.clone(),
            };
            if seen.get(&left.path) != Some(&news) {
                boundary
                    .journal
                    .file_kept_back(&left.path, None, "limits", &left.reason)
                    .await;
                self.put(&refusal(&left.path, None, left.reason))?;
                seen.insert(left.path, news);
            }
        }
        for file in collected.files {
            let path = file.path.clone();
            let Some(is) = stat(&file) else { continue };
            if seen.get(&path) == Some(&is) {
                continue;
            }
            self.take(boundary, file).await?;
            seen.insert(path, is);
        }
        Ok(())
    }

    /// Copies a file, looks at it, and puts it into the spool.
    async fn take(&self, boundary: &Boundary, file: OutputFile) -> Result<(), BoundaryError> {
        let path = file.path.clone();
        if self.allowed.as_ref().is_some_and(|allowed| !allowed.is_match(&path)) {
            let reason = "no pattern of the worker's outputs.allowed fits its path";
            boundary
                .journal
                .file_kept_back(&path, None, "outputs.allowed", reason)
                .await;
            return self.put(&refusal(&path, Some(file.size), reason.to_owned()));
        }
        let failed = || BoundaryError::folder(&self.spool);
        let (spool, secrets) = (self.spool.clone(), boundary.secrets());
        let copied = tokio::task::spawn_blocking(move || copy(file, &spool, &secrets)).await;
        let copied = copied
            .map_err(std::io::Error::other)
            .and_then(|copied| copied)
            .map_err(failed())?;
        let hash = Hash::from_bytes(copied.sha256);
        let refused = match &copied.secret {
            Some(name) => Some(("secrets", format!("it contains the value of the credential {name}"))),
            None => self.scan(&copied, &path).await.map(|reason| ("scan", reason)),
        };
        if let Some((rule, reason)) = refused {
            boundary.journal.file_kept_back(&path, Some(hash), rule, &reason).await;
            let mut entry = refusal(&path, Some(copied.size), reason);
            entry.sha256 = Some(hash.to_string());
            // What it holds stays with the session.
            return self.put(&entry);
        }
        boundary.journal.file_out(&path, hash).await?;
        let entry = Entry {
            path,
            sha256: Some(hash.to_string()),
            size: Some(copied.size),
            refused: None,
        };
        // The data first: an entry that is there is whole.
        let name = copied.data.path().file_name().map(PathBuf::from).unwrap_or_default();
        copied.data.keep().map_err(|error| error.error).map_err(failed())?;
        write_entry(&self.spool, &name.with_extension("json"), &entry).map_err(failed())
    }

    /// Asks the owner's command. Why not, if it does not agree.
    async fn scan(&self, copied: &Copied, path: &str) -> Option<String> {
        let line = self.options.scan_command.as_ref()?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", line, "sh"])
            .arg(copied.data.path())
            .env("OUTWORK_OUTPUT_PATH", path)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let running = match command.spawn() {
            Err(error) => return Some(format!("the scan could not be run: {error}")),
            Ok(running) => running,
        };
        // The shell's own children must not outlive it when it is not waited for any more.
        let group = Group::of(&running);
        let output = match tokio::time::timeout(SCAN, running.wait_with_output()).await {
            Err(_) => return Some(format!("the scan took longer than {SCAN:?}")),
            Ok(Err(error)) => return Some(format!("the scan could not be run: {error}")),
            Ok(Ok(output)) => output,
        };
        group.has_ended();
        if output.status.success() {
            return None;
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let first: String = said
            .lines()
            .next()
            .unwrap_or_default()
            .trim()
            .chars()
            .take(SAID)
            .collect();
        Some(match first.as_str() {
            "" => format!("the scan refused it ({})", output.status),
            first => format!("the scan refused it ({}): {first}", output.status),
        })
    }

    fn put(&self, entry: &Entry) -> Result<(), BoundaryError> {
        let name = tempfile::Builder::new()
            .prefix("refused-")
            .suffix(".name")
            .tempfile_in(&self.spool);
        let failed = || BoundaryError::folder(&self.spool);
        let name = name.map_err(failed())?;
        let name = name.path().file_name().map(PathBuf::from).unwrap_or_default();
        write_entry(&self.spool, &name.with_extension("json"), entry).map_err(failed())
    }

    /// Tries again until the server takes everything, or takes nothing any more.
    fn send_later(&self, boundary: &Boundary) {
        let (spool, client) = (self.spool.clone(), boundary.client.clone());
        let (session, journal) = (boundary.session.clone(), boundary.journal.clone());
        boundary.machine.tasks.spawn(async move {
            for attempt in 1.. {
                tokio::time::sleep(backoff::half_to_full(backoff::doubling(
                    FIRST_WAIT,
                    attempt,
                    LONGEST_WAIT,
                )))
                .await;
                match send_all(&spool, &client, &session, &journal).await {
                    Ok(()) => return,
                    Err(error) if error.is_permanent() => {
                        tracing::warn!(session, %error, "results are kept until this worker serves the session again");
                        return;
                    }
                    Err(error) => tracing::debug!(session, attempt, %error, "results could not be sent yet"),
                }
            }
        });
    }
}

/// The processes of a command, which are killed when this is dropped.
struct Group(Option<rustix::process::Pid>);

impl Group {
    fn of(leader: &tokio::process::Child) -> Self {
        let pid = leader.id().and_then(|id| i32::try_from(id).ok());
        Self(pid.and_then(rustix::process::Pid::from_raw))
    }

    /// Its leader is gone, so its number may soon be another's.
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

fn refusal(path: &str, size: Option<u64>, reason: String) -> Entry {
    Entry {
        path: path.to_owned(),
        sha256: None,
        size,
        refused: Some(reason),
    }
}

fn stat(file: &OutputFile) -> Option<Seen> {
    let found = file.metadata().ok()?;
    Some(Seen {
        size: found.len(),
        inode: found.ino(),
        changed: (found.ctime(), found.ctime_nsec()),
        reason: String::new(),
    })
}

/// A copy, and what was seen while it was made.
struct Copied {
    data: tempfile::NamedTempFile,
    sha256: [u8; 32],
    size: u64,
    /// The first credential whose value is in it.
    secret: Option<String>,
}

fn copy(file: OutputFile, spool: &Path, secrets: &SecretSet) -> std::io::Result<Copied> {
    let (size, path) = (file.size, file.path.clone());
    let mut from = file.into_file().take(size + 1);
    let mut data = tempfile::Builder::new()
        .prefix("output-")
        .suffix(".data")
        .tempfile_in(spool)?;
    let mut scrubber = secrets
        .scrubber("", Fit::Exact, &Limits::default())
        .map_err(std::io::Error::other)?;
    let (mut digest, mut copied) = (Sha256::new(), 0_u64);
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece)?;
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        copied += bytes.len() as u64;
        digest.update(bytes);
        data.write_all(bytes)?;
        scrubber.push(bytes).map_err(std::io::Error::other)?;
    }
    scrubber.finish().map_err(std::io::Error::other)?;
    if copied > size {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            format!("{path} grew while it was collected"),
        ));
    }
    data.as_file().sync_all()?;
    Ok(Copied {
        data,
        sha256: digest.finalize().into(),
        size: copied,
        secret: scrubber.names().into_iter().next(),
    })
}

fn write_entry(spool: &Path, name: &Path, entry: &Entry) -> std::io::Result<()> {
    let mut part = tempfile::NamedTempFile::new_in(spool)?;
    serde_json::to_writer(&mut part, entry)?;
    part.as_file().sync_all()?;
    part.persist(spool.join(name)).map_err(|error| error.error)?;
    File::open(spool)?.sync_all()
}

/// Entries of a spool, the oldest first.
fn entries(spool: &Path) -> Vec<PathBuf> {
    let listing = std::fs::read_dir(spool).into_iter().flatten().flatten();
    let mut found: Vec<_> = listing
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}

/// Sends everything in a spool; ends at the first that the server cannot take now.
async fn send_all(spool: &Path, client: &Client, session: &str, journal: &Journal) -> Result<(), ClientError> {
    for at in entries(spool) {
        let data = at.with_extension("data");
        // Another task may have sent it meanwhile.
        let Ok(text) = std::fs::read(&at) else { continue };
        let Ok(entry) = serde_json::from_slice::<Entry>(&text) else {
            tracing::error!(entry = %at.display(), "an entry of the results cannot be read; it is left there");
            continue;
        };
        match send(&entry, &data, client, session, journal).await {
            Ok(()) => {}
            // It would be refused again.
            Err(error) if error.is_permanent() && !matches!(error.status(), Some(401 | 403 | 404)) => {
                tracing::error!(session, path = entry.path, %error, "the server does not take a result");
                journal
                    .file_kept_back(&entry.path, None, "server", "the server did not take it")
                    .await;
            }
            Err(error) => return Err(error),
        }
        for path in [&at, &data] {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::error!(path = %path.display(), %error, "what was sent cannot be removed");
            }
        }
    }
    Ok(())
}

async fn send(
    entry: &Entry,
    data: &Path,
    client: &Client,
    session: &str,
    journal: &Journal,
) -> Result<(), ClientError> {
    let files = client.session_files(session);
    if let Some(reason) = &entry.refused {
        let told = files.refuse_output(&entry.path, reason, entry.size, entry.sha256.as_deref());
        return told.await.map(drop);
    }
    let sha256 = entry.sha256.as_deref().unwrap_or_default();
    let name = entry.path.rsplit('/').next().unwrap_or(&entry.path);
    let upload = Upload::file(data).await?.named(name);
    let answer = files.add_output(&entry.path, sha256, upload).await?;
    let place = answer["file_id"]
        .as_str()
        .or(answer["id"].as_str())
        .unwrap_or("the server");
    if let Ok(hash) = sha256.parse() {
        journal.file_is_out(&entry.path, hash, place).await;
    }
    tracing::info!(
        session,
        path = entry.path,
        size = entry.size,
        place,
        "a result was handed over"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_paths() {
        let options = |allowed: &[&str]| OutputOptions {
            allowed: allowed.iter().map(|pattern| (*pattern).to_owned()).collect(),
            ..OutputOptions::default()
        };
        let fits = |pattern: &str, path: &str| globs(&options(&[pattern])).unwrap().unwrap().is_match(path);
        for (pattern, path, expected) in [
            ("*.csv", "a.csv", true),
            ("*.csv", "deep/a.csv", true),
            ("*.csv", "a.csv.exe", false),
            ("reports/*", "reports/a", true),
            ("reports/*", "reports/b/a", false),
            ("reports/**", "reports/b/a", true),
            ("reports/**", "other/a", false),
        ] {
            assert_eq!(fits(pattern, path), expected, "{pattern} {path}");
        }
        assert!(globs(&options(&[])).unwrap().is_none());
        assert!(check(&options(&["["])).is_err());
    }
}
