//! The gateway itself: what is in force, what is killed, what is recorded; and how it takes a new configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, LogLevel};
use crate::error::Error;
use crate::generation::{Generation, Parts};
use crate::kill::{self, Switch};
use crate::metrics::Metrics;
use crate::proxy::serve;
use crate::record::{Journal, NoRecorder, Recorder};
use crate::upstream::dial::{Resolver, SystemResolver};
use crate::watch::Watched;

/// How often files are looked at.
const POLL: Duration = Duration::from_secs(1);
/// How often the kill switch is looked at.
const KILL_POLL: Duration = Duration::from_millis(200);
/// How often unused connections are dropped.
const SWEEP: Duration = Duration::from_secs(15);

/// What a gateway is opened with.
pub struct Setup {
    /// The configuration file.
    pub config: PathBuf,
    /// The tunnel's id where the file does not say it.
    pub tunnel_id: Option<String>,
    /// Where records go; [`NoRecorder`] unless something else is given.
    pub recorder: Arc<dyn Recorder>,
    /// How names are resolved.
    pub resolver: Arc<dyn Resolver>,
    /// Told the level of logging at the start and when it changes.
    pub on_log_level: Option<Box<dyn Fn(LogLevel) + Send + Sync>>,
}

impl Setup {
    /// A setup for the file at `config`.
    pub fn new(config: impl Into<PathBuf>) -> Setup {
        Setup {
            config: config.into(),
            tunnel_id: None,
            recorder: Arc::new(NoRecorder),
            resolver: Arc::new(SystemResolver),
            on_log_level: None,
        }
    }
}

/// A gateway.
pub struct Gateway {
    live: ArcSwap<Generation>,
    parts: Parts,
    path: PathBuf,
    on_log_level: Option<Box<dyn Fn(LogLevel) + Send + Sync>>,
    /// The tunnel's id, for records.
    pub tunnel_id: Option<String>,
    /// What is killed.
    pub kill: Switch,
    /// Where records go.
    pub journal: Journal,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Cancelled when no new request is taken on open streams.
    pub drain: CancellationToken,
    stop: CancellationToken,
    records: TaskTracker,
}

impl Gateway {
    /// Opens a gateway: reads its files and starts to watch them. Ends with [`Gateway::close`].
    pub fn open(setup: Setup) -> Result<Arc<Gateway>, Error> {
        // Each file is seen before it is read, so that no change falls between.
        let mut files = Watched::new(vec![setup.config.clone()]);
        let config = Config::load(&setup.config)?;
        files.watch(config.files());
        let kill_file = Watched::new(vec![config.state_dir.join(kill::FILE)]);
        for notice in &config.notices {
            tracing::warn!("{notice}");
        }
        let metrics = Arc::new(Metrics::default());
        let parts = Parts {
            resolver: setup.resolver,
            metrics: metrics.clone(),
            tasks: TaskTracker::new(),
        };
        let kill = Switch::open(&config.state_dir);
        let tunnel_id = setup.tunnel_id.or_else(|| config.tunnel_id.clone());
        let level = config.log_level;
        let generation = Generation::build(config, None, &parts)?;
        let (journal, write) = Journal::new(setup.recorder, metrics.clone());
        let records = TaskTracker::new();
        records.spawn(write);
        let gateway = Arc::new(Gateway {
            live: ArcSwap::from_pointee(generation),
            parts,
            path: setup.config,
            on_log_level: setup.on_log_level,
            tunnel_id,
            kill,
            journal,
            metrics,
            drain: CancellationToken::new(),
            stop: CancellationToken::new(),
            records,
        });
        if let Some(tell) = &gateway.on_log_level {
            tell(level);
        }
        gateway.watch(files, kill_file);
        Ok(gateway)
    }

    /// What is in force.
    pub fn live(&self) -> Arc<Generation> {
        self.live.load_full()
    }

    /// Serves a stream that was opened for `host`, until it ends.
    pub async fn serve<S>(self: &Arc<Self>, host: &str, stream: S, draining: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match crate::route::host(host) {
            Some(host) => serve::stream(self, &host, stream, draining).await,
            None => {
                self.metrics.streams_refused.fetch_add(1, Relaxed);
                tracing::warn!("a stream was turned away: it was opened for something that is no host name");
            }
        }
    }

    /// Reads the configuration and all its files again. What cannot be is refused, and what is in force stays.
    pub fn reload(&self) -> Result<(), Error> {
        let before = self.live();
        let built = Config::load(&self.path).and_then(|config| Generation::build(config, Some(&before), &self.parts));
        let next = match built {
            Ok(next) => next,
            Err(error) => {
                self.metrics.reloads_failed.fetch_add(1, Relaxed);
                self.metrics.stale.store(1, Relaxed);
                tracing::error!(%error, "the new configuration is refused; the old one stays in force");
                return Err(error);
            }
        };
        for notice in next
            .config
            .notices
            .iter()
            .filter(|notice| !before.config.notices.contains(notice))
        {
            tracing::warn!("{notice}");
        }
        let fixed = before.config.fixed.differing(&next.config.fixed);
        if !fixed.is_empty() {
            tracing::warn!(
                keys = fixed.join(", "),
                "these keys changed; they take effect when the gateway is restarted"
            );
        }
        if next.config.log_level != before.config.log_level
            && let Some(tell) = &self.on_log_level
        {
            tell(next.config.log_level);
        }
        let routes = next.config.routes.len();
        self.live.store(Arc::new(next));
        self.metrics.reloads.fetch_add(1, Relaxed);
        self.metrics.stale.store(0, Relaxed);
        tracing::info!(routes, "the new configuration is in force");
        Ok(())
    }

    /// Whether calls can be served now, leaving the links aside; if not, why.
    pub fn ready(&self) -> Result<(), &'static str> {
        if self.drain.is_cancelled() {
            return Err("draining");
        }
        if !self.journal.healthy() {
            return Err("the ledger takes no records");
        }
        Ok(())
    }

    /// Ends what the gateway does by itself, after its streams have ended, and waits for the last record.
    pub async fn close(self: Arc<Self>, limit: Duration) {
        self.drain.cancel();
        self.stop.cancel();
        for route in self.live().table.iter() {
            route.pool.clear();
        }
        let tasks = self.parts.tasks.clone();
        let records = self.records.clone();
        tasks.close();
        records.close();
        // The journal's task ends when the last place is given back; the gateway holds the way in.
        drop(self);
        let ended = tokio::time::timeout(limit, async {
            tasks.wait().await;
            records.wait().await;
        });
        if ended.await.is_err() {
            tracing::warn!("the gateway ends with calls or records under way");
        }
    }

    /// Watches files until the gateway stops. Tasks hold it weakly: it ends when nobody else has it.
    fn watch(self: &Arc<Self>, mut files: Watched, mut kill_file: Watched) {
        let stop = self.stop.clone();
        let weak = Arc::downgrade(self);
        self.parts
            .tasks
            .spawn(stop.clone().run_until_cancelled_owned(async move {
                let mut tick = tokio::time::interval(POLL);
                tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                loop {
                    tick.tick().await;
                    let Some(gateway) = weak.upgrade() else { return };
                    if files.changed() {
                        // Its failure has been logged and counted.
                        let failed = gateway.reload().is_err();
                        let mut wanted = gateway.live().config.files();
                        if failed && let Ok(refused) = Config::load(&gateway.path) {
                            // What it lacks may come later.
                            let new = refused.files().into_iter().filter(|path| !wanted.contains(path));
                            let new: Vec<PathBuf> = new.collect();
                            wanted.extend(new);
                        }
                        files.watch(wanted);
                    }
                }
            }));
        let weak = Arc::downgrade(self);
        self.parts
            .tasks
            .spawn(stop.clone().run_until_cancelled_owned(async move {
                let mut tick = tokio::time::interval(KILL_POLL);
                tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                loop {
                    tick.tick().await;
                    let Some(gateway) = weak.upgrade() else { return };
                    if kill_file.changed() {
                        gateway.kill.reload();
                    }
                }
            }));
        let weak = Arc::downgrade(self);
        self.parts.tasks.spawn(stop.run_until_cancelled_owned(async move {
            let mut tick = tokio::time::interval(SWEEP);
            loop {
                tick.tick().await;
                let Some(gateway) = weak.upgrade() else { return };
                for route in gateway.live().table.iter() {
                    route.pool.sweep();
                }
            }
        }));
    }

    /// The file that the gateway was opened with.
    pub fn config_path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
