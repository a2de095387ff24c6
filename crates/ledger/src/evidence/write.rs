//! Writing an evidence bundle. What goes in is verified first: a bundle is never made of what does not hold.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use outwork_wire::Time;
use serde::{Deserialize, Serialize};

use super::check::{DocumentBody, FORMAT, HeaderBody, LedgerBody, SealBody};
use super::envelope::{Embed, MAX_BODY, MAX_LINE, Part, Writer};
use crate::Error;
use crate::bundle::export;
use crate::bundle_check::verify_bundle;
use crate::chain::{Depth, Keys};
use crate::entry::describe;
use crate::expect::Expect;
use crate::filter::Filter;
use crate::hash::Hex;
use crate::key::{KeyId, signer_of};
use crate::ledger::Ledger;
use crate::reader::{LineEnd, read_line_within};
use crate::stub::PlacedKey;
use crate::verify::examine;

/// What goes into an evidence bundle.
pub struct Sources<'a> {
    /// The session.
    pub session: String,
    /// The time of making, which the bundle names.
    pub at: Time,
    /// The ledger whose key seals the bundle. It is one of `ledgers` as well, if it knows of the session.
    pub sealer: LedgerAt<'a>,
    /// The ledgers, each under a name of its own such as `plane`, `worker`, `gateway`.
    pub ledgers: Vec<Source<'a>>,
    /// Policies and other documents, each under a name of its own.
    pub documents: Vec<Document>,
    /// The event log: one JSON object a line.
    pub events: Option<Box<dyn BufRead + 'a>>,
}

/// A ledger under its name.
pub struct Source<'a> {
    /// The name.
    pub name: String,
    /// Where it is.
    pub from: LedgerAt<'a>,
}

/// Where a ledger is.
pub enum LedgerAt<'a> {
    /// Open in this process: what it holds is signed first.
    Open(&'a Ledger),
    /// In a folder, which may be in use: what is not signed yet is left out.
    Folder(PathBuf),
    /// A bundle of the session that [`export`] wrote elsewhere. Cannot seal.
    Bundle(Box<dyn BufRead + 'a>),
}

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: DocumentKind,
    /// Its bytes. The hash of a policy's bytes is what records name as their policy's.
    pub bytes: Vec<u8>,
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentKind {
    /// A policy that decided. Records name its hash.
    Policy,
    /// What an image consists of: a manifest. Records name its hash as the image's digest.
    Image,
    /// Something else.
    Other,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Written {
    /// Records of the session, over all ledgers.
    pub records: u64,
    /// Records that are left out, since no checkpoint covers them yet.
    pub unsigned: u64,
    /// Ledgers that have no record of the session.
    pub without: Vec<String>,
    /// Events.
    pub events: u64,
    /// Lines of the file.
    pub lines: u64,
    /// The id of the key that sealed it. Tell it to whoever verifies, on another way than the file.
    pub key: KeyId,
}

fn failed(error: std::io::Error) -> Error {
    Error::io("write", "the evidence")(error)
}

/// Writes the bundle to `path`, which is replaced only once it is whole. Only its owner may read it.
///
/// # Errors
/// As [`write()`].
pub fn write_file(sources: Sources<'_>, path: impl AsRef<Path>) -> Result<Written, Error> {
    let path = path.as_ref();
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(Error::io("make", &temporary))?;
    let mut out = BufWriter::new(file);
    let done = write(sources, &mut out).and_then(|written| {
        let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        fs::rename(&temporary, path).map_err(Error::io("replace", path))?;
        Ok(written)
    });
    if done.is_err() {
        drop(fs::remove_file(&temporary));
    }
    done
}

/// Writes the bundle. Reads each ledger three times; blocks.
///
/// # Errors
/// [`Error::NoMatch`] if no ledger has a record of the session, [`Error::Damaged`] if one does not hold,
/// [`Error::Key`] if a signing key is not there, [`Error::Evidence`] if a source does not suit.
pub fn write(sources: Sources<'_>, out: impl Write) -> Result<Written, Error> {
    let Sources {
        session,
        at,
        sealer,
        mut ledgers,
        mut documents,
        events,
    } = sources;
    ledgers.sort_by(|a, b| a.name.cmp(&b.name));
    documents.sort_by(|a, b| a.name.cmp(&b.name));
    different("ledgers", ledgers.iter().map(|source| source.name.as_str()))?;
    different("documents", documents.iter().map(|document| document.name.as_str()))?;
    let dir = match &sealer {
        LedgerAt::Open(ledger) => {
            ledger.checkpoint().wait()?;
            ledger.dir().to_owned()
        }
        LedgerAt::Folder(dir) => dir.clone(),
        LedgerAt::Bundle(_) => return Err(Error::Evidence("a bundle has no private key, and cannot seal".into())),
    };
    let keys = keys_of(&dir)?;
    let signer = signer_of(&dir, &keys)?;
    let mut writer = Writer::new(out);
    let header = HeaderBody {
        format: FORMAT,
        at,
        session: session.clone(),
        sealer: PlacedKey::all(&keys),
    };
    add(&mut writer, Part::Header, &header)?;
    let mut written = Written {
        records: 0,
        unsigned: 0,
        without: Vec::new(),
        events: 0,
        lines: 0,
        key: signer.id(),
    };
    for source in ledgers {
        ledger(&mut writer, source, &session, at, &mut written)?;
    }
    if written.records == 0 {
        return Err(Error::NoMatch);
    }
    for document in &documents {
        let body = DocumentBody::of(&document.name, document.kind, &document.bytes);
        add(&mut writer, Part::Document, &body)?;
    }
    if let Some(events) = events {
        written.events = copy_events(&mut writer, events)?;
    }
    let seal = SealBody {
        lines: writer.number,
        hash: writer.hash,
        key: signer.id(),
        signature: Hex(signer.sign(&SealBody::message(writer.number, writer.hash))),
    };
    add(&mut writer, Part::Seal, &seal)?;
    written.lines = writer.number;
    writer.finish().map_err(failed)?;
    Ok(written)
}

fn different<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for name in names {
        if name.is_empty() || name.len() > 256 || name.chars().any(char::is_control) {
            return Err(Error::Evidence(format!(
                "{what} need names of 1 to 256 printable characters"
            )));
        }
        if !seen.insert(name) {
            return Err(Error::Evidence(format!("two {what} have the name `{name}`")));
        }
    }
    Ok(())
}

fn keys_of(dir: &Path) -> Result<Keys, Error> {
    let expect = Expect::any_key();
    let found = examine(dir, &expect, Depth::Hashes, &mut |_, _| {})?;
    match found.fault {
        Some(fault) => Err(fault.into()),
        None => Ok(found.chain.keys),
    }
}

fn id_of(keys: &Keys) -> String {
    keys.iter().next().map(|(_, key)| key.ledger_id()).unwrap_or_default()
}

fn add<W: Write>(writer: &mut Writer<W>, part: Part, body: &impl Serialize) -> Result<(), Error> {
    let bytes = serde_json::to_vec(body).expect("the bodies of a bundle hold nothing that JSON cannot");
    if bytes.len() > MAX_BODY {
        let (is, limit) = (part.name(), MAX_BODY);
        let what = format!("a {is} has {} bytes, and at most {limit} are taken", bytes.len());
        return Err(Error::Evidence(what));
    }
    writer.add(part, &bytes).map_err(failed)
}

fn ledger<W: Write>(
    writer: &mut Writer<W>,
    source: Source<'_>,
    session: &str,
    at: Time,
    written: &mut Written,
) -> Result<(), Error> {
    let Source { name, from } = source;
    let filter = Filter::session(session);
    let mut bytes = Vec::new();
    let (made, id) = match from {
        LedgerAt::Open(ledger) => {
            ledger.checkpoint().wait()?;
            let _one = ledger.inner().redacting.lock().unwrap_or_else(PoisonError::into_inner);
            let id = id_of(&keys_of(ledger.dir())?);
            (export(ledger.dir(), &filter, at, &mut bytes), id)
        }
        LedgerAt::Folder(dir) => {
            let id = id_of(&keys_of(&dir)?);
            (export(&dir, &filter, at, &mut bytes), id)
        }
        LedgerAt::Bundle(mut reader) => {
            reader.read_to_end(&mut bytes).map_err(Error::io("read", &name))?;
            let report = verify_bundle(&*bytes, &name, &Expect::any_key(), |_, _| {})?.sound()?;
            if report.filter.as_ref() != Some(&filter) {
                let what = format!("the bundle `{name}` is about something else than the session `{session}`");
                return Err(Error::Evidence(what));
            }
            written.records += report.records;
            let body = LedgerBody {
                name,
                ledger: report.ledger.unwrap_or_default(),
                lines: true,
            };
            add(writer, Part::Ledger, &body)?;
            return Embed::new(writer, Part::Line).write_all(&bytes).map_err(failed);
        }
    };
    let lines = match made {
        Ok(made) => {
            written.records += made.records;
            written.unsigned += made.unsigned;
            true
        }
        Err(Error::NoMatch) => {
            written.without.push(name.clone());
            false
        }
        Err(error) => return Err(error),
    };
    let body = LedgerBody {
        name,
        ledger: id,
        lines,
    };
    add(writer, Part::Ledger, &body)?;
    if lines {
        Embed::new(writer, Part::Line).write_all(&bytes).map_err(failed)?;
    }
    Ok(())
}

fn copy_events<W: Write>(writer: &mut Writer<W>, mut events: Box<dyn BufRead + '_>) -> Result<u64, Error> {
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        let end = read_line_within(MAX_LINE, &mut events, &mut line).map_err(Error::io("read", "the event log"))?;
        number += 1;
        let wrong = |what: &str| Error::Evidence(format!("line {number} of the event log {what}"));
        match end {
            LineEnd::Nothing => return Ok(number - 1),
            LineEnd::TooLong => return Err(wrong("is too long")),
            LineEnd::Whole | LineEnd::Fragment => {}
        }
        if line.len() > MAX_BODY {
            return Err(wrong("is too long"));
        }
        if !line.starts_with(b"{") || !line.ends_with(b"}") {
            return Err(wrong("is not a JSON object"));
        }
        serde_json::from_slice::<serde::de::IgnoredAny>(&line)
            .map_err(|error| wrong(&format!("is not a JSON object: {}", describe(&error))))?;
        writer.add(Part::Event, &line).map_err(failed)?;
    }
}
