//! Messages of RFC 5424: a header, structured data with the fields that one searches for, and the whole event as JSON.
//!
//! What goes into structured data and header is cleaned as the RFC demands, so that no field of a record can end one
//! and begin another.

use std::fmt::Write as _;

use outwork_wire::Time;

use super::{Content, Origin};
use crate::entry::Entry;
use crate::kind::{Decision, Kind};
use crate::record::Record;

/// What the messages say of their sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The facility. Default: 13, log audit.
    pub facility: u8,
    /// The host. Default: the name of this machine.
    pub hostname: String,
    /// The application. Default: `outwork`.
    pub app_name: String,
    /// The private enterprise number in the id of the structured data, `outwork@<number>`. Default: 32473, which RFC
    /// 5612 keeps for those who have none of their own.
    pub enterprise: u32,
}

impl Default for Header {
    fn default() -> Self {
        Self {
            facility: 13,
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            app_name: "outwork".into(),
            enterprise: 32473,
        }
    }
}

const WARNING: u8 = 4;
const NOTICE: u8 = 5;
const INFORMATIONAL: u8 = 6;

/// One message, without framing. `json` is the text of the message.
pub fn message(header: &Header, origin: &Origin<'_>, content: &Content<'_>, json: &str) -> Vec<u8> {
    let (severity, at) = match content {
        Content::Record(record) => (severity(record), Some(record.at)),
        Content::Own(Entry::Interrupted(entry)) => (WARNING, Some(entry.at)),
        Content::Own(Entry::Pruned(entry)) => {
            let severity = if entry.unsent.is_empty() { NOTICE } else { WARNING };
            (severity, Some(entry.at))
        }
        Content::Own(Entry::Recovered(entry)) => (NOTICE, Some(entry.at)),
        Content::Own(Entry::Redacted(entry)) => (NOTICE, Some(entry.at)),
        Content::Own(Entry::Key(entry)) => (NOTICE, Some(entry.at)),
        Content::Own(Entry::Format(entry)) => (NOTICE, Some(entry.at)),
        Content::Own(Entry::Record(_) | Entry::Checkpoint(_)) | Content::Withheld => (NOTICE, None),
    };
    let priority = u16::from(header.facility.min(23)) * 8 + u16::from(severity);
    let mut out = format!(
        "<{priority}>1 {} {} {} {} {} [outwork@{}",
        at.map_or_else(|| "-".to_owned(), timestamp),
        name(&header.hostname, 255),
        name(&header.app_name, 48),
        std::process::id(),
        name(content.name(), 32),
        header.enterprise,
    );
    parameter(&mut out, "ledger", origin.ledger);
    parameter(&mut out, "seq", &origin.receipt.sequence.to_string());
    parameter(&mut out, "hash", &origin.receipt.hash.to_string());
    if let Content::Record(record) = content {
        let agent = record.agent.as_ref().map(|agent| agent.id.as_str());
        let credential = record
            .credential
            .as_ref()
            .and_then(|credential| credential.name.as_deref());
        for (key, value) in [
            ("workspace", record.workspace.as_deref()),
            ("session", record.session.as_deref()),
            ("agent", agent),
            ("worker", record.worker.as_deref()),
            ("tool", record.tool.as_deref()),
            ("call", record.call.as_deref()),
            (
                "destination",
                record.destination.as_deref().or(record.hostname.as_deref()),
            ),
            ("decision", record.decision.map(Decision::name)),
            ("rule", record.rule.as_deref()),
            ("credential", credential),
            ("approver", record.approver.as_deref()),
            ("actor", record.actor.as_deref()),
        ] {
            if let Some(value) = value {
                parameter(&mut out, key, value);
            }
        }
    }
    out.push_str("] ");
    out.push_str(json);
    out.into_bytes()
}

/// Octet counting, as RFC 5425 and RFC 6587 have it.
pub fn frame(message: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(message.len().to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(message);
}

fn severity(record: &Record) -> u8 {
    match (record.decision, record.kind) {
        (Some(Decision::Denied), _) | (_, Kind::AuthenticationFailure) => WARNING,
        (Some(Decision::Failed), _) | (_, Kind::Stop) => NOTICE,
        (Some(Decision::Allowed) | None, _) => INFORMATIONAL,
    }
}

/// RFC 3339 in UTC with at most six digits of a second, which is what a [`Time`] shows.
fn timestamp(time: Time) -> String {
    time.to_string()
}

/// A field of the header: printable ASCII without spaces, not empty.
fn name(text: &str, limit: usize) -> String {
    let clean: String = text
        .chars()
        .map(|c| if c.is_ascii_graphic() { c } else { '_' })
        .take(limit)
        .collect();
    if clean.is_empty() { "-".into() } else { clean }
}

/// A parameter of the structured data. `"`, `\` and `]` are escaped; control characters have no business there.
fn parameter(out: &mut String, key: &str, value: &str) {
    let _ = write!(out, " {key}=\"");
    for c in value.chars() {
        match c {
            '"' | '\\' | ']' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Receipt;
    use crate::hash::Hash;

    #[test]
    fn a_message_has_the_form_of_the_rfc_and_nothing_breaks_out_of_a_field() {
        let record = Record::new(Kind::Connection, Time::from_micros(1_700_000_000_000_001))
            .session("se]ss\"\\\n[evil@1 a=\"b\"]")
            .destination("exämple.com:443")
            .decided(Decision::Denied, "default");
        let header = Header {
            hostname: "host name\n".into(),
            ..Header::default()
        };
        let origin = Origin {
            ledger: "abc",
            receipt: Receipt {
                sequence: 7,
                hash: Hash::ZERO,
            },
        };
        let bytes = message(&header, &origin, &Content::Record(&record), "{\"a\":1}");
        let text = String::from_utf8(bytes.clone()).unwrap();
        let start = format!(
            "<108>1 2023-11-14T22:13:20.000001Z host_name_ outwork {} connection [outwork@32473 ledger=\"abc\" seq=\"7\"",
            std::process::id()
        );
        assert!(text.starts_with(&start), "{text}");
        assert!(text.contains(r#" session="se\]ss\"\\"#) && text.contains("\u{fffd}[evil@1 a=\\\"b\\\"\\]\""));
        assert!(text.ends_with("destination=\"exämple.com:443\" decision=\"denied\" rule=\"default\"] {\"a\":1}"));
        let mut framed = Vec::new();
        frame(&bytes, &mut framed);
        assert!(framed.starts_with(format!("{} <108>1 ", bytes.len()).as_bytes()));
    }
}
