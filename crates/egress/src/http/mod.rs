//! Requests, on opened TLS and in the clear.
//!
//! Each request is decided on its own: its host must be the TLS server's name and belong to the address, also on a
//! connection that was used before and for each stream of HTTP/2. It is written anew for the server, from what was
//! understood of it; what can be understood in two ways is refused. Bodies stream in both directions. Redirects go to
//! the client, who asks again.

mod answer;
mod body;
mod exchange;
mod flow;
mod kept;
mod strict;
mod target;
mod upgrade;
mod upstream;

pub(crate) use flow::{Flow, Why, serve, serve_refusal};
pub(crate) use strict::Strict;
