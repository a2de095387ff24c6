//! The gateway as a program: the configuration, the ledger, the links, the health endpoint, and their end.
//!
//! Ends in order: the edge is told and opens no more streams, calls under way end within `shutdown_timeout`, what is left
//! is cut, the last record is written.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use outwork_tunnel::Links;
use outwork_tunnel::link::LinkStatus;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Edge, LogLevel};
use crate::error::{ConfigError, Error};
use crate::evidence::Evidence;
use crate::gateway::{Gateway, Setup};
use crate::health::Health;
use crate::links;
use crate::record::{NoRecorder, Recorder};
use crate::upstream::dial::SystemResolver;
use crate::watch::Watched;

/// How often the token's file is looked at.
const POLL: Duration = Duration::from_secs(1);
/// For the last records.
const LAST: Duration = Duration::from_secs(5);

/// What `outwork tunnel run` is started with. What the file says too is taken from here.
pub struct Options {
    /// The configuration file.
    pub config: PathBuf,
    /// How to reach the edge, for files of the hosted proxy, which do not say it.
    pub edge: Option<Edge>,
    /// The tunnel's id.
    pub tunnel_id: Option<String>,
    /// The tunnel's token.
    pub token: Option<SecretString>,
    /// Told the level of logging at the start and when it changes.
    pub on_log_level: Option<Box<dyn Fn(LogLevel) + Send + Sync>>,
}

impl Options {
    /// Everything from the file at `config`.
    pub fn new(config: impl Into<PathBuf>) -> Options {
        Options {
            config: config.into(),
            edge: None,
            tunnel_id: None,
            token: None,
            on_log_level: None,
        }
    }
}

/// A gateway that runs.
pub struct Handle {
    gateway: Arc<Gateway>,
    links: Arc<Links>,
    token: Option<JoinHandle<()>>,
    health: Option<SocketAddr>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Starts a gateway.
pub async fn start(options: Options) -> Result<Handle, Error> {
    let config = Config::load(&options.config)?;
    let missing = |message: &str| Error::Config(ConfigError::new(&options.config.display().to_string(), message));
    let edge =
        options.edge.as_ref().or(config.edge.as_ref()).ok_or_else(|| {
            missing("edge is missing: name edge.addresses, the host:port of the plane's tunnel listener")
        })?;
    let tunnel_id = options
        .tunnel_id
        .clone()
        .or_else(|| config.tunnel_id.clone())
        .ok_or_else(|| missing("tunnel_id is missing: give the tunnel's id, as `outwork tunnel setup` printed it"))?;
    let token_file = config.token_file.clone().filter(|_| options.token.is_none());
    let token = match (options.token, &token_file) {
        (Some(token), _) => token,
        (None, Some(path)) => read_token(path)?,
        (None, None) => {
            return Err(missing(
                "token_file is missing: name the file that holds the tunnel's token",
            ));
        }
    };
    let links_options = links::options(edge, &tunnel_id, token)?;
    let recorder: Arc<dyn Recorder> = match &config.ledger {
        Some(place) => Arc::new(Evidence::open(place)?),
        None => Arc::new(NoRecorder),
    };
    let health = match config.health {
        Some(address) => Some(Health::open(address).await?),
        None => None,
    };
    // The gateway reads the file for itself; what this reading took is given back before.
    drop(config);
    let gateway = Gateway::open(Setup {
        config: options.config,
        tunnel_id: Some(tunnel_id),
        recorder,
        resolver: Arc::new(SystemResolver),
        on_log_level: options.on_log_level,
    })?;
    let links = Links::start(links_options, Arc::new(links::Serve(gateway.clone())))
        .map_err(|error| Error::Links(error.to_string()))?;
    let links = Arc::new(links);

    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let address = health.as_ref().map(Health::address);
    if let Some(health) = health {
        tracing::info!(address = %health.address(), "health and metrics");
        tasks.spawn(health.serve(gateway.clone(), stop.clone()));
    }
    tasks.spawn(
        stop.clone()
            .run_until_cancelled_owned(follow(gateway.clone(), links.status())),
    );
    for (host, route) in gateway.live().table.hosts() {
        tracing::info!(host, upstream = %route.route.target, "route");
    }
    let token = token_file.map(|path| tokio::spawn(follow_token(Arc::downgrade(&links), path)));
    Ok(Handle {
        gateway,
        links,
        token,
        health: address,
        stop,
        tasks,
    })
}

/// Keeps the number of links that are up, and says in the log when one comes or goes.
async fn follow(gateway: Arc<Gateway>, mut status: watch::Receiver<Vec<LinkStatus>>) {
    let mut before: Vec<bool> = Vec::new();
    loop {
        let now: Vec<LinkStatus> = status.borrow_and_update().clone();
        let up = now.iter().filter(|link| link.is_connected()).count();
        gateway
            .metrics
            .links
            .store(i64::try_from(up).unwrap_or(i64::MAX), Relaxed);
        for link in &now {
            let was = before.get(link.index).copied().unwrap_or(false);
            match (was, link.is_connected()) {
                (false, true) => tracing::info!(link = link.index, edge = link.edge, "link to the edge is up"),
                (true, false) => {
                    tracing::warn!(
                        link = link.index,
                        edge = link.edge,
                        reason = link.last_error,
                        "link to the edge is down"
                    );
                }
                _ => {}
            }
        }
        before = now.iter().map(LinkStatus::is_connected).collect();
        if status.changed().await.is_err() {
            return;
        }
    }
}

fn read_token(path: &Path) -> Result<SecretString, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let text = SecretString::from(text);
    let token = text.expose_secret().trim();
    if token.is_empty() {
        return Err(Error::File {
            action: "read",
            path: path.to_owned(),
            source: std::io::Error::other("it is empty"),
        });
    }
    Ok(SecretString::from(token))
}

impl Handle {
    /// The gateway.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// The state of the links.
    pub fn links(&self) -> watch::Receiver<Vec<LinkStatus>> {
        self.links.status()
    }

    /// Where health and metrics are.
    pub fn health(&self) -> Option<SocketAddr> {
        self.health
    }

    /// Reads the configuration again (SIGHUP). What is wrong with it has been logged.
    pub fn reload(&self) {
        let _ = self.gateway.reload();
    }

    /// Drains and ends. Returns how many streams were cut at the deadline.
    pub async fn shutdown(self) -> usize {
        let limit = self.gateway.live().config.shutdown_timeout;
        tracing::info!(limit_ms = limit.as_millis(), "draining");
        self.gateway.drain.cancel();
        if let Some(token) = self.token {
            token.abort();
            // Its end gives back whatever it held of the links.
            let _ = token.await;
        }
        let cut = match Arc::into_inner(self.links) {
            Some(links) => links.drain(limit).await,
            None => 0,
        };
        if cut > 0 {
            tracing::warn!(streams = cut, "cut at the end of shutdown_timeout");
        }
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.gateway.close(LAST).await;
        cut
    }
}

/// Takes over a rotated token.
async fn follow_token(links: Weak<Links>, path: PathBuf) {
    let mut file = Watched::new(vec![path.clone()]);
    let mut tick = tokio::time::interval(POLL);
    loop {
        tick.tick().await;
        if !file.changed() {
            continue;
        }
        let Some(links) = links.upgrade() else { return };
        let taken =
            read_token(&path).and_then(|token| links.set_token(token).map_err(|error| Error::Links(error.to_string())));
        match taken {
            Ok(()) => tracing::info!("the new token is used for new connections"),
            Err(error) => tracing::error!(%error, "the old token stays in use"),
        }
    }
}
