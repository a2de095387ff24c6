//! Looking on at what the edge relays, for tests and demonstrations that show that it is ciphertext.
//!
//! A tap sees the bytes of the streams as they are inside the outer TLS: the records of the inner TLS. It can change
//! nothing, and it runs in the way of every byte, so it must be quick.

use std::fmt;
use std::sync::Arc;

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the plane to the gateway.
    ToGateway,
    /// From the gateway to the plane.
    FromGateway,
}

/// What is called with the direction, the stream's host and the bytes.
type Look = dyn Fn(Direction, &str, &[u8]) + Send + Sync;

/// Sees what the edge relays.
#[derive(Clone)]
pub struct Tap(Arc<Look>);

impl Tap {
    /// A tap that calls `look` for every piece that passed.
    pub fn new(look: impl Fn(Direction, &str, &[u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }

    pub(super) fn show(&self, direction: Direction, host: &str, bytes: &[u8]) {
        (self.0)(direction, host, bytes);
    }
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tap")
    }
}
