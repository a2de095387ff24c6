//! What workers hand over for the evidence of a session: the bundle of their own ledger's records, and the policies and
//! images that those name.
//!
//! A bundle is verified before it is kept, and a later one of the same ledger replaces it only if it has no less. All
//! of it lies in a folder for each session, each file whole or not there, and goes with the session.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use outwork_ledger::evidence::{Document, DocumentKind, LedgerAt, Source};
use outwork_ledger::{BundleReport, Expect, Filter, Hash, verify_bundle};
use outwork_wire::id::{SessionId, fresh_secret};

use super::Evidence;
use crate::error::{ApiError, ErrorKind};

/// The most files of one session.
const MAX_FILES: usize = 256;
/// The largest bundle, in bytes.
pub(crate) const MAX_BUNDLE: u64 = 256 << 20;
/// The largest document, in bytes.
pub(crate) const MAX_DOCUMENT: u64 = 1 << 20;
/// The beginning of the names of files that are not finished.
const UNFINISHED: &str = ".tmp-";

/// What a worker hands over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkerPart {
    /// A bundle of records of the session.
    Records,
    /// A policy that records name.
    Policy,
    /// The manifest of an image that records name.
    Image,
}

impl WorkerPart {
    /// The part of that name.
    pub(crate) fn of(name: &str) -> Option<Self> {
        [Self::Records, Self::Policy, Self::Image]
            .into_iter()
            .find(|part| part.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Policy => "policy",
            Self::Image => "image",
        }
    }

    /// The most bytes.
    pub(crate) fn limit(self) -> u64 {
        match self {
            Self::Records => MAX_BUNDLE,
            Self::Policy | Self::Image => MAX_DOCUMENT,
        }
    }
}

/// What was kept.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) name: String,
    pub(crate) records: u64,
    pub(crate) sha256: Hash,
}

/// A file that takes what a worker sends; it goes when it is dropped unless it was kept.
pub(crate) struct Unfinished {
    path: PathBuf,
    pub(crate) file: File,
}

impl Unfinished {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After it was kept there is none of this name.
        drop(fs::remove_file(&self.path));
    }
}

/// Makes the folder and removes what an earlier process did not finish.
pub(super) fn prepare(folder: &Path) -> io::Result<()> {
    make(folder)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn make(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

impl Evidence {
    /// A file to write to.
    pub(crate) fn unfinished(&self) -> io::Result<Unfinished> {
        let path = self
            .folder
            .join(format!("{UNFINISHED}{}", fresh_secret(16, &mut rand::rng())));
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Unfinished { path, file })
    }

    /// Keeps what a worker sent for a session. Blocks.
    pub(crate) fn keep(&self, session: &SessionId, part: WorkerPart, sent: Unfinished) -> Result<Received, ApiError> {
        let fault = |error: io::Error| unkept(&error);
        let sha256 = hash_of(&sent.path).map_err(fault)?;
        let (name, records) = match part {
            WorkerPart::Records => {
                let report = verified(&sent.path, session)?;
                let ledger = report.ledger.clone().unwrap_or_default();
                let name = format!("records-{ledger}");
                self.not_less(session, &name, &report)?;
                (name, report.records)
            }
            WorkerPart::Policy | WorkerPart::Image => (format!("{}-{sha256}", part.name()), 0),
        };
        let folder = self.folder.join(session.as_str());
        make(&folder).map_err(fault)?;
        let place = folder.join(&name);
        if !place.exists() && fs::read_dir(&folder).map_err(fault)?.count() >= MAX_FILES {
            return Err(ApiError::invalid(format!(
                "a session has at most {MAX_FILES} bundles and documents of its workers"
            )));
        }
        sent.file.sync_all().map_err(fault)?;
        fs::rename(&sent.path, &place).map_err(fault)?;
        File::open(&folder).and_then(|folder| folder.sync_all()).map_err(fault)?;
        Ok(Received { name, records, sha256 })
    }

    /// A worker takes nothing back.
    fn not_less(&self, session: &SessionId, name: &str, report: &BundleReport) -> Result<(), ApiError> {
        let place = self.folder.join(session.as_str()).join(name);
        if !place.exists() {
            return Ok(());
        }
        let before = verified(&place, session)?;
        let reach = |report: &BundleReport| (report.records, report.last.map_or(0, |last| last.sequence));
        let ((records, last), (had, reached)) = (reach(report), reach(&before));
        if records >= had && last >= reached {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorKind::Conflict,
            format!(
                "this bundle has {records} records up to line {last} of its ledger; one with {had} up to line {reached} is \
                 here already and stays"
            ),
        ))
    }

    /// What workers handed over for a session: ledgers and documents. Blocks.
    pub(super) fn of_workers(&self, session: &SessionId) -> io::Result<(Vec<Source<'static>>, Vec<Document>)> {
        let (mut sources, mut documents) = (Vec::new(), Vec::new());
        let entries = match fs::read_dir(self.folder.join(session.as_str())) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((sources, documents)),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some((part, rest)) = name.split_once('-') else {
                continue;
            };
            let kind = match WorkerPart::of(part) {
                Some(WorkerPart::Records) => {
                    sources.push(Source {
                        name: format!("worker-{rest}"),
                        from: LedgerAt::Bundle(Box::new(BufReader::new(File::open(entry.path())?))),
                    });
                    continue;
                }
                Some(WorkerPart::Policy) => DocumentKind::Policy,
                Some(WorkerPart::Image) => DocumentKind::Image,
                None => continue,
            };
            let bytes = fs::read(entry.path())?;
            documents.push(Document { name, kind, bytes });
        }
        Ok((sources, documents))
    }

    /// Removes what workers handed over for a session that is deleted. Blocks.
    pub(crate) fn forget(&self, session: &SessionId) {
        match fs::remove_dir_all(self.folder.join(session.as_str())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%session, %error, "what workers handed over for a deleted session was not removed");
            }
            _ => {}
        }
    }
}

fn hash_of(path: &Path) -> io::Result<Hash> {
    use sha2::{Digest, Sha256};
    let mut file = File::open(path)?;
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(Hash::from_bytes(hasher.finalize().into())),
            read => hasher.update(&piece[..read]),
        }
    }
}

/// The report of a sound bundle about the session.
fn verified(path: &Path, session: &SessionId) -> Result<BundleReport, ApiError> {
    let file = File::open(path).map_err(|error| unkept(&error))?;
    let report = verify_bundle(BufReader::new(file), "bundle", &Expect::any_key(), |_, _| {})
        .and_then(BundleReport::sound)
        .map_err(|error| ApiError::invalid(format!("the bundle does not hold: {error}")))?;
    if report.filter.as_ref() != Some(&Filter::session(session.as_str())) {
        return Err(ApiError::invalid(format!(
            "the bundle is not about the session `{session}` and nothing else"
        )));
    }
    let is_plain = |id: &String| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric());
    if !report.ledger.as_ref().is_some_and(is_plain) {
        return Err(ApiError::invalid("the bundle does not say whose it is"));
    }
    Ok(report)
}

pub(super) fn unkept(error: &io::Error) -> ApiError {
    ApiError {
        cause: Some(anyhow::anyhow!("{error}")),
        ..ApiError::new(
            ErrorKind::Unavailable,
            "the server cannot keep or read evidence at the moment and has kept nothing of this request; try again",
        )
    }
}
