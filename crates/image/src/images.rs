//! From a reference to an image that a sandbox can use: resolve, verify, fetch what the cache lacks, hold it.
//!
//! Nothing unverified reaches the unpacker: a layer's blob is compared with its digest first, and what it unpacks to with
//! the configuration's digest before it gets a name in the cache. A pinned image that is in the cache needs no network.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio_util::sync::CancellationToken;

use crate::build::Builder;
use crate::cache::{Cache, Held, Shelf, Staging};
use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::local::{Blob, Files};
use crate::manifest::{Config, Platform};
use crate::prune::{Keep, Pruned};
use crate::reference::{Local, Reference};
use crate::registry::{self, Registry};
use crate::resolve::{From, Layer, Source};
use crate::tree::Tree;
use crate::{index, unpack, walk};

/// Layers fetched at the same time.
const AT_ONCE: usize = 3;

/// How images are prepared.
#[derive(Debug, Clone)]
pub struct Options {
    /// The cache folder; made if it is not there. Nobody else may be able to write to it.
    pub cache: PathBuf,
    /// Bounds of what is read and unpacked.
    pub limits: Limits,
    /// Accept registry references without digest. What they meant is in [`Image::digest`].
    pub allow_unpinned: bool,
    /// Hosts, as written in references, that may be asked without TLS. This machine itself always may.
    pub plain_http: Vec<String>,
    /// Credentials of registries.
    pub credentials: Credentials,
    /// PEM bundles of certificate authorities that are trusted besides the system's.
    pub extra_roots: Vec<Vec<u8>>,
    /// The time that one image may take, from reference to root filesystem.
    pub deadline: Duration,
    /// The kind of machine to choose for.
    pub platform: Platform,
    /// Read and digest a folder that is given as image. Without, its digest is [`ImageDigest::Unpinned`].
    pub digest_folders: bool,
}

impl Options {
    /// The defaults, with a cache folder.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            limits: Limits::default(),
            allow_unpinned: false,
            plain_http: Vec::new(),
            credentials: Credentials::default(),
            extra_roots: Vec::new(),
            deadline: Duration::from_secs(30 * 60),
            platform: Platform::here(),
            digest_folders: true,
        }
    }
}

/// What an image is known by in evidence. Written as the digest, with a word before it where it is not of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageDigest {
    /// The manifest of the image for this machine.
    Manifest(Digest),
    /// The configuration: images of `docker save` have no manifest.
    Config(Digest),
    /// The tree of a folder as it was when it was read.
    Folder(Digest),
    /// A folder that was not read.
    Unpinned,
    /// A folder of the installed system of a machine, by whoever looked at that.
    System(Digest),
}

impl std::fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Manifest(digest) => write!(f, "{digest}"),
            Self::Config(digest) => write!(f, "config {digest}"),
            Self::Folder(digest) => write!(f, "folder {digest}"),
            Self::Unpinned => f.write_str("unpinned folder"),
            Self::System(digest) => write!(f, "system {digest}"),
        }
    }
}

/// A root filesystem, ready to be stacked. Its layers stay in the cache while this (or a clone) lives.
#[derive(Debug, Clone)]
pub struct Image {
    /// What it is.
    pub digest: ImageDigest,
    /// Read-only folders, **uppermost first**, as overlayfs wants them in `lowerdir`. Whiteouts are character devices
    /// 0/0 and there are no extended attributes, so the mount needs no option for either. Everything belongs to who
    /// unpacked it.
    pub layers: Vec<PathBuf>,
    /// What commands run with.
    pub config: Config,
    /// The digest of the layer of installed packages, if the uppermost is one: of its names, modes, times and contents.
    pub packages: Option<Digest>,
    pub(crate) held: Vec<Arc<Held>>,
}

impl Image {
    /// Stands for a folder of the installed system of a machine as a base of packages, whose layers are meant to lie over
    /// it. What the folder has is not read.
    pub fn of_system(identity: Digest, folder: impl Into<PathBuf>) -> Self {
        Self {
            digest: ImageDigest::System(identity),
            layers: vec![folder.into()],
            config: Config::default(),
            packages: None,
            held: Vec::new(),
        }
    }
}

/// Prepares images and keeps them. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Images {
    pub(crate) cache: Cache,
    pub(crate) options: Arc<Options>,
    http: reqwest::Client,
}

/// A layer that is there, or what is needed to make it.
enum Step {
    Held(Held),
    Make {
        staging: Staging,
        blob: Blob,
        _making: std::fs::File,
    },
}

impl Images {
    /// Opens the cache. Blocks on the file system.
    pub fn open(options: Options) -> Result<Self> {
        Ok(Self {
            cache: Cache::open(&options.cache)?,
            http: registry::http(&options.extra_roots)?,
            options: Arc::new(options),
        })
    }

    /// Prepares an image: its layers are verified, unpacked and held when this returns.
    pub async fn get(&self, reference: &Reference, cancel: &CancellationToken) -> Result<Image> {
        // Dropped with this call, whichever way it ends: what runs on blocking threads stops then.
        let stop = cancel.child_token();
        let _stop = stop.clone().drop_guard();
        let deadline = self.options.deadline;
        tokio::select! {
            () = cancel.cancelled() => Err(Error::Cancelled),
            done = tokio::time::timeout(deadline, self.prepare(reference, &stop)) => done.unwrap_or_else(|_| {
                Err(Error::Deadline { image: reference.to_string(), deadline })
            }),
        }
    }

    /// Compares the whole cache with its indexes, byte by byte: places and what is wrong there. Takes nothing away.
    pub async fn verify(&self, cancel: &CancellationToken) -> Result<Vec<(PathBuf, String)>> {
        let (cache, cancel) = (self.cache.clone(), cancel.clone());
        blocking(move || cache.verify(&cancel)).await
    }

    /// Removes from the cache what need not stay.
    pub async fn prune(&self, keep: Keep) -> Result<Pruned> {
        let cache = self.cache.clone();
        blocking(move || crate::prune::prune(&cache, &keep)).await
    }

    async fn prepare(&self, reference: &Reference, cancel: &CancellationToken) -> Result<Image> {
        let image = reference.to_string();
        let (resolved, source) = match reference {
            Reference::Local(local) if is_root(local)? => return self.folder(local, cancel).await,
            Reference::Local(local) => {
                let files = self.files(local, cancel).await?;
                let source = Source::Files(Arc::new(files));
                (self.resolve_local(&source, local, &image).await?, source)
            }
            Reference::Registry(remote) => {
                if remote.digest().is_none() && !self.options.allow_unpinned {
                    return Err(Error::Unpinned { reference: image });
                }
                let options = &self.options;
                let registry = Registry::new(self.http.clone(), remote, &options.credentials, &options.plain_http)?;
                let source = Source::Registry(Box::new(registry));
                (self.resolve_remote(&source, remote, &image).await?, source)
            }
        };
        let held = self.layers(&resolved.layers, &source, cancel).await?;
        Ok(Image {
            digest: resolved.digest,
            layers: held.iter().rev().map(|held| held.root.clone()).collect(),
            config: resolved.config,
            packages: None,
            held,
        })
    }

    /// A folder is used as it is: it is not copied, and who may write to it may change what sandboxes run.
    async fn folder(&self, local: &Local, cancel: &CancellationToken) -> Result<Image> {
        if local.digest().is_some() {
            return Err(Error::Reference {
                text: local.path().display().to_string(),
                problem:
                    "is a root filesystem, which can change at any time and cannot be pinned; give a layout or archive"
                        .into(),
            });
        }
        let path = local
            .path()
            .canonicalize()
            .map_err(Error::io("find folder", local.path()))?;
        let digest = if self.options.digest_folders {
            let (path, limits, cancel) = (path.clone(), self.options.limits.clone(), cancel.clone());
            ImageDigest::Folder(blocking(move || walk::tree_of(&path, &limits, &cancel)).await?.1)
        } else {
            ImageDigest::Unpinned
        };
        Ok(Image {
            digest,
            layers: vec![path],
            config: Config::default(),
            packages: None,
            held: Vec::new(),
        })
    }

    async fn files(&self, local: &Local, cancel: &CancellationToken) -> Result<Files> {
        let path = local.path().to_owned();
        let (cache, limits, cancel) = (self.cache.clone(), self.options.limits.clone(), cancel.clone());
        blocking(move || {
            if path.is_dir() {
                return Files::layout(&path);
            }
            Files::archive(&path, || cache.staging(), &limits, &cancel)
        })
        .await
    }

    /// Holds every layer, lowest first. Those that are missing are fetched a few at a time and unpacked in order.
    async fn layers(&self, layers: &[Layer], source: &Source, cancel: &CancellationToken) -> Result<Vec<Arc<Held>>> {
        let steps = futures_util::stream::iter(layers.iter().map(|layer| self.step(layer, source, cancel)));
        let mut steps = std::pin::pin!(steps.buffered(AT_ONCE));
        let mut held: Vec<Arc<Held>> = Vec::with_capacity(layers.len());
        // What the layers so far show; made only when something has to be unpacked on top of them.
        let mut tree: Option<Tree> = None;
        for layer in layers {
            let step = steps.try_next().await?.ok_or(Error::Cancelled)?;
            let next = match step {
                Step::Held(next) => {
                    tree = None;
                    next
                }
                Step::Make { staging, blob, _making } => {
                    let below = held.clone();
                    let (cache, limits, cancel) = (self.cache.clone(), self.options.limits.clone(), cancel.clone());
                    let (chain, diff) = (layer.chain, layer.diff);
                    let label = match &layer.from {
                        From::Blob { digest, .. } => digest.to_string(),
                        From::Name(name) => name.clone(),
                    };
                    let known = tree.take();
                    let (next, stacked) = blocking(move || {
                        let below_tree = known.map_or_else(|| stacked(&below), Ok)?;
                        let roots: Vec<PathBuf> = below.iter().map(|held| held.root.clone()).collect();
                        let builder = Builder::new(&staging.root()?, below_tree, &roots, &limits, &label)?;
                        let built = unpack::layer(blob, builder, &diff, &label, &limits, &cancel)?;
                        let held = cache.publish(staging, Shelf::Layers, &chain, &built)?;
                        Ok((held, built.tree))
                    })
                    .await?;
                    tree = Some(stacked);
                    next
                }
            };
            held.push(Arc::new(next));
        }
        Ok(held)
    }

    async fn step(&self, layer: &Layer, source: &Source, cancel: &CancellationToken) -> Result<Step> {
        if let Some(held) = self.hold(layer).await? {
            return Ok(Step::Held(held));
        }
        let making = self.cache.making(Shelf::Layers, &layer.chain, cancel).await?;
        // Somebody else may have made it while we waited.
        if let Some(held) = self.hold(layer).await? {
            return Ok(Step::Held(held));
        }
        let staging = self.cache.staging()?;
        let blob = match (&layer.from, source) {
            (From::Blob { digest, size }, Source::Registry(registry)) => {
                let file = staging.file("blob")?;
                let keep = file.try_clone().map_err(Error::io("open", staging.path()))?;
                registry.download(digest, *size, file).await?;
                Blob::whole(keep).map_err(Error::io("look at", staging.path()))?
            }
            (From::Blob { digest, size }, Source::Files(files)) => {
                let (files, digest, size) = (Arc::clone(files), *digest, *size);
                blocking(move || files.blob(&digest)?.verified(&digest, size)).await?
            }
            (From::Name(name), Source::Files(files)) => {
                let blob = files.file(name)?;
                blob.ok_or_else(|| Error::manifest(files.to_string(), format!("has no file `{name}`")))?
            }
            (From::Name(_), Source::Registry(_)) => unreachable!("a registry names blobs by digest"),
        };
        Ok(Step::Make {
            staging,
            blob,
            _making: making,
        })
    }

    async fn hold(&self, layer: &Layer) -> Result<Option<Held>> {
        let (cache, chain) = (self.cache.clone(), layer.chain);
        blocking(move || cache.hold(Shelf::Layers, &chain)).await
    }
}

/// The tree that some layers show, lowest first.
pub(crate) fn stacked(held: &[Arc<Held>]) -> Result<Tree> {
    let mut tree = Tree::new();
    for (layer, held) in held.iter().enumerate() {
        if !index::stack(&mut tree, &held.entries()?, layer as u32) {
            return Err(Error::Cache {
                path: held.root.clone(),
                problem: "the index of a layer does not fit the layers below".into(),
            });
        }
    }
    Ok(tree)
}

/// A root filesystem, rather than a layout or an archive.
fn is_root(local: &Local) -> Result<bool> {
    let path: &Path = local.path();
    let metadata = std::fs::metadata(path).map_err(Error::io("find image", path))?;
    Ok(metadata.is_dir() && std::fs::symlink_metadata(path.join("oci-layout")).is_err())
}

/// Runs file work where it may block. What is asked to stop ends by the token it was given.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Cancelled),
        },
    }
}
