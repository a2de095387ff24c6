//! `/v1/sessions/{session_id}/resources`, the `resources` of sessions that are made and shown, and what a session's
//! worker is told of them (`/v1/outwork/sessions/{session_id}/mounts` and `/secrets`, own endpoints of this server).
//!
//! Tokens are write-only. Only `/secrets` shows them, to the session's worker, in an answer that nothing may keep.

use outwork_store::{Checkout, PageRequest, ResourceSpec, SessionResourceRow};
use outwork_wire::Time;
use outwork_wire::id::{FileId, ResourceId};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::agents::list_page;
use super::body::parse_value;
use super::call::Call;
use super::render::Reply;
use super::sessions::{session_id, unsupported};
use crate::app::resources::{self, DraftKind, Mount, ResourceDraft};
use crate::app::session_secrets;
use crate::error::ApiError;

/// The most resources of one page; all that a session can have unless a limit is given.
const MAX_PAGE: usize = 1000;
/// The longest token, in bytes.
const MAX_TOKEN: usize = 8 << 10;
/// The longest name of a branch, in bytes.
const MAX_BRANCH: usize = 255;

/// `GET /v1/sessions/{session_id}/resources`
pub(crate) async fn list(mut call: Call) -> Result<Reply, ApiError> {
    let page = PageRequest {
        limit: call.query.limit(MAX_PAGE, MAX_PAGE)?,
        cursor: call.query.text("page")?,
    };
    call.finish_query()?;
    let page = resources::list(&call.app, &call.access, &session_id(&call)?, page).await?;
    list_page(page, ResourceView::new)
}

/// `POST /v1/sessions/{session_id}/resources`
pub(crate) async fn add(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let session = session_id(&call)?;
    let value: Value = call.json()?;
    let kind = value.get("type").and_then(Value::as_str);
    if matches!(kind, Some("github_repository" | "memory_store")) {
        return Err(ApiError::invalid(
            "type: only a file can be added to a session; repositories are given when it is made",
        ));
    }
    let draft = draft(String::new(), value)?;
    let row = resources::add(&call.app, &call.access, &session, draft).await?;
    Reply::json(&ResourceView::new(&row))
}

/// `GET /v1/sessions/{session_id}/resources/{resource_id}`
pub(crate) async fn retrieve(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let (session, id) = (session_id(&call)?, resource_id(&call)?);
    let row = resources::retrieve(&call.app, &call.access, &session, &id).await?;
    Reply::json(&ResourceView::new(&row))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateParams {
    authorization_token: Token,
}

/// `POST /v1/sessions/{session_id}/resources/{resource_id}`
pub(crate) async fn update(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let (session, id) = (session_id(&call)?, resource_id(&call)?);
    let token = call.json::<UpdateParams>()?.authorization_token.checked("")?;
    let row = resources::replace_token(&call.app, &call.access, &session, &id, token).await?;
    Reply::json(&ResourceView::new(&row))
}

/// `DELETE /v1/sessions/{session_id}/resources/{resource_id}`
pub(crate) async fn delete(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let (session, id) = (session_id(&call)?, resource_id(&call)?);
    resources::delete(&call.app, &call.access, &session, &id).await?;
    Reply::json(&json!({ "id": id, "type": "session_resource_deleted" }))
}

/// `GET /v1/outwork/sessions/{session_id}/mounts`
pub(crate) async fn mounts(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let mounts = resources::mounts(&call.app, &call.access, &session_id(&call)?).await?;
    let data: Vec<Value> = mounts.iter().map(mount_view).collect();
    Reply::json(&json!({ "data": data, "next_page": null }))
}

/// `GET /v1/outwork/sessions/{session_id}/secrets`
pub(crate) async fn secrets(mut call: Call) -> Result<Reply, ApiError> {
    call.finish_query()?;
    let secrets = session_secrets::of(&call.app, &call.access, &session_id(&call)?).await?;
    let repositories: Vec<Value> = secrets
        .repositories
        .iter()
        .map(|of| json!({ "resource_id": of.resource, "url": of.url, "token": of.token.expose_secret() }))
        .collect();
    let variables: Vec<Value> = secrets
        .variables
        .iter()
        .map(|of| {
            json!({
                "vault_id": of.vault, "credential_id": of.credential, "name": of.name,
                "value": of.value.expose_secret(), "networking": of.networking,
                "injection_location": of.injection_location,
            })
        })
        .collect();
    Reply::uncached(&json!({ "repositories": repositories, "variables": variables }))
}

fn resource_id(call: &Call) -> Result<ResourceId, ApiError> {
    call.id("resource_id", "session resource")
}

/// A secret in a body. Has no `Debug`.
struct Token(SecretString);

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(SecretString::from(text)))
    }
}

impl Token {
    fn checked(self, at: &str) -> Result<SecretString, ApiError> {
        let text = self.0.expose_secret();
        if text.is_empty() || text.len() > MAX_TOKEN || !text.bytes().all(|b| (b'!'..=b'~').contains(&b)) {
            return Err(ApiError::invalid(format!(
                "{at}authorization_token: must have from 1 to {MAX_TOKEN} visible ASCII characters, without spaces"
            )));
        }
        Ok(self.0)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileParams {
    file_id: FileId,
    #[serde(default)]
    mount_path: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RepositoryParams {
    url: String,
    #[serde(default)]
    authorization_token: Option<Token>,
    #[serde(default)]
    checkout: Option<CheckoutParams>,
    #[serde(default)]
    mount_path: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum CheckoutParams {
    Branch { name: String },
    Commit { sha: String },
}

/// The `resources` that a session is to be made with.
pub(super) fn drafts(values: Vec<Value>) -> Result<Vec<ResourceDraft>, ApiError> {
    values
        .into_iter()
        .enumerate()
        .map(|(index, value)| draft(format!("resources.{index}."), value))
        .collect()
}

/// Each object is read by its `type`, so that a field of another type is unknown here and named.
fn draft(at: String, mut value: Value) -> Result<ResourceDraft, ApiError> {
    let place = if at.is_empty() {
        "resource"
    } else {
        at.trim_end_matches('.')
    }
    .to_owned();
    let Some(fields) = value.as_object_mut() else {
        return Err(ApiError::invalid(format!("{place}: must be an object")));
    };
    let kind = fields.shift_remove("type");
    let (mount_path, what) = match kind.as_ref().and_then(Value::as_str) {
        Some("file") => {
            let params: FileParams = parse_value(&place, value)?;
            (params.mount_path, DraftKind::File { file: params.file_id })
        }
        Some("github_repository") => {
            let params: RepositoryParams = parse_value(&place, value)?;
            let checkout = params.checkout.map(|of| checked_checkout(&at, of)).transpose()?;
            let token = params.authorization_token.map(|token| token.checked(&at)).transpose()?;
            let url = params.url;
            (params.mount_path, DraftKind::Repository { url, checkout, token })
        }
        Some("memory_store") => return Err(unsupported(&format!("{at}type"), "memory stores")),
        Some(other) => {
            return Err(ApiError::invalid(format!(
                "{at}type: `{}` is no type of resource; use file or github_repository",
                super::shortened(other)
            )));
        }
        None => {
            return Err(ApiError::invalid(format!(
                "{at}type: is required; use file or github_repository"
            )));
        }
    };
    Ok(ResourceDraft { at, mount_path, what })
}

/// Refuses what Git would not take for a branch or a commit, or would take for something else.
fn checked_checkout(at: &str, params: CheckoutParams) -> Result<Checkout, ApiError> {
    match params {
        CheckoutParams::Branch { name } => {
            let odd = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
            let part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
            let bad = name.is_empty()
                || name.len() > MAX_BRANCH
                || name.starts_with('-')
                || name.ends_with('.')
                || name.contains("..")
                || name.contains("@{")
                || name.contains(odd)
                || name.split('/').any(part);
            if bad {
                return Err(ApiError::invalid(format!("{at}checkout.name: is no name of a branch")));
            }
            Ok(Checkout::Branch { name })
        }
        CheckoutParams::Commit { sha } => {
            if !matches!(sha.len(), 40 | 64) || !sha.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ApiError::invalid(format!(
                    "{at}checkout.sha: must be the whole hash of a commit, 40 or 64 hexadecimal digits"
                )));
            }
            Ok(Checkout::Commit { sha })
        }
    }
}

/// A resource as responses show it.
#[derive(Serialize)]
pub(super) struct ResourceView {
    id: ResourceId,
    mount_path: String,
    #[serde(flatten)]
    what: WhatView,
    created_at: Time,
    updated_at: Time,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum WhatView {
    File { file_id: FileId },
    GithubRepository { url: String, checkout: Option<Checkout> },
}

impl ResourceView {
    pub(super) fn new(row: &SessionResourceRow) -> Self {
        Self {
            id: row.id.clone(),
            mount_path: row.mount_path.clone(),
            what: match row.spec.clone() {
                ResourceSpec::File { file_id } => WhatView::File { file_id },
                ResourceSpec::GithubRepository { url, checkout, .. } => WhatView::GithubRepository { url, checkout },
            },
            created_at: row.created_at(),
            updated_at: row.updated_at(),
        }
    }
}

fn mount_view(mount: &Mount) -> Value {
    let row = &mount.row;
    match &row.spec {
        ResourceSpec::File { file_id } => json!({
            "id": row.id, "type": "file", "mount_path": row.mount_path, "available": mount.is_available(),
            "file_id": file_id,
            "filename": mount.file.as_ref().map(|file| &file.filename),
            "mime_type": mount.file.as_ref().map(|file| &file.mime_type),
            "size_bytes": mount.file.as_ref().map(|file| file.size_bytes),
            "sha256": mount.file.as_ref().map(|file| &file.sha256),
        }),
        ResourceSpec::GithubRepository {
            url,
            checkout,
            authorized,
        } => json!({
            "id": row.id, "type": "github_repository", "mount_path": row.mount_path,
            "available": mount.is_available(), "url": url, "checkout": checkout, "authorized": authorized,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_and_commits_that_git_would_not_take_are_refused() {
        let branch = |name: &str| checked_checkout("", CheckoutParams::Branch { name: name.into() });
        for good in ["main", "feature/a-b_c", "v1.2", "ä"] {
            assert!(branch(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-x",
            "--upload-pack=x",
            "a b",
            "a..b",
            "a/",
            "/a",
            "a.lock",
            "a\nb",
            "a:b",
            ".a",
            "a/.b",
            "a@{1}",
            "a.",
        ] {
            assert!(branch(bad).is_err(), "{bad}");
        }
        let commit = |sha: &str| checked_checkout("", CheckoutParams::Commit { sha: sha.into() });
        assert!(commit(&"a1".repeat(20)).is_ok());
        for bad in ["", "abc", "HEAD", &"g".repeat(40)] {
            assert!(commit(bad).is_err(), "{bad}");
        }
    }
}
