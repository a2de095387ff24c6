//! Bundles: some records of a ledger, with what a stranger needs to see that they stand in it, as they were, in that
//! order.
//!
//! A bundle is JSON lines. The first names the keys and the choice of records. Then come lines of the ledger, as they
//! are, those of other records without their bodies; they come in stretches, each of which ends with a checkpoint.
//! Between two stretches there is no record that matches. The last line is a signature over everything before it, by
//! the ledger's key: that nothing which matches was left out is its word; that nothing was changed can be verified.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;

use outwork_wire::Time;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::chain::{Depth, Keys, Place, Runs};
use crate::entry::{Entry, KeyEntry, Receipt, describe};
use crate::filter::Filter;
use crate::hash::{Hash, Hex};
use crate::key::{KeyId, PublicKey, key_file, load_key};
use crate::line::{Body, EntryType, Line};
use crate::reader::{LineEnd, read_line};
use crate::record::Record;
use crate::verify::{Expect, Fault, FaultKind, examine};

const FORMAT: u32 = 1;

/// What was written into a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bundle {
    /// Records that match.
    pub records: u64,
    /// Records that match and are left out, since no checkpoint covers them yet. None if [`Ledger::export`] was used.
    ///
    /// [`Ledger::export`]: crate::Ledger::export
    pub unsigned: u64,
    /// Lines of the ledger.
    pub lines: u64,
}

/// What was found in a bundle.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BundleReport {
    /// The first fault; everything else is counted up to it.
    pub fault: Option<Fault>,
    /// The id of the ledger.
    pub ledger: Option<String>,
    /// What was asked for.
    pub filter: Option<Filter>,
    /// When the bundle was made.
    pub at: Option<Time>,
    /// The keys, in order.
    pub keys: Vec<PublicKey>,
    /// Records with their bodies.
    pub records: u64,
    /// Records of which there is only the hash: those that do not match, and redacted ones.
    pub withheld: u64,
    /// Checkpoints.
    pub checkpoints: u64,
    /// The last line.
    pub last: Option<Receipt>,
}

impl BundleReport {
    /// Whether no fault was found.
    pub fn is_sound(&self) -> bool {
        self.fault.is_none()
    }

    /// The report if no fault was found.
    ///
    /// # Errors
    /// [`Error::Damaged`] with the fault.
    pub fn sound(self) -> Result<Self, Error> {
        match self.fault {
            Some(fault) => Err(fault.into()),
            None => Ok(self),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderLine {
    bundle: Header,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u32,
    at: Time,
    filter: Filter,
    keys: Vec<HeaderKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderKey {
    sequence: u64,
    entry: KeyEntry,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EndLine {
    end: End,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    records: u64,
    lines: u64,
    digest: Hash,
    key: KeyId,
    signature: Hex<64>,
}

impl End {
    fn message(records: u64, lines: u64, digest: Hash) -> Vec<u8> {
        let mut message = b"outwork-ledger-bundle-1\0".to_vec();
        message.extend_from_slice(&records.to_be_bytes());
        message.extend_from_slice(&lines.to_be_bytes());
        message.extend_from_slice(digest.as_bytes());
        message
    }
}

/// Which lines a bundle takes.
struct Plan {
    matching: Runs,
    /// Stretches, by first and last sequence.
    stretches: Runs,
    unsigned: u64,
}

impl Plan {
    fn of(matching: Runs, checkpoints: &[u64]) -> Self {
        let (mut stretches, mut unsigned, mut signed) = (Vec::new(), 0, Vec::new());
        for &(first, last) in &matching.0 {
            let end = checkpoints.partition_point(|&at| at <= last);
            match checkpoints.get(end) {
                Some(&end) => {
                    signed.push((first, last));
                    // A run without a gap may pass a checkpoint only if it is a run of records, which has none inside.
                    stretches.push((first, end));
                }
                None => unsigned += last - first + 1,
            }
        }
        Self {
            matching: Runs(signed),
            stretches: Runs(stretches).normal(),
            unsigned,
        }
    }
}

/// Writes the bundle of the records that match in the ledger in `dir` to `out`. Verifies the ledger first, and needs
/// its signing key. The ledger may be in use: what no checkpoint covers yet is left out and counted.
///
/// # Errors
/// [`Error::NoMatch`] if there is no such record, [`Error::Damaged`], [`Error::Key`], [`Error::Io`].
pub fn export(dir: impl AsRef<Path>, filter: &Filter, now: Time, mut out: impl Write) -> Result<Bundle, Error> {
    let dir = dir.as_ref();
    let expect = Expect::any_key();
    let (mut matching, mut checkpoints) = (Runs::default(), Vec::new());
    let found = examine(dir, &expect, Depth::Records, &mut |line, entry| match entry {
        Some(Entry::Record(record)) if filter.matches(line.sequence, record) => matching.push(line.sequence),
        Some(Entry::Checkpoint(_)) => checkpoints.push(line.sequence),
        _ => {}
    })?;
    if let Some(fault) = found.fault {
        return Err(fault.into());
    }
    let keys = found.chain.keys;
    let path = key_file(dir);
    let signer = load_key(&path)?.ok_or_else(|| Error::Key {
        path: path.clone(),
        problem: "is missing".into(),
    })?;
    if keys.newest().is_none_or(|(key, _)| key.key != signer.id()) {
        return Err(Error::Key {
            path,
            problem: "is not the one that the ledger names".into(),
        });
    }
    let plan = Plan::of(matching, &checkpoints);
    if plan.matching.is_empty() {
        return Err(Error::NoMatch);
    }
    let header = Header {
        format: FORMAT,
        at: now,
        filter: filter.clone(),
        keys: keys
            .iter()
            .map(|(sequence, entry)| HeaderKey {
                sequence,
                entry: entry.clone(),
            })
            .collect(),
    };
    let mut writer = Hashing {
        out: &mut out,
        digest: Sha256::new(),
        failure: None,
    };
    writer.json(&HeaderLine { bundle: header });
    let mut made = Bundle {
        records: 0,
        unsigned: plan.unsigned,
        lines: 0,
    };
    let mut bytes = Vec::new();
    let again = examine(dir, &expect, Depth::Hashes, &mut |line, _| {
        if !plan.stretches.contains(line.sequence) {
            return;
        }
        made.lines += 1;
        bytes.clear();
        if matches!(line.body, Body::Kept { .. }) && plan.matching.contains(line.sequence) {
            made.records += 1;
            line.write_to(&mut bytes);
        } else if line.entry_type == EntryType::Record {
            line.without_body().write_to(&mut bytes);
        } else {
            line.write_to(&mut bytes);
        }
        writer.write(&bytes);
    })?;
    if let Some(fault) = again.fault {
        return Err(fault.into());
    }
    let digest = Hash::from_bytes(writer.digest.clone().finalize().into());
    let signature = Hex(signer.sign(&End::message(made.records, made.lines, digest)));
    let end = End {
        records: made.records,
        lines: made.lines,
        digest,
        key: signer.id(),
        signature,
    };
    writer.json(&EndLine { end });
    match writer.failure {
        Some(error) => Err(Error::io("write", "the bundle")(error)),
        None => out.flush().map(|()| made).map_err(Error::io("write", "the bundle")),
    }
}

struct Hashing<'a, W> {
    out: &'a mut W,
    digest: Sha256,
    failure: Option<std::io::Error>,
}

impl<W: Write> Hashing<'_, W> {
    fn write(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        if self.failure.is_none() {
            self.failure = self.out.write_all(bytes).err();
        }
    }

    fn json(&mut self, value: &impl Serialize) {
        let mut bytes = serde_json::to_vec(value).expect("headers hold nothing that JSON cannot");
        bytes.push(b'\n');
        self.write(&bytes);
    }
}

/// Verifies a bundle and shows every record that it discloses, in order. Needs nothing but the bundle and `expect`.
/// `name` stands for the file in a fault. What was shown is proven only once the report says that the bundle is sound.
///
/// # Errors
/// If the bundle cannot be read. A fault of the bundle is in the report.
pub fn verify_bundle(
    mut reader: impl BufRead,
    name: &str,
    expect: &Expect,
    visit: impl FnMut(Receipt, &Record),
) -> Result<BundleReport, Error> {
    let mut check = Check {
        expect,
        visit,
        place: Place {
            file: Arc::from(name),
            line: 0,
        },
        digest: Sha256::new(),
        keys: Keys::default(),
        previous: None,
        is_signed: true,
        lines: 0,
        ended: false,
        report: BundleReport {
            fault: None,
            ledger: None,
            filter: None,
            at: None,
            keys: Vec::new(),
            records: 0,
            withheld: 0,
            checkpoints: 0,
            last: None,
        },
    };
    let mut bytes = Vec::new();
    loop {
        let end = read_line(&mut reader, &mut bytes).map_err(Error::io("read", name))?;
        check.place.line += 1;
        let step = match end {
            LineEnd::Whole => check.take(&bytes),
            LineEnd::Fragment => Err(FaultKind::Unterminated),
            LineEnd::TooLong => Err(FaultKind::TooLong),
            LineEnd::Nothing if check.ended => break,
            LineEnd::Nothing => Err(FaultKind::Bundle("its end is missing".into())),
        };
        if let Err(kind) = step {
            let sequence = check.due();
            check.report.fault = Some(check.place.fault(sequence, kind));
            break;
        }
    }
    Ok(check.report)
}

struct Check<'e, F> {
    expect: &'e Expect,
    visit: F,
    place: Place,
    digest: Sha256,
    keys: Keys,
    /// The last line.
    previous: Option<Receipt>,
    /// The last line is a checkpoint.
    is_signed: bool,
    lines: u64,
    ended: bool,
    report: BundleReport,
}

impl<F: FnMut(Receipt, &Record)> Check<'_, F> {
    /// The sequence that the next line has, if that is known.
    fn due(&self) -> Option<u64> {
        self.previous.filter(|_| !self.is_signed).map(|last| last.sequence + 1)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), FaultKind> {
        if self.ended {
            return Err(FaultKind::Bundle("it goes on after its end".into()));
        }
        if self.report.filter.is_none() {
            self.header(bytes)?;
        } else if bytes.starts_with(b"{\"end\":") {
            return self.end(bytes);
        } else {
            self.line(bytes)?;
        }
        self.digest.update(bytes);
        self.digest.update(b"\n");
        Ok(())
    }

    fn header(&mut self, bytes: &[u8]) -> Result<(), FaultKind> {
        let HeaderLine { bundle } = canonical(bytes)?;
        if bundle.format != FORMAT {
            return Err(FaultKind::Bundle(format!(
                "its format is {}, and {FORMAT} is known",
                bundle.format
            )));
        }
        for HeaderKey { sequence, entry } in bundle.keys {
            self.report.ledger.get_or_insert_with(|| entry.ledger_id());
            self.report.keys.push(entry.public_key);
            self.keys.add(sequence, entry, self.expect)?;
        }
        match self.keys.newest() {
            None => return Err(FaultKind::Bundle("it names no key".into())),
            Some((_, false)) => return Err(FaultKind::Untrusted),
            Some((_, true)) => {}
        }
        self.report.at = Some(bundle.at);
        self.report.filter = Some(bundle.filter);
        Ok(())
    }

    fn line(&mut self, bytes: &[u8]) -> Result<(), FaultKind> {
        let line = Line::parse(bytes).map_err(FaultKind::Malformed)?;
        if let Some(last) = self.previous {
            let follows = line.sequence == last.sequence + 1;
            // After a checkpoint a new stretch may begin.
            if line.sequence <= last.sequence || (!follows && !self.is_signed) {
                return Err(FaultKind::Sequence { found: line.sequence });
            }
            if follows && line.previous != last.hash {
                return Err(FaultKind::Previous);
            }
        }
        if !line.is_intact() {
            return Err(FaultKind::Hash);
        }
        if self
            .expect
            .witnesses()
            .get(&line.sequence)
            .is_some_and(|hash| *hash != line.hash)
        {
            return Err(FaultKind::Witness);
        }
        let entry = line.entry().map_err(FaultKind::Entry)?;
        self.is_signed = false;
        match &entry {
            Some(Entry::Record(record)) => {
                if !self
                    .report
                    .filter
                    .as_ref()
                    .is_some_and(|filter| filter.matches(line.sequence, record))
                {
                    return Err(FaultKind::Bundle(
                        "the record is not one of those that it is about".into(),
                    ));
                }
                self.report.records += 1;
                (self.visit)(line.receipt(), record);
            }
            Some(Entry::Checkpoint(checkpoint)) => {
                // Whether an earlier key is trusted by itself does not matter: the newest one is, and signs the bundle.
                let _is_trusted = self.keys.check(line.sequence, line.previous, checkpoint)?;
                self.report.checkpoints += 1;
                self.is_signed = true;
            }
            Some(Entry::Key(key)) => {
                if !self.keys.iter().any(|(at, known)| at == line.sequence && known == key) {
                    return Err(FaultKind::Key("it is not one of those that the bundle names".into()));
                }
            }
            Some(Entry::Recovered(_) | Entry::Interrupted(_) | Entry::Redacted(_)) => {}
            None if line.entry_type == EntryType::Record => self.report.withheld += 1,
            None => {
                return Err(FaultKind::Entry(format!(
                    "a {} always has its body",
                    line.entry_type.name()
                )));
            }
        }
        debug_assert!(entry.is_some() == matches!(line.body, Body::Kept { .. }));
        self.lines += 1;
        self.previous = Some(line.receipt());
        self.report.last = self.previous;
        Ok(())
    }

    fn end(&mut self, bytes: &[u8]) -> Result<(), FaultKind> {
        let EndLine { end } = canonical(bytes)?;
        if !self.is_signed {
            return Err(FaultKind::Bundle(
                "lines before its end are covered by no checkpoint".into(),
            ));
        }
        let Some((key, _)) = self.keys.newest() else {
            return Err(FaultKind::Untrusted);
        };
        if end.key != key.key
            || !key
                .public_key
                .verify(&End::message(end.records, end.lines, end.digest), &end.signature.0)
        {
            return Err(FaultKind::Signature);
        }
        let digest = Hash::from_bytes(self.digest.clone().finalize().into());
        if (end.records, end.lines, end.digest) != (self.report.records, self.lines, digest) {
            return Err(FaultKind::Bundle(
                "it is not the one that was signed: a part of it is missing or changed".into(),
            ));
        }
        self.ended = true;
        Ok(())
    }
}

/// Reads JSON that must have exactly the form in which it is written.
fn canonical<T: Serialize + for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, FaultKind> {
    let value: T = serde_json::from_slice(bytes).map_err(|e| FaultKind::Bundle(describe(&e)))?;
    match serde_json::to_vec(&value) {
        Ok(again) if again == bytes => Ok(value),
        _ => Err(FaultKind::Bundle(
            "the line is not in the form in which it is written".into(),
        )),
    }
}
