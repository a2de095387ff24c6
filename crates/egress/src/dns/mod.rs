//! Names, answered from policy.
//!
//! A name that the policy does not allow is answered at once with NXDOMAIN and the reason as an extended error; it is
//! never asked of anybody. Allowed names get A, AAAA, CNAME, HTTPS and SVCB records, nothing else. Addresses are
//! vetted, pinned and given under the name that was asked for; keys for encrypted client hellos, hints of addresses,
//! other ports and HTTP/3 are taken out of HTTPS records. UDP and TCP are answered alike.

mod answer;
mod guard;
mod resolver;
mod serve;

pub(crate) use answer::resolve;
pub(crate) use guard::Guard;
pub use resolver::{Addresses, ResolveError, Resolver, SystemResolver};
pub(crate) use serve::{serve_stream, serve_udp};
