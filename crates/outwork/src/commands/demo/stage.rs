//! What the demonstration stands on: a folder, a project, a model, a server, sandboxes. All of it is taken down at
//! the end, but for a folder that the user named or asked to keep.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use outwork_plane::Plane;
use outwork_plane::{
    EdgeOptions, FederationOptions, FileOptions, IdentityOptions, LedgerOptions, Limits, McpOptions, PromptOptions,
    RetryPolicy, TunnelOptions,
};
use outwork_rehearsal::{DEMO_CHECK, DEMO_TASK, Options, Rehearsal, RehearsalHandle, Scenario, demo_project};
use outwork_wire::id::fresh_secret;
use secrecy::{ExposeSecret, SecretString};

use crate::cli::task::DemoArgs;
use crate::cli::worker::Isolation;
use crate::config::{self, ModelConfig, PlaneConfig, WorkerConfig, process_environment};
use crate::roles::{self, Checks};

/// Model ids that the rehearsal model plays.
const REHEARSAL: &str = "rehearsal";
/// What a tool answers that wrote nothing.
const NO_OUTPUT: &str = "(no output)";
const HOSTED: &str = "https://api.anthropic.com";

/// Everything that the demonstration needs, running.
pub(crate) struct Stage {
    folder: Option<tempfile::TempDir>,
    kept: Option<PathBuf>,
    pub(crate) data_dir: PathBuf,
    pub(crate) project: PathBuf,
    pub(crate) files: usize,
    own_project: bool,
    pub(crate) task: String,
    check_command: Option<String>,
    pub(crate) model: String,
    pub(crate) model_story: String,
    pub(crate) key: SecretString,
    pub(crate) worker: WorkerConfig,
    pub(crate) facts: Vec<String>,
    checks: Checks,
    plane: Plane,
    rehearsal: Option<RehearsalHandle>,
}

/// One run of the check.
pub(crate) struct Check {
    pub(crate) command: String,
    pub(crate) exit_code: Option<i32>,
    pub(crate) output: String,
    pub(crate) took: Duration,
}

impl Check {
    /// Whether it says that all is well.
    pub(crate) fn passed(&self) -> bool {
        self.exit_code == Some(0)
    }

    /// The last thing that it said.
    pub(crate) fn last_line(&self) -> Option<&str> {
        self.output
            .lines()
            .map(str::trim)
            .rfind(|line| !line.is_empty() && *line != NO_OUTPUT)
    }
}

impl Stage {
    /// Sets everything up. Fails before anything runs if tools cannot be isolated here.
    pub(crate) async fn set(args: &DemoArgs) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("outwork-demo-")
            .tempdir()
            .context("could not make a folder")?;
        let data_dir = folder.path().join("server");
        let (project, files) = match &args.dir {
            Some(dir) => {
                let dir = dir
                    .canonicalize()
                    .with_context(|| format!("could not find the folder {}", dir.display()))?;
                let files = std::fs::read_dir(&dir)
                    .with_context(|| format!("could not read {}", dir.display()))?
                    .count();
                (dir, files)
            }
            None => {
                let project = folder.path().join("project");
                make_project(&project)?;
                (project, demo_project().len())
            }
        };
        let own_project = args.dir.is_none();
        let (worker, _) = config::worker(None, &crate::cli::worker::LimitArgs::default(), &args.log)?;
        let worker = WorkerConfig {
            isolation: args.isolation,
            ..worker
        };
        let checks = Checks::start(&worker).await?;
        let facts = checks.facts().await?;
        let (model, provider, model_story, rehearsal) = model(args).await?;
        let key = SecretString::from(fresh_secret(40, &mut rand::rng()));
        let plane = roles::start_plane(&PlaneConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            data_dir: data_dir.clone(),
            tls: None,
            api_key: Some(key.clone()),
            model: Some(provider),
            prompt: PromptOptions::default(),
            retry: RetryPolicy::default(),
            mcp: McpOptions::default(),
            limits: Limits::default(),
            master_key: None,
            tunnels: TunnelOptions {
                edge: Some(EdgeOptions {
                    listen: ([127, 0, 0, 1], 0).into(),
                    public_address: None,
                    tls: None,
                    tap: None,
                }),
                ..TunnelOptions::default()
            },
            federation: FederationOptions::default(),
            identity: IdentityOptions::default(),
            files: FileOptions::default(),
            ledger: LedgerOptions::default(),
            drain_timeout: Duration::from_secs(5),
            log: config::worker(None, &crate::cli::worker::LimitArgs::default(), &args.log)?.1,
            worker: worker.clone(),
        })
        .await?;
        let (folder, kept) = if args.keep {
            (None, Some(folder.keep()))
        } else {
            (Some(folder), None)
        };
        Ok(Self {
            folder,
            kept,
            data_dir,
            project,
            files,
            own_project,
            task: args.task.clone().unwrap_or_else(|| DEMO_TASK.to_owned()),
            check_command: args
                .check
                .clone()
                .or_else(|| own_project.then(|| DEMO_CHECK.to_owned())),
            model,
            model_story,
            key,
            worker,
            facts,
            checks,
            plane,
            rehearsal,
        })
    }

    /// Where the server listens.
    pub(crate) fn base_url(&self) -> String {
        self.plane.base_url()
    }

    /// Where tools run, in a few words.
    pub(crate) fn worker_story(&self) -> &'static str {
        match self.worker.isolation {
            Isolation::Full => "in this process; each session's tools run in a sandbox of its own, without a network",
            Isolation::None => "in this process; tools run WITHOUT ISOLATION, as was asked for",
        }
    }

    /// Where the calls ran.
    pub(crate) fn place(&self) -> &'static str {
        match self.worker.isolation {
            Isolation::Full => "in the sandbox",
            Isolation::None => "outside of any sandbox",
        }
    }

    /// The folder that stays.
    pub(crate) fn kept(&self) -> Option<&Path> {
        self.kept.as_deref()
    }

    /// Runs the check in a sandbox of its own.
    pub(crate) async fn check(&self) -> Result<Option<Check>> {
        let Some(command) = &self.check_command else {
            return Ok(None);
        };
        let output = self
            .checks
            .run(&self.project, command)
            .await
            .context("could not run the check")?;
        Ok(Some(Check {
            command: command.clone(),
            exit_code: output.exit_code,
            output: output.text(),
            took: output.duration,
        }))
    }

    /// Which files of the demo project are not as they were made.
    pub(crate) fn changed(&self) -> Result<Option<Vec<String>>> {
        if !self.own_project {
            return Ok(None);
        }
        let mut changed = Vec::new();
        for (path, text) in demo_project() {
            let now = std::fs::read(self.project.join(path));
            if now.is_err() || now.is_ok_and(|now| now != text.as_bytes()) {
                changed.push((*path).to_owned());
            }
        }
        Ok(Some(changed))
    }

    /// Takes everything down.
    pub(crate) async fn strike(self) {
        self.plane.shutdown().await;
        if let Some(rehearsal) = self.rehearsal {
            rehearsal.shutdown().await;
        }
        drop(self.folder);
    }
}

fn make_project(project: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for (path, text) in demo_project() {
        let path = project.join(path);
        let attempt = || format!("could not make {}", path.display());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(attempt)?;
        }
        std::fs::write(&path, text).with_context(attempt)?;
        if path.extension().is_some_and(|extension| extension == "sh") {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).with_context(attempt)?;
        }
    }
    Ok(())
}

/// The model's id, who answers for it, a word about it, and the rehearsal server if that is who.
async fn model(args: &DemoArgs) -> Result<(String, ModelConfig, String, Option<RehearsalHandle>)> {
    let rehearsed = |model: &str| model == REHEARSAL || model.starts_with("rehearsal/");
    if let Some(model) = args.model.as_deref().filter(|model| !rehearsed(model)) {
        let first = |names: [&str; 2]| names.into_iter().find_map(process_environment);
        let Some(key) = first(["OUTWORK_MODEL_API_KEY", "ANTHROPIC_API_KEY"]) else {
            bail!(
                "the model `{model}` needs a key: set ANTHROPIC_API_KEY, or OUTWORK_MODEL_API_KEY and OUTWORK_MODEL_BASE_URL"
            );
        };
        let base_url = first(["OUTWORK_MODEL_BASE_URL", "ANTHROPIC_BASE_URL"]).unwrap_or_else(|| HOSTED.to_owned());
        let base_url = config::check_url(&base_url).context("the model provider's address")?;
        let story = format!("{model} at {base_url}");
        return Ok((model.to_owned(), ModelConfig::new(base_url, key.into())?, story, None));
    }
    if args.task.is_some() && args.model.is_none() {
        bail!("the rehearsal model only knows the demo's own task: give --model NAME and ANTHROPIC_API_KEY for yours");
    }
    let key = SecretString::from(fresh_secret(40, &mut rand::rng()));
    let options = Options {
        api_key: Some(key.expose_secret().to_owned()),
        ..Options::new(Scenario::demo())
    };
    let rehearsal = Rehearsal::start(options).await?;
    let provider = ModelConfig::new(rehearsal.base_url(), key)?;
    let model = args.model.clone().unwrap_or_else(|| REHEARSAL.to_owned());
    let story = "a rehearsal: a real Messages API server that plays a written part (--model NAME for a real model)";
    Ok((model, provider, story.to_owned(), Some(rehearsal)))
}
