//! Exports: what the ledger keeps, carried to another system as it comes, in that system's form.
//!
//! An [`Exporter`] follows one ledger and has a durable place in it ([`Target`] says where to and in which form). It
//! moves its place only after the target has taken what came before, so each line arrives at least once, and after a
//! restart it goes on where it was. It is never in the way of those who record: it reads what is durable, and if the
//! target is slow or away it lags behind, says so ([`Status`]), and [retention](crate::Ledger::prune) leaves what it
//! still needs. A line that a target refuses for good stops it there, visibly; [`Exporter::skip`] moves on, and the
//! ledger then tells who did so, and why.
//!
//! What "taken" means depends on the target, from strong to weak:
//!
//! | target | a line counts as taken when |
//! |---|---|
//! | file | it was flushed to the disk |
//! | HTTP, OTLP | the answer says so |
//! | syslog over TCP or TLS | the receiver has read to the end of the connection and closed its side |
//! | syslog over UDP | it was sent: what the network loses is lost |
//!
//! Targets that take JSON lines of the ledger get every line as it stands, hashes and signatures included, and can
//! verify them ([`verify_reader`](crate::verify_reader), if they keep each line once). The others get records, and what
//! the ledger says of itself, except for checkpoints.

pub(crate) mod cursor;
mod exporter;
mod http;
mod net;
pub mod ocsf;
mod ocsf_objects;
pub mod otlp;
mod sink;
pub mod syslog;
mod tail;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use crate::Error;
use crate::entry::{Entry, Receipt};
use crate::expect::Expect;
use crate::filter::Filter;
use crate::key::PublicKey;
use crate::record::Record;
use crate::verify::examine;

pub use exporter::{Exporter, Listener, Start, Status};
pub use net::Tls;

/// The form in which a line leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The lines of the ledger, as they stand.
    Lines,
    /// One OCSF event a line; see [`ocsf`].
    Ocsf,
}

/// Where an export goes.
#[derive(Clone)]
#[non_exhaustive]
pub enum Target {
    /// Appended to a file, which may be rotated meanwhile: it is opened for each batch.
    File {
        /// The file.
        path: PathBuf,
        /// The form of a line.
        form: Form,
    },
    /// Sent as RFC 5424 messages.
    Syslog(Syslog),
    /// Posted as OTLP logs in JSON, to the full URL (usually ending in `/v1/logs`).
    Otlp(Endpoint),
    /// Posted as JSON lines (`application/x-ndjson`).
    Http {
        /// Where to.
        endpoint: Endpoint,
        /// The form of a line.
        form: Form,
    },
}

/// An HTTP endpoint.
#[derive(Clone)]
pub struct Endpoint {
    /// Its URL.
    pub url: String,
    /// Headers to send, such as `authorization`.
    pub headers: Vec<(String, SecretString)>,
    /// How to check an `https` endpoint.
    pub tls: Tls,
}

/// A syslog receiver.
#[derive(Clone)]
pub struct Syslog {
    /// Its `host:port`.
    pub address: String,
    /// How to reach it.
    pub transport: Transport,
    /// What the messages say of their sender.
    pub header: syslog::Header,
    /// The form of the message.
    pub form: Form,
}

/// How syslog messages travel.
#[derive(Clone)]
pub enum Transport {
    /// Each in a datagram (RFC 5426): what the network loses is lost.
    Udp,
    /// Over TCP with octet counting (RFC 6587).
    Tcp,
    /// Over TLS with octet counting (RFC 5425).
    Tls(Tls),
}

/// How an export works. Made by [`Options::new`]; change what has to be different.
#[derive(Clone)]
pub struct Options {
    /// Its name: small letters, digits and `-`.
    pub name: String,
    /// Where it goes.
    pub target: Target,
    /// Where it begins if there is no place for this name yet. Default: with the first line that is left.
    pub start: Start,
    /// At most so many lines at once. Default: 500.
    pub batch_lines: usize,
    /// About so many bytes at once. Default: 1 MiB.
    pub batch_bytes: usize,
    /// How long a target has for each step. Default: 10 s.
    pub timeout: Duration,
    /// How long to wait after a failure; doubled with each, up to `max_retry`. Default: 500 ms.
    pub retry: Duration,
    /// The most that is waited after failures. Default: 60 s.
    pub max_retry: Duration,
    /// Is told of every change of the status: progress, lag, faults.
    pub listener: Option<Listener>,
}

impl Options {
    /// The defaults, for `target`.
    pub fn new(name: impl Into<String>, target: Target) -> Self {
        Self {
            name: name.into(),
            target,
            start: Start::Beginning,
            batch_lines: 500,
            batch_bytes: 1 << 20,
            timeout: Duration::from_secs(10),
            retry: Duration::from_millis(500),
            max_retry: Duration::from_secs(60),
            listener: None,
        }
    }

    fn check(&self) -> Result<(), Error> {
        for (name, is_zero) in [
            ("batch_lines", self.batch_lines == 0),
            ("batch_bytes", self.batch_bytes == 0),
            ("timeout", self.timeout.is_zero()),
            ("retry", self.retry.is_zero()),
            ("max_retry", self.max_retry.is_zero()),
        ] {
            if is_zero {
                return Err(Error::Options(name));
            }
        }
        Ok(())
    }
}

/// What tells one event from another everywhere: which ledger, which line.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The id of the ledger.
    pub ledger: &'a str,
    /// The line.
    pub receipt: Receipt,
}

impl Origin<'_> {
    /// `<ledger>:<sequence>`, the same however often the line is delivered.
    pub fn id(&self) -> String {
        format!("{}:{}", self.ledger, self.receipt.sequence)
    }
}

/// What a line is, for a form that is not the ledger's own.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// A crossing.
    Record(&'a Record),
    /// A record whose body was redacted before it could be delivered.
    Withheld,
    /// What the ledger says of itself, except for checkpoints.
    Own(&'a Entry),
}

impl<'a> Content<'a> {
    /// What of a line leaves in forms that are not the ledger's own; `None` for a checkpoint.
    pub(crate) fn of(entry: Option<&'a Entry>) -> Option<Self> {
        match entry {
            Some(Entry::Record(record)) => Some(Self::Record(record)),
            Some(Entry::Checkpoint(_)) => None,
            Some(other) => Some(Self::Own(other)),
            None => Some(Self::Withheld),
        }
    }

    /// A word for it: the kind of a record, the type of another line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Record(record) => record.kind.name(),
            Self::Withheld => "redacted_record",
            Self::Own(Entry::Record(record)) => record.kind.name(),
            Self::Own(Entry::Checkpoint(_)) => "checkpoint",
            Self::Own(Entry::Key(_)) => "key",
            Self::Own(Entry::Recovered(_)) => "recovered",
            Self::Own(Entry::Interrupted(_)) => "interrupted",
            Self::Own(Entry::Redacted(_)) => "redacted",
            Self::Own(Entry::Pruned(_)) => "pruned",
            Self::Own(Entry::Format(_)) => "format",
        }
    }

    /// A sentence for people. No payload is in it.
    pub fn sentence(&self) -> String {
        match self {
            Self::Record(record) => record.sentence(),
            Self::Withheld => "a record whose content was redacted before it could be exported".into(),
            Self::Own(Entry::Record(record)) => record.sentence(),
            Self::Own(Entry::Checkpoint(entry)) => format!("signed up to line {}", entry.sequence),
            Self::Own(Entry::Key(entry)) => format!("the ledger is signed by the key {} from here on", entry.key),
            Self::Own(Entry::Recovered(entry)) => format!("{} bytes that a crash tore were cut", entry.bytes),
            Self::Own(Entry::Interrupted(entry)) => format!(
                "the ledger could not be written since {} and refused {} records: {}",
                entry.since, entry.refused, entry.reason
            ),
            Self::Own(Entry::Redacted(entry)) => format!(
                "{} dropped the bodies of {} records: {}",
                entry.actor, entry.records, entry.reason
            ),
            Self::Own(Entry::Pruned(entry)) => format!(
                "{} removed the lines up to {}: {}",
                entry.actor, entry.through.sequence, entry.reason
            ),
            Self::Own(Entry::Format(entry)) => format!("records are of the format {} from here on", entry.format),
        }
    }
}

/// The exports of a ledger and where each is, for a status page. Reads the folder; the ledger may be in use.
///
/// # Errors
/// If the folder or a place cannot be read.
pub fn places(dir: impl AsRef<Path>) -> Result<Vec<(String, Receipt)>, Error> {
    cursor::all(dir.as_ref())
}

/// Writes the records that match, in `form`, one a line, and gives how many there were. Verifies the ledger in `dir`
/// on the way; it may be in use. With [`Form::Lines`] the lines are those of the ledger, without the ones between them:
/// for something that can be verified use [`export`](fn@crate::export).
///
/// # Errors
/// If the ledger cannot be read, at its first fault, or if `out` fails.
pub fn write_matching(dir: impl AsRef<Path>, filter: &Filter, form: Form, mut out: impl Write) -> Result<u64, Error> {
    let expect = Expect::any_key();
    let mut ledger = String::new();
    let mut count = 0;
    let mut failure = None;
    if let Some(stub) = crate::stub::Stub::read(dir.as_ref())? {
        ledger = stub.ledger_id();
    }
    let found = examine(
        dir.as_ref(),
        &expect,
        crate::chain::Depth::Records,
        &mut |line, entry| {
            if let (true, Some(Entry::Key(key))) = (ledger.is_empty(), entry) {
                ledger = key.ledger_id();
            }
            let Some(Entry::Record(record)) = entry else { return };
            if failure.is_some() || !filter.matches(line.sequence, record) {
                return;
            }
            let mut bytes = Vec::new();
            match form {
                Form::Lines => line.write_to(&mut bytes),
                Form::Ocsf => {
                    let origin = Origin {
                        ledger: &ledger,
                        receipt: line.receipt(),
                    };
                    bytes = ocsf::event(&origin, &Content::Record(record)).to_string().into_bytes();
                    bytes.push(b'\n');
                }
            }
            count += 1;
            failure = out.write_all(&bytes).err();
        },
    )?;
    if let Some(fault) = found.fault {
        return Err(fault.into());
    }
    match failure.map_or_else(|| out.flush(), Err) {
        Ok(()) => Ok(count),
        Err(error) => Err(Error::io("write", "the export")(error)),
    }
}

/// The id of the ledger whose key is `key`, for messages before its first line was read.
pub(crate) fn ledger_of(dir: &Path, key: PublicKey) -> Result<String, Error> {
    if let Some(stub) = crate::stub::Stub::read(dir)? {
        return Ok(stub.ledger_id());
    }
    let mut tail = tail::Tail::after(dir, Receipt::NONE);
    let first = tail.read(1, 1, 1)?.unwrap_or_default();
    Ok(match first.first().and_then(|item| item.entry.as_ref()) {
        Some(Entry::Key(entry)) => entry.ledger_id(),
        _ => key.id().to_string(),
    })
}
