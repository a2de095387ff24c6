//! From a reference to the documents of an image: index, manifest, configuration, each verified before it is read.
//!
//! What a registry sent is kept in the cache by digest, so that a pinned image is resolved without network the next time.

use std::sync::Arc;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::images::{ImageDigest, Images};
use crate::local::Files;
use crate::manifest::{self, Config, Document};
use crate::reference::{Local, Remote};
use crate::registry::Registry;

/// Indexes inside indexes.
const NESTED: usize = 3;

/// Where the parts of an image come from.
pub(crate) enum Source {
    Registry(Box<Registry>),
    Files(Arc<Files>),
}

/// An image whose documents were read and verified.
pub(crate) struct Resolved {
    pub(crate) digest: ImageDigest,
    pub(crate) config: Config,
    pub(crate) layers: Vec<Layer>,
}

pub(crate) struct Layer {
    pub(crate) diff: Digest,
    pub(crate) chain: Digest,
    pub(crate) from: From,
}

#[derive(Clone)]
pub(crate) enum From {
    Blob {
        digest: Digest,
        size: u64,
    },
    /// A file of a `docker save` archive; only its unpacked digest is known.
    Name(String),
}

impl Images {
    pub(crate) async fn resolve_local(&self, source: &Source, local: &Local, image: &str) -> Result<Resolved> {
        let Source::Files(files) = source else {
            unreachable!("local references have files");
        };
        let limits = &self.options.limits;
        if let Some(digest) = local.digest() {
            return self
                .resolve_document(
                    source,
                    self.read(source, &digest, limits.manifest_bytes, None).await?,
                    image,
                )
                .await;
        }
        if let Some(index) = files.small("index.json", limits.manifest_bytes)? {
            return self.resolve_document(source, index, image).await;
        }
        match files.small("manifest.json", limits.manifest_bytes)? {
            Some(saved) => self.resolve_saved(files, &saved, image),
            None => Err(Error::Reference {
                text: image.into(),
                problem: "is no image: it has neither `index.json` (OCI) nor `manifest.json` (`docker save`)".into(),
            }),
        }
    }

    pub(crate) async fn resolve_remote(&self, source: &Source, remote: &Remote, image: &str) -> Result<Resolved> {
        let limit = self.options.limits.manifest_bytes;
        let bytes = match (remote.digest(), source) {
            (Some(digest), source) => self.read(source, &digest, limit, None).await?,
            (None, Source::Registry(registry)) => registry.manifest(&remote.wanted(), limit).await?,
            (None, Source::Files(_)) => unreachable!("remote references have a registry"),
        };
        self.resolve_document(source, bytes, image).await
    }

    /// From an index or manifest, already verified, to an image.
    async fn resolve_document(&self, source: &Source, mut bytes: Vec<u8>, image: &str) -> Result<Resolved> {
        let limits = &self.options.limits;
        for _ in 0..NESTED {
            let digest = Digest::of(&bytes);
            match manifest::document(&bytes, &format!("manifest of {image}"), limits)? {
                Document::Index(manifests) => {
                    let chosen = manifest::select(&manifests, &self.options.platform, image)?;
                    bytes = self
                        .read(source, &chosen.digest, limits.manifest_bytes, Some(chosen.size))
                        .await?;
                }
                Document::Image { config, layers } => {
                    if let Source::Registry(_) = source {
                        // An image that was asked for by tag was not read through the cache.
                        self.cache.keep_document(&digest, &bytes)?;
                    }
                    let bytes = self
                        .read_blob(source, &config.digest, limits.config_bytes, config.size)
                        .await?;
                    let (config, diffs) = manifest::config(&bytes, layers.len(), &self.options.platform, image)?;
                    let from = layers.iter().map(|layer| From::Blob {
                        digest: layer.digest,
                        size: layer.size,
                    });
                    return Ok(Resolved {
                        digest: ImageDigest::Manifest(digest),
                        config,
                        layers: chained(&diffs, from),
                    });
                }
            }
        }
        Err(Error::manifest(
            image,
            format!("has more than {NESTED} indexes inside one another"),
        ))
    }

    fn resolve_saved(&self, files: &Files, bytes: &[u8], image: &str) -> Result<Resolved> {
        let limits = &self.options.limits;
        let saved = manifest::saved(bytes, &format!("manifest.json of {image}"), limits)?;
        let [saved] = saved.as_slice() else {
            let tags: Vec<String> = saved
                .iter()
                .flat_map(|image| image.repo_tags.iter().flatten())
                .take(12)
                .cloned()
                .collect();
            return Err(Error::Reference {
                text: image.into(),
                problem: format!(
                    "has {} images ({}); save one image per archive",
                    saved.len(),
                    tags.join(", ")
                ),
            });
        };
        let config = files.small(&saved.config, limits.config_bytes)?;
        let config = config.ok_or_else(|| Error::manifest(image, format!("has no file `{}`", saved.config)))?;
        let digest = Digest::of(&config);
        // The file is named by what it should be.
        let name = saved.config.rsplit('/').next().unwrap_or_default();
        if let Ok(expected) = Digest::from_hex(name.strip_suffix(".json").unwrap_or(name))
            && expected != digest
        {
            return Err(Error::Mismatch {
                what: format!("configuration of {image}"),
                expected,
                found: digest,
            });
        }
        let (config, diffs) = manifest::config(&config, saved.layers.len(), &self.options.platform, image)?;
        Ok(Resolved {
            digest: ImageDigest::Config(digest),
            config,
            layers: chained(&diffs, saved.layers.iter().cloned().map(From::Name)),
        })
    }

    /// A manifest by digest, from the cache or the source, verified.
    async fn read(&self, source: &Source, digest: &Digest, limit: u64, size: Option<u64>) -> Result<Vec<u8>> {
        match source {
            Source::Files(files) => verified(files.blob(digest)?.bytes("manifest", limit)?, digest, size),
            Source::Registry(registry) => match self.cache.document(digest) {
                Some(bytes) => Ok(bytes),
                None => {
                    let bytes = verified(registry.manifest(&digest.to_string(), limit).await?, digest, size)?;
                    self.cache.keep_document(digest, &bytes)?;
                    Ok(bytes)
                }
            },
        }
    }

    /// A configuration by digest, likewise.
    async fn read_blob(&self, source: &Source, digest: &Digest, limit: u64, size: u64) -> Result<Vec<u8>> {
        match source {
            Source::Files(files) => verified(files.blob(digest)?.bytes("configuration", limit)?, digest, Some(size)),
            Source::Registry(registry) => match self.cache.document(digest) {
                Some(bytes) => Ok(bytes),
                None => {
                    let bytes = verified(registry.blob(digest, limit).await?, digest, Some(size))?;
                    self.cache.keep_document(digest, &bytes)?;
                    Ok(bytes)
                }
            },
        }
    }
}

fn chained(diffs: &[Digest], from: impl Iterator<Item = From>) -> Vec<Layer> {
    let mut below = None;
    let layers = diffs.iter().zip(from).map(|(diff, from)| {
        let chain = Digest::chain(below.as_ref(), diff);
        below = Some(chain);
        Layer {
            diff: *diff,
            chain,
            from,
        }
    });
    layers.collect()
}

fn verified(bytes: Vec<u8>, digest: &Digest, size: Option<u64>) -> Result<Vec<u8>> {
    let found = Digest::of(&bytes);
    if found != *digest {
        return Err(Error::Mismatch {
            what: "a manifest or configuration".into(),
            expected: *digest,
            found,
        });
    }
    match size.filter(|size| *size != bytes.len() as u64) {
        Some(expected) => Err(Error::Size {
            what: digest.to_string(),
            expected,
            found: bytes.len() as u64,
        }),
        None => Ok(bytes),
    }
}
