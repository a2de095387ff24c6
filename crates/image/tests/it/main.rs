//! Images from end to end: layouts, archives and registries, good and hostile, through the public interface.
#![allow(clippy::unwrap_used, missing_docs)]

mod attacks;
mod cache;
mod fuzzed;
mod good;
mod make;
mod overlay;
mod packages;
mod real;
mod registries;
mod serve;
