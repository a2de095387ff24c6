//! Evidence bundles: everything about one session, from all ledgers that know of it, in one file that a stranger
//! verifies offline.
//!
//! [`write()`] takes ledgers (the plane's, a worker's, a gateway's: open, as folders, or as [`export`](fn@crate::export)ed
//! elsewhere), documents (policies) and the session's event log. [`verify_file`] needs the file and the fingerprint of
//! one key. [`Evidence::markdown`] and [`Evidence::text`] are the report for people.
//!
//! # The file
//!
//! JSON lines, each of this form, byte for byte:
//!
//! ```text
//! {"n":7,"is":"event","hash":"<hash>","body":{…}}
//! hash = H("outwork-evidence-line-1\0" ‖ hash of the line before ‖ n as 8 bytes ‖ type as 1 byte ‖ body)
//! ```
//!
//! | `is` | `body` |
//! |---|---|
//! | `header` | format, time, session, and the keys of the ledger that seals the file |
//! | `ledger` | the name and the id of a ledger; what follows is its bundle |
//! | `line` | a line of that bundle; records of other sessions are hashes |
//! | `document` | a policy or another file, with its hash |
//! | `event` | a line of the event log, as it came |
//! | `seal` | a signature over the hash of the line before, by the key of the sealing ledger |
//!
//! So any byte that is changed, missing, added or moved is found, and named by line and part. The same sources at the
//! same time give the same bytes.
//!
//! # Faults and findings
//!
//! A fault is a change after sealing, or a ledger that does not hold: nothing in the file is proven. A finding is
//! something that the sealed sources say against each other: a policy that a record names and that is not here, a
//! call whose input in the event log is not the one that the worker recorded. Both are in [`Evidence`].

mod check;
mod cross;
mod envelope;
mod report;
mod summary;
mod verify;
mod write;

pub use cross::Finding;
pub use summary::{Destination, Listed, Row, Summary, Tally};
pub use verify::{DocumentPart, Evidence, LedgerPart, Trust, verify_file, verify_reader};
pub use write::{Document, DocumentKind, LedgerAt, Source, Sources, Written, write, write_file};
