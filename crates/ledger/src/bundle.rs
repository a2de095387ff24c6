//! Bundles: some records of a ledger, with what a stranger needs to see that they stand in it, as they were, in that
//! order.
//!
//! A bundle is JSON lines. The first names the keys and the choice of records. Then come lines of the ledger, as they
//! are, those of other records without their bodies; they come in stretches, each of which ends with a checkpoint.
//! Between two stretches there is no record that matches. The last line is a signature over everything before it, by
//! the ledger's key: that nothing which matches was left out is its word; that nothing was changed can be verified.

use std::io::Write;
use std::path::Path;

use outwork_wire::Time;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::chain::{Depth, Runs};
use crate::entry::Entry;
use crate::expect::Expect;
use crate::filter::Filter;
use crate::hash::{Hash, Hex};
use crate::key::{KeyId, signer_of};
use crate::line::{Body, EntryType};
use crate::stub::PlacedKey;
use crate::verify::examine;

pub(crate) const FORMAT: u32 = 1;

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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeaderLine {
    pub(crate) bundle: Header,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    pub(crate) format: u32,
    pub(crate) at: Time,
    pub(crate) filter: Filter,
    pub(crate) keys: Vec<PlacedKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EndLine {
    pub(crate) end: End,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct End {
    pub(crate) records: u64,
    pub(crate) lines: u64,
    pub(crate) digest: Hash,
    pub(crate) key: KeyId,
    pub(crate) signature: Hex<64>,
}

impl End {
    pub(crate) fn message(records: u64, lines: u64, digest: Hash) -> Vec<u8> {
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
    let signer = signer_of(dir, &keys)?;
    let plan = Plan::of(matching, &checkpoints);
    if plan.matching.is_empty() {
        return Err(Error::NoMatch);
    }
    let header = Header {
        format: FORMAT,
        at: now,
        filter: filter.clone(),
        keys: PlacedKey::all(&keys),
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
