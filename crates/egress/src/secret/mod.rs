//! Credentials without secrets inside: placeholders become secrets on the way out, secrets become placeholders on the
//! way back.
//!
//! A [`SecretSet`] is an immutable snapshot of what one sandbox may use; a changed policy is a new set. Nothing here
//! does I/O, reads a clock or keeps anything beyond the request that it was called for.
//!
//! The way of a request: [`SecretSet::rewrite_head`] on its head, then its body through the [`BodyRewriter`] of the
//! outcome; the response's head through [`SecretSet::scrub_response`], then its body through the [`Scrubber`]. After an
//! upgrade to WebSocket both directions go through [`SecretSet::web_socket`].
//!
//! Refuses: a placeholder on its way to a host, location or clear connection that its credential does not name; a
//! placeholder in a form that cannot be swapped exactly; an AWS signature that cannot be renewed exactly.
//!
//! Invariants: a value is put only where the credential allows it; a value in a response never passes in any of the
//! known encodings (see `needle`), however it is cut into chunks; no error, use or record holds a value.
//!
//! What this cannot see: a secret that a server encrypts, compresses inside a plain body, sends in pieces over several
//! responses or messages, or puts into an encoding that nobody else uses.

mod body;
mod capture;
mod coding;
mod encode;
mod escape;
mod finder;
#[doc(hidden)]
pub mod fuzz;
mod head;
mod needle;
mod outcome;
pub mod placeholder;
mod scrub;
mod set;
mod sigv4;
mod sigv4_body;
mod spec;
mod substitute;
mod websocket;

#[cfg(test)]
mod tests;

pub use body::BodyRewriter;
pub use capture::{CaptureError, CaptureRule};
pub use head::HeadOutcome;
pub use outcome::{Blocked, BodyPlan, Handling, Limits, Location, Reason, Rules, ScrubError, Use};
pub use scrub::{Fit, Scrubber};
pub use set::SecretSet;
pub use spec::{AwsKeyId, Destination, Kind, Locations, MAX_SECRET, MIN_SECRET, SecretSpec, SpecError};
pub use websocket::{ClientFrames, ServerFrames};
