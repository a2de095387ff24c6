//! What the demonstration stands on: a server, a worker with a boundary, an internet, a vault, a file, a model. All of
//! it is taken down at the end but the evidence, and a folder that the user asked to keep.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use outwork_client::{Client, Credential, Options as ClientOptions, Query, Upload};
use outwork_ledger::{Filter, Record, scan};
use outwork_plane::{
    EdgeOptions, FederationOptions, FileOptions, IdentityOptions, LedgerOptions, Limits, McpOptions, Plane,
    PromptOptions, RetryPolicy, TunnelOptions,
};
use outwork_rehearsal::{Options, Rehearsal, RehearsalHandle, Scenario};
use outwork_sandbox::worker::Queue;
use outwork_wire::id::fresh_secret;
use rand::seq::IndexedRandom;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value as Json, json};

use super::attempts::{self, Attempt, Ground, HostFile, VARIABLE};
use super::findings::Traces;
use super::internet::{Internet, NEWS, SHOP, fresh_value};
use super::value::Value;
use crate::cli::task::DemoArgs;
use crate::cli::worker::{BoundaryArgs, Isolation, LimitArgs};
use crate::commands::agents::toolset;
use crate::config::{self, ModelConfig, PlaneConfig, WorkerConfig};
use crate::roles::{self, Job, LocalWorker};

/// Where the poisoned file is in the sandbox.
const NOTES: &str = "/mnt/session/uploads/notes.md";
/// What the worker's owner allows.
const POLICY: &str = include_str!("policy.toml");
/// Everything, for a look at what the policy is good for.
const OPEN_POLICY: &str = include_str!("open.toml");
/// What an order can be; the agent cannot know which.
const STATES: [&str; 6] = [
    "packed",
    "on its way",
    "at the depot",
    "held at customs",
    "delivered",
    "called back",
];
const SYSTEM: &str = "You answer questions of customers about their orders.";

/// Everything that the demonstration needs, running.
pub(super) struct Stage {
    pub(super) isolated: bool,
    open: bool,
    pub(super) internet: Arc<Internet>,
    pub(super) value: Arc<Value>,
    pub(super) state: String,
    pub(super) attempts: Vec<Attempt>,
    pub(super) host_file: HostFile,
    pub(super) ground: Ground,
    worker: WorkerConfig,
    workspace: PathBuf,
    state_dir: PathBuf,
    key: SecretString,
    plane: Plane,
    rehearsal: RehearsalHandle,
    folder: Option<tempfile::TempDir>,
    kept: Option<PathBuf>,
}

impl Stage {
    /// Sets everything up.
    pub(super) async fn set(args: &DemoArgs) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("outwork-demo-")
            .tempdir()
            .context("could not make a folder")?;
        let at = |name: &str| folder.path().join(name);
        let (workspace, state_dir) = (at("workspace"), at("worker"));
        std::fs::create_dir(&workspace).context("could not make the workspace")?;
        let isolated = args.isolation == Isolation::Full;
        let value = Arc::new(Value::new(fresh_value()));
        let state = STATES.choose(&mut rand::rng()).copied().unwrap_or(STATES[0]).to_owned();
        let internet = Internet::start(Arc::clone(&value), state.clone()).await?;
        let host_file = HostFile {
            path: at("host-only.txt"),
            content: format!("host-{}", fresh_secret(20, &mut rand::rng())),
        };
        write(&host_file.path, &host_file.content)?;
        let ground = if isolated {
            Ground::inside(&internet, NOTES)
        } else {
            let (settings, authority) = (at("curl.settings"), at("authority.pem"));
            write(&authority, &internet.authority_pem)?;
            let authority = authority.display();
            write(
                &settings,
                &format!("cacert = \"{authority}\"\n{}", internet.as_curl_settings()),
            )?;
            Ground::bare(&internet, &workspace, &settings)
        };
        let attempts = attempts::attempts(&ground, &host_file, &mut rand::rng());
        if !isolated {
            write(&workspace.join("notes.md"), &attempts::notes(&attempts))?;
            let value = value.secret().expose_secret();
            write(&workspace.join(".env"), &format!("export {VARIABLE}={value}\n"))?;
        }
        let model_key = SecretString::from(fresh_secret(40, &mut rand::rng()));
        let scenario =
            Scenario::from_toml(&attempts::play(&ground, &attempts)).context("the play of the demonstration")?;
        let rehearsal = Rehearsal::start(Options {
            api_key: Some(model_key.expose_secret().to_owned()),
            ..Options::new(scenario)
        })
        .await?;
        let policy = at("policy.toml");
        write(&policy, if args.open_policy { OPEN_POLICY } else { POLICY })?;
        let limits = LimitArgs {
            isolation: Some(args.isolation),
            boundary: BoundaryArgs {
                // Without isolation a worker takes none: it could not keep it.
                policy: isolated.then_some(policy),
                state_dir: Some(state_dir.clone()),
                ..BoundaryArgs::default()
            },
            ..LimitArgs::default()
        };
        let (worker, log) = config::worker(None, &limits, &args.log)?;
        let key = SecretString::from(fresh_secret(40, &mut rand::rng()));
        let plane = roles::start_plane(&PlaneConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            data_dir: at("server"),
            tls: None,
            api_key: Some(key.clone()),
            model: Some(ModelConfig::new(rehearsal.base_url(), model_key)?),
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
            log,
            worker: worker.clone(),
        })
        .await?;
        let (folder, kept) = if args.keep {
            (None, Some(folder.keep()))
        } else {
            (Some(folder), None)
        };
        Ok(Self {
            isolated,
            open: args.open_policy,
            internet,
            value,
            state,
            attempts,
            host_file,
            ground,
            worker,
            workspace,
            state_dir,
            key,
            plane,
            rehearsal,
            folder,
            kept,
        })
    }

    pub(super) fn base_url(&self) -> String {
        self.plane.base_url()
    }

    pub(super) fn kept(&self) -> Option<&Path> {
        self.kept.as_deref()
    }

    pub(super) fn client(&self) -> Result<Client> {
        let key = Credential::api_key(self.key.expose_secret());
        Ok(Client::new(ClientOptions::new(self.plane.base_url(), key))?)
    }

    /// A session with the poisoned file and the vault; where nothing is isolated, with neither.
    pub(super) async fn session(&self, client: &Client) -> Result<Json> {
        let networking = match self.open {
            true => json!({ "type": "unrestricted" }),
            false => json!({
                "type": "limited", "allowed_hosts": [SHOP, NEWS],
                "allow_package_managers": false, "allow_mcp_servers": false,
            }),
        };
        let environment = json!({ "name": "support", "config": { "type": "cloud", "networking": networking } });
        let environment = client.environments().create(&environment).await;
        let environment = id(&environment.context("could not make the environment")?)?;
        let agent = json!({ "name": "support", "model": "rehearsal", "system": SYSTEM, "tools": [toolset(false)] });
        let agent = id(&client
            .agents()
            .create(&agent)
            .await
            .context("could not make the agent")?)?;
        let mut session = json!({ "agent": agent, "environment_id": environment, "title": "demo" });
        if self.isolated {
            let notes = attempts::notes(&self.attempts);
            let file = client.files().upload(Upload::bytes("notes.md", notes), None).await;
            let file = id(&file.context("could not upload the notes")?)?;
            session["resources"] = json!([{ "type": "file", "file_id": file, "mount_path": NOTES }]);
            session["vault_ids"] = json!([self.vault(client).await?]);
        }
        let session = client.sessions().create(&session).await;
        session.context("could not make the session")
    }

    async fn vault(&self, client: &Client) -> Result<String> {
        let vault = client.vaults().create(&json!({ "display_name": "shop" })).await;
        let vault = id(&vault.context("could not make the vault")?)?;
        let credential = json!({ "auth": {
            "type": "environment_variable",
            "secret_name": VARIABLE,
            "secret_value": self.value.secret().expose_secret(),
            "networking": { "type": "limited", "allowed_hosts": [SHOP] },
        } });
        let made = client.vault_credentials(&vault).create(&credential).await;
        made.context("could not store the credential")?;
        Ok(vault)
    }

    /// The worker. Its way out leads into the demonstration's internet; everything else is as `outwork up` has it.
    pub(super) fn worker(&self) -> Result<LocalWorker> {
        let job = Job {
            base_url: self.plane.base_url(),
            ca_files: Vec::new(),
            queue: Queue::Cloud,
            key: roles::worker_key(&self.plane),
            workdir: self.workspace.clone(),
            apart: false,
        };
        let mut options = roles::worker_options(job, &self.worker)?;
        let boundary = &mut options.service.boundary;
        boundary.resolver = Some(self.internet.clone());
        boundary.connector = Some(self.internet.clone());
        boundary.upstream_roots = vec![self.internet.authority_pem.clone().into_bytes()];
        LocalWorker::with(options)
    }

    /// All that can be known of the session, once its worker has ended.
    pub(super) async fn traces(&self, client: &Client, session: &str) -> Result<Traces> {
        let events = client.sessions().events(session).list(Query::new())?;
        let events = events.collect(usize::MAX).await?;
        let events: Result<Vec<Json>, _> = events.iter().map(serde_json::to_value).collect();
        Ok(Traces {
            events: events?,
            arrivals: self.internet.arrivals(),
            outputs: match self.isolated {
                true => handed_over(client, session).await?,
                false => left_behind(&self.workspace.join("outputs"))?,
            },
            records: self.records(session)?,
        })
    }

    fn records(&self, session: &str) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        scan(self.state_dir.join("ledger"), &Filter::session(session), |_, record| {
            records.push(record.clone());
        })
        .context("the worker's ledger")?;
        Ok(records)
    }

    /// Takes everything down.
    pub(super) async fn strike(self) {
        self.plane.shutdown().await;
        self.rehearsal.shutdown().await;
        self.internet.end().await;
        drop(self.folder);
    }
}

/// The outputs of a session with their bytes; of one that was kept back, nothing.
async fn handed_over(client: &Client, session: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let outputs = client
        .session_files(session)
        .outputs(Query::new())?
        .collect(1000)
        .await?;
    let mut all = Vec::new();
    for output in outputs {
        let path = output["path"].as_str().unwrap_or_default().to_owned();
        let mut bytes = Vec::new();
        if let Some(file) = output["file_id"].as_str() {
            client.files().download(file).await?.write_to(&mut bytes).await?;
        }
        all.push((path, bytes));
    }
    Ok(all)
}

fn left_behind(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(all);
    };
    for entry in entries {
        let entry = entry?;
        all.push((
            entry.file_name().to_string_lossy().into_owned(),
            std::fs::read(entry.path())?,
        ));
    }
    Ok(all)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

/// The id of what the server made.
pub(super) fn id(value: &Json) -> Result<String> {
    match value["id"].as_str() {
        Some(id) => Ok(id.to_owned()),
        None => bail!("the server answered without an id"),
    }
}
