//! A plane: everything assembled, started, drained.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outwork_model::ModelClient;
use outwork_store::{BlobPlace, Blobs, KeyHash, NewApiKey, Options as StoreOptions, Store};
use outwork_wire::Time;
use outwork_wire::id::{ApiKeyId, fresh_secret};
use secrecy::ExposeSecret;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::app::guard::Guard;
use crate::app::tunnels::Tunnels;
use crate::auth::{API_KEY_PREFIX, Role, SecretText, WORKER_KEY_PREFIX};
use crate::edge::live::{self, LiveEdge};
use crate::edge::{EdgeInfo, NoEdge, TunnelEdge, TunnelGate};
use crate::error::PlaneError;
use crate::evidence::Evidence;
use crate::federation::Federation;
use crate::http::{self, server::Server};
use crate::identity::Identity;
use crate::mcp::tunnel::Tunnelling;
use crate::mcp::{Reach, Ways};
use crate::metrics::Metrics;
use crate::options::{ModelProvider, PlaneOptions};
use crate::reconcile;
use crate::run::changes::Changes;
use crate::run::hub::Hub;
use crate::run::queue::QueueBells;
use crate::run::registry::{Failing, Registry, Shared};
use crate::upkeep;
use crate::vault::outbound::Dialled;
use crate::vault::seal::Sealer;
use crate::vault::{LocalMasterKeys, OnRefreshFailure, RefreshFailure, Vaults};

/// How long the owner of a session stays without anything to do.
const LINGER: Duration = Duration::from_secs(30);
/// The file with the admin key that was made at first start.
const ADMIN_KEY_FILE: &str = "admin.key";
/// The file with the keys that sign the tokens of agents.
const IDENTITY_KEYS_FILE: &str = "identity.keys";
/// The folder with the bytes of files, unless they are kept elsewhere.
const BLOB_FOLDER: &str = "blobs";
/// The shortest admin key that is taken from outside.
const MIN_KEY: usize = 16;

/// A running plane.
pub struct Plane {
    app: Arc<App>,
    address: SocketAddr,
    tls: bool,
    admin_key: AdminKey,
    worker_key: SecretText,
    server: JoinHandle<()>,
    reconciler: JoinHandle<()>,
    upkeep: JoinHandle<()>,
    edge: Option<JoinHandle<()>>,
    edge_stop: CancellationToken,
    drain_timeout: Duration,
}

/// The first admin key.
pub enum AdminKey {
    /// It was given from outside.
    Given,
    /// It was made at this start, and is kept in this file.
    Made {
        /// The key.
        key: SecretText,
        /// Where it is kept, with mode 0600.
        path: PathBuf,
    },
    /// It was made at an earlier start, and is kept in this file.
    Kept {
        /// The key.
        key: SecretText,
        /// Where it is kept, with mode 0600.
        path: PathBuf,
    },
}

impl Plane {
    /// Starts a plane. When this returns it answers requests.
    pub async fn start(options: PlaneOptions) -> Result<Self, PlaneError> {
        let server = Server::bind(options.listen, options.tls.as_ref(), options.limits.clone()).await?;
        let address = server.address().map_err(|source| PlaneError::Listen {
            address: options.listen,
            source,
        })?;
        let data_dir = options.data_dir.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(StoreOptions::new(data_dir)))
            .await
            .expect("opening the store does not panic")?;
        let admin_key = admin_key(&store, &options).await?;
        let blob_folder = BlobPlace::Folder(options.data_dir.join(BLOB_FOLDER));
        let blobs = Blobs::open(options.files.blobs.as_ref().unwrap_or(&blob_folder))?;
        let edge = match &options.tunnels.edge {
            Some(wanted) => Some(LiveEdge::bind(wanted, &options.data_dir, TunnelGate::new(store.clone())).await?),
            None => None,
        };
        let parts = edge.as_ref().map(|(edge, _)| (edge.handle(), edge.calls()));
        let tunnelling = Tunnelling::new(store.clone(), options.tunnels.domain_suffix.clone(), parts);
        let ways = Arc::new(Ways::new(&options.mcp, tunnelling)?);
        let sealer = sealer(&store, &options).await?;
        let on_failure = options.on_refresh_failure.clone().unwrap_or_else(log_refresh_failure);
        let outbound = Arc::new(Dialled::new(ways.clone()));
        let vaults = Vaults::new(store.clone(), sealer.clone(), outbound, on_failure);
        let (ledger, data_dir) = (options.ledger, options.data_dir.clone());
        let evidence = tokio::task::spawn_blocking(move || Evidence::open(&ledger, &data_dir))
            .await
            .expect("opening the ledger does not panic")?;
        let evidence = Arc::new(evidence);
        let worker_key = SecretText::fresh(WORKER_KEY_PREFIX);
        store
            .set_worker_key("local", KeyHash::of(worker_key.expose()), Time::now())
            .await?;
        let (told, service): (Arc<dyn TunnelEdge>, _) = match edge {
            Some((edge, service)) => {
                let events = edge.handle().events();
                (Arc::new(edge), Some((service, events)))
            }
            None => (Arc::new(NoEdge), None),
        };
        let tunnels = Tunnels::new(options.tunnels, sealer, told);
        tunnels.tell_edge(&store).await?;
        let federation = Federation::new(options.federation, &store).await?;
        if options.identity.public_url.is_none() && address.ip().is_unspecified() {
            tracing::warn!(
                %address, "tokens of agents name this address as their issuer, where nobody finds their keys: set \
                 plane.public_url, or --public-url"
            );
        }
        let issuer = options
            .identity
            .public_url
            .unwrap_or_else(|| base_url(address, options.tls.is_some()));
        let identity = Arc::new(Identity::open(
            &options.data_dir.join(IDENTITY_KEYS_FILE),
            issuer,
            options.identity.key_lifetime,
            Time::now(),
        )?);
        let reach = Arc::new(Reach::new(&options.mcp, ways, vaults.clone(), identity.clone()));
        // The workers of the server before went with it.
        store.lapse_cloud_work(Time::now()).await?;
        let model = options.model.map(model_client).transpose()?.map(Arc::new);

        // The folder is ours alone, so whoever held a lease before is gone.
        let owner = format!("plane-{}", fresh_secret(8, &mut rand::rng()));
        store.take_over_all_leases(&owner).await?;
        store.release_all_leases(&owner).await?;

        let hub = Arc::new(Hub::default());
        let bells = Arc::new(QueueBells::default());
        let changes = Arc::new(Changes::default());
        let metrics = Metrics::new();
        let closing = CancellationToken::new();
        let sessions = Registry::new(Shared {
            store: store.clone(),
            hub: hub.clone(),
            bells: bells.clone(),
            changes: changes.clone(),
            model: model.clone(),
            reach,
            evidence: evidence.clone(),
            prompt: options.prompt,
            retry: options.retry,
            metrics: metrics.clone(),
            owner: owner.clone(),
            linger: LINGER,
            draining: CancellationToken::new(),
            aborting: CancellationToken::new(),
            failing: Failing::default(),
        });
        let app = Arc::new(App {
            store,
            hub,
            bells,
            changes,
            sessions,
            model,
            limits: options.limits,
            metrics,
            guard: Guard::default(),
            vaults,
            blobs,
            files: options.files,
            tunnels,
            federation,
            identity,
            evidence,
            closing: closing.clone(),
        });
        let router = http::router(app.clone());
        let edge_stop = CancellationToken::new();
        let edge = service.map(|(service, events)| tokio::spawn(live::serve(service, events, edge_stop.clone())));
        Ok(Self {
            server: tokio::spawn(server.serve(router, closing.clone(), options.drain_timeout)),
            reconciler: tokio::spawn(reconcile::run(app.clone(), owner, closing.clone())),
            upkeep: tokio::spawn(upkeep::run(app.clone(), closing)),
            edge,
            edge_stop,
            app,
            address,
            tls: options.tls.is_some(),
            admin_key,
            worker_key,
            drain_timeout: options.drain_timeout,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL that clients use.
    pub fn base_url(&self) -> String {
        base_url(self.address, self.tls)
    }

    /// What signs the tokens by which agents show who they are.
    pub fn identity(&self) -> Arc<Identity> {
        self.app.identity.clone()
    }

    /// Where the gateways of tunnels connect; absent if they cannot.
    pub fn edge(&self) -> Option<&EdgeInfo> {
        self.app.tunnels.edge().info()
    }

    /// The first admin key.
    pub fn admin_key(&self) -> &AdminKey {
        &self.admin_key
    }

    /// The key for workers of this very process, which serve cloud environments. Valid until the next start.
    pub fn worker_key(&self) -> &SecretText {
        &self.worker_key
    }

    /// Stops taking requests, hands every session over, closes the store.
    pub async fn shutdown(self) {
        self.app.closing.cancel();
        self.app.hub.close();
        self.app.sessions.drain(self.drain_timeout).await;
        // Sessions at work may be in the middle of a call through a tunnel; after them nobody needs it.
        self.edge_stop.cancel();
        for task in [self.server, self.reconciler, self.upkeep].into_iter().chain(self.edge) {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the plane ended badly");
            }
        }
        self.app.vaults.close().await;
        self.app.blobs.close().await;
        if let Err(error) = self.app.tunnels.flush_usage(&self.app.store).await {
            tracing::warn!(%error, "what passed through tunnels in the last seconds was not kept");
        }
        self.app.store.close().await;
        let evidence = self.app.evidence.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || evidence.close()).await {
            tracing::error!(%error, "the ledger was not closed well");
        }
    }
}

/// Opens what seals secrets. A master key that does not open what is there ends the start.
async fn sealer(store: &Store, options: &PlaneOptions) -> Result<Arc<Sealer>, PlaneError> {
    let master = LocalMasterKeys::of_plane(&options.data_dir, options.master_key.as_ref(), store).await?;
    let sealer = Sealer::new(store.clone(), Arc::new(master));
    sealer.check().await?;
    Ok(Arc::new(sealer))
}

fn log_refresh_failure() -> OnRefreshFailure {
    Arc::new(|failure: RefreshFailure| {
        tracing::warn!(
            event = "vault_credential.refresh_failed", workspace = %failure.workspace_id, vault = %failure.vault_id,
            credential = %failure.credential_id, permanent = failure.permanent, reason = failure.reason,
            "a credential could not be refreshed"
        );
    })
}

fn base_url(address: SocketAddr, tls: bool) -> String {
    format!("{}://{address}", if tls { "https" } else { "http" })
}

async fn admin_key(store: &Store, options: &PlaneOptions) -> Result<AdminKey, PlaneError> {
    if let Some(given) = &options.api_key {
        let given = given.expose_secret();
        if given.len() < MIN_KEY {
            return Err(PlaneError::WeakKey(given.len()));
        }
        register(store, "OUTWORK_API_KEY", given).await?;
        return Ok(AdminKey::Given);
    }
    let path = options.data_dir.join(ADMIN_KEY_FILE);
    let fault = |source| PlaneError::KeyFile {
        path: path.clone(),
        source,
    };
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let key = SecretText::new(text.trim().to_owned());
            if !known(store, key.expose()).await? {
                return Err(PlaneError::LostStore {
                    folder: options.data_dir.clone(),
                    key: path,
                });
            }
            Ok(AdminKey::Kept { key, path })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = SecretText::fresh(API_KEY_PREFIX);
            // Known first, written second: a file with a key that the store does not know means a lost store.
            register(store, "admin.key", key.expose()).await?;
            write_private(&path, key.expose()).map_err(fault)?;
            Ok(AdminKey::Made { key, path })
        }
        Err(source) => Err(fault(source)),
    }
}

/// Makes the key known, unless it is: a revoked key stays revoked.
async fn register(store: &Store, name: &str, key: &str) -> Result<(), PlaneError> {
    if known(store, key).await? {
        return Ok(());
    }
    let new = NewApiKey {
        id: ApiKeyId::fresh(),
        name: name.to_owned(),
        role: Role::Admin.as_str().to_owned(),
        hash: KeyHash::of(key),
        expires_at: None,
    };
    let workspace = store.default_workspace().clone();
    store.create_api_key(&workspace, new, Time::now()).await?;
    Ok(())
}

async fn known(store: &Store, key: &str) -> Result<bool, PlaneError> {
    Ok(store.find_credential(KeyHash::of(key), Time::now()).await?.is_some())
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    writeln!(file, "{text}")?;
    file.sync_all()
}

fn model_client(provider: ModelProvider) -> Result<ModelClient, PlaneError> {
    let mut options = outwork_model::Options::new(provider.base_url, provider.api_key);
    options.timeouts.first_byte = provider.first_byte_timeout;
    options.timeouts.idle = provider.idle_timeout;
    ModelClient::new(options).map_err(|error| PlaneError::Model(error.to_string()))
}
