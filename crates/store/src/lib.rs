//! What is kept: workspaces, agents, environments, keys, vaults, sessions with their logs, the work queue, and files.
//!
//! One [`Store`] over one SQLite database (WAL, `synchronous=FULL`). Writes go to a single thread that commits
//! what waits together; reads run on their own connections. What was answered is on disk.
//!
//! Every call that a client can cause takes the workspace first: ids of another workspace are not found. Only
//! what the server itself does over all workspaces (leases, lapses, credentials) does not.
//!
//! Refused: a second server on the folder, a newer schema, a damaged file. Time is passed in.
#![forbid(unsafe_code)]

pub mod agents;
pub mod blobs;
mod columns;
pub mod cursor;
pub mod data_keys;
pub mod environments;
mod error;
mod federation;
pub mod files;
mod folder;
pub mod keys;
pub mod leases;
pub mod log;
mod page;
mod pollers;
mod readers;
mod schema;
mod session_outputs;
mod session_resources;
mod session_secrets;
mod session_texts;
pub mod sessions;
mod store;
mod tunnel_certificates;
mod tunnel_usage;
pub mod tunnels;
pub mod vault_credentials;
pub mod vaults;
pub mod work;
mod work_queue;
mod work_upkeep;
pub mod workspaces;
mod writer;

pub use agents::{AgentFilter, AgentRow, AgentSpec};
pub use blobs::{BlobError, BlobPlace, BlobReader, BlobWriter, Blobs, WrittenBlob};
pub use data_keys::DataKeyRow;
pub use environments::{EnvironmentRow, NewEnvironment};
pub use error::StoreError;
pub use federation::{FederatedToken, NewFederatedToken};
pub use files::{FileRow, NewFile};
pub use keys::{ApiKeyRow, Credential, EnvironmentKeyRow, KeyHash, NewApiKey, NewEnvironmentKey, WorkerKeyRow};
pub use leases::{DueSession, HeldLease, LeaseOutcome};
pub use log::{Append, Appended, EventQuery, LoadedLog, ProjectionChange};
pub use page::{Order, Page, PageRequest};
pub use session_outputs::{OutputLimits, OutputRow, OutputState, RefusedOutput};
pub use session_resources::{
    Checkout, MAX_SESSION_FILES, MAX_SESSION_REPOSITORIES, NewSessionResource, ResourceSpec, SessionResourceRow,
};
pub use session_secrets::RepositorySecrets;
pub use session_texts::SessionTextRow;
pub use sessions::{
    Lease, NewSession, SessionFilter, SessionProfile, SessionProjection, SessionRow, SessionStatus, TimeRange,
};
pub use store::{Options, Store, StoreCounters};
pub use tunnel_certificates::{NewTunnelCertificate, TunnelCertificateRow};
pub use tunnel_usage::{RouteUsage, UsageDelta};
pub use tunnels::{NewTunnel, NewTunnelToken, TunnelAdmission, TunnelRefusal, TunnelRotation, TunnelRow, TunnelToken};
pub use vault_credentials::{
    CredentialSlot, CredentialUse, NewVaultCredential, SealedSecret, VaultCredentialRow, VaultCredentialSecrets,
};
pub use vaults::{NewVault, VaultRow};
pub use work::{BeatOutcome, Lapsed, LeaseState, Poll, StopOutcome, StoppedBy, TokenGrant, WorkStats};
pub use workspaces::WorkspaceRow;
