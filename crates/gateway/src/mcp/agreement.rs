//! Whether the MCP headers of a request say what its body says.
//!
//! From revision 2026-07-28 on a request must carry `Mcp-Method` and, for some methods, `Mcp-Name`, and both must agree
//! with the body, or it is refused with `HeaderMismatch` (-32020). Before that revision they need not be there; if they
//! are, they must agree too, because something behind the gateway may route on them.
//! Source: the MCP specification, revision 2026-07-28, Streamable HTTP, "Standard request headers".

use std::borrow::Cow;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;

use super::message::{Kind, Message};

/// The first revision without sessions, whose requests carry the headers.
pub const STATELESS: &str = "2026-07-28";

/// The headers and the body differ: what about them.
pub type Mismatch = &'static str;

/// Whether the headers agree with the body.
pub fn check(headers: &HeaderMap, message: &Message<'_>) -> Result<(), Mismatch> {
    let revision = single(headers, "mcp-protocol-version", "MCP-Protocol-Version is there twice or not text")?;
    if let Some(named) = &message.params.revision {
        match revision {
            Some(revision) if revision == named => {}
            Some(_) => return Err("MCP-Protocol-Version is not the revision that params._meta names"),
            None if &**named >= STATELESS => return Err("MCP-Protocol-Version is missing"),
            None => {}
        }
    }
    let required = revision.is_some_and(|revision| revision >= STATELESS);
    let method = single(headers, "mcp-method", "Mcp-Method is there twice or not text")?;
    let name = single(headers, "mcp-name", "Mcp-Name is there twice or not text")?;
    if message.kind == Kind::Response {
        return Ok(());
    }
    match method {
        Some(method) if method == message.method => {}
        Some(_) => return Err("Mcp-Method is not the body's method"),
        None if required => return Err("Mcp-Method is missing"),
        None => {}
    }
    match (name, message.header_name()) {
        (Some(name), Some(expected)) => match decode(name) {
            Some(name) if name == expected => {}
            Some(_) => return Err("Mcp-Name is not the name in the body"),
            None => return Err("Mcp-Name is not valid Base64"),
        },
        (Some(_), None) if required => return Err("Mcp-Name is there, and the method has no name"),
        (None, Some(_)) if required => return Err("Mcp-Name is missing"),
        _ => {}
    }
    Ok(())
}

fn single<'a>(headers: &'a HeaderMap, name: &str, twice: Mismatch) -> Result<Option<&'a str>, Mismatch> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| twice),
        (Some(_), Some(_)) => Err(twice),
    }
}

/// The text that a header's value stands for: itself, or the Base64 in `=?base64?…?=`.
pub(crate) fn decode(value: &str) -> Option<Cow<'_, str>> {
    match value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        Some(inner) => Some(Cow::Owned(String::from_utf8(BASE64_STANDARD.decode(inner).ok()?).ok()?)),
        None => Some(Cow::Borrowed(value)),
    }
}

/// The header value that stands for a text.
pub(crate) fn encode(text: &str) -> String {
    let plain = text.bytes().all(|b| (0x20..=0x7e).contains(&b))
        && text.trim() == text
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    if plain { text.to_owned() } else { format!("=?base64?{}?=", BASE64_STANDARD.encode(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(headers: &[(&'static str, &str)], body: &str) -> Result<(), Mismatch> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        check(&map, &Message::parse(body.as_bytes()).unwrap())
    }

    const NEW: (&str, &str) = ("mcp-protocol-version", "2026-07-28");
    const OLD: (&str, &str) = ("mcp-protocol-version", "2025-11-25");
    const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#;

    #[test]
    fn the_new_revision_needs_them() {
        assert_eq!(judge(&[NEW, ("mcp-method", "tools/call"), ("mcp-name", "echo")], CALL), Ok(()));
        assert_eq!(judge(&[NEW, ("mcp-method", "tools/call"), ("mcp-name", "=?base64?ZWNobw==?=")], CALL), Ok(()));
        for headers in [
            &[NEW][..],
            &[NEW, ("mcp-method", "tools/call")],
            &[NEW, ("mcp-name", "echo")],
            &[NEW, ("mcp-method", "tools/list"), ("mcp-name", "echo")],
            &[NEW, ("mcp-method", "tools/call"), ("mcp-name", "other")],
            &[NEW, ("mcp-method", "tools/call"), ("mcp-name", "=?base64?!?=")],
            &[NEW, ("mcp-method", "tools/call"), ("mcp-method", "tools/call"), ("mcp-name", "echo")],
            &[NEW, NEW, ("mcp-method", "tools/call"), ("mcp-name", "echo")],
        ] {
            assert!(judge(headers, CALL).is_err(), "{headers:?}");
        }
        let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        assert_eq!(judge(&[NEW, ("mcp-method", "ping")], ping), Ok(()));
        assert!(judge(&[NEW, ("mcp-method", "ping"), ("mcp-name", "x")], ping).is_err());
    }

    #[test]
    fn an_old_one_passes_without_but_not_against_them() {
        assert_eq!(judge(&[OLD], CALL), Ok(()));
        assert_eq!(judge(&[], CALL), Ok(()));
        assert!(judge(&[OLD, ("mcp-method", "ping")], CALL).is_err());
        assert!(judge(&[OLD, ("mcp-name", "other")], CALL).is_err());
    }

    #[test]
    fn the_revision_in_the_body_counts() {
        let body = |revision: &str| {
            format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"{revision}"}}}}}}"#
            )
        };
        assert!(judge(&[], &body("2026-07-28")).is_err());
        assert!(judge(&[OLD, ("mcp-method", "ping")], &body("2026-07-28")).is_err());
        assert_eq!(judge(&[NEW, ("mcp-method", "ping")], &body("2026-07-28")), Ok(()));
    }

    #[test]
    fn values_survive_their_encoding() {
        for text in ["plain", " spaces ", "é", "=?base64?x?=", "a\nb", ""] {
            assert_eq!(decode(&encode(text)).as_deref(), Some(text));
        }
    }
}
