//! The first message of a TLS client, read without answering it.
//!
//! rustls reads it and refuses what is malformed; what rustls does not show (encrypted client hellos) is looked for in
//! the same bytes. The bytes are kept, for a connection that is passed through.

use bytes::BytesMut;
use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::policy::host_name;

/// The longest first message.
const LONGEST: usize = 32 * 1024;
/// The extension of an encrypted client hello (RFC 9849), and its drafts' predecessor for names.
const ENCRYPTED_HELLO: [u16; 2] = [0xfe0d, 0xffce];

/// What a client said first.
pub(crate) struct Hello {
    /// The name, in its one form.
    pub(crate) name: Option<String>,
    /// Whether it is encrypted, so that the name that counts is hidden.
    pub(crate) encrypted: bool,
    /// For going on with the handshake.
    pub(crate) accepted: Accepted,
    /// The bytes as they came.
    pub(crate) bytes: BytesMut,
}

/// How the reading of it ended.
pub(crate) enum Greeting {
    /// It is there.
    Hello(Box<Hello>),
    /// It is not one that can be understood; the alert that says so.
    Wrong(Vec<u8>),
    /// The client left.
    Gone,
}

/// Reads it; `bytes` is what was read before.
pub(crate) async fn read<S: AsyncRead + Unpin>(stream: &mut S, mut bytes: BytesMut) -> Greeting {
    let mut acceptor = Acceptor::default();
    let mut seen = 0;
    loop {
        while seen < bytes.len() {
            match acceptor.read_tls(&mut &bytes[seen..]) {
                Ok(0) | Err(_) => return Greeting::Wrong(alert(DECODE_ERROR)),
                Ok(read) => seen += read,
            }
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let said = accepted.client_hello().server_name().map(str::to_owned);
                let name = match said.as_deref().map(host_name_of) {
                    Some(None) => return Greeting::Wrong(alert(UNRECOGNIZED_NAME)),
                    Some(Some(name)) => Some(name),
                    None => None,
                };
                let encrypted = has_encrypted_hello(&bytes);
                return Greeting::Hello(Box::new(Hello {
                    name,
                    encrypted,
                    accepted,
                    bytes,
                }));
            }
            Ok(None) => {}
            Err((_, mut alert)) => {
                let mut said = Vec::new();
                // Writing to memory does not fail.
                let _ = alert.write_all(&mut said);
                return Greeting::Wrong(said);
            }
        }
        if bytes.len() > LONGEST {
            return Greeting::Wrong(alert(DECODE_ERROR));
        }
        match stream.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return Greeting::Gone,
            Ok(_) => {}
        }
    }
}

fn host_name_of(said: &str) -> Option<String> {
    host_name(&said.to_ascii_lowercase()).ok()
}

const DECODE_ERROR: u8 = 50;
const ACCESS_DENIED: u8 = 49;
const UNRECOGNIZED_NAME: u8 = 112;

/// A fatal alert of this number, before anything was agreed.
fn alert(number: u8) -> Vec<u8> {
    vec![21, 3, 3, 0, 2, 2, number]
}

impl Hello {
    /// What a client is told that may not go on: access denied.
    pub(crate) fn denied() -> Vec<u8> {
        alert(ACCESS_DENIED)
    }
}

/// Whether a first message, well formed, has an extension for encrypted hellos. If it cannot be read, it counts as one.
fn has_encrypted_hello(bytes: &[u8]) -> bool {
    extensions(&handshake(bytes)).is_none_or(|kinds| kinds.iter().any(|kind| ENCRYPTED_HELLO.contains(kind)))
}

/// The bytes of the handshake out of the records that carry it.
fn handshake(mut bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let [22, _, _, high, low, rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        message.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    message
}

/// The numbers of the extensions.
fn extensions(message: &[u8]) -> Option<Vec<u16>> {
    let mut rest = message;
    // Kind and length of the message, version and random number.
    take(&mut rest, 4 + 2 + 32)?;
    let session = usize::from(take(&mut rest, 1)?[0]);
    take(&mut rest, session)?;
    let suites = number(&mut rest)?;
    take(&mut rest, suites.into())?;
    let compressions = usize::from(take(&mut rest, 1)?[0]);
    take(&mut rest, compressions)?;
    let mut kinds = Vec::new();
    if rest.is_empty() {
        return Some(kinds);
    }
    let length = number(&mut rest)?;
    let mut rest = take(&mut rest, length.into())?;
    while !rest.is_empty() {
        kinds.push(number(&mut rest)?);
        let length = number(&mut rest)?;
        take(&mut rest, length.into())?;
    }
    Some(kinds)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn number(rest: &mut &[u8]) -> Option<u16> {
    take(rest, 2).map(|two| u16::from_be_bytes([two[0], two[1]]))
}
