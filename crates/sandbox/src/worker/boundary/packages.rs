//! The `packages` of an environment: installed once for a root filesystem, kept as a layer, used by every session that
//! asks for the same.
//!
//! **An installer is hostile code.** What a registry holds is written by strangers and runs while it is installed. So it
//! runs in a sandbox of its own, before any of the session's, and
//!
//! - it gets no secret, no file of the session, no variable but those in this file, and `/workspace` is a folder that has
//!   nothing but the script;
//! - it reaches package registries and the mirrors that the worker's owner names, as far as the owner's policy allows
//!   them, and these with `GET` and `HEAD` only: what it can read it cannot publish;
//! - it is root of nothing but its own user namespace (`crate::jail`, `build`), and writes to one overlay;
//! - the layer is what it wrote, copied entry by entry by [`Images::adopt`]: no owners, no set-uid bits, no devices, no
//!   attributes. What sessions run is still code of strangers: it runs as the session, within the session's boundary.
//!
//! Time, disk, memory and processes are bounded. The layer appears whole, when everything succeeded; otherwise nothing
//! is kept, and the session is told what was said at last. A failure is remembered for a moment, so that not every call
//! of a session tries again.
//!
//! Without an image, packages are installed beside the machine's own system, in `/usr/local`, for this state of it.
//! What only fits into a system as a whole (Debian packages) is refused there.

mod machine;
mod measure;
mod options;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outwork_egress::{Egress, Handle, LedgerEvidence, SessionAuthority};
use outwork_image::{Checked, Image, ImageDigest, Images, Installing, Packaged, Packages, Site};
use outwork_ledger::Hash;
use serde_json::json;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::error::BoundaryError;
use super::journal::{HOST_SYSTEM, Journal};
use super::machine::Machine;
use super::rules::{self, Rules};
use super::said::Said;
use super::session::Boundary;
use crate::worker::hand::{Furnishing, Hand, Provider};
use crate::worker::item::make_folder;
use crate::{Fence, Network, RootImage, ToolCall};

pub use options::PackageOptions;

/// Where packages go beside the machine's own system.
const LOCAL: &str = "/usr/local";
/// For how long what failed is not tried again.
const FAILED: Duration = Duration::from_secs(60);
/// What of the installer's words is passed on.
const SAID: usize = 1500;
/// The shortest time between two looks at how much was written.
const LOOK: Duration = Duration::from_secs(1);

/// Before the checked script, in the same shell. Nothing that is made here is kept.
const PRELUDE: &str = r#"set -eu
cd /tmp
export TMPDIR=/tmp PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 NPM_CONFIG_UPDATE_NOTIFIER=false
export NPM_CONFIG_CAFILE="$SSL_CERT_FILE" APT_CONFIG=/tmp/.apt.conf
printf 'Acquire::https::CAInfo "%s";\n' "$SSL_CERT_FILE" > "$APT_CONFIG"
if [ "$(cat /proc/self/setgroups)" = deny ]; then
  printf 'APT::Sandbox::User "root";\n' >> "$APT_CONFIG"
fi
"#;
/// Besides, beside the machine's own system: everything goes to `/usr/local`.
const BESIDE: &str = r#"export NPM_CONFIG_PREFIX=/usr/local
if command -v ruby >/dev/null 2>&1; then
  GEM_HOME="$(ruby -e 'print Gem.path.grep(%r{\A/usr/local/}).first')"
  export GEM_HOME
fi
"#;

/// What a session's sandboxes stand on.
#[derive(Debug)]
pub(crate) struct Stand {
    pub image: RootImage,
    /// For evidence.
    pub digest: String,
    /// Keeps the layer in the cache.
    _held: Option<Image>,
}

/// The root filesystem of a session, with its packages.
pub(crate) async fn stand(boundary: &Boundary, said: Option<&Said>) -> Result<Stand, BoundaryError> {
    let root = &boundary.machine.root;
    match said {
        Some(said) if !said.packages.is_empty() => bring(boundary, &said.packages).await,
        _ => Ok(Stand {
            image: root.image.clone(),
            digest: root.digest.clone(),
            _held: None,
        }),
    }
}

/// What the sessions of a worker share of it.
#[derive(Default)]
pub(crate) struct Store {
    images: OnceCell<Images>,
    failed: Mutex<HashMap<String, (Instant, String)>>,
}

impl Store {
    fn failed(&self) -> MutexGuard<'_, HashMap<String, (Instant, String)>> {
        // Every change is one insertion or a removal of what is old, so it is whole even after a panic.
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, key: &str) -> Result<(), BoundaryError> {
        let mut failed = self.failed();
        failed.retain(|_, (when, _)| when.elapsed() < FAILED);
        match failed.get(key) {
            Some((_, reason)) => Err(BoundaryError::Packages(reason.clone())),
            None => Ok(()),
        }
    }
}

/// Brings the root filesystem with these packages: from the cache, or by installing them. Who asks for the same at the
/// same time waits for one installation.
async fn bring(boundary: &Boundary, packages: &Packages) -> Result<Stand, BoundaryError> {
    let machine = &boundary.machine;
    let checked = packages.check().map_err(failed)?;
    let images = images(machine).await?;
    let base = base(machine, &checked).await?;
    let key = format!("{}\n{}", base.digest, checked.describe());
    machine.packages.check(&key)?;
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let installing = match images.packages(&base, &checked, &stop).await.map_err(failed)? {
        Packaged::Ready(image) => return Ok(installed(machine, image)),
        Packaged::Missing(installing) => installing,
    };
    // Whoever had the turn before has failed.
    machine.packages.check(&key)?;
    boundary.until_held().await;
    let installation = Installation {
        machine: Arc::clone(machine),
        provider: Arc::clone(&boundary.provider),
        journal: Arc::clone(&boundary.journal),
        session: boundary.session.clone(),
        images: images.clone(),
        base,
        checked,
    };
    // A task of its own: if the session is given up, it still takes away what it made.
    let running = machine.tasks.spawn(installation.run(installing, stop.clone()));
    let done = running.await.map_err(|error| failed(error.to_string()))?;
    match done {
        Ok(image) => Ok(installed(machine, image)),
        Err(error) => {
            if let (BoundaryError::Packages(reason), false) = (&error, stop.is_cancelled()) {
                machine.packages.failed().insert(key, (Instant::now(), reason.clone()));
            }
            Err(error)
        }
    }
}

fn failed(error: impl std::fmt::Display) -> BoundaryError {
    BoundaryError::Packages(error.to_string())
}

async fn images(machine: &Machine) -> Result<&Images, BoundaryError> {
    if let Some(images) = &machine.root.images {
        return Ok(images);
    }
    let open = || async {
        let folder = machine
            .state
            .folder("images")
            .map_err(BoundaryError::folder("images"))?;
        let opened = tokio::task::spawn_blocking(|| Images::open(outwork_image::Options::new(folder))).await;
        opened.map_err(failed)?.map_err(failed)
    };
    machine.packages.images.get_or_try_init(open).await
}

/// What the packages are installed on.
async fn base(machine: &Machine, checked: &Checked) -> Result<Image, BoundaryError> {
    if let Some(image) = &machine.root.held {
        return Ok(image.clone());
    }
    let apt = &checked.packages().apt;
    if !apt.is_empty() {
        return Err(failed(format!(
            "{} need a system of their own, and this worker's sandboxes stand on its machine's; give the worker an image \
             (`--image`), or install them on its machine",
            apt.iter()
                .map(|name| format!("apt {name}"))
                .collect::<Vec<_>>()
                .join(", ")
        )));
    }
    let identity = tokio::task::spawn_blocking(|| machine::identity(Path::new("/")));
    let identity = identity.await.map_err(failed)?.map_err(failed)?;
    Ok(Image::of_system(identity, LOCAL))
}

fn installed(machine: &Machine, image: Image) -> Stand {
    let root = match (image.digest, image.layers.first()) {
        (ImageDigest::System(_), Some(layer)) => RootImage::HostSystemWith(layer.clone()),
        // Here the base comes first.
        _ => RootImage::Layers(image.layers.iter().rev().cloned().collect()),
    };
    Stand {
        image: root,
        digest: digest(machine, &image),
        _held: Some(image),
    }
}

/// The root's digest and the layer's, as records have them.
fn digest(machine: &Machine, image: &Image) -> String {
    let base = &machine.root.digest;
    let base = match (image.digest, base.as_str()) {
        (ImageDigest::System(identity), HOST_SYSTEM) => format!("{HOST_SYSTEM} {identity}"),
        _ => base.clone(),
    };
    match image.packages {
        Some(layer) => format!("{base} with packages {layer}"),
        None => base,
    }
}

/// One installation, with all that it takes.
struct Installation {
    machine: Arc<Machine>,
    provider: Arc<dyn Provider>,
    journal: Arc<Journal>,
    session: String,
    images: Images,
    base: Image,
    checked: Checked,
}

impl Installation {
    async fn run(self, installing: Installing, stop: CancellationToken) -> Result<Image, BoundaryError> {
        let begun = Instant::now();
        let list = self.checked.describe();
        let input = Hash::of_json(&json!(self.checked.packages()));
        let options = &self.machine.options.packages;
        let rules = rules::of_packages(self.machine.options.policy.as_ref(), &options.mirrors());
        let base = digest(&self.machine, &self.base);
        self.journal
            .installation_begins(&list, &base, input, &rules.policy)
            .await?;
        let session = &self.session;
        tracing::info!(session, packages = list, on = base, "packages are being installed");
        let done = self.install(installing, rules, &stop).await;
        let took = begun.elapsed();
        let (image, layer) = match &done {
            Ok(image) => {
                let image = (digest(&self.machine, image), image.packages);
                tracing::info!(session, packages = list, image = image.0, ?took, "packages are here");
                image
            }
            Err(error) => {
                tracing::warn!(session, packages = list, %error, ?took, "packages were not installed");
                (base, None)
            }
        };
        let layer = layer.and_then(|layer| layer.hex().parse().ok());
        self.journal.installation_ended(&list, &image, input, layer, took).await;
        done
    }

    async fn install(
        &self,
        installing: Installing,
        rules: Rules,
        stop: &CancellationToken,
    ) -> Result<Image, BoundaryError> {
        if !rules.open {
            return Err(failed(
                "the worker's policy allows no package registry; `presets = [\"package-managers\"]` in it would",
            ));
        }
        let site = self.images.site().await.map_err(failed)?;
        let layer = self.fill(&site).map_err(BoundaryError::folder(site.path()))?;
        let authority = Arc::new(SessionAuthority::make().map_err(BoundaryError::Egress)?);
        let furnishing = self.furnishing(&authority, &layer);
        let workspace = site.path().join("workspace");
        let hand = tokio::select! {
            hand = self.provider.launch(&workspace, &furnishing) => hand.map_err(failed)?,
            () = stop.cancelled() => return Err(given_up()),
        };
        let ran = tokio::select! {
            biased;
            () = stop.cancelled() => Err(given_up()),
            ran = self.script(&hand, rules, authority) => ran,
            problem = watch(&layer, self.machine.options.packages.disk_bytes) => Err(failed(problem)),
        };
        // Nothing of it may run any more when its files are looked at, or taken away.
        hand.end().await;
        ran?;
        let written = measure::once(&layer).await.map_err(failed)?;
        if written > self.machine.options.packages.disk_bytes {
            return Err(failed(self.too_large()));
        }
        let kept = self.images.adopt(installing, &layer.join("upper"), stop).await;
        drop(site);
        kept.map_err(failed)
    }

    fn too_large(&self) -> String {
        too_large(self.machine.options.packages.disk_bytes)
    }

    /// The folders, and the script in one of them; gives the one that is written to.
    fn fill(&self, site: &Site) -> std::io::Result<PathBuf> {
        let (layer, workspace) = (site.path().join("layer"), site.path().join("workspace"));
        make_folder(&layer)?;
        make_folder(&workspace)?;
        let beside = if self.machine.root.held.is_none() { BESIDE } else { "" };
        let script = workspace.join("install.sh");
        std::fs::write(&script, format!("{PRELUDE}{beside}{}", self.checked.script()))?;
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        Ok(layer)
    }

    fn furnishing(&self, authority: &SessionAuthority, layer: &Path) -> Furnishing {
        let machine = &self.machine;
        Furnishing {
            image: machine.root.image.clone(),
            network: Network::Fenced,
            env: machine
                .root
                .env
                .iter()
                .chain(&machine.options.packages.variables)
                .cloned()
                .collect(),
            ca_pem: Some(format!("{}\n{}", authority.certificate_pem(), machine.upstream_roots)),
            build: Some(layer.to_owned()),
            ..Furnishing::default()
        }
    }

    /// Runs the script to its end, behind its proxy.
    async fn script(
        &self,
        hand: &Arc<dyn Hand>,
        rules: Rules,
        authority: Arc<SessionAuthority>,
    ) -> Result<(), BoundaryError> {
        let _registered = self.machine.register(&self.session, hand)?;
        let fence = hand.take_fence().ok_or(BoundaryError::NoFence)?;
        let egress = self.egress(fence, rules, authority)?;
        let time = self.machine.options.packages.time;
        let call = ToolCall {
            name: "bash".to_owned(),
            input: json!({
                "command": "/bin/bash /workspace/install.sh </dev/null",
                "timeout_ms": u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
            }),
            timeout: time,
        };
        let output = hand.call(call, &CancellationToken::new()).await.map_err(failed)?;
        if output.is_error || output.exit_code != Some(0) {
            return Err(failed(format!(
                "{}: {}",
                self.checked.describe(),
                why(&output.text(), &egress)
            )));
        }
        Ok(())
    }

    fn egress(&self, fence: Fence, rules: Rules, authority: Arc<SessionAuthority>) -> Result<Handle, BoundaryError> {
        let machine = &self.machine;
        let mut options = outwork_egress::Options::new(
            (fence.tcp, fence.dns),
            rules.policy,
            authority,
            Arc::new(LedgerEvidence::queued(machine.ledger.clone())),
            machine.resolver()?,
            machine.upstream()?,
        );
        options.connector = machine.connector();
        options.labels = self.journal.labels();
        options.labels.image_digest = Some(digest(machine, &self.base));
        Egress::start(options).map_err(BoundaryError::Egress)
    }
}

fn given_up() -> BoundaryError {
    failed("the session was given up")
}

fn too_large(most: u64) -> String {
    format!("they take more than {most} bytes; `package_disk_limit` of the worker says how much they may")
}

/// Ends with the reason when too much was written.
async fn watch(layer: &Path, most: u64) -> String {
    loop {
        let begun = Instant::now();
        match measure::once(layer).await {
            Ok(written) if written > most => return too_large(most),
            Ok(_) => {}
            Err(reason) => return reason,
        }
        sleep(LOOK.max(begun.elapsed() * 10)).await;
    }
}

/// What the installer said at last, and what the policy refused.
fn why(said: &str, egress: &Handle) -> String {
    let start = said.char_indices().rev().nth(SAID).map_or(0, |(at, _)| at);
    let mut text = said[start..].trim().to_owned();
    for refusal in egress.refusals() {
        let host = refusal.host.unwrap_or_default();
        text.push_str(&format!("; {host} was refused by {}: {}", refusal.rule, refusal.reason));
    }
    text
}
