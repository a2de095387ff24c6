//! The store over real databases in temporary folders.

mod agents;
mod durability;
mod environments;
mod keys;
mod leases;
mod log;
mod opening;
mod pages;
mod sessions;
mod support;
mod work;
