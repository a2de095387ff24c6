//! Images of sandboxes: from what a person gives as `--image` to verified, cached, read-only folders that overlayfs stacks.
//!
//! [`Reference::parse`] says what is meant, [`Images::get`] makes an [`Image`] of it: a folder is used as it is; the
//! layers of an OCI layout, an archive or a registry are verified, unpacked and kept in a cache folder, each once, named by
//! its chain id, so images with the same base share it. [`Images::packages`] and [`Images::adopt`] keep what was installed
//! on top of one.
//!
//! Layers are unpacked one by one rather than into one flat tree: sharing is kept, and a whiteout is an ordinary file to
//! make (Linux lets everybody make a character device 0/0). What makes that hard elsewhere, a layer whose paths go
//! through a link of a layer below, is solved by knowing the merged tree while unpacking (`tree.rs`).
//!
//! Refuses: references by tag (unless allowed), everything that does not match its digest, paths and links that lead out
//! of the root, everything over [`Limits`]. Drops: owners (all belongs to who unpacks), set-user-id and set-group-id bits,
//! devices, pipes, extended attributes and file capabilities.
#![forbid(unsafe_code)]

mod adopt;
mod archive;
mod build;
mod cache;
mod check;
mod credentials;
mod digest;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod images;
mod index;
mod limits;
mod local;
mod manifest;
mod origin;
mod packages;
mod prune;
mod reference;
mod registry;
mod remove;
mod resolve;
mod sink;
mod tree;
mod unpack;
mod walk;

pub use adopt::{Installing, Packaged, Site};
pub use credentials::Credentials;
pub use digest::{Digest, NotADigest};
pub use error::{Error, Result};
pub use images::{Image, ImageDigest, Images, Options};
pub use limits::Limits;
pub use manifest::{Config, Platform};
pub use packages::{Checked, Packages};
pub use prune::{Keep, Pruned};
pub use reference::{Local, Reference, Remote};
pub use remove::remove_tree;
