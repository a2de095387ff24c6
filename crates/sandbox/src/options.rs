//! What a sandbox is made of and how much it may use.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Whether tools are kept apart from the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// All steps, or nothing runs.
    #[default]
    Full,
    /// No isolation at all: tools run as the worker's user, on the host. For machines that are disposable.
    None,
}

/// The root filesystem inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RootImage {
    /// The host's system folders, read-only, with a small `/etc` composed of what programs need and no secrets.
    #[default]
    HostSystem,
}

/// What one sandbox may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of all processes together, bytes. Without a writable cgroup it holds per process (the probe says so).
    pub memory_bytes: u64,
    /// CPU time per time, in percent of one core; `None` is no limit. Needs a writable cgroup.
    pub cpu_percent: Option<u32>,
    /// Processes and threads alive at once.
    pub max_processes: u32,
    /// Size of `/tmp` (which also holds the home folder and shared memory), and the largest single file that may be
    /// written anywhere, bytes. The total size of the workspace is bounded by the filesystem that it lies on.
    pub disk_bytes: u64,
    /// How much of a command's output is kept (its end), bytes.
    pub max_output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 4 << 30,
            cpu_percent: None,
            max_processes: 1024,
            disk_bytes: 4 << 30,
            max_output_bytes: 100 * 1024,
        }
    }
}

/// One sandbox.
#[derive(Clone, Debug)]
pub struct SandboxOptions {
    /// Folder of the host that is `/workspace` inside, readable and writable.
    pub workspace: PathBuf,
    /// The root filesystem.
    pub image: RootImage,
    /// What it may use.
    pub limits: Limits,
    /// Host name inside.
    pub hostname: String,
    /// Variables for the shell, over the built-in ones.
    pub env: Vec<(String, String)>,
}

impl SandboxOptions {
    /// A sandbox on `workspace` with the default limits.
    pub fn new(workspace: impl Into<PathBuf>) -> Self {
        Self {
            workspace: workspace.into(),
            image: RootImage::default(),
            limits: Limits::default(),
            hostname: "sandbox".to_owned(),
            env: Vec::new(),
        }
    }
}
