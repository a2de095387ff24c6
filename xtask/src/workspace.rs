//! Where things are: the root of the checkout, the build folder, and the folders under them that the
//! tasks write to. Nothing is written outside the build folder except the two files that a task exists
//! to write (`docs/parity.md` and the list of operations).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The paths of one checkout.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    /// The folder that holds the workspace's `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// Cargo's build folder: `CARGO_TARGET_DIR`, or `target` under the root.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Finds the checkout that this program was built from.
    pub(crate) fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = manifest
            .parent()
            .with_context(|| format!("{} has no parent folder", manifest.display()))?
            .to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => root.join(folder),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The binary of a build profile: `debug` or `release`.
    pub(crate) fn binary(&self, profile: &str) -> PathBuf {
        self.target.join(profile).join("outwork")
    }

    /// A folder for what a task keeps between runs, made if it is not there.
    pub(crate) fn kept(&self, name: &str) -> Result<PathBuf> {
        let folder = self.target.join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("could not make the folder {}", folder.display()))?;
        Ok(folder)
    }
}
