//! The outgoing boundary of sandboxes.
//!
//! A sandbox's network namespace has no way out: every TCP connection is redirected to one listener and every question
//! for a name to another, and both belong to an [`Egress`]. It decides on each name, connection and request with one
//! function ([`Policy::decide`]), passes on what is allowed, puts secrets into requests that may carry them and takes
//! them out of what comes back, and leaves a record of each crossing before it happens.
//!
//! Refused: whatever no rule allows; addresses of special kinds, whatever a rule says; names and addresses that do not
//! belong together; encrypted client hellos, DNS over TLS; requests that can be read in two ways; crossings that leave
//! no record.

#![forbid(unsafe_code)]

pub mod address;
pub mod dns;
mod egress;
mod error;
mod evidence;
#[doc(hidden)]
pub mod fuzz;
mod http;
mod pins;
pub mod policy;
mod refusal;
mod route;
pub mod secret;
mod shared;
mod stats;
mod tcp;
mod tls;

pub use egress::{Egress, Handle, Options};
pub use error::Error;
pub use evidence::{Evidence, Labels, LedgerEvidence, NoEvidence};
pub use pins::Family;
pub use policy::{Decision, Document, Networking, Policy, Protocol, Request, narrower};
pub use refusal::Refusal;
pub use route::{Connect, Direct, OriginalDestination, Redirected};
pub use shared::Limits;
pub use stats::Stats;
pub use tls::{SessionAuthority, UpstreamTls, system_roots};
