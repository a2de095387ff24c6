//! Stops: of a call, a session, an environment, a workspace; gently or by force.
//!
//! A gentle stop is an interrupt: open calls end with an error that says who stopped them and why, and the session rests
//! until somebody speaks to it. A forced stop of a session ends it for good: it is interrupted and archived in one commit,
//! its work item ends with it, and its worker is told at once to end the sandbox. A forced stop of a call ends the
//! sandbox under it as well; the session goes on in a fresh one. Every stop is in the log and the ledger.

use futures_util::future::join_all;
use outwork_ledger::Scope;
use outwork_store::{StoppedBy, StoreError};
use outwork_wire::Time;
use outwork_wire::id::{EnvironmentId, EventId, SessionId, WorkspaceId};

use super::{App, environments, sessions};
use crate::auth::Access;
use crate::error::{ApiError, ErrorKind};
use crate::evidence::{Order, Subject};
use crate::run::changes::Changed;
use crate::run::registry::{Command, Halt};

/// How many sessions are stopped side by side.
const AT_ONCE: usize = 64;
/// The reason if none is given.
const NO_REASON: &str = "no reason was given";

/// What somebody wants of a stop.
pub(crate) struct Wish {
    pub(crate) forced: bool,
    pub(crate) reason: Option<String>,
}

/// A session that was stopped, and its calls that this ended.
pub(crate) struct Halted {
    pub(crate) session: SessionId,
    pub(crate) calls: Vec<EventId>,
}

/// Who ordered what, and why.
pub(crate) fn order(access: &Access, wish: Wish, scope: Scope, call: Option<EventId>) -> Halt {
    Halt {
        actor: access.principal().to_string(),
        reason: wish.reason.unwrap_or_else(|| NO_REASON.to_owned()),
        scope,
        call,
        forced: wish.forced,
    }
}

/// Stops one call.
pub(crate) async fn call(app: &App, access: &Access, id: &EventId, halt: &Halt) -> Result<Vec<Halted>, ApiError> {
    let workspace = access.workspace()?;
    let session = app.store.session_of_event(workspace, id).await?;
    Ok(vec![one(app, workspace, session, halt.clone()).await?])
}

/// Stops what a session does.
pub(crate) async fn session(app: &App, access: &Access, id: &SessionId, halt: &Halt) -> Result<Vec<Halted>, ApiError> {
    sessions::find(app, access, id).await?;
    let workspace = access.workspace()?;
    Ok(vec![one(app, workspace, id.clone(), halt.clone()).await?])
}

/// Stops what the sessions of an environment do.
pub(crate) async fn environment(
    app: &App,
    access: &Access,
    id: &EnvironmentId,
    halt: &Halt,
) -> Result<Vec<Halted>, ApiError> {
    let workspace = access.workspace()?;
    environments::find(app, workspace, id).await?;
    let sessions = app.store.sessions_to_stop(workspace, Some(id), halt.forced).await?;
    all(app, workspace, sessions, halt).await
}

/// Stops what the sessions of the caller's workspace do.
pub(crate) async fn workspace(
    app: &App,
    access: &Access,
    id: &WorkspaceId,
    halt: &Halt,
) -> Result<Vec<Halted>, ApiError> {
    let own = access.workspace()?;
    if own != id {
        return Err(ApiError::not_found("workspace", id.as_str()));
    }
    let sessions = app.store.sessions_to_stop(own, None, halt.forced).await?;
    all(app, own, sessions, halt).await
}

/// Ends the sessions of an environment that takes no new ones, until there are none.
pub(super) async fn all_of_environment(
    app: &App,
    workspace: &WorkspaceId,
    id: &EnvironmentId,
    halt: &Halt,
) -> Result<(), ApiError> {
    loop {
        let sessions = app.store.sessions_to_stop(workspace, Some(id), true).await?;
        if sessions.is_empty() {
            return Ok(());
        }
        all(app, workspace, sessions, halt).await?;
    }
}

/// Stops sessions, as many as can be: one that cannot be stopped does not keep the others from it.
async fn all(
    app: &App,
    workspace: &WorkspaceId,
    sessions: Vec<SessionId>,
    halt: &Halt,
) -> Result<Vec<Halted>, ApiError> {
    let (mut halted, mut failure) = (Vec::new(), None);
    for some in sessions.chunks(AT_ONCE) {
        let stops = some.iter().map(|id| one(app, workspace, id.clone(), halt.clone()));
        for stopped in join_all(stops).await {
            match stopped {
                Ok(one) => halted.push(one),
                // It was deleted since.
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => failure = Some(error),
            }
        }
    }
    match failure {
        None => Ok(halted),
        Some(error) => {
            tracing::warn!(
                reason = error.message,
                stopped = halted.len(),
                "not every session could be stopped"
            );
            Err(error)
        }
    }
}

async fn one(app: &App, workspace: &WorkspaceId, session: SessionId, halt: Halt) -> Result<Halted, ApiError> {
    let (forced, order) = (halt.forced, halt.clone());
    let stopped = app
        .sessions
        .ask(workspace, &session, |reply| Command::Halt { halt, reply })
        .await;
    // By force the sandbox ends even if the server fails to write what it stops; an order that is refused ends nothing.
    let failed = matches!(&stopped, Err(error) if server_failed(error));
    if forced && failed {
        tell(app, workspace, &session, &order).await;
    }
    let released = if forced && (failed || stopped.is_ok()) {
        let by = if failed {
            StoppedBy::LostOrder
        } else {
            StoppedBy::Operator
        };
        release(app, workspace, &session, by).await
    } else {
        Ok(())
    };
    let calls = stopped?;
    released?;
    Ok(Halted { session, calls })
}

/// Whether an order was not carried out through no fault of its own.
fn server_failed(error: &ApiError) -> bool {
    matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Internal)
}

/// Records an order that the session's owner could not carry out: what it ends is the work item.
async fn tell(app: &App, workspace: &WorkspaceId, session: &SessionId, order: &Halt) {
    let subject = match app.store.session(workspace, session).await {
        Ok(row) => Subject::from(&row),
        Err(_) => Subject {
            workspace: workspace.clone(),
            environment: None,
            session: session.clone(),
            agent: None,
        },
    };
    let live = app.store.live_work_of_session(workspace, session).await.ok().flatten();
    let order = Order {
        actor: order.actor.clone(),
        reason: order.reason.clone(),
        scope: order.scope,
        forced: true,
        ended: live.into_iter().map(|work| work.id.to_string()).collect(),
    };
    app.evidence.tell(order.record(&subject)).await;
}

/// Ends the work item of a session at once, and tells its worker. After an order that was lost no other worker gets the
/// session, until its owner commits something again or somebody speaks to it: the log still has the open calls.
async fn release(app: &App, workspace: &WorkspaceId, session: &SessionId, by: StoppedBy) -> Result<(), StoreError> {
    let outcome = app
        .store
        .stop_work_of_session(workspace, session, true, by, Time::now())
        .await?;
    if let Some(outcome) = outcome
        && outcome.next.is_some()
    {
        app.bells.ring(&outcome.work.environment_id);
    }
    app.changes.ring(Changed::Session(session.clone()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_order_that_the_server_failed_to_carry_out_ends_the_sandbox_all_the_same() {
        for kind in [ErrorKind::Unavailable, ErrorKind::Internal] {
            assert!(server_failed(&ApiError::new(kind, "")), "{kind:?}");
        }
        for kind in [ErrorKind::InvalidRequest, ErrorKind::NotFound, ErrorKind::Permission] {
            assert!(!server_failed(&ApiError::new(kind, "")), "{kind:?}");
        }
    }
}
