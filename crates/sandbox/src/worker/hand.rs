//! What the worker needs of a sandbox: launch one, call a tool in it, stop the call, end it.
//!
//! A sandbox provider only launches and carries calls; which call runs, and what becomes of its result, is decided
//! in the session runner. Dropping a [`Hand`] ends its sandbox.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{SandboxError, ToolCall, ToolOutput};

/// A future of a provider.
pub type HandFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Launches sandboxes.
pub trait Provider: Send + Sync {
    /// Makes a sandbox whose `/workspace` is this folder of the host.
    fn launch<'a>(&'a self, workspace: &'a Path) -> HandFuture<'a, Result<Arc<dyn Hand>, SandboxError>>;
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

    /// True if the sandbox has ended by itself: a call would not run.
    fn has_ended(&self) -> bool;

    /// Ends the sandbox and everything in it, and returns when that is done.
    fn end(&self) -> HandFuture<'_, ()>;
}
