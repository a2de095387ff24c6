//! `/v1/vaults`: what clients send for vaults and what they are shown.

use outwork_store::{NewVault, VaultRow};
use outwork_wire::Time;
use outwork_wire::id::VaultId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::agents::{list_page, page_request};
use super::call::Call;
use super::render::Reply;
use crate::app::fields::{check_length, checked_metadata, given};
use crate::app::vaults::{self, VaultChange};
use crate::error::ApiError;

const MAX_NAME: usize = 255;
const MAX_PAGE: usize = 100;
/// The most vaults of one session.
const MAX_VAULTS: usize = 20;

/// `POST /v1/vaults`
pub(crate) async fn create(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let new = call.json::<CreateParams>()?.resolve()?;
    let row = vaults::create(&call.app, &call.access, new).await?;
    Reply::json(&VaultView::new(&row))
}

/// `GET /v1/vaults`
pub(crate) async fn list(mut call: Call) -> Result<Reply, ApiError> {
    let include_archived = call.query.flag("include_archived")?.unwrap_or(false);
    let page = page_request(&mut call, MAX_PAGE)?;
    call.finish_query()?;
    let page = vaults::list(&call.app, &call.access, include_archived, page).await?;
    list_page(page, VaultView::new)
}

/// `GET /v1/vaults/{vault_id}`
pub(crate) async fn retrieve(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let row = vaults::retrieve(&call.app, &call.access, &vault_id(&call)?).await?;
    Reply::json(&VaultView::new(&row))
}

/// `POST /v1/vaults/{vault_id}`
pub(crate) async fn update(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let id = vault_id(&call)?;
    let change = call.json::<UpdateParams>()?.resolve()?;
    let row = vaults::update(&call.app, &call.access, &id, change).await?;
    Reply::json(&VaultView::new(&row))
}

/// `POST /v1/vaults/{vault_id}/archive`
pub(crate) async fn archive(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    call.no_body()?;
    let row = vaults::archive(&call.app, &call.access, &vault_id(&call)?).await?;
    Reply::json(&VaultView::new(&row))
}

/// `DELETE /v1/vaults/{vault_id}`
pub(crate) async fn delete(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let id = vault_id(&call)?;
    vaults::delete(&call.app, &call.access, &id).await?;
    Reply::json(&json!({ "id": id, "type": "vault_deleted" }))
}

/// The vault in the path.
pub(super) fn vault_id(call: &Call) -> Result<VaultId, ApiError> {
    call.id("vault_id", "vault")
}

/// Checks the vaults that a session is made with, as far as their ids say.
pub(super) fn check_vault_ids(ids: &[VaultId]) -> Result<(), ApiError> {
    if ids.len() > MAX_VAULTS {
        return Err(ApiError::invalid(format!(
            "vault_ids: at most {MAX_VAULTS} vaults, not {}",
            ids.len()
        )));
    }
    match ids.iter().enumerate().find(|(index, id)| ids[..*index].contains(id)) {
        Some((index, id)) => Err(ApiError::invalid(format!("vault_ids.{index}: `{id}` is given twice"))),
        None => Ok(()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    display_name: String,
    #[serde(default, deserialize_with = "given")]
    metadata: Option<Map<String, Value>>,
}

impl CreateParams {
    fn resolve(self) -> Result<NewVault, ApiError> {
        check_length("display_name", &self.display_name, 1..=MAX_NAME)?;
        Ok(NewVault {
            id: VaultId::fresh(),
            display_name: self.display_name,
            metadata: checked_metadata(self.metadata.unwrap_or_default()).map_err(ApiError::invalid)?,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateParams {
    // A null leaves both as they are.
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    metadata: Option<Map<String, Value>>,
}

impl UpdateParams {
    fn resolve(self) -> Result<VaultChange, ApiError> {
        if let Some(name) = &self.display_name {
            check_length("display_name", name, 1..=MAX_NAME)?;
        }
        Ok(VaultChange {
            display_name: self.display_name,
            metadata: self.metadata,
        })
    }
}

/// A vault as responses show it.
#[derive(Serialize)]
struct VaultView {
    id: VaultId,
    #[serde(rename = "type")]
    kind: &'static str,
    display_name: String,
    metadata: Map<String, Value>,
    created_at: Time,
    updated_at: Time,
    archived_at: Option<Time>,
}

impl VaultView {
    fn new(row: &VaultRow) -> Self {
        Self {
            id: row.id.clone(),
            kind: "vault",
            display_name: row.display_name.clone(),
            metadata: row.metadata.clone(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            archived_at: row.archived_at,
        }
    }
}
