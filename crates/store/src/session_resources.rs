//! Resources of sessions: the files and repositories that a session's sandbox gets, each at a place of its own.
//!
//! No two resources of a session are at the same place or one inside the other. A session has a limited number of
//! each kind. Tokens of repositories are kept sealed; the store cannot open them. A file may be deleted while a session
//! has it: the resource stays and says which file it was.

use outwork_wire::Time;
use outwork_wire::id::{FileId, ResourceId, SessionId, WorkspaceId};
use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};

use crate::columns::{json, parsed, time};
use crate::page::{Filter, Keyset, Order};
use crate::sessions::SessionStatus;
use crate::vault_credentials::SealedSecret;
use crate::{Page, PageRequest, Store, StoreError};

/// What a resource is, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResourceSpec {
    /// A file.
    File {
        /// Which one.
        file_id: FileId,
    },
    /// A Git repository.
    GithubRepository {
        /// Its address.
        url: String,
        /// What of it; its default branch if it is absent.
        checkout: Option<Checkout>,
        /// Whether a token is kept for it.
        authorized: bool,
    },
}

/// What of a repository is checked out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Checkout {
    /// The tip of a branch.
    Branch {
        /// Its name.
        name: String,
    },
    /// A commit.
    Commit {
        /// Its hash.
        sha: String,
    },
}

/// A resource of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionResourceRow {
    /// Its id.
    pub id: ResourceId,
    /// Its number: the order in which resources were added.
    pub number: u64,
    /// Where it is in the sandbox.
    pub mount_path: String,
    /// What it is.
    pub spec: ResourceSpec,
    /// When it was added, in microseconds.
    created_at: i64,
    /// When it was last changed, in microseconds.
    updated_at: i64,
}

impl SessionResourceRow {
    /// When it was added.
    pub fn created_at(&self) -> Time {
        Time::from_micros(self.created_at)
    }

    /// When it was last changed.
    pub fn updated_at(&self) -> Time {
        Time::from_micros(self.updated_at)
    }
}

/// A resource to be added.
#[derive(Clone, Debug)]
pub struct NewSessionResource {
    /// Its id.
    pub id: ResourceId,
    /// Where it is to be in the sandbox.
    pub mount_path: String,
    /// What it is.
    pub spec: ResourceSpec,
    /// Its secrets.
    pub secrets: Vec<SealedSecret>,
}

/// The most files of one session.
pub const MAX_SESSION_FILES: usize = 500;
/// The most repositories of one session.
pub const MAX_SESSION_REPOSITORIES: usize = 20;

pub(crate) const SELECT: &str = "SELECT id, number, mount_path, spec, created_at, updated_at FROM session_resources";

/// All resources of the session `s` as one JSON text; read back by [`SessionResourceRow`]'s own form.
pub(crate) const OF_SESSION: &str = "(SELECT json_group_array(json_object('id', r.id, 'number', r.number, \
    'mount_path', r.mount_path, 'spec', json(r.spec), 'created_at', r.created_at, 'updated_at', r.updated_at) \
    ORDER BY r.number) FROM session_resources r WHERE r.session_id = s.id)";

impl Store {
    /// Adds a resource to a session. `NotFound` if the session or the file is not in the workspace, `Rejected` if the
    /// session is over, has too many, or has something at that place.
    pub async fn add_session_resource(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        new: NewSessionResource,
        now: Time,
    ) -> Result<SessionResourceRow, StoreError> {
        let (workspace, session) = (workspace.clone(), session.clone());
        self.write(move |conn| {
            open_session(conn, &workspace, &session)?;
            insert(conn, &workspace, &session, &new, now)?;
            find(conn, &workspace, &session, &new.id)
        })
        .await
    }

    /// Resources of a session, in the order in which they were added.
    pub async fn list_session_resources(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        page: PageRequest,
    ) -> Result<Page<SessionResourceRow>, StoreError> {
        let filter = Filter::default()
            .and("workspace_id = ?", [workspace.to_string()])
            .and("session_id = ?", [session.to_string()]);
        let (workspace, session) = (workspace.clone(), session.clone());
        self.read(move |conn| {
            crate::sessions::find(conn, &workspace, &session)?;
            Keyset {
                list: "session resources",
                select: SELECT,
                key: ("number", "id"),
                order: Order::Asc,
                filter,
            }
            .page(conn, &page, read, |row| (row.number as i64, row.id.to_string()))
        })
        .await
    }

    /// All resources of a session, in the order in which they were added: as many as a session may have.
    pub async fn session_resources(&self, session: &SessionId) -> Result<Vec<SessionResourceRow>, StoreError> {
        let session = session.to_string();
        self.read(move |conn| {
            let mut statement = conn.prepare_cached(&format!("{SELECT} WHERE session_id = ?1 ORDER BY number"))?;
            let rows = statement.query_map([session], read)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
        .await
    }

    /// The resource of that id of a session.
    pub async fn session_resource(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        id: &ResourceId,
    ) -> Result<SessionResourceRow, StoreError> {
        let (workspace, session, id) = (workspace.clone(), session.clone(), id.clone());
        self.read(move |conn| {
            crate::sessions::find(conn, &workspace, &session)?;
            find(conn, &workspace, &session, &id)
        })
        .await
    }

    /// Replaces the secrets of a repository. `Rejected` for a file, which has none, and if the session is over.
    pub async fn replace_resource_secrets(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        id: &ResourceId,
        secrets: Vec<SealedSecret>,
        now: Time,
    ) -> Result<SessionResourceRow, StoreError> {
        let (workspace, session, id) = (workspace.clone(), session.clone(), id.clone());
        self.write(move |conn| {
            open_session(conn, &workspace, &session)?;
            let mut row = find(conn, &workspace, &session, &id)?;
            match &mut row.spec {
                ResourceSpec::File { .. } => {
                    return Err(StoreError::rejected(format!(
                        "resource `{id}` is a file and has no token: only a github_repository has one"
                    )));
                }
                ResourceSpec::GithubRepository { authorized, .. } => *authorized = true,
            }
            conn.prepare_cached("UPDATE session_resources SET spec = ?2, updated_at = ?3 WHERE id = ?1")?
                .execute((id.as_str(), serde_json::to_string(&row.spec)?, now.as_micros()))?;
            keep_secrets(conn, &id, &secrets)?;
            find(conn, &workspace, &session, &id)
        })
        .await
    }

    /// Takes a resource from a session.
    pub async fn delete_session_resource(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
        id: &ResourceId,
    ) -> Result<(), StoreError> {
        let (workspace, session, id) = (workspace.clone(), session.clone(), id.clone());
        self.write(move |conn| {
            open_session(conn, &workspace, &session)?;
            find(conn, &workspace, &session, &id)?;
            conn.prepare_cached("DELETE FROM session_resource_secrets WHERE resource_id = ?1")?
                .execute([id.as_str()])?;
            conn.prepare_cached("DELETE FROM session_resources WHERE id = ?1")?
                .execute([id.as_str()])?;
            Ok(())
        })
        .await
    }
}

/// Adds the resources that a session is made with.
pub(crate) fn insert_all(
    conn: &Connection,
    workspace: &WorkspaceId,
    session: &SessionId,
    resources: &[NewSessionResource],
    now: Time,
) -> Result<(), StoreError> {
    for new in resources {
        insert(conn, workspace, session, new, now)?;
    }
    Ok(())
}

/// Deletes what a session had.
pub(crate) fn delete_all(conn: &Connection, session: &SessionId) -> Result<(), StoreError> {
    conn.prepare_cached(
        "DELETE FROM session_resource_secrets WHERE resource_id IN \
         (SELECT id FROM session_resources WHERE session_id = ?1)",
    )?
    .execute([session.as_str()])?;
    conn.prepare_cached("DELETE FROM session_resources WHERE session_id = ?1")?
        .execute([session.as_str()])?;
    Ok(())
}

/// The session, unless it is over.
fn open_session(conn: &Connection, workspace: &WorkspaceId, session: &SessionId) -> Result<(), StoreError> {
    let row = crate::sessions::find(conn, workspace, session)?;
    if row.archived_at.is_some() || row.status == SessionStatus::Terminated {
        return Err(StoreError::rejected(format!(
            "session `{session}` is over: its resources cannot be changed"
        )));
    }
    Ok(())
}

fn insert(
    conn: &Connection,
    workspace: &WorkspaceId,
    session: &SessionId,
    new: &NewSessionResource,
    now: Time,
) -> Result<(), StoreError> {
    let there: Vec<(String, bool)> = conn
        .prepare_cached("SELECT mount_path, file_id IS NOT NULL FROM session_resources WHERE session_id = ?1")?
        .query_map([session.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let (file_id, limit, what) = match &new.spec {
        ResourceSpec::File { file_id } => (Some(file_id), MAX_SESSION_FILES, "files"),
        ResourceSpec::GithubRepository { .. } => (None, MAX_SESSION_REPOSITORIES, "repositories"),
    };
    if there.iter().filter(|(_, file)| *file == file_id.is_some()).count() >= limit {
        return Err(StoreError::rejected(format!("a session has at most {limit} {what}")));
    }
    if let Some((other, _)) = there.iter().find(|(other, _)| overlap(other, &new.mount_path)) {
        return Err(StoreError::rejected(format!(
            "mount_path: `{}` is in the way of `{other}`, where this session has another resource",
            new.mount_path
        )));
    }
    if let Some(file) = file_id
        && !crate::files::find(conn, workspace, file)?.has_bytes(now)
    {
        return Err(StoreError::rejected(format!(
            "file_id: file `{file}` has expired and its bytes are gone; upload it again"
        )));
    }
    conn.prepare_cached(
        "INSERT INTO session_resources (id, workspace_id, session_id, mount_path, file_id, spec, created_at, \
         updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)",
    )?
    .execute((
        new.id.as_str(),
        workspace.as_str(),
        session.as_str(),
        &new.mount_path,
        file_id.map(FileId::as_str),
        serde_json::to_string(&new.spec)?,
        now.as_micros(),
    ))?;
    keep_secrets(conn, &new.id, &new.secrets)
}

/// Whether two places are the same, or one is inside the other.
fn overlap(one: &str, other: &str) -> bool {
    let inside = |inner: &str, outer: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    inside(one, other) || inside(other, one)
}

fn keep_secrets(conn: &Connection, id: &ResourceId, secrets: &[SealedSecret]) -> Result<(), StoreError> {
    for secret in secrets {
        conn.prepare_cached(
            "INSERT INTO session_resource_secrets (resource_id, field, data_key_id, sealed) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (resource_id, field) DO UPDATE SET data_key_id = ?3, sealed = ?4",
        )?
        .execute((id.as_str(), &secret.field, secret.data_key_id.as_str(), &secret.sealed))?;
    }
    Ok(())
}

fn find(
    conn: &Connection,
    workspace: &WorkspaceId,
    session: &SessionId,
    id: &ResourceId,
) -> Result<SessionResourceRow, StoreError> {
    conn.prepare_cached(&format!(
        "{SELECT} WHERE id = ?1 AND session_id = ?2 AND workspace_id = ?3"
    ))?
    .query_row((id.as_str(), session.as_str(), workspace.as_str()), read)
    .optional()?
    .ok_or_else(|| StoreError::not_found("session resource", id))
}

pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<SessionResourceRow> {
    Ok(SessionResourceRow {
        id: parsed(row, 0)?,
        number: crate::columns::count(row, 1)?,
        mount_path: row.get(2)?,
        spec: json(row, 3)?,
        created_at: time(row, 4)?.as_micros(),
        updated_at: time(row, 5)?.as_micros(),
    })
}

#[cfg(test)]
mod tests {
    use super::overlap;

    #[test]
    fn places_are_in_each_others_way_by_whole_names() {
        for (one, other, wanted) in [
            ("/a/b", "/a/b", true),
            ("/a", "/a/b", true),
            ("/a/b/c", "/a/b", true),
            ("/a/b", "/a/bc", false),
            ("/a/b", "/a/c", false),
        ] {
            assert_eq!(overlap(one, other), wanted, "{one} {other}");
        }
    }
}
