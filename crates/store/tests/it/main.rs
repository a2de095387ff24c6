//! The store over real databases in temporary folders.

#![allow(clippy::unwrap_used, reason = "a test that meets an error must stop")]

mod agents;
mod durability;
mod environments;
mod files;
mod keys;
mod leases;
mod log;
mod opening;
mod pages;
mod sessions;
mod support;
mod tunnels;
mod upkeep;
mod vaults;
mod work;
