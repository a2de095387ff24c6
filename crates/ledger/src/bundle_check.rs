//! Verifying a bundle: needs nothing but the bundle and what the verifier expects.

use std::io::BufRead;
use std::sync::Arc;

use outwork_wire::Time;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::bundle::{End, EndLine, FORMAT, HeaderLine};
use crate::chain::{Keys, Place};
use crate::entry::{Entry, Receipt, describe};
use crate::expect::Expect;
use crate::filter::Filter;
use crate::hash::Hash;
use crate::key::PublicKey;
use crate::line::{Body, EntryType, Line};
use crate::reader::{LineEnd, read_line};
use crate::record::Record;
use crate::stub::PlacedKey;
use crate::verify::{Fault, FaultKind};

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
    let mut check = Check::new(name, expect, visit);
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

pub(crate) struct Check<'e, F> {
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

impl<'e, F: FnMut(Receipt, &Record)> Check<'e, F> {
    pub(crate) fn new(name: &str, expect: &'e Expect, visit: F) -> Self {
        Self {
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
        }
    }

    /// Whether its end was seen.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// The keys that the header names.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(crate) fn into_report(self) -> BundleReport {
        self.report
    }

    /// The sequence that the next line has, if that is known.
    pub(crate) fn due(&self) -> Option<u64> {
        self.previous.filter(|_| !self.is_signed).map(|last| last.sequence + 1)
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), FaultKind> {
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
        for PlacedKey { sequence, entry } in bundle.keys {
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
            Some(
                Entry::Recovered(_) | Entry::Interrupted(_) | Entry::Redacted(_) | Entry::Pruned(_) | Entry::Format(_),
            ) => {}
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
pub(crate) fn canonical<T: Serialize + for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, FaultKind> {
    let value: T = serde_json::from_slice(bytes).map_err(|e| FaultKind::Bundle(describe(&e)))?;
    match serde_json::to_vec(&value) {
        Ok(again) if again == bytes => Ok(value),
        _ => Err(FaultKind::Bundle(
            "the line is not in the form in which it is written".into(),
        )),
    }
}
