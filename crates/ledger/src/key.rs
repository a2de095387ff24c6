//! The Ed25519 keys that sign checkpoints, and the file that holds the private one.
//!
//! The private key lies in the ledger's folder as PKCS#8 in PEM, mode 0600. A file that others may read is refused.
//! A new key lies in `signing.key.next` until the ledger names it.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use aws_lc_rs::signature::{self, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::Error;
use crate::chain::Keys;
use crate::folder::sync_dir;
use crate::hash::{Hash, Hex};

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";
const MAX_KEY_FILE: u64 = 4096;

/// The id of a key: the first 16 bytes of the SHA-256 value of the public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(Hex<16>);

impl KeyId {
    pub(crate) const fn as_bytes(&self) -> &[u8; 16] {
        &self.0.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        Hex::parse(text).map(Self).ok_or(InvalidKeyId)
    }
}

/// A text that is not the id of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a key: 32 lower-case hexadecimal digits are expected")]
pub struct InvalidKeyId;

/// An Ed25519 public key. Its text form is 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(Hex<32>);

/// A text that is not a public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a public key: 64 lower-case hexadecimal digits are expected")]
pub struct InvalidPublicKey;

impl PublicKey {
    /// The key as 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Hex(bytes))
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0.0
    }

    /// Its id.
    pub fn id(&self) -> KeyId {
        let hash = Hash::of(self.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash.as_bytes()[..16]);
        KeyId(Hex(id))
    }

    pub(crate) fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&signature::ED25519, self.as_bytes())
            .verify(message, signature)
            .is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for PublicKey {
    type Err = InvalidPublicKey;

    fn from_str(text: &str) -> Result<Self, InvalidPublicKey> {
        Hex::parse(text).map(Self).ok_or(InvalidPublicKey)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Hex::deserialize(deserializer).map(Self)
    }
}

/// A private key at work. It has no `Debug` and no `Serialize`.
pub(crate) struct Signer {
    pair: Ed25519KeyPair,
    public: PublicKey,
    id: KeyId,
}

impl Signer {
    /// A new key.
    pub(crate) fn generate() -> Result<Self, Error> {
        let pair = Ed25519KeyPair::generate().map_err(|_| Error::Crypto("make a signing key"))?;
        Self::of(pair).ok_or(Error::Crypto("make a signing key"))
    }

    fn of(pair: Ed25519KeyPair) -> Option<Self> {
        let public = PublicKey::from_bytes(pair.public_key().as_ref().try_into().ok()?);
        Some(Self {
            pair,
            public,
            id: public.id(),
        })
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.public
    }

    pub(crate) fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let signature = self.pair.sign(message);
        signature
            .as_ref()
            .try_into()
            .expect("an Ed25519 signature has 64 bytes")
    }
}

/// Where the private key lies.
pub(crate) fn key_file(dir: &Path) -> PathBuf {
    dir.join("signing.key")
}

/// Where a new key lies until the ledger names it.
pub(crate) fn next_key_file(dir: &Path) -> PathBuf {
    dir.join("signing.key.next")
}

/// Writes the key into a new file and waits until it is durable.
pub(crate) fn store_key(signer: &Signer, path: &Path) -> Result<(), Error> {
    // PKCS#8 version 1, which every tool reads. The document wipes itself.
    let der = signer
        .pair
        .to_pkcs8v1()
        .map_err(|_| Error::Crypto("write a signing key"))?;
    let text = Zeroizing::new(format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(der.as_ref())));
    let write = || -> io::Result<()> {
        // A file that a crash left half written is replaced.
        let temporary = path.with_extension("tmp");
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(Error::io("write the signing key", path))?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// The key of a ledger, which has to be the newest of the `keys` that its chain names.
pub(crate) fn signer_of(dir: &Path, keys: &Keys) -> Result<Signer, Error> {
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
    Ok(signer)
}

/// Reads the key; `None` if there is no such file.
pub(crate) fn load_key(path: &Path) -> Result<Option<Signer>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("open the signing key", path)(e)),
    };
    let wrong = |problem: &str| Error::Key {
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    let mode = file.metadata().map_err(Error::io("read the mode of", path))?.mode();
    if mode & 0o007 != 0 {
        return Err(wrong(
            "is open to every user of this machine (chmod 600 it, and rotate the key)",
        ));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_KEY_FILE)
        .read_to_string(&mut text)
        .map_err(Error::io("read the signing key", path))?;
    let body = text
        .trim()
        .strip_prefix(BEGIN)
        .and_then(|rest| rest.strip_suffix(END))
        .ok_or_else(|| wrong("is not a private key in PEM"))?;
    let der = Zeroizing::new(
        STANDARD
            .decode(body.trim())
            .map_err(|_| wrong("is not a private key in PEM"))?,
    );
    let pair = Ed25519KeyPair::from_pkcs8(&der).map_err(|_| wrong("is not an Ed25519 key"))?;
    Signer::of(pair).map(Some).ok_or_else(|| wrong("is not an Ed25519 key"))
}
