//! Seals: signatures of thinking blocks, and tool call ids that know which thinking came before them.
//!
//! A client must send thinking back untouched while a tool is in use. The signature of a thinking block is an HMAC
//! over its text, so an altered text or signature shows. A dropped or moved block shows as well: the id of a tool
//! call carries an HMAC over the signatures that stood before it in the same answer. The key is the same in every
//! process, so that a restarted server knows its own answers; it protects nothing but the honesty of a test.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;

const KEY: &[u8] = b"outwork rehearsal: thinking is sent back as it came";
const NONCE_BYTES: usize = 12;
/// Ids of this server begin so; those of anybody else are not judged.
const TOOL_ID_PREFIX: &str = "toolu_01R";
const TOOL_NONCE_CHARS: usize = 12;

fn mac(domain: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY).expect("HMAC takes keys of any length");
    mac.update(domain.as_bytes());
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Signs the text of a thinking block.
pub(crate) fn sign_thinking(text: &str) -> String {
    seal("thinking", text)
}

/// Makes the data of a redacted thinking block.
pub(crate) fn seal_redacted(text: &str) -> String {
    seal("redacted", text)
}

fn seal(domain: &str, text: &str) -> String {
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let mut sealed = nonce.to_vec();
    sealed.extend(mac(domain, &[&nonce, text.as_bytes()]));
    if domain == "redacted" {
        sealed.extend(text.as_bytes());
    }
    STANDARD.encode(sealed)
}

/// Whether a signature is ours and belongs to this text. Text that the client asked not to see was sent empty.
pub(crate) fn thinking_is_intact(text: &str, signature: &str) -> bool {
    let Ok(sealed) = STANDARD.decode(signature) else {
        return false;
    };
    sealed.len() == NONCE_BYTES + 32
        && sealed[NONCE_BYTES..] == mac("thinking", &[&sealed[..NONCE_BYTES], text.as_bytes()])
}

/// Whether the data of a redacted block is ours.
pub(crate) fn redacted_is_intact(data: &str) -> bool {
    let Ok(sealed) = STANDARD.decode(data) else {
        return false;
    };
    let Some((nonce, rest)) = sealed.split_at_checked(NONCE_BYTES) else {
        return false;
    };
    let Some((tag, text)) = rest.split_at_checked(32) else {
        return false;
    };
    *tag == mac("redacted", &[nonce, text])
}

/// A new id for a tool call that follows thinking blocks with these signatures.
pub(crate) fn tool_use_id(signatures: &[String]) -> String {
    let nonce = URL_SAFE_NO_PAD
        .encode(rand::random::<[u8; 9]>())
        .replace('-', "A")
        .replace('_', "B");
    format!(
        "{TOOL_ID_PREFIX}{nonce}{}{}",
        owner_tag(&nonce),
        thinking_tag(&nonce, signatures)
    )
}

/// Whether thinking with exactly these signatures stood before the call; `None` when the id is not ours.
pub(crate) fn tool_use_follows(id: &str, signatures: &[String]) -> Option<bool> {
    let rest = id.strip_prefix(TOOL_ID_PREFIX)?;
    let (nonce, tags) = rest.split_at_checked(TOOL_NONCE_CHARS)?;
    let (owner, thinking) = tags.split_at_checked(6)?;
    (owner == owner_tag(nonce)).then(|| thinking == thinking_tag(nonce, signatures))
}

fn owner_tag(nonce: &str) -> String {
    hex(&mac("tool", &[nonce.as_bytes()])[..3])
}

fn thinking_tag(nonce: &str, signatures: &[String]) -> String {
    let mut parts = vec![nonce.as_bytes()];
    parts.extend(signatures.iter().map(String::as_bytes));
    hex(&mac("thinking before tool", &parts)[..5])
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A random id with a prefix.
pub(crate) fn random_id(prefix: &str) -> String {
    format!("{prefix}{}", hex(&rand::random::<[u8; 12]>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_altered_or_dropped_block_shows() {
        let signature = sign_thinking("because");
        assert!(thinking_is_intact("because", &signature));
        assert!(!thinking_is_intact("because.", &signature));
        assert!(!thinking_is_intact("because", &signature[4..]));
        assert!(!thinking_is_intact("because", "@"));
        let id = tool_use_id(std::slice::from_ref(&signature));
        assert_eq!(tool_use_follows(&id, std::slice::from_ref(&signature)), Some(true));
        assert_eq!(tool_use_follows(&id, &[]), Some(false));
        assert_eq!(tool_use_follows("toolu_01RforeignForeignForeign00", &[]), None);
        assert_eq!(tool_use_follows("call_7", &[]), None);
        let data = seal_redacted("hidden");
        assert!(redacted_is_intact(&data));
        assert!(!redacted_is_intact(&data[8..]));
    }
}
