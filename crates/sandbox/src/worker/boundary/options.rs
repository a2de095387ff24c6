//! What the worker's owner says about the boundary of all its sessions. It can only make it narrower.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outwork_egress::dns::Resolver;
use outwork_egress::secret::Locations;
use outwork_egress::{Connect, Document};
use secrecy::SecretString;

use super::error::BoundaryError;
use super::packages::PackageOptions;
use crate::DeviceName;
use crate::outputs::CollectLimits;

/// How long a command that gives a secret may take.
const COMMAND: Duration = Duration::from_secs(10);

/// The boundary as the worker's owner wants it. `Debug` shows no secret: none is in it.
#[derive(Clone, Default)]
pub struct BoundaryOptions {
    /// What sandboxes may reach at most. Without it, sessions of `cloud` environments may reach what their environment
    /// says, and all others nothing.
    pub policy: Option<Document>,
    /// Secrets of the worker's own, for every session.
    pub secrets: Vec<WorkerSecret>,
    /// Authorities, PEM, that servers' certificates may be signed by besides the system's.
    pub upstream_roots: Vec<Vec<u8>>,
    /// How results are looked at before they are sent.
    pub outputs: OutputOptions,
    /// The root filesystem of sandboxes; by default the machine's own system folders.
    pub image: Option<ImageSource>,
    /// How packages are installed.
    pub packages: PackageOptions,
    /// Graphics devices of this machine that every session may use.
    pub devices: Vec<DeviceName>,
    /// Who resolves names; by default the machine's name servers.
    pub resolver: Option<Arc<dyn Resolver>>,
    /// How connections are opened; by default over the machine's own network.
    pub connector: Option<Arc<dyn Connect>>,
}

impl fmt::Debug for BoundaryOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.secrets.iter().map(|secret| &secret.name).collect();
        f.debug_struct("BoundaryOptions")
            .field("policy", &self.policy)
            .field("secrets", &names)
            .field("outputs", &self.outputs)
            .field("image", &self.image)
            .field("devices", &self.devices)
            .field("packages", &self.packages)
            .finish_non_exhaustive()
    }
}

/// Where the root filesystem of sandboxes comes from.
#[derive(Clone, Debug)]
pub struct ImageSource {
    /// A folder, an OCI layout or archive (`/…`, `./…`), or `host/name@sha256:…` of a registry.
    pub reference: String,
    /// Whether a registry's image may be named without a digest.
    pub allow_unpinned: bool,
    /// Credentials of registries.
    pub credentials: outwork_image::Credentials,
}

/// A secret of the worker's own. Sandboxes see a placeholder in the variable of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSecret {
    /// The variable inside, and the name in records.
    pub name: String,
    /// Where its value is.
    pub source: SecretSource,
    /// Hosts that may get it: names, `*.name`, or `*`.
    pub hosts: Vec<String>,
    /// Where in a request it may stand.
    pub locations: Locations,
}

/// Where the value of a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In a variable of the worker.
    Variable(String),
    /// In a file. The white space around it is not part of it.
    File(PathBuf),
    /// What a command line prints, run by the shell. The line's end is not part of it.
    Command(String),
}

impl WorkerSecret {
    /// Its value, as it is now. Files and commands are read for each session anew.
    pub(crate) async fn value(&self) -> Result<SecretString, BoundaryError> {
        let fail = |reason: String| BoundaryError::OwnSecret {
            name: self.name.clone(),
            reason,
        };
        let text = match &self.source {
            SecretSource::Variable(name) => {
                std::env::var(name).map_err(|_| fail(format!("the variable {name} is not set")))?
            }
            SecretSource::File(path) => {
                let read = tokio::fs::read_to_string(path).await;
                let text = read.map_err(|error| fail(format!("{}: {error}", path.display())))?;
                text.trim().to_owned()
            }
            SecretSource::Command(line) => {
                let mut command = tokio::process::Command::new("/bin/sh");
                command
                    .args(["-c", line])
                    .stdin(std::process::Stdio::null())
                    .kill_on_drop(true);
                let output = tokio::time::timeout(COMMAND, command.output())
                    .await
                    .map_err(|_| fail(format!("its command took longer than {COMMAND:?}")))?
                    .map_err(|error| fail(format!("its command could not be run: {error}")))?;
                if !output.status.success() {
                    return Err(fail(format!("its command ended with {}", output.status)));
                }
                let text = String::from_utf8(output.stdout).map_err(|_| fail("its command printed no text".into()))?;
                text.trim_end_matches(['\r', '\n']).to_owned()
            }
        };
        Ok(SecretString::from(text))
    }
}

/// How results are looked at before they are sent.
#[derive(Clone, Debug, Default)]
pub struct OutputOptions {
    /// How much is collected.
    pub limits: CollectLimits,
    /// Patterns of paths, such as `*.csv` or `reports/**`; what fits none is kept back. Empty: every path.
    pub allowed: Vec<String>,
    /// A command line, run by the shell with the file as `$1` and its path among the outputs as
    /// `OUTWORK_OUTPUT_PATH`. What it does not end well for is kept back.
    pub scan_command: Option<String>,
}
