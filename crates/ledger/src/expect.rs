//! What a verifier knows from elsewhere. Nothing else is trusted.

use std::collections::BTreeMap;

use crate::entry::Receipt;
use crate::hash::Hash;
use crate::key::{KeyId, PublicKey};

/// What a verifier knows from elsewhere: keys, and receipts that somebody kept.
#[derive(Debug, Clone)]
pub struct Expect {
    /// `None`: any key will do.
    keys: Option<Vec<PublicKey>>,
    /// Fingerprints of keys, beside `keys`.
    ids: Vec<KeyId>,
    witnesses: BTreeMap<u64, Hash>,
}

impl Expect {
    /// What somebody expects who expects nothing.
    pub(crate) const NOTHING: &'static Expect = &Expect {
        keys: None,
        ids: Vec::new(),
        witnesses: BTreeMap::new(),
    };

    /// One of these keys, or one that these signed into the chain, must have signed. No key: nothing is trusted.
    pub fn keys(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self {
            keys: Some(keys.into_iter().collect()),
            ids: Vec::new(),
            witnesses: BTreeMap::new(),
        }
    }

    /// As [`keys`](Expect::keys), for somebody who knows only the ids (fingerprints) of the keys.
    pub fn key_ids(ids: impl IntoIterator<Item = KeyId>) -> Self {
        Self {
            keys: Some(Vec::new()),
            ids: ids.into_iter().collect(),
            witnesses: BTreeMap::new(),
        }
    }

    /// Trusts the key with this id as well. Of no effect on [`any_key`](Expect::any_key), which trusts every one.
    pub fn and_key_id(mut self, id: KeyId) -> Self {
        self.ids.push(id);
        self
    }

    /// Whatever key the ledger itself names will do. This shows only that the ledger agrees with itself: whoever can
    /// write it anew can also name a key of his own.
    pub fn any_key() -> Self {
        Self {
            keys: None,
            ids: Vec::new(),
            witnesses: BTreeMap::new(),
        }
    }

    /// The line of this receipt must be there, as it was.
    pub fn witness(mut self, receipt: Receipt) -> Self {
        self.witnesses.insert(receipt.sequence, receipt.hash);
        self
    }

    pub(crate) fn trusts(&self, key: &PublicKey) -> bool {
        self.keys
            .as_ref()
            .is_none_or(|keys| keys.contains(key) || self.ids.contains(&key.id()))
    }

    pub(crate) fn names_keys(&self) -> bool {
        self.keys.is_some()
    }

    pub(crate) fn witnesses(&self) -> &BTreeMap<u64, Hash> {
        &self.witnesses
    }
}
