//! What one sandbox has besides its root: mounts, a folder for results, devices, certificates.
//!
//! The cradle takes what lies on the host as detached mounts, before the clone ([`Supplies`]); the sandbox's first
//! process mounts them, inside its own namespaces ([`furnish`]). Sources are never followed through a link, devices are
//! told by what they are and not by their name.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::build::{self, Range};
use super::cradle::Nursery;
use super::ids::Idmap;
use super::layers;
use super::place::{self, Kind, Places};
use super::sys::{self, ATTR_NODEV, ATTR_NOSUID, ATTR_RDONLY};
use super::wire::{InStep, Launch, StepError};
use crate::options::{DeviceName, RootImage};
use crate::trust;

/// Where results are collected from.
pub(crate) const OUTPUTS: &str = "/mnt/session/outputs";
/// Where the sandbox's own files stand.
pub(super) const OWN: &str = "/run/outwork";
const BUNDLE: &str = "/run/outwork/ca-bundle.pem";
const AUTHORITY: &str = "/run/outwork/ca.pem";
/// A runtime that brings a list of authorities of its own takes this one instead, wherever it is installed. Each start of
/// it says so on standard error, which is the lesser evil: no mount can lie over a runtime that comes later.
const JAVA: (&str, &str) = ("JAVA_TOOL_OPTIONS", "-Djavax.net.ssl.trustStore=/run/outwork/cacerts");
const LARGEST_BUNDLE: u64 = 4 << 20;

/// Where systems keep the list of authorities. The first that exists is what the sandbox's own is added to.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];
/// The same for Java, besides each of [`JAVA_HOMES`].
const KEYSTORES: &[&str] = &[
    "/etc/ssl/certs/java/cacerts",
    "/etc/pki/ca-trust/extracted/java/cacerts",
    "/etc/pki/java/cacerts",
    "/opt/java/openjdk/lib/security/cacerts",
    "/usr/java/default/lib/security/cacerts",
];
const JAVA_HOMES: &str = "/usr/lib/jvm";

/// Variables that point programs with lists of their own to the sandbox's.
const TRUSTING: &[(&str, &str)] = &[
    ("SSL_CERT_FILE", BUNDLE),
    ("REQUESTS_CA_BUNDLE", BUNDLE),
    ("CURL_CA_BUNDLE", BUNDLE),
    ("GIT_SSL_CAINFO", BUNDLE),
    ("PIP_CERT", BUNDLE),
    ("CARGO_HTTP_CAINFO", BUNDLE),
    ("AWS_CA_BUNDLE", BUNDLE),
    ("DENO_CERT", BUNDLE),
    ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", BUNDLE),
    ("NIX_SSL_CERT_FILE", BUNDLE),
    ("NODE_EXTRA_CA_CERTS", AUTHORITY),
    JAVA,
];

/// Variables of a sandbox that trusts an authority of its own.
pub(super) fn trusting_variables(launch: &Launch) -> impl Iterator<Item = (String, String)> {
    let trusting = if launch.ca_pem.is_some() { TRUSTING } else { &[] };
    trusting
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
}

/// What a variable holds that an image or a session sets and that has a value already: options of Java's are added to, so
/// that its authorities stay, and a later option still has its way.
pub(super) fn joined(name: &str, known: Option<&str>, value: &str) -> String {
    match known {
        Some(known) if name == JAVA.0 => format!("{known} {value}"),
        _ => value.to_owned(),
    }
}

/// What was taken from the host for one sandbox.
#[derive(Default)]
pub(crate) struct Supplies {
    /// Image layers, the topmost first.
    layers: Vec<OwnedFd>,
    mounts: Vec<(OwnedFd, PathBuf, Kind)>,
    outputs: Option<OwnedFd>,
    devices: Vec<(OwnedFd, PathBuf)>,
    /// What is laid over `/usr/local`.
    local: Option<OwnedFd>,
    /// Where what is installed goes.
    site: Option<OwnedFd>,
}

impl Supplies {
    /// Takes what a request names. `own` are the ids that the sandbox has outside; `range` those of one that installs, if
    /// they are more than one.
    pub(super) fn take(
        launch: &Launch,
        nursery: &Nursery,
        own: (u32, u32),
        range: Option<&Range>,
    ) -> Result<Self, StepError> {
        let mut idmaps = Vec::new();
        let mut supplies = Self::default();
        let (layers, over) = match &launch.image {
            RootImage::HostSystem => (&[][..], None),
            RootImage::HostSystemWith(over) => (&[][..], Some(over)),
            RootImage::Layers(layers) => (&layers[..], None),
        };
        for path in layers.iter().rev().chain(over) {
            let step = "image layers";
            let (source, _) = open_source(path, step)?;
            let tree = detach(&source, false).step(step)?;
            match range {
                // What is below must be the sandbox's, or it could not be changed.
                Some(range) => sys::set_mount_idmap(tree.as_fd(), range.userns.as_fd())
                    .map_err(|error| format!("{}: its filesystem cannot map ids ({error})", path.display()))
                    .step(step)?,
                None => map_if_possible(nursery, &mut idmaps, &source, &tree, own),
            }
            let attributes = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV;
            sys::set_mount_attributes(tree.as_fd(), attributes).step(step)?;
            supplies.layers.push(tree);
        }
        if over.is_some() {
            supplies.local = supplies.layers.pop();
        }
        for mount in &launch.mounts {
            let step = "mounts";
            let (source, kind) = open_source(&mount.source, step)?;
            let tree = detach(&source, true).step(step)?;
            map_if_possible(nursery, &mut idmaps, &source, &tree, own);
            let attributes = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV;
            sys::set_mount_attributes(tree.as_fd(), attributes).step(step)?;
            supplies.mounts.push((tree, mount.target.clone(), kind));
        }
        // Parents before what lies in them.
        supplies
            .mounts
            .sort_by_key(|(_, target, _)| target.components().count());
        for device in &launch.devices {
            supplies.devices.push(take_device(device)?);
        }
        Ok(supplies)
    }

    pub(super) fn set_outputs(&mut self, tree: OwnedFd) {
        self.outputs = Some(tree);
    }

    pub(super) fn set_site(&mut self, tree: OwnedFd) {
        self.site = Some(tree);
    }
}

/// Opens a file or folder of the host, and no link to one.
fn open_source(path: &Path, step: &str) -> Result<(OwnedFd, Kind), StepError> {
    let refuse = |reason: &str| StepError {
        step: step.to_owned(),
        reason: format!("{}: {reason}", path.display()),
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| refuse(&error.to_string()))?;
    let found = rustix::fs::fstat(&source).map_err(|error| refuse(&error.to_string()))?;
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile if step != "image layers" => Ok((source, Kind::File)),
        FileType::Directory => Ok((source, Kind::Folder)),
        FileType::Symlink => Err(refuse("is a link; name what it leads to")),
        _ => Err(refuse("is not what can be mounted there")),
    }
}

fn detach(source: &OwnedFd, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(source, c"", flags)
}

/// Lets the inside user have what the source's owner has: it could not read a file of mode 0600 otherwise. The mount is
/// read-only. Where the filesystem cannot map ids, what everyone may read is what can be read.
fn map_if_possible(
    nursery: &Nursery,
    idmaps: &mut Vec<Idmap>,
    source: &OwnedFd,
    tree: &OwnedFd,
    (uid, gid): (u32, u32),
) {
    let (Some(_), Ok(found)) = (nursery.host_id, rustix::fs::fstat(source)) else {
        return;
    };
    let (owner, group) = (found.st_uid, found.st_gid);
    // The sandbox's own ids may be the workspace owner's, when that is an ordinary user.
    if (owner, group) == (uid, gid) {
        return;
    }
    let fits = |idmap: &&Idmap| idmap.uid == owner && idmap.gid == group && idmap.to == uid;
    if nursery.idmap.iter().chain(&*idmaps).find(fits).is_none()
        && let Ok(idmap) = Idmap::make(&nursery.proc_folder, owner, group, uid)
    {
        idmaps.push(idmap);
    }
    if let Some(idmap) = nursery.idmap.iter().chain(&*idmaps).find(fits) {
        let _ = sys::set_mount_idmap(tree.as_fd(), idmap.userns.as_fd());
    }
}

/// A graphics device, told by its number.
fn take_device(name: &DeviceName) -> Result<(OwnedFd, PathBuf), StepError> {
    let step = "devices";
    let place = Path::new("/dev").join(name.as_str());
    let refuse = |reason: String| StepError {
        step: step.to_owned(),
        reason: format!("{}: {reason}", place.display()),
    };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = rustix::fs::open(&place, flags, Mode::empty())
        .map_err(|error| refuse(format!("{error}; this machine has no such device")))?;
    let found = rustix::fs::fstat(&source).map_err(|error| refuse(error.to_string()))?;
    let number = found.st_rdev;
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let drivers = fs::read_to_string("/proc/devices").unwrap_or_default();
    if FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice
        || !is_graphics(name.as_str(), major, minor, &drivers)
    {
        return Err(refuse(format!(
            "is device {major}:{minor}, which is not the graphics device of that name"
        )));
    }
    let tree = detach(&source, false).step(step)?;
    sys::set_mount_attributes(tree.as_fd(), ATTR_NOSUID).step(step)?;
    Ok((tree, place))
}

/// Whether a device of this name has one of the numbers that the kernel gives to such devices.
fn is_graphics(name: &str, major: u32, minor: u32, drivers: &str) -> bool {
    const NVIDIA: u32 = 195;
    const DRM: u32 = 226;
    let driver = |wanted: &str| {
        drivers
            .lines()
            .filter_map(|line| line.trim().split_once(' '))
            .any(|(number, driver)| driver == wanted && number.parse() == Ok(major))
    };
    let numbered = |prefix: &str, from: u32| {
        name.strip_prefix(prefix)
            .and_then(|number| number.parse::<u32>().ok())
            .is_some_and(|number| number >= from && number == minor)
    };
    match name {
        "nvidiactl" => major == NVIDIA && minor == 255,
        "nvidia-modeset" => major == NVIDIA && minor == 254,
        "nvidia-uvm" | "nvidia-uvm-tools" => driver("nvidia-uvm"),
        _ if name.starts_with("dri/renderD") => major == DRM && numbered("dri/renderD", 128),
        _ if name.starts_with("dri/card") => major == DRM && minor < 64 && numbered("dri/card", 0),
        _ => major == NVIDIA && minor < 254 && numbered("nvidia", 0),
    }
}

/// Mounts what was taken. Runs inside, as the inside user, after everything that each sandbox has is mounted.
pub(super) fn furnish(launch: &Launch, supplies: &Supplies) -> Result<(), StepError> {
    let mut places = Places::default();
    if !supplies.layers.is_empty() {
        let site = supplies.site.as_ref();
        layers::enter(&supplies.layers, site, &launch.hostname, launch.fenced, &mut places)?;
    } else if let Some(site) = &supplies.site {
        build::over_local(site, &mut places)?;
    }
    if let Some(layer) = &supplies.local {
        build::lay_over_local(layer, &mut places)?;
    }
    for (tree, target, kind) in &supplies.mounts {
        places.mount(tree, target, *kind).step("mounts")?;
    }
    if let Some(tree) = &supplies.outputs {
        places.mount(tree, Path::new(OUTPUTS), Kind::Folder).step("outputs")?;
    }
    for (tree, place) in &supplies.devices {
        places.mount(tree, place, Kind::File).step("devices")?;
    }
    if let Some(authority) = &launch.ca_pem {
        trust_authority(&mut places, authority, supplies.site.is_some()).step("trusted authority")?;
    }
    places.seal().step("read-only root")
}

/// Adds an authority to what programs trust. Where packages are installed, only variables lead to it: what lies over files
/// of the root would keep packages from replacing them.
fn trust_authority(places: &mut Places, authority: &str, installs: bool) -> Result<(), String> {
    let mut bundle = BUNDLES.iter().find_map(|path| read(path)).unwrap_or_default();
    if bundle.last().is_some_and(|byte| *byte != b'\n') {
        bundle.push(b'\n');
    }
    bundle.extend_from_slice(authority.as_bytes());
    let own = Path::new(OWN);
    places.write(own, "ca.pem", authority.as_bytes())?;
    let written = places.write(own, "ca-bundle.pem", &bundle)?;
    if installs {
        return Ok(());
    }
    lay_over(places, &written, BUNDLES.iter().map(PathBuf::from))?;
    let mut stores: Vec<PathBuf> = KEYSTORES.iter().map(PathBuf::from).collect();
    for home in fs::read_dir(JAVA_HOMES).into_iter().flatten().flatten() {
        stores.push(home.path().join("lib/security/cacerts"));
        stores.push(home.path().join("jre/lib/security/cacerts"));
    }
    stores.retain(|path| place::open(path, OFlags::PATH).is_ok());
    let store = trust::keystore(&trust::certificates(&bundle));
    let written = places.write(own, "cacerts", &store)?;
    lay_over(places, &written, stores)?;
    // For programs that look where most systems have it, in a root that has none.
    if place::is_free(Path::new("/etc/ssl/certs/ca-certificates.crt")) {
        places.write(Path::new("/etc/ssl/certs"), "ca-certificates.crt", &bundle)?;
    }
    Ok(())
}

/// Mounts a file over those of these paths that exist, each once.
fn lay_over(places: &mut Places, file: &OwnedFd, paths: impl IntoIterator<Item = PathBuf>) -> Result<(), String> {
    let same = |found: &OwnedFd| match (rustix::fs::fstat(found), rustix::fs::fstat(file)) {
        (Ok(one), Ok(two)) => (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino),
        _ => false,
    };
    for path in paths {
        // What was laid over already is found to be the file itself, by whatever links the path leads there.
        match place::open(&path, OFlags::PATH) {
            Ok(found) if !same(&found) => {
                let tree = detach(file, false).map_err(|error| format!("{}: {error}", path.display()))?;
                sys::set_one_mount_attributes(tree.as_fd(), ATTR_RDONLY)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                places.mount(&tree, &path, Kind::File)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn read(path: &str) -> Option<Vec<u8>> {
    let file = place::open(Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).ok()?;
    let found = rustix::fs::fstat(&file).ok()?;
    let mut bytes = Vec::new();
    let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
    (is_file
        && fs::File::from(file)
            .take(LARGEST_BUNDLE)
            .read_to_end(&mut bytes)
            .is_ok())
    .then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_java_are_added_to() {
        let known = Some("-Da=b");
        assert_eq!(joined("JAVA_TOOL_OPTIONS", known, "-Xmx1g"), "-Da=b -Xmx1g");
        assert_eq!(joined("JAVA_TOOL_OPTIONS", None, "-Xmx1g"), "-Xmx1g");
        assert_eq!(joined("PIP_CERT", known, "/own.pem"), "/own.pem");
    }

    #[test]
    fn devices_are_told_by_their_numbers() {
        let drivers = "Character devices:\n  1 mem\n195 nvidia\n226 drm\n510 nvidia-uvm\n";
        for (name, major, minor, is) in [
            ("nvidia0", 195, 0, true),
            ("nvidia7", 195, 7, true),
            ("nvidia0", 195, 1, false),
            ("nvidia255", 195, 255, false),
            ("nvidiactl", 195, 255, true),
            ("nvidia-uvm", 510, 0, true),
            ("nvidia-uvm", 1, 1, false),
            ("dri/renderD128", 226, 128, true),
            ("dri/renderD128", 1, 128, false),
            ("dri/card0", 226, 0, true),
            ("dri/card1", 226, 0, false),
            ("nvidia0", 1, 0, false),
        ] {
            assert_eq!(is_graphics(name, major, minor, drivers), is, "{name} {major}:{minor}");
        }
    }
}
