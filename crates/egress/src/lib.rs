//! The outgoing boundary of sandboxes.
#![forbid(unsafe_code)]
