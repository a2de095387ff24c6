//! Settings of the boundary that a worker keeps around its sandboxes. What they name (a policy, an image, secrets) is
//! read when the worker starts, so that what is wrong is said before anything runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use outwork_egress::Document;
use outwork_egress::secret::Locations;
use outwork_image::Credentials;
use outwork_sandbox::worker::{
    BoundaryOptions, ImageSource, OutputOptions, PackageOptions, SecretSource, WorkerSecret,
};
use serde::Deserialize;

use super::settings::{Span, WorkerSettings};
use crate::cli::worker::BoundaryArgs;

/// Settings as they are written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BoundaryConfig {
    policy: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    upstream_ca_file: Option<PathBuf>,
    image: Option<String>,
    unpinned_image: bool,
    registry_credentials: Option<PathBuf>,
    scan_command: Option<String>,
    outputs_allowed: Vec<String>,
    package_variables: BTreeMap<String, String>,
    package_disk_limit: Option<ByteSize>,
    package_time_limit: Option<Span>,
    secrets: Vec<SecretSettings>,
}

/// A secret of the worker's own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretSettings {
    name: String,
    value_env: Option<String>,
    value_file: Option<PathBuf>,
    value_command: Option<String>,
    hosts: Vec<String>,
    #[serde(default = "headers")]
    locations: Vec<LocationName>,
}

/// A place in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LocationName {
    Header,
    Query,
    Body,
}

fn headers() -> Vec<LocationName> {
    vec![LocationName::Header]
}

impl BoundaryConfig {
    /// Flags before the settings file.
    pub(super) fn layer(args: &BoundaryArgs, file: &WorkerSettings) -> Self {
        Self {
            policy: args.policy.clone().or(file.policy.clone()),
            state_dir: args.state_dir.clone().or(file.state_dir.clone()),
            upstream_ca_file: file.upstream_ca_file.clone(),
            image: args.image.clone().or(file.image.clone()),
            unpinned_image: args.unpinned_image || file.unpinned_image.unwrap_or(false),
            registry_credentials: file.registry_credentials.clone(),
            scan_command: args.scan_command.clone().or(file.scan_command.clone()),
            outputs_allowed: file.outputs_allowed.clone().unwrap_or_default(),
            package_variables: file.package_variables.clone(),
            package_disk_limit: file.package_disk_limit,
            package_time_limit: file.package_time_limit,
            secrets: file.secrets.clone(),
        }
    }

    /// Reads what is named.
    pub(crate) fn options(&self) -> Result<BoundaryOptions> {
        let policy = self.policy.as_deref().map(Document::read).transpose()?;
        let roots = self.upstream_ca_file.as_ref().map(|path| {
            std::fs::read(path).with_context(|| format!("could not read the authorities in {}", path.display()))
        });
        let credentials = self
            .registry_credentials
            .as_deref()
            .map(Credentials::from_file)
            .transpose()?;
        let image = self.image.as_ref().map(|reference| ImageSource {
            reference: reference.clone(),
            allow_unpinned: self.unpinned_image,
            credentials: credentials.unwrap_or_default(),
        });
        if self
            .scan_command
            .as_ref()
            .is_some_and(|command| command.trim().is_empty())
        {
            bail!("the scan command is empty; give a command line, or leave it out");
        }
        Ok(BoundaryOptions {
            policy,
            secrets: self.secrets.iter().map(SecretSettings::read).collect::<Result<_>>()?,
            upstream_roots: roots.transpose()?.into_iter().collect(),
            outputs: OutputOptions {
                allowed: self.outputs_allowed.clone(),
                scan_command: self.scan_command.clone(),
                ..OutputOptions::default()
            },
            image,
            packages: self.packages()?,
            ..BoundaryOptions::default()
        })
    }

    /// How packages of environments are installed.
    fn packages(&self) -> Result<PackageOptions> {
        let mut packages = PackageOptions {
            variables: self.package_variables.clone().into_iter().collect(),
            ..PackageOptions::default()
        };
        if let Some(limit) = self.package_disk_limit {
            packages.disk_bytes = limit.as_u64();
        }
        if let Some(limit) = self.package_time_limit {
            packages.time = limit.0;
        }
        match packages.check() {
            Ok(()) => Ok(packages),
            Err(reason) => bail!("worker.package_variables and package limits: {reason}"),
        }
    }

    /// Where the worker keeps what is its own: where it was told, beside the sessions' folders, or, where the working
    /// folder is the workspace itself, in the platform's folder for state.
    pub(crate) fn state_dir(&self, workdir: &Path, apart: bool) -> Result<Option<PathBuf>> {
        if let Some(folder) = &self.state_dir {
            return Ok(Some(folder.clone()));
        }
        if apart {
            return Ok(None);
        }
        let workdir = std::path::absolute(workdir).context("the working folder has no whole path")?;
        let name = workdir.to_string_lossy().trim_matches('/').replace('/', "-");
        let name: String = match name.char_indices().rev().nth(120) {
            Some((at, _)) => name[at..].to_owned(),
            None => name,
        };
        let base = if rustix::process::geteuid().is_root() {
            Some(PathBuf::from("/var/lib"))
        } else {
            let folder = |name: &str| super::process_environment(name).map(PathBuf::from);
            folder("XDG_STATE_HOME")
                .filter(|path| path.is_absolute())
                .or_else(|| folder("HOME").map(|home| home.join(".local/state")))
        };
        let base = base.context("there is no HOME to keep the worker's records in: give --state-dir")?;
        Ok(Some(base.join("outwork-worker").join(name)))
    }
}

impl SecretSettings {
    fn read(&self) -> Result<WorkerSecret> {
        let name = &self.name;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(plain) || name.starts_with(|c: char| c.is_ascii_digit()) {
            bail!("worker.secrets: `{name}` cannot be the name of a variable");
        }
        let source = match (&self.value_env, &self.value_file, &self.value_command) {
            (Some(variable), None, None) => SecretSource::Variable(variable.clone()),
            (None, Some(path), None) => SecretSource::File(path.clone()),
            (None, None, Some(command)) => SecretSource::Command(command.clone()),
            _ => bail!("worker.secrets: `{name}` needs one of value_env, value_file and value_command"),
        };
        if self.hosts.is_empty() {
            bail!("worker.secrets: `{name}` names no hosts, so it could never be used");
        }
        let has = |location| self.locations.contains(&location);
        let mut locations = Locations::from_injection(has(LocationName::Header), has(LocationName::Body));
        locations.query = has(LocationName::Query);
        Ok(WorkerSecret {
            name: name.clone(),
            source,
            hosts: self.hosts.clone(),
            locations,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Settings, parse};
    use super::*;

    fn config(text: &str) -> Result<BoundaryOptions> {
        let settings: Settings = parse(text, "outwork.toml")?;
        BoundaryConfig::layer(&BoundaryArgs::default(), &settings.worker).options()
    }

    #[test]
    fn secrets_say_where_their_value_is_and_where_it_may_go() {
        let options = config(
            "[[worker.secrets]]\nname = \"TOKEN\"\nvalue_env = \"MY_TOKEN\"\nhosts = [\"api.example\"]\n\
             [[worker.secrets]]\nname = \"KEY\"\nvalue_file = \"/k\"\nhosts = [\"*.example\"]\nlocations = [\"query\", \"body\"]\n",
        )
        .unwrap();
        let [token, key] = &options.secrets[..] else { panic!() };
        assert_eq!(token.source, SecretSource::Variable("MY_TOKEN".into()));
        assert_eq!(token.locations, Locations::from_injection(true, false));
        assert!(key.locations.query && key.locations.body && !key.locations.header && !key.locations.basic);
        for (wrong, says) in [
            ("name = \"A\"\nhosts = [\"a.example\"]", "one of value_env"),
            (
                "name = \"A\"\nvalue_env = \"B\"\nvalue_file = \"C\"\nhosts = [\"a.example\"]",
                "one of value_env",
            ),
            ("name = \"A\"\nvalue_env = \"B\"\nhosts = []", "no hosts"),
            (
                "name = \"1A\"\nvalue_env = \"B\"\nhosts = [\"a.example\"]",
                "name of a variable",
            ),
            (
                "name = \"A\"\nvalue = \"B\"\nhosts = [\"a.example\"]",
                "unknown field `value`",
            ),
        ] {
            let error = config(&format!("[[worker.secrets]]\n{wrong}\n")).err().unwrap();
            assert!(format!("{error:#}").contains(says), "{error:#}");
        }
    }

    #[test]
    fn package_managers_are_told_of_mirrors_and_of_nothing_else() {
        let options = config(
            "[worker]\npackage_disk_limit = \"1GiB\"\npackage_time_limit = \"5m\"\n\
             package_variables = { PIP_INDEX_URL = \"https://pypi.example/simple\" }\n",
        );
        let packages = options.unwrap().packages;
        assert_eq!((packages.disk_bytes, packages.time.as_secs()), (1 << 30, 300));
        let mirror = ("PIP_INDEX_URL".to_owned(), "https://pypi.example/simple".to_owned());
        assert_eq!(packages.variables, [mirror]);
        for (wrong, says) in [
            (
                "package_variables = { LD_PRELOAD = \"https://a.example\" }",
                "is none of",
            ),
            (
                "package_variables = { GOPROXY = \"https://u:p@a.example\" }",
                "password",
            ),
            ("package_time_limit = \"0s\"", "more than nothing"),
        ] {
            let error = config(&format!("[worker]\n{wrong}\n")).err().unwrap();
            assert!(format!("{error:#}").contains(says), "{error:#}");
        }
    }

    #[test]
    fn a_wrong_policy_is_refused_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        std::fs::write(
            &path,
            "[[allow]]\nhost = \"a.example\"\n\n[[allow]]\nhots = \"b.example\"\n",
        )
        .unwrap();
        let error = config(&format!("[worker]\npolicy = \"{}\"\n", path.display()))
            .err()
            .unwrap();
        let error = format!("{error:#}");
        assert!(error.contains("policy.toml:") && error.contains("hots"), "{error}");
    }

    #[test]
    fn the_workers_own_folder_is_not_in_the_workspace() {
        let config = BoundaryConfig::default();
        assert_eq!(config.state_dir(Path::new("/srv/agent"), true).unwrap(), None);
        let folder = config.state_dir(Path::new("/srv/agent"), false).unwrap().unwrap();
        assert!(folder.ends_with("outwork-worker/srv-agent"), "{}", folder.display());
    }
}
