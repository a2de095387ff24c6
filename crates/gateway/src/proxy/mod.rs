//! A call on its way: from the caller's stream through the rules to the upstream, and the answer back.
//!
//! Nothing goes upstream before every rule has said yes, and nothing comes back before the rules for answers have seen
//! it. Requests are parsed and written anew, so nothing that two parsers could read differently passes. Bodies stream;
//! a caller that leaves is gone from the upstream too, because everything of a call ends with its future.

pub mod answer;
mod answered;
pub mod ask;
pub mod body;
pub mod call;
pub mod exchange;
pub mod headers;
pub mod judge;
mod patient;
pub mod raw;
pub mod serve;
pub mod trace;
mod turns;
