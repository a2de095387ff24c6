//! The stub: what stands for segments that were removed. One line in the file `pruned`, signed by the ledger's key.
//!
//! It holds the last removed line, which is a checkpoint, byte for byte: its signature shows that the ledger had come
//! to that hash. And it holds all keys up to when it was made, so that the rest verifies without the first line.
//! The chain tells of the pruning as well, in a `pruned` entry; a stub without one is refused.

use std::path::{Path, PathBuf};

use outwork_wire::Time;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::chain::{Keys, stub_place};
use crate::entry::{Checkpoint, Entry, KeyEntry, Receipt, describe};
use crate::expect::Expect;
use crate::folder::{read_small, replace, sync_dir};
use crate::hash::{Hash, Hex};
use crate::key::{KeyId, Signer};
use crate::line::Line;
use crate::verify::{Fault, FaultKind};

/// The name of the file.
pub(crate) const STUB: &str = "pruned";
const MAX_STUB: usize = 4 << 20;

/// A key and the sequence of the line that names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlacedKey {
    pub(crate) sequence: u64,
    pub(crate) entry: KeyEntry,
}

impl PlacedKey {
    pub(crate) fn all(keys: &Keys) -> Vec<Self> {
        keys.iter()
            .map(|(sequence, entry)| Self {
                sequence,
                entry: entry.clone(),
            })
            .collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    at: Time,
    /// The last removed line.
    checkpoint: String,
    format: u32,
    records: u64,
    segments: u64,
    bytes: u64,
    keys: Vec<PlacedKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Signed {
    pruned: Content,
    key: KeyId,
    signature: Hex<64>,
}

/// What was removed, all prunings together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) records: u64,
    pub(crate) segments: u64,
    pub(crate) bytes: u64,
}

/// A stub that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stub {
    /// The last removed line.
    pub(crate) through: Receipt,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) at: Time,
    pub(crate) format: u32,
    pub(crate) removed: Removed,
    keys: Vec<PlacedKey>,
}

impl Stub {
    /// The keys that the removed lines named.
    pub(crate) fn keys_through(&self) -> impl Iterator<Item = (u64, &KeyEntry)> {
        let keys = self.keys.iter().map(|key| (key.sequence, &key.entry));
        keys.filter(|(sequence, _)| *sequence <= self.through.sequence)
    }

    /// The id of the ledger.
    pub(crate) fn ledger_id(&self) -> String {
        let first = self.keys.first().expect("a stub without a key does not verify");
        first.entry.ledger_id()
    }

    /// Reads and verifies the stub of a folder, if there is one.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, Error> {
        let Some(bytes) = read_small(&path(dir), MAX_STUB)? else {
            return Ok(None);
        };
        let read = Self::parse(&bytes).map_err(|kind| fault(None, kind))?;
        Ok(Some(read))
    }

    fn parse(bytes: &[u8]) -> Result<Self, FaultKind> {
        let wrong = |what: &str| FaultKind::Pruned(what.into());
        let body = bytes.strip_suffix(b"\n").ok_or_else(|| wrong("it has no end"))?;
        let signed: Signed = serde_json::from_slice(body).map_err(|e| FaultKind::Pruned(describe(&e)))?;
        if serde_json::to_vec(&signed).ok().as_deref() != Some(body) {
            return Err(wrong("it is not in the form in which it is written"));
        }
        let content = signed.pruned;
        // Whom to trust is decided with the chain that follows; here it has to agree with itself.
        let expect = Expect::any_key();
        let mut keys = Keys::default();
        for key in &content.keys {
            keys.add(key.sequence, key.entry.clone(), &expect)?;
        }
        let (key, _) = keys.newest().ok_or_else(|| wrong("it names no key"))?;
        if key.key != signed.key || !key.public_key.verify(&message(&content)?, &signed.signature.0) {
            return Err(FaultKind::Signature);
        }
        let line = Line::parse(content.checkpoint.as_bytes()).map_err(FaultKind::Malformed)?;
        if !line.is_intact() {
            return Err(FaultKind::Hash);
        }
        let Some(Entry::Checkpoint(checkpoint)) = line.entry().map_err(FaultKind::Entry)? else {
            return Err(wrong("the line that it holds is not a checkpoint"));
        };
        keys.check(line.sequence, line.previous, &checkpoint)?;
        Ok(Self {
            through: line.receipt(),
            checkpoint,
            at: content.at,
            format: content.format,
            removed: Removed {
                records: content.records,
                segments: content.segments,
                bytes: content.bytes,
            },
            keys: content.keys,
        })
    }

    /// Writes the stub of a pruning whose last line is `checkpoint`.
    pub(crate) fn write(
        dir: &Path,
        signer: &Signer,
        keys: &Keys,
        (at, format): (Time, u32),
        checkpoint: &str,
        removed: Removed,
    ) -> Result<(), Error> {
        let content = Content {
            at,
            checkpoint: checkpoint.to_owned(),
            format,
            records: removed.records,
            segments: removed.segments,
            bytes: removed.bytes,
            keys: PlacedKey::all(keys),
        };
        let signature = Hex(signer.sign(&message(&content).map_err(|kind| fault(None, kind))?));
        let signed = Signed {
            pruned: content,
            key: signer.id(),
            signature,
        };
        let mut bytes = serde_json::to_vec(&signed).expect("a stub holds nothing that JSON cannot");
        bytes.push(b'\n');
        // Nothing is removed on the word of a stub that does not verify.
        Self::parse(&bytes).map_err(|kind| fault(None, kind))?;
        let path = path(dir);
        replace(&path, &bytes).map_err(Error::io("write", &path))?;
        sync_dir(dir)
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(STUB)
}

fn fault(sequence: Option<u64>, kind: FaultKind) -> Fault {
    stub_place().fault(sequence, kind)
}

fn message(content: &Content) -> Result<Vec<u8>, FaultKind> {
    let bytes = serde_json::to_vec(content).map_err(|e| FaultKind::Pruned(describe(&e)))?;
    let mut message = b"outwork-ledger-pruned-1\0".to_vec();
    message.extend_from_slice(Hash::of(&bytes).as_bytes());
    Ok(message)
}
