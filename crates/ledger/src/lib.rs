//! The hash-chained evidence log: one [`Record`] for each crossing of a boundary, kept so that a stranger can verify
//! that none was changed, removed or reordered.
//!
//! ```no_run
//! # async fn example() -> Result<(), outwork_ledger::Error> {
//! use outwork_ledger::{Decision, Kind, Ledger, Options, Record};
//! use outwork_wire::Time;
//!
//! let ledger = Ledger::open("/var/lib/outwork/ledger", Options::default())?;
//! let record = Record::new(Kind::Connection, Time::now())
//!     .session("sesn_01abc")
//!     .destination("example.com:443")
//!     .decided(Decision::Denied, "default");
//! let receipt = ledger.append(record.clone()).await?; // durable from here on; threads use `.append(…).wait()`
//! ledger.append_later(record).await?; // in the queue, soon durable, never dropped
//! ledger.flush().await?; // everything up to here is durable
//! # let _ = receipt;
//! ledger.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # The file format
//!
//! A ledger is a folder: segments `ledger-<first sequence>.jsonl`, the signing key `signing.key` (mode 0600), `head`
//! (the last checkpoint that was seen durable) and `lock`. A segment is JSON lines, each of this form, byte for byte:
//!
//! ```text
//! {"seq":7,"prev":"<hash of line 6>","type":"record","salt":"<32 digits>","body":{…},"hash":"<hash of this line>"}
//! {"seq":7,"prev":"<hash of line 6>","type":"record","body_hash":"<hash>","hash":"<hash of this line>"}
//! ```
//!
//! The second form is a record whose body was dropped. With SHA-256 and all numbers big-endian:
//!
//! ```text
//! body_hash = H("outwork-ledger-body-1\0" ‖ salt ‖ body)
//! hash      = H("outwork-ledger-line-1\0" ‖ seq as 8 bytes ‖ prev ‖ type as 1 byte ‖ body_hash)
//! ```
//!
//! so a body can be taken away and the chain still verifies, and the salt keeps what was taken away from being
//! guessed. Types besides `record`: `checkpoint` (an Ed25519 signature over sequence and hash of the line before),
//! `key` (the first line, and every rotation, signed by the key before), `recovered` (a torn tail was cut after a
//! crash), `interrupted` (the ledger could not be written for a while), `redacted` (bodies were dropped, and which).
//! Sequences start with 1 and have no gap, across all types, segments and restarts.
//!
//! `pruned` (old segments were removed, see below), `format` (the version of the records from here on).
//!
//! [`Ledger::prune`] removes whole old segments. What is left of them is the file `pruned`, one signed line that holds
//! the last removed line (always a checkpoint) and the keys; the rest verifies from that checkpoint on.
//!
//! # Versions
//!
//! The form of a line, its hashes and what is signed never change: their names end in `-1`, and another form would be
//! another ledger. What may be added are kinds and fields of records, and types of entries. Whoever adds one raises
//! [`FORMAT`]. A ledger says in an entry of the type `format` from which line on records may be of which version; a
//! ledger without such an entry has version 1. A program that opens a ledger of an older version writes that entry
//! first. A program that meets a newer version than it knows refuses to go on there, and says so; it never skips
//! what it does not understand. A field or a kind is never removed and never changes its meaning. Version 2 added the
//! kinds `session_start`, `session_end`, `session_log`, `tunnel_call`, `request`, `image`, `sandbox_checkpoint`,
//! `sandbox_pause`, `sandbox_resume`, `policy_applied` and `export`, the fields `connection`, `protocol`,
//! `query_type`, `answers`, `path`, `credential_location`, `stop` and `events`, and the entries `pruned` and `format`.
//!
//! # What a ledger cannot show
//!
//! What a ledger cannot show by itself: that lines after the last checkpoint, or a whole tail together with `head`,
//! were removed by somebody who can write the folder. Keep a [`Receipt`] elsewhere and hand it to
//! [`Expect::witness`] to show that too.

#![forbid(unsafe_code)]

mod batch;
mod bundle;
mod bundle_check;
mod chain;
mod entry;
mod error;
pub mod evidence;
mod expect;
pub mod exports;
mod filter;
mod folder;
#[cfg(test)]
mod format_tests;
mod hash;
mod key;
mod kind;
mod ledger;
pub mod line;
mod open;
mod prune;
mod queue;
mod reader;
mod record;
mod redact;
#[cfg(test)]
mod stall_tests;
mod stub;
mod verify;
mod watch;
mod writer;

pub use bundle::{Bundle, export};
pub use bundle_check::{BundleReport, verify_bundle};
pub use entry::{Checkpoint, Entry, Format, Interrupted, KeyEntry, Pruned, Receipt, Recovered, Redacted, Unsent};
pub use error::Error;
pub use expect::Expect;
pub use filter::Filter;
pub use hash::{Hash, InvalidHash};
pub use key::{InvalidKeyId, InvalidPublicKey, KeyId, PublicKey};
pub use kind::{Decision, Field, Kind, Scope};
pub use ledger::{Ledger, Options, Status};
pub use prune::{Pruning, Retention};
pub use queue::{Append, AppendLater, Pending};
pub use reader::scan;
pub use record::{Agent, Credential, Payload, Record, Stop};
pub use redact::Redaction;
pub use verify::{Fault, FaultKind, PrunedPart, Report, verify, verify_reader};

/// The newest format of records that this program knows, and the one that it writes; see [the crate's page](crate#versions).
pub const FORMAT: u32 = 2;
