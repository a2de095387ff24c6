//! The bodies of an evidence bundle's own lines, each of which has one form.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use outwork_wire::Time;
use serde::{Deserialize, Serialize};

use super::write::DocumentKind;
use crate::hash::{Hash, Hex};
use crate::key::KeyId;
use crate::stub::PlacedKey;

/// The version of the file.
pub(crate) const FORMAT: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeaderBody {
    pub(crate) format: u32,
    pub(crate) at: Time,
    pub(crate) session: String,
    /// The keys of the ledger that seals.
    pub(crate) sealer: Vec<PlacedKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LedgerBody {
    pub(crate) name: String,
    pub(crate) ledger: String,
    /// Whether lines follow. A ledger that has no record of the session has none.
    pub(crate) lines: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DocumentBody {
    pub(crate) name: String,
    pub(crate) kind: DocumentKind,
    pub(crate) hash: Hash,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) base64: Option<String>,
}

impl DocumentBody {
    pub(crate) fn of(name: &str, kind: DocumentKind, bytes: &[u8]) -> Self {
        let text = std::str::from_utf8(bytes).ok().map(str::to_owned);
        Self {
            name: name.to_owned(),
            kind,
            hash: Hash::of(bytes),
            base64: text.is_none().then(|| STANDARD.encode(bytes)),
            text,
        }
    }

    /// What it holds; `None` if that is not in one of the two forms.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        match (&self.text, &self.base64) {
            (Some(text), None) => Some(text.clone().into_bytes()),
            (None, Some(base64)) => STANDARD.decode(base64).ok(),
            _ => None,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SealBody {
    /// How many lines come before.
    pub(crate) lines: u64,
    /// The hash of the last of them.
    pub(crate) hash: Hash,
    pub(crate) key: KeyId,
    pub(crate) signature: Hex<64>,
}

impl SealBody {
    pub(crate) fn message(lines: u64, hash: Hash) -> Vec<u8> {
        let mut message = b"outwork-evidence-seal-1\0".to_vec();
        message.extend_from_slice(&lines.to_be_bytes());
        message.extend_from_slice(hash.as_bytes());
        message
    }
}
