//! What a line of the ledger may hold: a record, or an entry with which the ledger speaks of itself.
//!
//! Only records can be redacted; entries of every other type are always kept whole, and the type is part of the hash
//! of a line, so none can be passed off as a redacted record.

use outwork_wire::Time;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::hash::{Hash, Hex};
use crate::key::{KeyId, PublicKey, Signer};
use crate::line::EntryType;
use crate::record::Record;

/// Where a record was put: enough to show later that it is still there ([`Expect::witness`](crate::Expect::witness)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The sequence of its line.
    pub sequence: u64,
    /// The hash of its line, which commits to every line before it.
    pub hash: Hash,
}

impl Receipt {
    /// The place before the first line.
    pub const NONE: Receipt = Receipt {
        sequence: 0,
        hash: Hash::ZERO,
    };
}

/// The content of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Entry {
    /// A crossing.
    Record(Box<Record>),
    /// A signature over everything before it.
    Checkpoint(Checkpoint),
    /// The first key, or a new one.
    Key(KeyEntry),
    /// A torn tail was cut after a crash.
    Recovered(Recovered),
    /// The ledger could not be written for a while.
    Interrupted(Interrupted),
    /// Bodies of records were dropped.
    Redacted(Redacted),
    /// Old segments were removed.
    Pruned(Pruned),
    /// The version of what follows.
    Format(Format),
}

impl Entry {
    /// Reads a body; refuses what is unknown and what is not in the one form that the ledger writes.
    pub(crate) fn parse(entry_type: EntryType, body: &[u8]) -> Result<Self, String> {
        fn read<T: DeserializeOwned + Serialize>(body: &[u8]) -> Result<T, String> {
            let value: T = serde_json::from_slice(body).map_err(|e| describe(&e))?;
            let again = serde_json::to_vec(&value).map_err(|e| describe(&e))?;
            if again != body {
                return Err("it is not in the form that the ledger writes".into());
            }
            Ok(value)
        }
        Ok(match entry_type {
            EntryType::Record => Self::Record(read(body)?),
            EntryType::Checkpoint => Self::Checkpoint(read(body)?),
            EntryType::Key => Self::Key(read(body)?),
            EntryType::Recovered => Self::Recovered(read(body)?),
            EntryType::Interrupted => Self::Interrupted(read(body)?),
            EntryType::Redacted => Self::Redacted(read(body)?),
            EntryType::Pruned => Self::Pruned(read(body)?),
            EntryType::Format => Self::Format(read(body)?),
        })
    }
}

/// Where JSON is wrong, and never what is there: it could be a payload.
pub(crate) fn describe(error: &serde_json::Error) -> String {
    use serde_json::error::Category;
    let what = match error.classify() {
        Category::Syntax | Category::Eof | Category::Io => "it is not JSON",
        Category::Data => "a field is unknown, missing, doubled or has an impossible value",
    };
    format!("{what} (byte {})", error.column())
}

/// A signature over the chain up to the line before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// The sequence of the last line that it covers: the one before its own.
    pub sequence: u64,
    /// The hash of that line.
    pub hash: Hash,
    /// When it was signed.
    pub at: Time,
    /// The key that signed it.
    pub key: KeyId,
    signature: Hex<64>,
}

impl Checkpoint {
    pub(crate) fn sign(signer: &Signer, covered: Receipt, at: Time) -> Self {
        let message = Self::message(covered, at, signer.id());
        Self {
            sequence: covered.sequence,
            hash: covered.hash,
            at,
            key: signer.id(),
            signature: Hex(signer.sign(&message)),
        }
    }

    pub(crate) fn verify(&self, key: &PublicKey) -> bool {
        let covered = Receipt {
            sequence: self.sequence,
            hash: self.hash,
        };
        key.verify(&Self::message(covered, self.at, self.key), &self.signature.0)
    }

    fn message(covered: Receipt, at: Time, key: KeyId) -> Vec<u8> {
        let mut message = b"outwork-ledger-checkpoint-1\0".to_vec();
        message.extend_from_slice(&covered.sequence.to_be_bytes());
        message.extend_from_slice(covered.hash.as_bytes());
        message.extend_from_slice(&at.as_micros().to_be_bytes());
        message.extend_from_slice(key.as_bytes());
        message
    }
}

/// A key of the ledger. The first one signs itself; each later one is signed by the one before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// Its id.
    pub key: KeyId,
    /// The key itself.
    pub public_key: PublicKey,
    ledger: Hex<16>,
    /// Since when it signs.
    pub at: Time,
    /// The key before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<KeyId>,
    signature: Hex<64>,
}

impl KeyEntry {
    /// The entry of the first key of a new ledger.
    pub(crate) fn first(signer: &Signer, at: Time) -> Result<Self, Error> {
        let mut ledger = [0; 16];
        aws_lc_rs::rand::fill(&mut ledger).map_err(|_| Error::Crypto("make a random number"))?;
        Ok(Self::signed(signer.public_key(), None, Hex(ledger), at, signer))
    }

    /// The entry of the key that follows this one, signed by this one.
    pub(crate) fn successor(&self, signer: &Signer, next: PublicKey, at: Time) -> Self {
        Self::signed(next, Some(self.key), self.ledger, at, signer)
    }

    fn signed(public_key: PublicKey, predecessor: Option<KeyId>, ledger: Hex<16>, at: Time, signer: &Signer) -> Self {
        let mut entry = Self {
            key: public_key.id(),
            public_key,
            ledger,
            at,
            predecessor,
            signature: Hex([0; 64]),
        };
        entry.signature = Hex(signer.sign(&entry.message()));
        entry
    }

    /// Whether this is what the first key of a ledger says of itself.
    pub(crate) fn is_first(&self) -> bool {
        self.predecessor.is_none() && self.is_signed_by(&self.public_key)
    }

    /// Whether this is what `previous` says of its successor.
    pub(crate) fn follows(&self, previous: &KeyEntry) -> bool {
        self.predecessor == Some(previous.key)
            && self.ledger == previous.ledger
            && self.is_signed_by(&previous.public_key)
    }

    fn is_signed_by(&self, key: &PublicKey) -> bool {
        self.key == self.public_key.id() && key.verify(&self.message(), &self.signature.0)
    }

    fn message(&self) -> Vec<u8> {
        let mut message = b"outwork-ledger-key-1\0".to_vec();
        message.extend_from_slice(&self.ledger.0);
        message.extend_from_slice(self.public_key.as_bytes());
        message.extend_from_slice(&self.at.as_micros().to_be_bytes());
        message.extend_from_slice(self.predecessor.map_or([0; 16], |key| *key.as_bytes()).as_slice());
        message
    }

    /// The id of the ledger: a random number that its first line holds.
    pub fn ledger_id(&self) -> String {
        self.ledger.to_string()
    }
}

/// A torn last line was cut when the ledger was opened after a crash. No receipt was given for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovered {
    /// When it was cut.
    pub at: Time,
    /// The segment file.
    pub file: String,
    /// How many bytes were cut.
    pub bytes: u64,
    /// Their hash.
    pub hash: Hash,
}

/// The ledger could not be written for a while, for example because its disk was full, and refused records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interrupted {
    /// When it could be written again.
    pub at: Time,
    /// Since when it could not.
    pub since: Time,
    /// How many records were refused. Whoever brought them was told.
    pub refused: u64,
    /// What the system said.
    pub reason: String,
}

/// The bodies of records were dropped; their hashes stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redacted {
    /// When.
    pub at: Time,
    /// Who wanted it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// How many records.
    pub records: u64,
    /// Their sequences, as first and last of each run.
    pub runs: Vec<(u64, u64)>,
}

/// Old segments were removed, whole. What is left of them is the stub; see [`Ledger::prune`](crate::Ledger::prune).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pruned {
    /// When.
    pub at: Time,
    /// Who wanted it.
    pub actor: String,
    /// Why.
    pub reason: String,
    /// The last line that was removed: a checkpoint.
    pub through: Receipt,
    /// Exports that had not delivered all of it. They get no other copy.
    pub unsent: Vec<Unsent>,
}

/// Lines that were removed before an export had delivered them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unsent {
    /// The name of the export.
    pub export: String,
    /// The first sequence that it had not delivered.
    pub first: u64,
    /// The last one that was removed.
    pub last: u64,
}

/// From here on records may be of this format; see the crate's page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Format {
    /// When the ledger was opened by a program that writes it.
    pub at: Time,
    /// The version.
    pub format: u32,
}
