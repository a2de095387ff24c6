//! The ledger from the outside: what was acknowledged is there, what was changed is found, what was torn is mended.
#![allow(clippy::unwrap_used)]

mod bundle;
mod crash;
mod disk;
mod evidence;
mod exports;
mod exports_syslog;
mod keeping;
mod ocsf;
mod prune;
mod receivers;
mod redact;
mod support;
mod tamper;
