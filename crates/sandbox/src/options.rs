//! What a sandbox is made of and how much it may use.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::SandboxError;

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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RootImage {
    /// The host's system folders, read-only, with a small `/etc` composed of what programs need and no secrets.
    #[default]
    HostSystem,
    /// The same, with a folder of the host laid over `/usr/local`: what is in both is the folder's.
    HostSystemWith(PathBuf),
    /// Layers of an image, each an unpacked folder of the host, the base first. Read-only; the host's system folders
    /// do not exist then. The shell needs `/bin/bash` in it.
    Layers(Vec<PathBuf>),
}

/// A file or folder of the host that a sandbox sees, read-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadOnlyMount {
    /// On the host; not a link.
    pub source: PathBuf,
    /// Inside: an absolute path. Missing folders above it are made; below `/workspace` and `/tmp` they stay.
    pub target: PathBuf,
}

/// The name of a graphics device below `/dev`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName(String);

impl DeviceName {
    /// Reads `nvidia0`, `nvidiactl`, `nvidia-uvm`, `nvidia-uvm-tools`, `nvidia-modeset`, `dri/card0` or
    /// `dri/renderD128`, with any number, with or without `/dev/`. Anything else is no graphics device.
    pub fn parse(name: &str) -> Result<Self, SandboxError> {
        let name = name.strip_prefix("/dev/").unwrap_or(name);
        let numbered = |prefix: &str| {
            name.strip_prefix(prefix)
                .and_then(|number| number.parse::<u16>().ok().filter(|value| value.to_string() == number))
                .is_some()
        };
        let known = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"].contains(&name);
        if known || numbered("nvidia") || numbered("dri/card") || numbered("dri/renderD") {
            return Ok(Self(name.to_owned()));
        }
        Err(SandboxError::Option {
            option: "devices",
            reason: format!(
                "{name:?} is not the name of a graphics device; known are nvidia0 (any number), nvidiactl, nvidia-uvm, nvidia-uvm-tools, nvidia-modeset, dri/card0 and dri/renderD128 (any number)"
            ),
        })
    }

    /// Below `/dev`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for DeviceName {
    type Error = SandboxError;

    fn try_from(name: String) -> Result<Self, SandboxError> {
        Self::parse(&name)
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.0
    }
}

/// What a sandbox is joined to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// Nothing: there is only `lo`.
    #[default]
    None,
    /// A fence: connections and questions for names go to the worker's own sockets ([`crate::Fence`]), and nothing
    /// else leaves.
    Fenced,
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
    /// How long the sandbox may stand, whatever it does; then it is killed. `None` is no limit.
    pub wall_clock: Option<Duration>,
    /// What all calls together may answer, bytes; the call that exceeds it gets no answer and the sandbox is killed.
    /// `None` is no limit.
    pub total_output_bytes: Option<u64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 4 << 30,
            cpu_percent: None,
            max_processes: 1024,
            disk_bytes: 4 << 30,
            max_output_bytes: 100 * 1024,
            wall_clock: None,
            total_output_bytes: None,
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
    /// What it is joined to.
    pub network: Network,
    /// Variables for the shell, over the built-in ones.
    pub env: Vec<(String, String)>,
    /// Files and folders that it sees, read-only.
    pub mounts: Vec<ReadOnlyMount>,
    /// Folder of the host that is `/mnt/session/outputs` inside, readable and writable. [`crate::outputs::collect`]
    /// reads it.
    pub outputs: Option<PathBuf>,
    /// Certificates in PEM of an authority that programs inside trust besides those of the root filesystem.
    pub ca_pem: Option<String>,
    /// Graphics devices that it may use.
    pub devices: Vec<DeviceName>,
    /// Makes it a sandbox for installing: its user is root inside, and what is written to the root filesystem (with
    /// [`RootImage::HostSystem`]: to `/usr/local`) goes to `upper` in this folder of the host, as overlayfs writes it. A
    /// launcher of root gives the folder to a range of ids that belong to nobody.
    pub build: Option<PathBuf>,
}

impl SandboxOptions {
    /// A sandbox on `workspace` with the default limits.
    pub fn new(workspace: impl Into<PathBuf>) -> Self {
        Self {
            workspace: workspace.into(),
            image: RootImage::default(),
            limits: Limits::default(),
            hostname: "sandbox".to_owned(),
            network: Network::default(),
            env: Vec::new(),
            mounts: Vec::new(),
            outputs: None,
            ca_pem: None,
            devices: Vec::new(),
            build: None,
        }
    }
}
