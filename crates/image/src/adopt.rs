//! Adopts what a sandbox wrote into an overlay's upper folder as a cached layer: how installed packages are kept.
//!
//! The folder was filled by programs that nobody trusts, so it is copied entry by entry through the same [`Builder`] as a
//! layer of an image, not moved: set-user-id bits, devices and attributes do not get through, limits hold, and nobody who
//! still has the old folder open can change the new layer.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;
use tokio_util::sync::CancellationToken;

use crate::build::{Builder, Built};
use crate::cache::{Held, Shelf, Staging};
use crate::error::{Error, Result};
use crate::images::{Image, ImageDigest, Images, blocking, stacked};
use crate::limits::Limits;
use crate::packages::Checked;
use crate::tree::{Meta, Tree};
use crate::walk::{Found, names_of, tree_of, walk};

/// Installing packages on a base: held by who does it, so that others wait for the result instead of repeating it.
#[derive(Debug)]
pub struct Installing {
    base: Image,
    key: crate::Digest,
    _making: std::fs::File,
}

/// What [`Images::packages`] found.
#[derive(Debug)]
pub enum Packaged {
    /// The base with its packages on top.
    Ready(Image),
    /// They are not there: run the script over the base, then hand the upper folder to [`Images::adopt`].
    Missing(Installing),
}

/// A folder in the cache for whoever installs. Removed when dropped; if its maker is killed, the next one who opens the
/// cache removes it.
#[derive(Debug)]
pub struct Site {
    staging: Staging,
}

impl Site {
    /// Where it is. Nobody but the cache's owner gets into it.
    pub fn path(&self) -> &Path {
        self.staging.path()
    }
}

impl Images {
    /// Makes a folder to install in.
    pub async fn site(&self) -> Result<Site> {
        let cache = self.cache.clone();
        blocking(move || cache.staging().map(|staging| Site { staging })).await
    }

    /// Looks for a base with packages. If it is missing, whoever asks next waits until the answer is used or dropped.
    pub async fn packages(&self, base: &Image, packages: &Checked, cancel: &CancellationToken) -> Result<Packaged> {
        if base.digest == ImageDigest::Unpinned {
            return Err(Error::manifest(
                "packages",
                "need a base with a digest; let the folder be digested, or give an image",
            ));
        }
        let key = packages.key(&base.digest.to_string());
        if let Some(held) = self.held_packages(key).await? {
            return Ok(Packaged::Ready(on_top(base, held)));
        }
        let making = self.cache.making(Shelf::Packages, &key, cancel).await?;
        if let Some(held) = self.held_packages(key).await? {
            return Ok(Packaged::Ready(on_top(base, held)));
        }
        Ok(Packaged::Missing(Installing {
            base: base.clone(),
            key,
            _making: making,
        }))
    }

    /// Makes a layer of what was installed. The sandbox that wrote to `upper` must have ended and its overlay be unmounted.
    pub async fn adopt(&self, installing: Installing, upper: &Path, cancel: &CancellationToken) -> Result<Image> {
        let (images, upper, cancel) = (self.clone(), upper.to_owned(), cancel.clone());
        blocking(move || {
            let limits = &images.options.limits;
            let base = &installing.base;
            let below = if base.held.is_empty() {
                let folder = base.layers.first().ok_or(Error::Cancelled)?;
                if let ImageDigest::System(_) = base.digest {
                    names_of(folder, limits, &cancel)?
                } else {
                    let (tree, digest) = tree_of(folder, limits, &cancel)?;
                    if base.digest != ImageDigest::Folder(digest) {
                        return Err(Error::Cache {
                            path: folder.clone(),
                            problem: "the folder was changed while packages were installed on it; nothing was kept"
                                .into(),
                        });
                    }
                    tree
                }
            } else {
                stacked(&base.held)?
            };
            let staging = images.cache.staging()?;
            let roots: Vec<PathBuf> = base.layers.iter().rev().cloned().collect();
            let built = copy(&upper, &staging.root()?, below, &roots, limits, &cancel)?;
            let held = images
                .cache
                .publish(staging, Shelf::Packages, &installing.key, &built)?;
            Ok(on_top(base, held))
        })
        .await
    }

    async fn held_packages(&self, key: crate::Digest) -> Result<Option<Held>> {
        let cache = self.cache.clone();
        blocking(move || cache.hold(Shelf::Packages, &key)).await
    }
}

fn on_top(base: &Image, held: Held) -> Image {
    let mut image = base.clone();
    image.layers.insert(0, held.root.clone());
    image.packages = Some(held.digest);
    image.held.push(Arc::new(held));
    image
}

fn copy(
    upper: &Path,
    root: &Path,
    below: Tree,
    roots: &[PathBuf],
    limits: &Limits,
    cancel: &CancellationToken,
) -> Result<Built> {
    let mut builder = Builder::new(root, below, roots, limits, upper.display().to_string())?;
    // First names of files with several, by inode.
    let mut seen: HashMap<u64, Vec<u8>> = HashMap::new();
    walk(upper, limits, cancel, &mut |found| {
        let path = found.bytes();
        match found.kind {
            FileType::Directory => {
                builder.dir(&path, Meta::dir(found.stat.st_mode, found.mtime()))?;
                if is_opaque(found)? {
                    builder.opaque(&path)?;
                }
                Ok(())
            }
            FileType::RegularFile => {
                if found.stat.st_nlink > 1
                    && let Some(first) = seen.get(&found.stat.st_ino)
                {
                    return builder.hard_link(&path, first);
                }
                let mut file = found.open()?;
                builder.file(&path, Meta::file(found.stat.st_mode, found.mtime()), |sink| {
                    sink.copy(&mut file)
                })?;
                if found.stat.st_nlink > 1 {
                    seen.insert(found.stat.st_ino, path);
                }
                Ok(())
            }
            FileType::Symlink => builder.link(&path, &found.target()?, found.mtime()),
            FileType::CharacterDevice if found.stat.st_rdev == 0 => builder.whiteout(&path),
            _ => builder.leave_out(&path),
        }
    })?;
    builder.finish()
}

/// A folder that hides what the layers below have in it, by the attribute of either kind of overlay.
fn is_opaque(found: &Found<'_>) -> Result<bool> {
    let folder = found.open()?;
    for attribute in ["user.overlay.opaque", "trusted.overlay.opaque"] {
        let mut value = [0; 1];
        match rustix::fs::fgetxattr(&folder, attribute, &mut value) {
            Ok(1) if value == *b"y" => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}
