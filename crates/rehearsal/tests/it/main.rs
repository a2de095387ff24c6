//! The rehearsal server over real HTTP.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod demo;
mod faults;
mod judge;
mod play;
