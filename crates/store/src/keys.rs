//! Keys: API keys, environment keys, keys of the server's own workers, and who a secret belongs to.
//!
//! Of a secret only its SHA-256 is kept. Secrets are random and long, so their hash can be looked up; the row
//! that is found is compared once more in constant time. A lookup gives revoked and expired keys too, with the
//! times, so that the refusal can say which it is.

use std::collections::HashMap;
use std::sync::PoisonError;

use outwork_wire::Time;
use outwork_wire::id::{ApiKeyId, EnvironmentId, EnvironmentKeyId, WorkspaceId};
use rusqlite::{Connection, OptionalExtension, Row};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::columns::{maybe_time, micros, parsed, time};
use crate::federation::FederatedToken;
use crate::page::{Filter, Keyset, Order};
use crate::work::{Lapsed, TokenGrant};
use crate::{Page, PageRequest, Store, StoreError};

/// The SHA-256 of a secret. Has no `Debug`: it must not reach a log.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a secret.
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret.as_bytes()).into())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether a stored hash is this one, in constant time.
    pub(crate) fn is(&self, stored: &[u8]) -> bool {
        self.0.ct_eq(stored).into()
    }
}

/// An API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyRow {
    /// Its id.
    pub id: ApiKeyId,
    /// The workspace that it opens.
    pub workspace_id: WorkspaceId,
    /// Its name.
    pub name: String,
    /// What it may do, in the plane's words.
    pub role: String,
    /// When it was made.
    pub created_at: Time,
    /// When it ends by itself.
    pub expires_at: Option<Time>,
    /// When it was revoked.
    pub revoked_at: Option<Time>,
    /// When it was last used; may lag.
    pub last_used_at: Option<Time>,
}

/// An API key to be made.
#[derive(Clone)]
pub struct NewApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// Its name.
    pub name: String,
    /// What it may do.
    pub role: String,
    /// The hash of its secret.
    pub hash: KeyHash,
    /// When it ends by itself.
    pub expires_at: Option<Time>,
}

/// A key for the queue of one environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentKeyRow {
    /// Its id.
    pub id: EnvironmentKeyId,
    /// The environment's workspace.
    pub workspace_id: WorkspaceId,
    /// The environment.
    pub environment_id: EnvironmentId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Time,
    /// When it ends by itself.
    pub expires_at: Option<Time>,
    /// When it was revoked.
    pub revoked_at: Option<Time>,
    /// When it was last used; may lag.
    pub last_used_at: Option<Time>,
}

/// An environment key to be made.
#[derive(Clone)]
pub struct NewEnvironmentKey {
    /// Its id.
    pub id: EnvironmentKeyId,
    /// Its name.
    pub name: String,
    /// The hash of its secret.
    pub hash: KeyHash,
    /// When it ends by itself.
    pub expires_at: Option<Time>,
}

/// The key of one of the server's own workers; serves every cloud environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerKeyRow {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Time,
}

/// Who a secret belongs to.
#[derive(Clone, Debug, PartialEq)]
pub enum Credential {
    /// An API key; may be revoked or expired.
    Api(ApiKeyRow),
    /// An environment key; may be revoked or expired.
    Environment(EnvironmentKeyRow),
    /// A key of the server's own workers.
    Worker(WorkerKeyRow),
    /// The token of a work item that is not over.
    Session(TokenGrant),
    /// A token that a workload was given for one of its identity provider; may be expired.
    Federated(FederatedToken),
}

/// Last uses of keys that are not written yet.
#[derive(Clone, Default)]
pub(crate) struct KeyUses {
    api: HashMap<ApiKeyId, Time>,
    environment: HashMap<EnvironmentKeyId, Time>,
}

const API: &str = "SELECT id, workspace_id, name, role, created_at, expires_at, revoked_at, last_used_at, hash \
    FROM api_keys";
const ENVIRONMENT: &str = "SELECT id, workspace_id, environment_id, name, created_at, expires_at, revoked_at, \
    last_used_at, hash FROM environment_keys";

impl Store {
    /// Who a secret belongs to: an API key, an environment key, a worker key, the token of a work item or that of a
    /// workload.
    pub async fn find_credential(&self, hash: KeyHash, now: Time) -> Result<Option<Credential>, StoreError> {
        self.read(move |conn| {
            if let Some(row) = by_hash(conn, &format!("{API} WHERE hash = ?1"), &hash, 8, read_api)? {
                return Ok(Some(Credential::Api(row)));
            }
            let sql = format!("{ENVIRONMENT} WHERE hash = ?1");
            if let Some(row) = by_hash(conn, &sql, &hash, 8, read_environment)? {
                return Ok(Some(Credential::Environment(row)));
            }
            let sql = "SELECT name, created_at, hash FROM worker_keys WHERE hash = ?1";
            if let Some(row) = by_hash(conn, sql, &hash, 2, read_worker)? {
                return Ok(Some(Credential::Worker(row)));
            }
            if let Some(grant) = crate::work::grant(conn, &hash, now)? {
                return Ok(Some(Credential::Session(grant)));
            }
            Ok(crate::federation::find(conn, &hash)?.map(Credential::Federated))
        })
        .await
    }

    /// Makes an API key.
    pub async fn create_api_key(
        &self,
        workspace: &WorkspaceId,
        new: NewApiKey,
        now: Time,
    ) -> Result<ApiKeyRow, StoreError> {
        let workspace = workspace.clone();
        self.write(move |conn| {
            conn.prepare_cached(
                "INSERT INTO api_keys (id, workspace_id, name, role, hash, created_at, expires_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute((
                new.id.as_str(),
                workspace.as_str(),
                &new.name,
                &new.role,
                new.hash.bytes(),
                now.as_micros(),
                micros(new.expires_at),
            ))?;
            api_key(conn, &workspace, &new.id)
        })
        .await
    }

    /// API keys, newest first, revoked ones too.
    pub async fn list_api_keys(
        &self,
        workspace: &WorkspaceId,
        page: PageRequest,
    ) -> Result<Page<ApiKeyRow>, StoreError> {
        let filter = Filter::default().and("workspace_id = ?", [workspace.to_string()]);
        self.read(move |conn| {
            Keyset {
                list: "api_keys",
                select: API,
                key: ("created_at", "id"),
                order: Order::Desc,
                filter,
            }
            .page(conn, &page, read_api, |row| {
                (row.created_at.as_micros(), row.id.to_string())
            })
        })
        .await
    }

    /// Revokes an API key; one that is revoked stays as it is.
    pub async fn revoke_api_key(
        &self,
        workspace: &WorkspaceId,
        id: &ApiKeyId,
        now: Time,
    ) -> Result<ApiKeyRow, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.write(move |conn| {
            conn.prepare_cached(
                "UPDATE api_keys SET revoked_at = ?3 WHERE id = ?1 AND workspace_id = ?2 AND revoked_at IS NULL",
            )?
            .execute((id.as_str(), workspace.as_str(), now.as_micros()))?;
            api_key(conn, &workspace, &id)
        })
        .await
    }

    /// Makes a key for an environment's queue.
    pub async fn create_environment_key(
        &self,
        workspace: &WorkspaceId,
        environment: &EnvironmentId,
        new: NewEnvironmentKey,
        now: Time,
    ) -> Result<EnvironmentKeyRow, StoreError> {
        let (workspace, environment) = (workspace.clone(), environment.clone());
        self.write(move |conn| {
            crate::environments::find(conn, &workspace, &environment)?;
            conn.prepare_cached(
                "INSERT INTO environment_keys (id, workspace_id, environment_id, name, hash, created_at, expires_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute((
                new.id.as_str(),
                workspace.as_str(),
                environment.as_str(),
                &new.name,
                new.hash.bytes(),
                now.as_micros(),
                micros(new.expires_at),
            ))?;
            environment_key(conn, &workspace, &environment, &new.id)
        })
        .await
    }

    /// The keys of an environment, newest first, revoked ones too.
    pub async fn list_environment_keys(
        &self,
        workspace: &WorkspaceId,
        environment: &EnvironmentId,
        page: PageRequest,
    ) -> Result<Page<EnvironmentKeyRow>, StoreError> {
        let (workspace, environment) = (workspace.clone(), environment.clone());
        self.read(move |conn| {
            crate::environments::find(conn, &workspace, &environment)?;
            Keyset {
                list: "environment_keys",
                select: ENVIRONMENT,
                key: ("created_at", "id"),
                order: Order::Desc,
                filter: Filter::default()
                    .and("environment_id = ?", [environment.to_string()])
                    .and("workspace_id = ?", [workspace.to_string()]),
            }
            .page(conn, &page, read_environment, |row| {
                (row.created_at.as_micros(), row.id.to_string())
            })
        })
        .await
    }

    /// Revokes an environment key; one that is revoked stays as it is. What it was given ends with it: the tokens
    /// that it polled are void, and the items that it held are taken back as if their leases had lapsed.
    pub async fn revoke_environment_key(
        &self,
        workspace: &WorkspaceId,
        environment: &EnvironmentId,
        id: &EnvironmentKeyId,
        now: Time,
    ) -> Result<(EnvironmentKeyRow, Vec<Lapsed>), StoreError> {
        let (workspace, environment, id) = (workspace.clone(), environment.clone(), id.clone());
        self.write(move |conn| {
            conn.prepare_cached(
                "UPDATE environment_keys SET revoked_at = ?4 \
                 WHERE id = ?1 AND environment_id = ?2 AND workspace_id = ?3 AND revoked_at IS NULL",
            )?
            .execute((id.as_str(), environment.as_str(), workspace.as_str(), now.as_micros()))?;
            let row = environment_key(conn, &workspace, &environment, &id)?;
            let lapsed = crate::work_upkeep::end_deliveries(conn, &id, now)?;
            Ok((row, lapsed))
        })
        .await
    }

    /// Sets the key of the server's own worker of that name; an earlier one of the same name ends.
    pub async fn set_worker_key(&self, name: &str, hash: KeyHash, now: Time) -> Result<WorkerKeyRow, StoreError> {
        let row = WorkerKeyRow {
            name: name.to_owned(),
            created_at: now,
        };
        self.write(move |conn| {
            conn.prepare_cached(
                "INSERT INTO worker_keys (name, hash, created_at) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (name) DO UPDATE SET hash = excluded.hash, created_at = excluded.created_at",
            )?
            .execute((&row.name, hash.bytes(), now.as_micros()))?;
            Ok(row)
        })
        .await
    }

    /// Notes that an API key was used; written by [`Store::flush_key_uses`].
    pub fn note_api_key_use(&self, id: &ApiKeyId, now: Time) {
        let mut uses = self.inner.key_uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.api.insert(id.clone(), now);
    }

    /// Notes that an environment key was used; written by [`Store::flush_key_uses`].
    pub fn note_environment_key_use(&self, id: &EnvironmentKeyId, now: Time) {
        let mut uses = self.inner.key_uses.lock().unwrap_or_else(PoisonError::into_inner);
        uses.environment.insert(id.clone(), now);
    }

    /// Writes the last uses that were noted; also done by [`Store::close`].
    pub async fn flush_key_uses(&self) -> Result<(), StoreError> {
        let uses = std::mem::take(&mut *self.inner.key_uses.lock().unwrap_or_else(PoisonError::into_inner));
        if uses.api.is_empty() && uses.environment.is_empty() {
            return Ok(());
        }
        let kept = uses.clone();
        let written = self
            .write(move |conn| {
                let mut statement = conn.prepare_cached("UPDATE api_keys SET last_used_at = ?2 WHERE id = ?1")?;
                for (id, at) in &uses.api {
                    statement.execute((id.as_str(), at.as_micros()))?;
                }
                let mut statement =
                    conn.prepare_cached("UPDATE environment_keys SET last_used_at = ?2 WHERE id = ?1")?;
                for (id, at) in &uses.environment {
                    statement.execute((id.as_str(), at.as_micros()))?;
                }
                Ok(())
            })
            .await;
        if written.is_err() {
            // They are written with the next ones, unless there are later ones.
            let mut uses = self.inner.key_uses.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, at) in kept.api {
                uses.api.entry(id).or_insert(at);
            }
            for (id, at) in kept.environment {
                uses.environment.entry(id).or_insert(at);
            }
        }
        written
    }
}

fn api_key(conn: &Connection, workspace: &WorkspaceId, id: &ApiKeyId) -> Result<ApiKeyRow, StoreError> {
    conn.prepare_cached(&format!("{API} WHERE id = ?1 AND workspace_id = ?2"))?
        .query_row((id.as_str(), workspace.as_str()), read_api)
        .optional()?
        .ok_or_else(|| StoreError::not_found("API key", id))
}

fn environment_key(
    conn: &Connection,
    workspace: &WorkspaceId,
    environment: &EnvironmentId,
    id: &EnvironmentKeyId,
) -> Result<EnvironmentKeyRow, StoreError> {
    let sql = format!("{ENVIRONMENT} WHERE id = ?1 AND environment_id = ?2 AND workspace_id = ?3");
    conn.prepare_cached(&sql)?
        .query_row(
            (id.as_str(), environment.as_str(), workspace.as_str()),
            read_environment,
        )
        .optional()?
        .ok_or_else(|| StoreError::not_found("environment key", id))
}

/// The row of that hash; `column` holds the stored hash.
pub(crate) fn by_hash<T>(
    conn: &Connection,
    sql: &str,
    hash: &KeyHash,
    column: usize,
    map: impl Fn(&Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<T>, StoreError> {
    let found = conn
        .prepare_cached(sql)?
        .query_row([hash.bytes()], |row| {
            let same = hash.is(row.get_ref(column)?.as_blob()?);
            Ok(if same { Some(map(row)?) } else { None })
        })
        .optional()?;
    Ok(found.flatten())
}

fn read_api(row: &Row<'_>) -> rusqlite::Result<ApiKeyRow> {
    Ok(ApiKeyRow {
        id: parsed(row, 0)?,
        workspace_id: parsed(row, 1)?,
        name: row.get(2)?,
        role: row.get(3)?,
        created_at: time(row, 4)?,
        expires_at: maybe_time(row, 5)?,
        revoked_at: maybe_time(row, 6)?,
        last_used_at: maybe_time(row, 7)?,
    })
}

fn read_environment(row: &Row<'_>) -> rusqlite::Result<EnvironmentKeyRow> {
    Ok(EnvironmentKeyRow {
        id: parsed(row, 0)?,
        workspace_id: parsed(row, 1)?,
        environment_id: parsed(row, 2)?,
        name: row.get(3)?,
        created_at: time(row, 4)?,
        expires_at: maybe_time(row, 5)?,
        revoked_at: maybe_time(row, 6)?,
        last_used_at: maybe_time(row, 7)?,
    })
}

fn read_worker(row: &Row<'_>) -> rusqlite::Result<WorkerKeyRow> {
    Ok(WorkerKeyRow {
        name: row.get(0)?,
        created_at: time(row, 1)?,
    })
}
