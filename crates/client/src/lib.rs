//! An async client of the Managed Agents API.
//!
//! For the worker and the command line, against any server with this contract. It is thin: a typed request,
//! a typed error, bounded retries, pages and the event stream. Answers are [`serde_json::Value`] or small
//! structs that ignore what they do not know, since a server may be newer than its client.
//!
//! It refuses redirects (a credential must not follow one), answers above a size limit, and ids that would
//! change the path they are put into. Credentials have no `Debug` and reach no error and no log line.
#![forbid(unsafe_code)]

mod client;
mod error;
mod events;
mod options;
mod pages;
mod request;
mod resources;
mod transfer;

pub use client::Client;
pub use error::{ApiError, ClientError};
pub use events::{EventStream, ObservedEvent};
pub use options::{API_VERSION, Credential, MANAGED_AGENTS_BETA, Options, RetryPolicy, Timeouts};
pub use pages::Pages;
pub use request::{Query, Request, path};
pub use resources::agents::Agents;
pub use resources::boundary::{
    Boundary, BoundaryAgent, BoundaryResource, BoundaryServer, BoundaryStop, BoundaryVariable,
};
pub use resources::environments::Environments;
pub use resources::files::Files;
pub use resources::keys::{ApiKeys, EnvironmentKeys, Workspaces};
pub use resources::models::Models;
pub use resources::session_files::{
    Mount, MountKind, RepositoryToken, SessionFiles, SessionSecrets, SessionText, SessionVariable,
};
pub use resources::sessions::{Events, Sessions};
pub use resources::tunnels::{TunnelCertificates, Tunnels};
pub use resources::vaults::{VaultCredentials, Vaults};
pub use resources::work::{HeartbeatAnswer, PollParams, PolledWork, Work, WorkItemData, WorkStats};

pub use transfer::{Download, Upload};

/// The result of a call.
pub type Result<T, E = ClientError> = std::result::Result<T, E>;
