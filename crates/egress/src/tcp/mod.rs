//! Connections: what each one is, whether it may go on, and how.
//!
//! The first bytes say whether it is TLS, HTTP in the clear, or something else. TLS is passed through as it is, or
//! opened where the policy or a secret asks for it; HTTP is always read; anything else is passed through where its
//! address was answered for a name that is allowed at that port, or a rule names the address.

mod connection;
mod rewind;
mod sniff;
mod splice;

pub(crate) use connection::accept;
pub(crate) use rewind::Rewind;

/// See [`crate::fuzz`].
pub(crate) fn fuzz_sniff(bytes: &[u8]) {
    let _ = sniff::sniff(bytes);
}
