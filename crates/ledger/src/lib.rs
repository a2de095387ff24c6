//! The hash-chained evidence log.
#![forbid(unsafe_code)]
