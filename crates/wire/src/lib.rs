//! What the rooms of Outwork say to each other.
//!
//! Typed ids, points in time, session events, agent configuration, work items, the words of a model
//! request, and the decoder of `text/event-stream`. Everything here is plain data with strict parsing:
//! unknown fields of what a client sends are refused, never dropped.
//!
//! This crate knows no runtime, no clock and no socket: time and randomness are passed in.
#![forbid(unsafe_code)]

pub mod agent;
pub mod content;
pub mod event;
pub mod id;
pub mod log;
pub mod model;
pub mod sse;
pub mod time;
pub mod work;

pub use content::ContentBlock;
pub use event::{Event, EventBody, EventParams};
pub use time::Time;
