//! The way to private servers: which addresses, how they are dialled, and connections kept for the next call.

pub mod address;
pub mod dial;
pub mod fetch;
pub mod line;
pub mod pool;
pub mod tls;
