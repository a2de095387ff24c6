//! Images of sandboxes.
#![forbid(unsafe_code)]
