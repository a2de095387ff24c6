//! `…/halt`: stops of calls, sessions, environments and workspaces. Own endpoints of this server.

use outwork_ledger::Scope;
use outwork_wire::id::{EventId, WorkspaceId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::call::Call;
use super::environments::environment_id;
use super::render::Reply;
use super::sessions::session_id;
use crate::app::fields::{check_length, given};
use crate::app::halt::{self, Halted, Wish};
use crate::error::ApiError;
use crate::run::registry::Halt;

/// The longest reason, in characters.
const MAX_REASON: usize = 500;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(default, deserialize_with = "given")]
    force: Option<bool>,
    #[serde(default)]
    reason: Option<String>,
}

/// `POST /v1/outwork/calls/{event_id}/halt`
pub(crate) async fn call(mut call: Call) -> Result<Reply, ApiError> {
    let wish = wish(&mut call)?;
    let id: EventId = call.id("event_id", "event")?;
    let order = halt::order(&call.access, wish, Scope::Call, Some(id.clone()));
    answer(&order, halt::call(&call.app, &call.access, &id, &order).await?)
}

/// `POST /v1/outwork/sessions/{session_id}/halt`
pub(crate) async fn session(mut call: Call) -> Result<Reply, ApiError> {
    let wish = wish(&mut call)?;
    let order = halt::order(&call.access, wish, Scope::Session, None);
    answer(
        &order,
        halt::session(&call.app, &call.access, &session_id(&call)?, &order).await?,
    )
}

/// `POST /v1/outwork/environments/{environment_id}/halt`
pub(crate) async fn environment(mut call: Call) -> Result<Reply, ApiError> {
    let wish = wish(&mut call)?;
    let order = halt::order(&call.access, wish, Scope::Environment, None);
    answer(
        &order,
        halt::environment(&call.app, &call.access, &environment_id(&call)?, &order).await?,
    )
}

/// `POST /v1/outwork/workspaces/{workspace_id}/halt`
pub(crate) async fn workspace(mut call: Call) -> Result<Reply, ApiError> {
    let wish = wish(&mut call)?;
    let id: WorkspaceId = call.id("workspace_id", "workspace")?;
    let order = halt::order(&call.access, wish, Scope::Workspace, None);
    answer(
        &order,
        halt::workspace(&call.app, &call.access, &id, &order).await?,
    )
}

fn wish(call: &mut Call) -> Result<Wish, ApiError> {
    call.finish_query()?;
    let params: Params = call.json()?;
    if let Some(reason) = &params.reason {
        check_length("reason", reason, 1..=MAX_REASON)?;
        if reason.chars().any(char::is_control) {
            return Err(ApiError::invalid("reason: must have no control characters"));
        }
    }
    Ok(Wish {
        forced: params.force.unwrap_or(false),
        reason: params.reason,
    })
}

fn answer(order: &Halt, halted: Vec<Halted>) -> Result<Reply, ApiError> {
    let sessions: Vec<Value> = halted
        .iter()
        .map(|one| json!({ "session_id": one.session, "calls": one.calls }))
        .collect();
    Reply::json(&json!({
        "type": "halt", "scope": order.scope, "forced": order.forced, "by": order.actor, "reason": order.reason,
        "sessions": sessions,
    }))
}
