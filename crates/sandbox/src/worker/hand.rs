//! What the worker needs of a sandbox: launch one, call a tool in it, stop the call, end it.
//!
//! A sandbox provider only launches and carries calls; which call runs, and what becomes of its result, is decided
//! in the session runner, and what the sandbox is furnished with by the session's boundary. Dropping a [`Hand`] ends its
//! sandbox.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{DeviceName, Fence, Network, ReadOnlyMount, RootImage, SandboxError, ToolCall, ToolOutput};

/// A future of a provider.
pub type HandFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a sandbox has besides its workspace. Holds placeholders, and no secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Furnishing {
    /// Its root filesystem.
    pub image: RootImage,
    /// What it is joined to. With [`Network::Fenced`] the sandbox must give its fence.
    pub network: Network,
    /// Variables.
    pub env: Vec<(String, String)>,
    /// Files and folders that it sees, read-only.
    pub mounts: Vec<ReadOnlyMount>,
    /// The folder that results are collected from.
    pub outputs: Option<PathBuf>,
    /// The certificate of the session's authority.
    pub ca_pem: Option<String>,
    /// Graphics devices that it may use.
    pub devices: Vec<DeviceName>,
    /// For one that installs packages: where what it writes goes, as [`crate::SandboxOptions::build`] has it.
    pub build: Option<PathBuf>,
}

/// Launches sandboxes.
pub trait Provider: Send + Sync {
    /// Makes a sandbox whose `/workspace` is this folder of the host, with all that it is furnished with, or none.
    fn launch<'a>(
        &'a self,
        workspace: &'a Path,
        furnishing: &'a Furnishing,
    ) -> HandFuture<'a, Result<Arc<dyn Hand>, SandboxError>>;
}

/// One sandbox.
pub trait Hand: Send + Sync {
    /// Runs one call. Once `cancel` fires the call is stopped in the sandbox and its answer says so. An error means
    /// that the sandbox is of no more use.
    fn call<'a>(
        &'a self,
        call: ToolCall,
        cancel: &'a CancellationToken,
    ) -> HandFuture<'a, Result<ToolOutput, SandboxError>>;

    /// Takes the sockets of the sandbox's network fence, once. A sandbox that was asked for one and gives none is not
    /// used.
    fn take_fence(&self) -> Option<Fence> {
        None
    }

    /// True if the sandbox has ended by itself: a call would not run.
    fn has_ended(&self) -> bool;

    /// Ends the sandbox and everything in it, and returns when that is done.
    fn end(&self) -> HandFuture<'_, ()>;
}
