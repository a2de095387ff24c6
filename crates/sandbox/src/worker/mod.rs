//! The worker: claims the work of an environment and serves each session from a sandbox of its own.
//!
//! It polls, acknowledges, keeps the lease by heartbeats, runs the session's calls, posts their results and releases
//! the item. It works against any server with the Managed Agents contract.
//!
//! It refuses to start where tools cannot be isolated, unless no isolation was asked for by name; it never runs a
//! call that has an answer, never runs a call twice, and touches nothing of an item whose lease is lost. Keys,
//! tokens and items with their secrets are never logged.
//!
//! [`Worker::run`] serves a queue; [`run_item`] serves one item that another program claimed.

mod attempts;
mod backoff;
mod bench;
mod boundary;
mod calls;
mod command;
mod error;
mod feed;
mod halt;
mod hand;
mod item;
mod lease;
mod local;
mod options;
mod outbox;
mod poll;
mod post;
mod refused;
mod session;
mod state;
mod stop;
mod texts;

use std::sync::Arc;

use outwork_client::{Client, Credential, Options};
use outwork_wire::work::WorkSecret;
use secrecy::{ExposeSecret, SecretString};

pub use boundary::{
    BoundaryError, BoundaryOptions, Foreseen, ImageSource, OutputOptions, PackageOptions, SecretSource, WorkerSecret,
    foresee,
};
pub use command::EXIT_LEASE_LOST;
pub use error::WorkerError;
pub use hand::{Furnishing, Hand, HandFuture, Provider};
pub use item::ItemEnd;
pub use local::LocalSandboxes;
pub use options::{ItemOptions, Layout, Queue, ServiceOptions, WorkerOptions};
pub use poll::Summary;
pub use stop::Stop;

use attempts::Attempts;
use boundary::{Machine, image};
use item::{ItemIds, Service};
use state::StateFolder;

/// A worker for the queue of an environment.
pub struct Worker {
    options: WorkerOptions,
    client: Client,
    provider: Option<Arc<dyn Provider>>,
}

impl Worker {
    /// A worker whose tools run in this machine's sandboxes. Nothing is started yet.
    pub fn new(options: WorkerOptions) -> Result<Self, WorkerError> {
        options.check()?;
        let client = client(&options.service, options.key.expose_secret())?;
        Ok(Self {
            options,
            client,
            provider: None,
        })
    }

    /// The same with sandboxes from somewhere else.
    pub fn with_provider(options: WorkerOptions, provider: Arc<dyn Provider>) -> Result<Self, WorkerError> {
        let worker = Self::new(options)?;
        Ok(Self {
            provider: Some(provider),
            ..worker
        })
    }

    /// Serves the queue until it is told to stop, or the queue is empty and [`WorkerOptions::drain`] is set, or the
    /// server refuses the polls for good. Every item is released when this returns.
    pub async fn run(mut self, stop: impl Into<Stop>) -> Result<Summary, WorkerError> {
        let stop = stop.into();
        let worker_id = self.options.worker_id.get_or_insert_with(poll::worker_id).clone();
        let service = if self.options.on_work.is_some() {
            None
        } else {
            let server_decides = self.options.queue == Queue::Cloud;
            Some(service(&self.options.service, self.provider, worker_id, server_decides).await?)
        };
        let machine = service.as_ref().map(|service| Arc::clone(&service.machine));
        let _halt = halt::on_word(machine.clone(), &stop);
        let summary = poll::run(self.options, self.client, service, stop).await;
        if let Some(machine) = machine {
            machine.close().await;
        }
        summary
    }
}

/// Serves one item that another program claimed and acknowledged, with this machine's sandboxes.
pub async fn run_item(
    options: ServiceOptions,
    item: ItemOptions,
    stop: impl Into<Stop>,
) -> Result<ItemEnd, WorkerError> {
    run_item_with(options, item, None, stop).await
}

/// The same, with sandboxes from somewhere else if a provider is given.
pub async fn run_item_with(
    options: ServiceOptions,
    item: ItemOptions,
    provider: Option<Arc<dyn Provider>>,
    stop: impl Into<Stop>,
) -> Result<ItemEnd, WorkerError> {
    let stop = stop.into();
    let token = item.secret.as_ref().and_then(|secret| {
        let unpacked = WorkSecret::unpack(secret.expose_secret());
        if unpacked.is_none() {
            tracing::warn!(
                work = item.work_id,
                "the item's secret holds no sessions token; using the environment key"
            );
        }
        unpacked.map(|s| SecretString::from(s.sessions_token))
    });
    let credential = token.or(item.environment_key).ok_or_else(|| WorkerError::Option {
        what: "ANTHROPIC_ENVIRONMENT_KEY",
        reason: "it is not set, and ANTHROPIC_WORK_SECRET holds no sessions token; set one of both".to_owned(),
    })?;
    let client = client(&options, credential.expose_secret())?;
    let service = service(&options, provider, poll::worker_id(), false).await?;
    let machine = Arc::clone(&service.machine);
    let _halt = halt::on_word(Some(Arc::clone(&machine)), &stop);
    let ids = ItemIds {
        work: item.work_id,
        environment: item.environment_id,
        session: item.session_id,
    };
    let end = tokio::select! {
        end = service.serve(client, &ids, stop.drain.clone()) => end,
        () = stop.now.cancelled() => ItemEnd::Failed,
    };
    machine.close().await;
    Ok(end)
}

fn client(options: &ServiceOptions, token: &str) -> Result<Client, WorkerError> {
    let mut client = Options::new(&options.base_url, Credential::bearer(token));
    client.user_agent = concat!("outwork-worker/", env!("CARGO_PKG_VERSION")).to_owned();
    client.ca_certificates.clone_from(&options.ca_certificates);
    Ok(Client::new(client)?)
}

async fn service(
    options: &ServiceOptions,
    provider: Option<Arc<dyn Provider>>,
    worker: String,
    server_decides: bool,
) -> Result<Service, WorkerError> {
    item::make_folder(&options.workdir).map_err(|source| WorkerError::Workdir {
        path: options.workdir.clone(),
        source,
    })?;
    let workdir = options.workdir.canonicalize().map_err(|source| WorkerError::Workdir {
        path: options.workdir.clone(),
        source,
    })?;
    let state = StateFolder::open(options, &workdir)?;
    let (boundary, isolation) = (options.boundary.clone(), options.isolation);
    let image = image::get(&boundary, isolation, &state).await?;
    let machine = move || Machine::new(boundary, isolation, state, worker, server_decides, image);
    let machine = tokio::task::spawn_blocking(machine).await;
    let machine = machine.map_err(|error| WorkerError::Isolation(error.to_string()))??;
    let provider = match provider {
        Some(provider) => provider,
        None => local::provider(options).await?,
    };
    Ok(Service {
        provider,
        machine: Arc::new(machine),
        workdir,
        layout: options.layout,
        max_idle: options.max_idle,
        call_timeout: options.call_timeout,
        desired_ttl: options.desired_ttl,
        attempts: Arc::new(Attempts::default()),
    })
}
