//! Sealing: secrets that must be shown again are kept as ciphertext.
//!
//! A [`Sealer`] binds what it seals to its [`Place`], so that a ciphertext that was moved to another row, tunnel or
//! workspace does not open. [`FileSealer`] is AES-256-GCM under a key in a file of mode 0600.

use std::io;
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use outwork_wire::id::WorkspaceId;
use zeroize::Zeroizing;

use crate::auth::SecretText;

const KEY_LEN: usize = 32;
/// The first byte of what is sealed here: the form.
const FORM: u8 = 1;

/// Where a sealed secret is kept.
pub(crate) struct Place<'a> {
    /// The workspace that owns it.
    pub(crate) workspace: &'a WorkspaceId,
    /// What it is, for example `tunnel_token`.
    pub(crate) what: &'static str,
    /// Whose it is: ids, in order.
    pub(crate) ids: &'a [&'a str],
}

/// A secret that could not be sealed or opened. Says nothing of the secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SealError {
    /// The cipher failed.
    #[error("a secret could not be sealed")]
    Seal,
    /// Another key, another place, or damage.
    #[error("what is kept does not open with the present key")]
    Open,
}

/// Seals secrets and opens them again.
pub(crate) trait Sealer: Send + Sync {
    /// Seals a secret for its place. A key may have to be fetched first.
    fn seal<'a>(&'a self, place: &'a Place<'a>, secret: &'a SecretText) -> BoxFuture<'a, Result<Vec<u8>, SealError>>;

    /// Opens what was sealed for this place.
    fn open<'a>(&'a self, place: &'a Place<'a>, sealed: &'a [u8]) -> BoxFuture<'a, Result<SecretText, SealError>>;
}

/// Seals under a key in a file.
pub(crate) struct FileSealer {
    key: RandomizedNonceKey,
}

impl FileSealer {
    /// Reads the key in a file; makes one if there is no file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let bytes = match crate::private_file::read(path)? {
            Some(text) => Zeroizing::new(STANDARD.decode(text.trim()).unwrap_or_default()),
            None => {
                let mut bytes = Zeroizing::new(vec![0; KEY_LEN]);
                aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("the system gives no random bytes"))?;
                crate::private_file::replace(path, &format!("{}\n", Zeroizing::new(STANDARD.encode(&bytes)).as_str()))?;
                bytes
            }
        };
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes)
            .map_err(|_| io::Error::other("it does not hold a key of 32 bytes in base64; restore it from a backup"))?;
        Ok(Self { key })
    }
}

impl Sealer for FileSealer {
    fn seal<'a>(&'a self, place: &'a Place<'a>, secret: &'a SecretText) -> BoxFuture<'a, Result<Vec<u8>, SealError>> {
        Box::pin(std::future::ready(self.seal_now(place, secret)))
    }

    fn open<'a>(&'a self, place: &'a Place<'a>, sealed: &'a [u8]) -> BoxFuture<'a, Result<SecretText, SealError>> {
        Box::pin(std::future::ready(self.open_now(place, sealed)))
    }
}

impl FileSealer {
    fn seal_now(&self, place: &Place<'_>, secret: &SecretText) -> Result<Vec<u8>, SealError> {
        let mut inside = secret.expose().as_bytes().to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(bound_to(place)), &mut inside)
            .map_err(|_| SealError::Seal)?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + inside.len());
        sealed.push(FORM);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.extend_from_slice(&inside);
        Ok(sealed)
    }

    fn open_now(&self, place: &Place<'_>, sealed: &[u8]) -> Result<SecretText, SealError> {
        let (form, rest) = sealed.split_first().ok_or(SealError::Open)?;
        let (nonce, inside) = rest.split_at_checked(NONCE_LEN).ok_or(SealError::Open)?;
        if *form != FORM {
            return Err(SealError::Open);
        }
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Open)?;
        let mut inside = Zeroizing::new(inside.to_vec());
        let text = self
            .key
            .open_in_place(nonce, Aad::from(bound_to(place)), &mut inside)
            .map_err(|_| SealError::Open)?;
        let text = std::str::from_utf8(text).map_err(|_| SealError::Open)?;
        Ok(SecretText::new(text.to_owned()))
    }
}

/// The place as bytes: every part with its length, so that no two places are the same.
fn bound_to(place: &Place<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in [place.what, place.workspace.as_str()].iter().chain(place.ids) {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_in_its_place_with_its_key_and_nowhere_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tunnel.key");
        let sealer = FileSealer::open(&path).unwrap();
        let (ours, theirs) = (WorkspaceId::fresh(), WorkspaceId::fresh());
        let place = |workspace, ids| Place {
            workspace,
            what: "tunnel_token",
            ids,
        };
        let secret = SecretText::new("outwork_tnl_x".into());
        let sealed = sealer.seal_now(&place(&ours, &["a", "b"]), &secret).unwrap();
        assert!(!sealed.windows(5).any(|w| w == b"outwo"));
        assert_ne!(sealed, sealer.seal_now(&place(&ours, &["a", "b"]), &secret).unwrap());

        let again = FileSealer::open(&path).unwrap();
        let opened = again.open_now(&place(&ours, &["a", "b"]), &sealed).unwrap();
        assert_eq!(opened.expose(), secret.expose());
        assert!(again.open_now(&place(&theirs, &["a", "b"]), &sealed).is_err());
        assert!(again.open_now(&place(&ours, &["ab", ""]), &sealed).is_err());
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(again.open_now(&place(&ours, &["a", "b"]), &damaged).is_err(), "{at}");
            assert!(
                again.open_now(&place(&ours, &["a", "b"]), &sealed[..at]).is_err(),
                "{at}"
            );
        }
        let other = FileSealer::open(&folder.path().join("other.key")).unwrap();
        assert!(other.open_now(&place(&ours, &["a", "b"]), &sealed).is_err());

        std::fs::write(&path, "c2hvcnQ=\n").unwrap();
        assert!(FileSealer::open(&path).err().unwrap().to_string().contains("32 bytes"));
    }
}
