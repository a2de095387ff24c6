//! `outwork worker` and `outwork worker run`.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use outwork_sandbox::worker::{ItemEnd, ItemOptions, Queue, Stop, Worker, run_item};
use secrecy::SecretString;
use serde_json::Value;

use crate::cli::worker::{PollArgs, QueueArgs, WorkArgs, WorkerArgs, WorkerCommand};
use crate::config::{self, process_environment};
use crate::exit::Exit;
use crate::roles::{self, Job};
use crate::{connection, telemetry};

pub(crate) async fn worker(args: WorkerArgs) -> Result<Exit> {
    match args.command {
        Some(WorkerCommand::Run(work)) => run(work).await,
        None => poll(args.poll).await,
    }
}

async fn poll(args: PollArgs) -> Result<Exit> {
    let (config, log) = config::worker(args.queue.config.as_deref(), &args.limits, &args.log)?;
    telemetry::start(&log)?;
    let job = Job {
        base_url: connection::base_url(args.queue.base_url.as_deref(), &process_environment)?,
        ca_files: args.queue.ca_file.iter().cloned().collect(),
        queue: Queue::Environment(environment_id(&args.queue)?),
        key: environment_key(&args.queue).context(
            "there is no environment key: set OUTWORK_ENVIRONMENT_KEY (`outwork environments keys create` makes one)",
        )?,
        workdir: args.queue.workdir.clone(),
        apart: false,
    };
    let mut options = roles::worker_options(job, &config)?;
    options.on_work = args.on_work;
    options.drain = args.drain;
    let summary = Worker::new(options)?.run(Stop::on_signals()?).await?;
    tracing::info!(?summary, "ended");
    Ok(Exit::Done)
}

async fn run(args: WorkArgs) -> Result<Exit> {
    let (config, log) = config::worker(args.queue.config.as_deref(), &args.limits, &args.log)?;
    telemetry::start(&log)?;
    let secret = match &args.item {
        Some(path) => secret_of_item(path)?,
        None => process_environment("ANTHROPIC_WORK_SECRET").map(SecretString::from),
    };
    let item = ItemOptions {
        session_id: args.session_id,
        work_id: args.work_id,
        environment_id: environment_id(&args.queue)?,
        environment_key: environment_key(&args.queue),
        secret,
    };
    let base_url = connection::base_url(args.queue.base_url.as_deref(), &process_environment)?;
    let ca_files: Vec<_> = args.queue.ca_file.iter().cloned().collect();
    let service = roles::service_options(&base_url, &ca_files, &args.queue.workdir, false, &config)?;
    match run_item(service, item, Stop::on_signals()?).await? {
        ItemEnd::Served | ItemEnd::NothingToRun => Ok(Exit::Done),
        ItemEnd::LeaseLost => Ok(Exit::LeaseLost),
        ItemEnd::Failed | ItemEnd::NotTaken { .. } => Ok(Exit::Failed),
    }
}

fn first(names: [&str; 2]) -> Option<String> {
    names.into_iter().find_map(process_environment)
}

fn environment_id(args: &QueueArgs) -> Result<String> {
    let id = args
        .environment_id
        .clone()
        .or_else(|| first(["OUTWORK_ENVIRONMENT_ID", "ANTHROPIC_ENVIRONMENT_ID"]));
    id.context("there is no environment: give --environment-id, or set OUTWORK_ENVIRONMENT_ID")
}

fn environment_key(args: &QueueArgs) -> Option<SecretString> {
    let key = args
        .environment_key
        .clone()
        .or_else(|| first(["OUTWORK_ENVIRONMENT_KEY", "ANTHROPIC_ENVIRONMENT_KEY"]));
    key.map(SecretString::from)
}

/// The secret in a work item's JSON. The error does not show what was read: it may be the secret.
fn secret_of_item(path: &Path) -> Result<Option<SecretString>> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin()
            .read_to_string(&mut text)
            .context("could not read the work item on standard input")?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    }
    let Ok(item) = serde_json::from_str::<Value>(&text) else {
        bail!("{} is not the JSON of a work item", path.display());
    };
    match item.get("secret") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(secret)) => Ok(Some(SecretString::from(secret.as_str()))),
        Some(_) => bail!("the `secret` of the work item is not text"),
    }
}
