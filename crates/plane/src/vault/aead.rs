//! AES-256-GCM with random nonces: what is sealed is bound to the place that it was sealed for.
//!
//! A sealed text is one byte of version, the nonce, the ciphertext and its tag. The place is a list of names, each
//! with its length before it, so that no two lists are the same bytes.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

/// The length of a key, in bytes.
pub(crate) const KEY_LEN: usize = 32;

const VERSION: u8 = 1;

/// A key's bytes, wiped when they are dropped.
pub(crate) type KeyBytes = Zeroizing<[u8; KEY_LEN]>;

/// Fresh bytes for a key.
pub(crate) fn fresh_key() -> KeyBytes {
    let mut bytes = KeyBytes::default();
    aws_lc_rs::rand::fill(bytes.as_mut_slice()).expect("the system gives random bytes");
    bytes
}

/// A key to seal and open with.
pub(crate) struct Key(RandomizedNonceKey);

impl Key {
    pub(crate) fn new(bytes: &KeyBytes) -> Self {
        Self(RandomizedNonceKey::new(&AES_256_GCM, bytes.as_slice()).expect("the length is that of the algorithm"))
    }

    /// Seals a text for a place.
    pub(crate) fn seal(&self, place: &[&str], text: &[u8]) -> Vec<u8> {
        let mut body = Vec::with_capacity(text.len() + AES_256_GCM.tag_len());
        body.extend_from_slice(text);
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(bound_to(place)), &mut body)
            .expect("texts of this size can always be sealed");
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + body.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&body);
        sealed
    }

    /// Opens what was sealed for that place with this key; nothing for anything else.
    pub(crate) fn open(&self, place: &[&str], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (&version, rest) = sealed.split_first()?;
        let (nonce, body) = rest.split_at_checked(NONCE_LEN)?;
        if version != VERSION {
            return None;
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut body = Zeroizing::new(body.to_vec());
        let length = self
            .0
            .open_in_place(nonce, Aad::from(bound_to(place)), &mut body)
            .ok()?
            .len();
        body.truncate(length);
        Some(body)
    }
}

fn bound_to(place: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in place {
        bytes.extend_from_slice(&(name.len() as u64).to_be_bytes());
        bytes.extend_from_slice(name.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_whole_and_only_in_its_place() {
        let key = Key::new(&fresh_key());
        let sealed = key.seal(&["a", "bc"], b"a secret");
        assert_eq!(key.open(&["a", "bc"], &sealed).unwrap().as_slice(), b"a secret");
        assert!(!sealed.windows(6).any(|w| w == b"secret"));
        for place in [&["ab", "c"][..], &["a", "bc", ""], &["abc"], &["bc", "a"]] {
            assert!(key.open(place, &sealed).is_none(), "{place:?}");
        }
        assert!(Key::new(&fresh_key()).open(&["a", "bc"], &sealed).is_none());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(key.open(&["a", "bc"], &changed).is_none(), "byte {at}");
            assert!(key.open(&["a", "bc"], &sealed[..at]).is_none(), "cut at {at}");
        }
        assert_ne!(sealed, key.seal(&["a", "bc"], b"a secret"), "a nonce is used once");
    }
}
