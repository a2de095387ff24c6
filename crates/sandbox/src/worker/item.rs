//! Serves one work item: keep its lease, serve its session, release it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outwork_client::Client;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::attempts::Attempts;
use super::boundary::{Boundary, Machine, Site};
use super::hand::Provider;
use super::lease::{self, LeaseEnd, LeaseState};
use super::options::Layout;
use super::session::{self, SessionEnd, SessionOptions};

const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What every item of a worker is served with.
#[derive(Clone)]
pub(crate) struct Service {
    pub provider: Arc<dyn Provider>,
    pub machine: Arc<Machine>,
    pub workdir: PathBuf,
    pub layout: Layout,
    pub max_idle: Duration,
    pub call_timeout: Duration,
    pub desired_ttl: Option<u32>,
    pub attempts: Arc<Attempts>,
}

/// How serving an item ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemEnd {
    /// The session is over, or rests, or was let go as asked; the item is released.
    Served,
    /// The item may belong to another worker now; it was not touched.
    LeaseLost,
    /// It could not be served; the item is released.
    Failed,
    /// It held nothing to run; the item is released.
    NothingToRun,
    /// It could not be acknowledged, so it was not served.
    NotTaken {
        /// True if the server may hand it out again.
        again: bool,
    },
}

/// The ids of an item.
pub(crate) struct ItemIds {
    pub work: String,
    pub environment: String,
    pub session: String,
}

impl Service {
    /// Serves an item that was acknowledged. `client` carries the item's own credential.
    pub async fn serve(&self, client: Client, ids: &ItemIds, drain: CancellationToken) -> ItemEnd {
        let workspace = match self.workspace(&ids.session) {
            Ok(workspace) => workspace,
            Err(reason) => {
                tracing::error!(work = ids.work, session = ids.session, reason, "item cannot be served");
                force_stop(&client, &ids.environment, &ids.work).await;
                return ItemEnd::Failed;
            }
        };
        tracing::info!(work = ids.work, session = ids.session, workspace = %workspace.display(), "serving");
        let (state, lease) = watch::channel(LeaseState::default());
        let beats = AbortOnDropHandle::new(tokio::spawn(lease::keep(
            client.clone(),
            ids.environment.clone(),
            ids.work.clone(),
            self.desired_ttl,
            state,
        )));
        let boundary = Boundary::begin(
            Arc::clone(&self.machine),
            Site {
                client: client.clone(),
                session: ids.session.clone(),
                environment: ids.environment.clone(),
                workspace: workspace.clone(),
                provider: Arc::clone(&self.provider),
                lease: lease.clone(),
            },
        );
        let boundary = match boundary.await {
            Ok(boundary) => boundary,
            Err(error) => {
                tracing::error!(work = ids.work, session = ids.session, %error, "item cannot be served");
                force_stop(&client, &ids.environment, &ids.work).await;
                return ItemEnd::Failed;
            }
        };
        let end = session::serve(SessionOptions {
            client: client.clone(),
            session_id: ids.session.clone(),
            workspace,
            boundary,
            provider: Arc::clone(&self.provider),
            max_idle: self.max_idle,
            call_timeout: self.call_timeout,
            attempts: Arc::clone(&self.attempts),
            lease: lease.clone(),
            drain,
        })
        .await;
        drop(beats);
        // The lease may have been lost while the session was let go.
        let lost =
            lease.borrow().end.is_some_and(LeaseEnd::is_lost) || matches!(end, SessionEnd::Lease(end) if end.is_lost());
        if lost {
            tracing::warn!(
                work = ids.work,
                session = ids.session,
                "lease lost; let go without stopping the item"
            );
            return ItemEnd::LeaseLost;
        }
        force_stop(&client, &ids.environment, &ids.work).await;
        match end {
            SessionEnd::Refused(error) => {
                tracing::error!(work = ids.work, session = ids.session, %error, "the session cannot be served");
                ItemEnd::Failed
            }
            SessionEnd::Lease(LeaseEnd::Rejected) => ItemEnd::Failed,
            SessionEnd::Over
            | SessionEnd::Idle
            | SessionEnd::Drained
            | SessionEnd::Stopped(_)
            | SessionEnd::Lease(_) => {
                tracing::info!(work = ids.work, session = ids.session, ?end, "served");
                ItemEnd::Served
            }
        }
    }

    fn workspace(&self, session_id: &str) -> Result<PathBuf, String> {
        let path = match self.layout {
            Layout::Shared => self.workdir.clone(),
            Layout::PerSession => self.workdir.join(folder_name(session_id)?),
        };
        make_folder(&path).map_err(|e| format!("the workspace {} cannot be made: {e}", path.display()))?;
        Ok(path)
    }
}

/// Releases an item, as well as it can be done.
pub(crate) async fn force_stop(client: &Client, environment_id: &str, work_id: &str) {
    let work = client.work(environment_id);
    match timeout(STOP_TIMEOUT, work.stop(work_id, true)).await {
        Ok(Ok(())) => {}
        // Somebody else stopped it already.
        Ok(Err(error)) if error.status() == Some(409) => {}
        Ok(Err(error)) => tracing::error!(work = work_id, %error, "item could not be released"),
        Err(_) => tracing::error!(work = work_id, "item could not be released within {STOP_TIMEOUT:?}"),
    }
}

/// Makes a folder that only its owner can read, if there is none.
pub(crate) fn make_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The id comes from the server: it must not lead out of the folder.
pub(crate) fn folder_name(session_id: &str) -> Result<&str, String> {
    let plain = session_id.len() <= 128
        && !session_id.is_empty()
        && session_id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if plain {
        Ok(session_id)
    } else {
        Err("the session's id has characters that cannot be a folder's name".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_cannot_lead_out_of_the_folder() {
        assert_eq!(folder_name("sesn_01aB-9"), Ok("sesn_01aB-9"));
        for id in ["", ".", "..", "a/b", "/etc", "a\0", "a b", &"a".repeat(129)] {
            assert!(folder_name(id).is_err(), "{id:?}");
        }
    }
}
