//! Makes tar archives entry by entry (hostile ones included), images of them, and places to unpack them in.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use outwork_image::{Digest, Error, Image, Images, Limits, Options, Platform, Reference, Result};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// An archive under construction. Names go into the header as they are.
#[derive(Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn entry(mut self, kind: u8, name: &[u8], target: &[u8], mode: u32, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        let old = header.as_old_mut();
        assert!(name.len() <= 100 && target.len() <= 100, "use `long`");
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..target.len()].copy_from_slice(target);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.raw(header.as_bytes());
        self.raw(content);
        self.pad()
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn pad(mut self) -> Self {
        let to = self.0.len().next_multiple_of(512);
        self.0.resize(to, 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(b'0', name.as_bytes(), b"", 0o644, content)
    }

    pub(crate) fn mode(self, name: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(b'0', name.as_bytes(), b"", mode, content)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.entry(b'5', name.as_bytes(), b"", 0o755, b"")
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name.as_bytes(), target.as_bytes(), 0o777, b"")
    }

    pub(crate) fn hard(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name.as_bytes(), target.as_bytes(), 0o644, b"")
    }

    /// Pax records for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length.to_string().len() + rest != length {
                length = length.to_string().len() + rest;
            }
            body.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
        }
        self.entry(b'x', b"pax", b"", 0o644, &body)
    }

    /// A GNU long name for the next entry.
    pub(crate) fn long(self, name: &str) -> Self {
        let mut body = name.as_bytes().to_vec();
        body.push(0);
        self.entry(b'L', b"././@LongLink", b"", 0o644, &body)
    }

    /// An old GNU sparse file: pieces as offset and content.
    pub(crate) fn sparse(mut self, name: &str, pieces: &[(u64, &[u8])], whole: u64) -> Self {
        let mut header = tar::Header::new_gnu();
        let data: Vec<u8> = pieces.iter().flat_map(|(_, content)| content.to_vec()).collect();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(tar::EntryType::GNUSparse);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        let gnu = header.as_gnu_mut().unwrap();
        for (slot, (offset, content)) in gnu.sparse.iter_mut().zip(pieces) {
            slot.offset.copy_from_slice(format!("{offset:011o}\0").as_bytes());
            slot.numbytes
                .copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        }
        gnu.realsize.copy_from_slice(format!("{whole:011o}\0").as_bytes());
        header.set_cksum();
        self.raw(header.as_bytes());
        self.raw(&data);
        self.pad()
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.raw(&[0; 1024]);
        self.0
    }

    /// Without end marker.
    pub(crate) fn open(self) -> Vec<u8> {
        self.0
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// One layer of an image under construction.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) diff: Digest,
    pub(crate) media: &'static str,
}

pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Layer {
    pub(crate) fn gzip(tar: Vec<u8>) -> Self {
        Self {
            blob: gzip(&tar),
            diff: Digest::of(&tar),
            media: GZIP,
        }
    }

    pub(crate) fn plain(tar: Vec<u8>) -> Self {
        Self {
            diff: Digest::of(&tar),
            blob: tar,
            media: PLAIN,
        }
    }

    pub(crate) fn zstd(tar: Vec<u8>) -> Self {
        Self {
            blob: zstd(&tar),
            diff: Digest::of(&tar),
            media: ZSTD,
        }
    }
}

/// An image: documents and blobs by digest, and the digest of its manifest.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
    pub(crate) manifest: Digest,
    pub(crate) config: Digest,
    pub(crate) layers: Vec<Layer>,
}

impl Made {
    pub(crate) fn of(layers: Vec<Layer>) -> Self {
        Self::on(layers, &Platform::here())
    }

    pub(crate) fn on(layers: Vec<Layer>, platform: &Platform) -> Self {
        let config = json!({
            "os": platform.os, "architecture": platform.architecture,
            "config": { "Env": ["PATH=/bin", "GREETING=a=b"], "WorkingDir": "/work", "User": "1000:1000" },
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| layer.diff).collect::<Vec<_>>() },
        });
        let config = serde_json::to_vec(&config).unwrap();
        let mut made = Self {
            blobs: BTreeMap::new(),
            manifest: Digest::of(b""),
            config: Digest::of(&config),
            layers,
        };
        let layers: Vec<_> = made.layers.clone();
        let described: Vec<_> = layers
            .iter()
            .map(|layer| json!({ "mediaType": layer.media, "digest": made.put(layer.blob.clone()), "size": layer.blob.len() }))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": made.config, "size": config.len() },
            "layers": described,
        });
        made.put(config);
        made.manifest = made.put(serde_json::to_vec(&manifest).unwrap());
        made
    }

    pub(crate) fn put(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest, bytes);
        digest
    }

    pub(crate) fn manifest_bytes(&self) -> &[u8] {
        &self.blobs[&self.manifest]
    }

    /// An index over images, as `index.json` of a layout or as a document of a registry.
    pub(crate) fn index(images: &[(&Made, Option<(&str, &str)>)]) -> Vec<u8> {
        let manifests: Vec<_> = images
            .iter()
            .map(|(made, platform)| {
                let mut one =
                    json!({ "mediaType": MANIFEST, "digest": made.manifest, "size": made.manifest_bytes().len() });
                if let Some((os, architecture)) = platform {
                    one["platform"] = json!({ "os": os, "architecture": architecture });
                }
                one
            })
            .collect();
        serde_json::to_vec(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests })).unwrap()
    }

    pub(crate) fn layout(&self, folder: &Path) {
        std::fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        std::fs::write(folder.join("index.json"), Self::index(&[(self, None)])).unwrap();
        for (digest, bytes) in &self.blobs {
            std::fs::write(folder.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        }
    }
}

/// A temporary place with a cache, and a folder beside it that nothing may touch.
pub(crate) struct Arena {
    pub(crate) folder: tempfile::TempDir,
    before: Vec<(PathBuf, u32, u64, i64, i64, Vec<u8>)>,
}

impl Arena {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        std::fs::create_dir_all(outside.join("inner")).unwrap();
        std::fs::write(outside.join("secret"), "untouched").unwrap();
        std::fs::write(outside.join("inner/file"), "untouched").unwrap();
        let before = snapshot(&outside);
        Self { folder, before }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn outside(&self) -> String {
        self.path("outside").display().to_string()
    }

    pub(crate) fn options(&self) -> Options {
        Options::new(self.path("cache"))
    }

    /// With bounds that a test can pass.
    pub(crate) fn small(&self) -> Options {
        let mut options = self.options();
        options.limits = Limits {
            layer_bytes: 2 << 20,
            file_bytes: 1 << 20,
            entries: 500,
            manifest_bytes: 64 << 10,
            config_bytes: 64 << 10,
            blob_bytes: 4 << 20,
            ..Limits::default()
        };
        options
    }

    /// Nothing beside the cache changed, and nothing half-made is left in it.
    pub(crate) fn assert_untouched(&self) {
        assert_eq!(
            snapshot(&self.path("outside")),
            self.before,
            "something outside the cache was changed"
        );
        let mut names: Vec<_> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.retain(|name| {
            !["outside", "cache", "layout", "archive.tar", "root", "upper"]
                .iter()
                .any(|known| name == known)
        });
        assert!(names.is_empty(), "made beside the cache: {names:?}");
        let staging = self.path("cache/staging");
        if staging.exists() {
            assert_eq!(
                std::fs::read_dir(staging).unwrap().count(),
                0,
                "something half-made was left"
            );
        }
    }

    pub(crate) fn kept_layers(&self) -> usize {
        std::fs::read_dir(self.path("cache/layers")).map_or(0, Iterator::count)
    }

    /// Unpacks an image by way of a layout.
    pub(crate) async fn unpack(&self, options: Options, made: &Made) -> Result<Image> {
        made.layout(&self.path("layout"));
        get(&Images::open(options)?, &self.path("layout").display().to_string()).await
    }

    /// Unpacks layers that are hostile: whatever comes of it, nothing outside is touched.
    pub(crate) async fn attack(&self, layers: Vec<Layer>) -> Result<Image> {
        let result = self.unpack(self.small(), &Made::of(layers)).await;
        self.assert_untouched();
        result
    }

    /// Hostile layers that must be refused, and of which the refused one is not kept.
    pub(crate) async fn refuse(&self, layers: Vec<Layer>) -> Error {
        let below = layers.len() - 1;
        let error = self.attack(layers).await.expect_err("the attack was accepted");
        assert_eq!(self.kept_layers(), below, "the refused layer was kept");
        error
    }
}

pub(crate) async fn get(images: &Images, reference: &str) -> Result<Image> {
    images
        .get(&Reference::parse(reference)?, &CancellationToken::new())
        .await
}

pub(crate) fn snapshot(path: &Path) -> Vec<(PathBuf, u32, u64, i64, i64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut pending = vec![path.to_owned()];
    while let Some(path) = pending.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_file() {
            std::fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        if metadata.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        all.push((
            path,
            metadata.mode(),
            metadata.nlink(),
            metadata.mtime(),
            metadata.ctime_nsec(),
            content,
        ));
    }
    all.sort();
    all
}
