//! The resources of the API: one file each, no more than paths and shapes.

pub(crate) mod agents;
pub(crate) mod boundary;
pub(crate) mod environments;
pub(crate) mod files;
pub(crate) mod halt;
pub(crate) mod keys;
pub(crate) mod models;
pub(crate) mod session_files;
pub(crate) mod sessions;
pub(crate) mod tunnels;
pub(crate) mod vaults;
pub(crate) mod work;
