//! Where a session's tools run: one sandbox per session, on the owner's own machine.
//!
//! * [`Launcher`] starts the small process that sandboxes are cloned from, once per worker.
//! * [`Launcher::launch`] makes a [`Sandbox`]; [`Sandbox::call`] runs one of the six tools in it.
//! * [`probe`] says which isolation steps this machine offers, and how to mend those that are missing.
//!
//! The crate refuses to run anything when a step of the isolation fails: there is no weaker mode that it falls
//! back to. [`Isolation::None`] exists for machines that are themselves disposable, and must be asked for by name.
//!
//! Invariants: `jail` holds the only unsafe code; nothing of the worker's memory, environment or descriptors
//! reaches a sandbox, because sandboxes are cloned from a process that was executed afresh with none of them; one
//! socket joins a sandbox to its worker, and bytes that come from it are parsed as hostile.
//!
//! Every program that uses this crate calls [`entry`] as the first thing in `main`.

pub mod bench;
pub mod checkpoint;
mod error;
mod fence;
pub mod hand;
mod handle;
#[allow(unsafe_code)]
mod jail;
mod launch_check;
mod launcher;
mod options;
mod output;
pub mod outputs;
mod sweep;
pub mod tools;
mod trust;
pub mod worker;

pub use error::SandboxError;
pub use fence::{Fence, original_destination};
pub use handle::{Sandbox, SandboxEnd};
pub use jail::{Need, Report, Step, StepState, entry, probe};
pub use launcher::{Launcher, LauncherOptions, RunOutcome};
pub use options::{DeviceName, Isolation, Limits, Network, ReadOnlyMount, RootImage, SandboxOptions};
pub use output::{ContentBlock, MediaSource, ToolCall, ToolOutput};
