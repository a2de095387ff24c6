//! Options of a sandbox that cannot work are refused here, before anything is made.

use std::path::{Component, Path, PathBuf};

use crate::error::SandboxError;
use crate::jail::furnish::OUTPUTS;
use crate::options::{Isolation, ReadOnlyMount, RootImage, SandboxOptions};
use crate::trust;

/// More makes the kernel's list of lower folders longer than it takes.
const MOST_LAYERS: usize = 128;
const MOST_MOUNTS: usize = 256;
/// It travels in the request.
const LARGEST_AUTHORITY: usize = 32 << 10;

/// Returns the workspace without links.
pub(crate) fn check(options: &SandboxOptions, isolation: Isolation) -> Result<PathBuf, SandboxError> {
    let refuse = |option, reason: &str| {
        Err(SandboxError::Option {
            option,
            reason: reason.to_owned(),
        })
    };
    let limits = &options.limits;
    if limits.memory_bytes < 16 << 20 {
        return refuse("limits.memory_bytes", "a shell needs at least 16 MiB");
    }
    if limits.max_processes < 8 {
        return refuse("limits.max_processes", "a shell with a pipeline needs at least 8");
    }
    if limits.disk_bytes < 1 << 20 {
        return refuse("limits.disk_bytes", "at least 1 MiB");
    }
    if limits.max_output_bytes < 1024 || limits.max_output_bytes > 4 << 20 {
        return refuse("limits.max_output_bytes", "between 1 KiB and 4 MiB");
    }
    if limits.wall_clock == Some(std::time::Duration::ZERO) {
        return refuse("limits.wall_clock", "more than nothing, or none");
    }
    if limits.cpu_percent == Some(0) {
        return refuse("limits.cpu_percent", "at least 1, or none");
    }
    let name = options.hostname.as_bytes();
    if name.is_empty() || name.len() > 63 || !name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-') {
        return refuse("hostname", "1 to 63 letters, digits and hyphens");
    }
    for (variable, value) in &options.env {
        if variable.is_empty() || variable.contains(['=', '\0']) || value.contains('\0') {
            return refuse(
                "env",
                "names are not empty and have no '='; names and values have no NUL",
            );
        }
    }
    furnishing(options, isolation)?;
    folder(&options.workspace)
}

/// What a sandbox has besides its workspace.
fn furnishing(options: &SandboxOptions, isolation: Isolation) -> Result<(), SandboxError> {
    let refuse = |option, reason: String| Err(SandboxError::Option { option, reason });
    if isolation == Isolation::None {
        let without = "needs isolation: tools run on the host as it is".to_owned();
        for (option, asked) in [
            ("image", options.image != RootImage::HostSystem),
            ("mounts", !options.mounts.is_empty()),
            ("outputs", options.outputs.is_some()),
            ("ca_pem", options.ca_pem.is_some()),
            ("devices", !options.devices.is_empty()),
            ("build", options.build.is_some()),
        ] {
            if asked {
                return refuse(option, without);
            }
        }
    }
    match &options.image {
        RootImage::HostSystem => {}
        RootImage::HostSystemWith(over) => {
            if !over.is_absolute() {
                return refuse("image", format!("{} is not an absolute path", over.display()));
            }
        }
        RootImage::Layers(layers) => {
            if layers.is_empty() || layers.len() > MOST_LAYERS {
                return refuse("image", format!("between 1 and {MOST_LAYERS} layers"));
            }
            if let Some(layer) = layers.iter().find(|layer| !layer.is_absolute()) {
                return refuse("image", format!("{} is not an absolute path", layer.display()));
            }
        }
    }
    if let Some(build) = &options.build {
        folder(build)?;
        let has = [
            ("mounts", !options.mounts.is_empty()),
            ("outputs", options.outputs.is_some()),
            ("devices", !options.devices.is_empty()),
            ("image", matches!(options.image, RootImage::HostSystemWith(_))),
        ];
        if let Some((option, _)) = has.iter().find(|(_, has)| *has) {
            return refuse(option, "is nothing for a sandbox that installs".to_owned());
        }
    }
    if options.mounts.len() > MOST_MOUNTS {
        return refuse(
            "mounts",
            format!("at most {MOST_MOUNTS}; mount a folder that holds them"),
        );
    }
    let mut targets = std::collections::HashSet::new();
    for ReadOnlyMount { source, target } in &options.mounts {
        if !source.is_absolute() {
            return refuse("mounts", format!("source {} is not an absolute path", source.display()));
        }
        if let Err(reason) = target_of(target) {
            return refuse("mounts", format!("target {}: {reason}", target.display()));
        }
        if !targets.insert(target) {
            return refuse("mounts", format!("target {} is named twice", target.display()));
        }
    }
    if let Some(outputs) = &options.outputs {
        folder(outputs)?;
        if targets
            .iter()
            .any(|target| Path::new(OUTPUTS).starts_with(target) || target.starts_with(OUTPUTS))
        {
            return refuse("mounts", format!("a target covers {OUTPUTS} or lies in it"));
        }
    }
    if let Some(pem) = &options.ca_pem
        && (pem.len() > LARGEST_AUTHORITY || pem.contains("PRIVATE KEY") || !trust::is_pem(pem))
    {
        return refuse(
            "ca_pem",
            format!("at most {LARGEST_AUTHORITY} bytes of certificates in PEM, and no key"),
        );
    }
    Ok(())
}

/// Whether something may be mounted at a path inside.
fn target_of(target: &Path) -> Result<(), &'static str> {
    let mut parts = target.components();
    if parts.next() != Some(Component::RootDir) {
        return Err("is not an absolute path");
    }
    if !parts.clone().all(|part| matches!(part, Component::Normal(_))) || target.as_os_str().len() > 1024 {
        return Err("must be without `.` and `..`, and at most 1024 bytes");
    }
    for own in ["/proc", "/sys", "/dev", "/run/outwork"] {
        if target.starts_with(own) {
            return Err("lies in a folder that the sandbox makes itself");
        }
    }
    if [
        "/",
        "/workspace",
        "/tmp",
        "/run",
        "/etc",
        "/home",
        "/home/agent",
        "/mnt",
    ]
    .iter()
    .any(|own| target == Path::new(own))
    {
        return Err("would cover a folder that the sandbox needs; name a path in it");
    }
    Ok(())
}

fn folder(path: &Path) -> Result<PathBuf, SandboxError> {
    let refuse = |reason: String| SandboxError::Workspace {
        path: path.to_path_buf(),
        reason,
    };
    let full = path
        .canonicalize()
        .map_err(|error| refuse(format!("{error}; make the folder first")))?;
    if !full.is_dir() {
        return Err(refuse("is not a folder".to_owned()));
    }
    if full.parent().is_none() {
        return Err(refuse(
            "the whole filesystem cannot be a workspace; name a folder".to_owned(),
        ));
    }
    for own in ["/proc", "/sys", "/dev", "/usr", "/etc", "/boot"] {
        if full == Path::new(own) || (full.starts_with(own) && !full.starts_with("/dev/shm")) {
            return Err(refuse(format!(
                "lies in {own}, which belongs to the system; name another folder"
            )));
        }
    }
    Ok(full)
}
