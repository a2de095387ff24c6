//! Edge and gateway over loopback: everything real but the network.

#![allow(clippy::unwrap_used)]

mod drain;
mod evil_edge;
mod hostile;
mod inner_tls;
mod loss;
mod pause;
mod relay;
mod rig;
mod streams;
mod tokens;
