//! The rehearsal server over real HTTP.

mod client;
mod demo;
mod faults;
mod judge;
mod play;
