//! The documents of an image: index, manifest, configuration; and the manifest of a `docker save` archive.
//!
//! Only what is used is read. Refuses: a document that could be taken for both an index and a manifest, a schema other
//! than 2, layers of unknown or foreign media types, counts that do not agree, sizes over the limits.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits::Limits;

/// The media types that are asked for and understood, as an `Accept` header.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                                 application/vnd.docker.distribution.manifest.list.v2+json, \
                                 application/vnd.docker.distribution.manifest.v2+json";

/// A kind of machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, … as Go names them.
    pub architecture: String,
}

impl Platform {
    /// This machine.
    pub fn here() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self {
            os: "linux".into(),
            architecture: architecture.into(),
        }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

/// Points to content.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    platform: Option<PlatformDoc>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
struct PlatformDoc {
    os: String,
    architecture: String,
}

impl Descriptor {
    fn offered(&self) -> String {
        let platform = self
            .platform
            .as_ref()
            .map(|platform| format!(" ({}/{})", platform.os, platform.architecture));
        let name = self.annotations.get("org.opencontainers.image.ref.name");
        let name = name.map(|name| format!(" `{}`", crate::error::shown(name.as_bytes())));
        format!(
            "{}{}{}",
            self.digest,
            name.unwrap_or_default(),
            platform.unwrap_or_default()
        )
    }
}

/// A manifest that was read.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Image {
        config: Descriptor,
        layers: Vec<Descriptor>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentDoc {
    schema_version: u32,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

/// Reads an index or a manifest.
pub(crate) fn document(bytes: &[u8], what: &str, limits: &Limits) -> Result<Document> {
    let wrong = |problem: String| Error::manifest(what, problem);
    let doc: DocumentDoc = serde_json::from_slice(bytes).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if doc.schema_version != 2 {
        return Err(wrong(format!(
            "has schema version {}; only 2 is supported",
            doc.schema_version
        )));
    }
    let kind = doc.media_type.as_deref();
    let is_index = kind.map(|kind| {
        kind == "application/vnd.oci.image.index.v1+json"
            || kind == "application/vnd.docker.distribution.manifest.list.v2+json"
    });
    let is_image = kind.map(|kind| {
        kind == "application/vnd.oci.image.manifest.v1+json"
            || kind == "application/vnd.docker.distribution.manifest.v2+json"
    });
    if is_index == Some(false) && is_image == Some(false) {
        let kind = crate::error::shown(kind.unwrap_or_default().as_bytes());
        return Err(wrong(format!("is of the media type `{kind}`, which is no image")));
    }
    match doc {
        DocumentDoc {
            manifests: Some(manifests),
            config: None,
            layers: None,
            ..
        } if is_index != Some(false) => {
            if manifests.len() > 1000 {
                return Err(wrong("has more than 1000 manifests".into()));
            }
            Ok(Document::Index(manifests))
        }
        DocumentDoc {
            manifests: None,
            config: Some(config),
            layers: Some(layers),
            ..
        } if is_image != Some(false) => {
            check(&config, &layers, what, limits)?;
            Ok(Document::Image { config, layers })
        }
        _ => Err(wrong(
            "is neither an index nor the manifest of an image, or claims to be both".into(),
        )),
    }
}

fn check(config: &Descriptor, layers: &[Descriptor], what: &str, limits: &Limits) -> Result<()> {
    if layers.is_empty() {
        return Err(Error::manifest(what, "has no layers"));
    }
    if layers.len() > limits.layers {
        return Err(Error::TooLarge {
            what: what.into(),
            limit: limits.layers as u64,
            unit: "layers",
        });
    }
    for layer in layers {
        let kind = layer.media_type.as_str();
        let known = matches!(
            kind,
            "application/vnd.oci.image.layer.v1.tar"
                | "application/vnd.oci.image.layer.v1.tar+gzip"
                | "application/vnd.oci.image.layer.v1.tar+zstd"
                | "application/vnd.docker.image.rootfs.diff.tar"
                | "application/vnd.docker.image.rootfs.diff.tar.gzip"
                | "application/vnd.docker.image.rootfs.diff.tar.zstd"
        );
        if !known {
            let kind = crate::error::shown(kind.as_bytes());
            return Err(Error::manifest(
                what,
                format!("has a layer of the media type `{kind}`, which is not supported"),
            ));
        }
    }
    let sizes = layers
        .iter()
        .map(|layer| (layer, limits.blob_bytes))
        .chain([(config, limits.config_bytes)]);
    for (part, limit) in sizes {
        if part.size > limit {
            return Err(Error::TooLarge {
                what: format!("{} of {what}", part.digest),
                limit,
                unit: "bytes",
            });
        }
    }
    Ok(())
}

/// The one manifest of an index that is for this machine.
pub(crate) fn select<'a>(manifests: &'a [Descriptor], platform: &Platform, image: &str) -> Result<&'a Descriptor> {
    let is_document = |descriptor: &&Descriptor| ACCEPT.split(", ").any(|kind| kind == descriptor.media_type);
    let fits = |descriptor: &&Descriptor| {
        descriptor
            .platform
            .as_ref()
            .is_some_and(|own| own.os == platform.os && own.architecture == platform.architecture)
    };
    if let Some(found) = manifests.iter().filter(is_document).find(fits) {
        return Ok(found);
    }
    let mut open = manifests
        .iter()
        .filter(is_document)
        .filter(|descriptor| descriptor.platform.is_none());
    match (open.next(), open.next()) {
        // One without platform: its configuration says what it is for.
        (Some(only), None) => Ok(only),
        (Some(_), Some(_)) => Err(Error::Reference {
            text: image.into(),
            problem: format!("has several images; pick one with `@sha256:…`: {}", offer(manifests)),
        }),
        (None, _) => Err(Error::Platform {
            image: image.into(),
            wanted: platform.to_string(),
            offered: offer(manifests),
        }),
    }
}

fn offer(manifests: &[Descriptor]) -> String {
    if manifests.is_empty() {
        return "nothing".into();
    }
    let shown: Vec<String> = manifests.iter().take(12).map(Descriptor::offered).collect();
    shown.join(", ")
}

/// What of an image's configuration a sandbox follows. Entry point, command, ports and volumes are not used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Environment variables, in order.
    pub env: Vec<(String, String)>,
    /// Folder in which commands start; absolute.
    pub workdir: Option<String>,
    /// User as written: name or number, perhaps with `:group`.
    pub user: Option<String>,
}

#[derive(Deserialize)]
struct ConfigDoc {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    config: Option<RunDoc>,
    rootfs: RootfsDoc,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RunDoc {
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    working_dir: Option<String>,
    #[serde(default)]
    user: Option<String>,
}

#[derive(Deserialize)]
struct RootfsDoc {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<Digest>,
}

/// Reads an image's configuration: what to run with, and the digests of its unpacked layers.
pub(crate) fn config(bytes: &[u8], layers: usize, platform: &Platform, image: &str) -> Result<(Config, Vec<Digest>)> {
    let what = format!("configuration of {image}");
    let wrong = |problem: &str| Error::manifest(what.as_str(), problem);
    let doc: ConfigDoc = serde_json::from_slice(bytes).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
    let differs = |own: &str, wanted: &str| !own.is_empty() && own != wanted;
    if differs(&doc.os, &platform.os) || differs(&doc.architecture, &platform.architecture) {
        return Err(Error::Platform {
            image: image.into(),
            wanted: platform.to_string(),
            offered: crate::error::shown(format!("{}/{}", doc.os, doc.architecture).as_bytes()),
        });
    }
    if doc.rootfs.kind != "layers" {
        return Err(wrong("its root filesystem is not made of layers"));
    }
    if doc.rootfs.diff_ids.len() != layers {
        return Err(wrong(&format!(
            "names {} layers, the manifest has {layers}",
            doc.rootfs.diff_ids.len()
        )));
    }
    let run = doc.config.unwrap_or_default();
    let mut env = Vec::new();
    for variable in run.env.unwrap_or_default() {
        match variable.split_once('=') {
            Some((name, value)) if !name.is_empty() && !variable.contains('\0') => {
                env.push((name.into(), value.into()))
            }
            _ => return Err(wrong("has an environment variable that is not NAME=VALUE")),
        }
    }
    let workdir = run.working_dir.filter(|workdir| !workdir.is_empty());
    if workdir
        .as_ref()
        .is_some_and(|workdir| !workdir.starts_with('/') || workdir.contains('\0'))
    {
        return Err(wrong("its working folder is not an absolute path"));
    }
    let user = run.user.filter(|user| !user.is_empty());
    if user
        .as_ref()
        .is_some_and(|user| user.len() > 256 || user.chars().any(char::is_control))
    {
        return Err(wrong("its user is not a name or number"));
    }
    Ok((Config { env, workdir, user }, doc.rootfs.diff_ids))
}

/// One image of a `docker save` archive.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Saved {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    pub(crate) layers: Vec<String>,
}

/// Reads `manifest.json` of a `docker save` archive.
pub(crate) fn saved(bytes: &[u8], what: &str, limits: &Limits) -> Result<Vec<Saved>> {
    let images: Vec<Saved> =
        serde_json::from_slice(bytes).map_err(|error| Error::manifest(what, format!("cannot be read: {error}")))?;
    for image in &images {
        if image.layers.is_empty() || image.layers.len() > limits.layers {
            return Err(Error::manifest(
                what,
                format!("an image has no layers, or more than {}", limits.layers),
            ));
        }
    }
    Ok(images)
}
