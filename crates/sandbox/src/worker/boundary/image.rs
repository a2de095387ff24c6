//! The root filesystem of all sandboxes of a worker, where its owner names an image.
//!
//! It is prepared before the worker takes any work: one that cannot be had, or does not match its digest, keeps the
//! worker from starting.

use outwork_image::{Image, Images, Options, Reference};
use tokio_util::sync::CancellationToken;

use super::journal::HOST_SYSTEM;
use super::options::BoundaryOptions;
use crate::worker::error::WorkerError;
use crate::worker::state::StateFolder;
use crate::{Isolation, RootImage};

/// What sandboxes stand on.
#[derive(Debug)]
pub(crate) struct Root {
    /// For evidence.
    pub digest: String,
    pub image: RootImage,
    /// Variables that the image wants.
    pub env: Vec<(String, String)>,
    /// The image; its layers stay in the cache.
    pub held: Option<Image>,
    /// The cache that it is in.
    pub images: Option<Images>,
}

/// Prepares the image that the options name, or the host's system folders.
pub(crate) async fn get(
    options: &BoundaryOptions,
    isolation: Isolation,
    state: &StateFolder,
) -> Result<Root, WorkerError> {
    let Some(source) = &options.image else {
        return Ok(Root {
            digest: HOST_SYSTEM.to_owned(),
            image: RootImage::HostSystem,
            env: Vec::new(),
            held: None,
            images: None,
        });
    };
    if isolation == Isolation::None {
        return Err(WorkerError::Option {
            what: "image",
            reason: "without isolation tools see this machine as it is; take the image away, or isolate".to_owned(),
        });
    }
    let failed = |error: outwork_image::Error| WorkerError::Option {
        what: "image",
        reason: error.to_string(),
    };
    let reference = Reference::parse(&source.reference).map_err(failed)?;
    let folder = state.folder("images").map_err(|error| WorkerError::Option {
        what: "state-dir",
        reason: error.to_string(),
    })?;
    let mut how = Options::new(folder);
    how.allow_unpinned = source.allow_unpinned;
    how.credentials = source.credentials.clone();
    how.extra_roots.clone_from(&options.upstream_roots);
    let name = reference.to_string();
    // On a thread of its own: it verifies and unpacks, and nothing else is to be done meanwhile.
    let runtime = tokio::runtime::Handle::current();
    let prepare = move || {
        let images = Images::open(how)?;
        let image = runtime.block_on(images.get(&reference, &CancellationToken::new()))?;
        Ok((image, images))
    };
    let prepared = tokio::task::spawn_blocking(prepare).await;
    let (image, images) = prepared
        .map_err(|error| WorkerError::Isolation(error.to_string()))?
        .map_err(failed)?;
    tracing::info!(image = name, digest = %image.digest, layers = image.layers.len(), "the image is here");
    Ok(Root {
        digest: image.digest.to_string(),
        // Here the base comes first.
        image: RootImage::Layers(image.layers.iter().rev().cloned().collect()),
        env: image.config.env.clone(),
        held: Some(image),
        images: Some(images),
    })
}
