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
//! What a ledger cannot show by itself: that lines after the last checkpoint, or a whole tail together with `head`,
//! were removed by somebody who can write the folder. Keep a [`Receipt`] elsewhere and hand it to
//! [`Expect::witness`] to show that too.

#![forbid(unsafe_code)]

mod bundle;
mod chain;
mod entry;
mod error;
mod filter;
mod folder;
mod hash;
mod key;
mod ledger;
pub mod line;
mod open;
mod queue;
mod reader;
mod record;
mod redact;
mod verify;
mod writer;

pub use bundle::{Bundle, BundleReport, export, verify_bundle};
pub use entry::{Checkpoint, Entry, Interrupted, KeyEntry, Receipt, Recovered, Redacted};
pub use error::Error;
pub use filter::Filter;
pub use hash::{Hash, InvalidHash};
pub use key::{KeyId, PublicKey};
pub use ledger::{Ledger, Options, Status};
pub use queue::{Append, AppendLater, Pending};
pub use reader::scan;
pub use record::{Agent, Credential, Decision, Kind, Payload, Record};
pub use redact::Redaction;
pub use verify::{Expect, Fault, FaultKind, Report, verify, verify_reader};
