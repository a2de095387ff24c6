//! Credentials of vaults: what is public of them, and their secrets as sealed bytes that the store cannot open.
//!
//! A vault has one credential in force per slot, and a limited number of them. An archived credential stays to be
//! read and has no secrets; its slot is free again. Every change of secrets counts up the credential's generation, so
//! that whoever read the older ones can tell that somebody else replaced them in the meantime.

use std::fmt;

use outwork_wire::Time;
use outwork_wire::id::{DataKeyId, VaultCredentialId, VaultId, WorkspaceId};
use rusqlite::{Connection, OptionalExtension, Row};
use serde_json::{Map, Value};

use crate::columns::{count, json, maybe_time, parsed, time};
use crate::page::{Filter, Keyset, Order};
use crate::vaults::find_in_force;
use crate::{Page, PageRequest, Store, StoreError};

/// What kind of thing a credential is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialUse {
    /// An MCP server; the slot is its address.
    Mcp,
    /// A variable of a sandbox; the slot is its name.
    Variable,
}

impl CredentialUse {
    fn as_str(self) -> &'static str {
        match self {
            Self::Mcp => "mcp",
            Self::Variable => "variable",
        }
    }
}

/// What a credential is for. A vault has one credential in force for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialSlot {
    /// The kind of thing.
    pub used_for: CredentialUse,
    /// Which one of that kind, in the form that is compared.
    pub name: String,
}

/// A credential, without its secrets.
#[derive(Clone, Debug, PartialEq)]
pub struct VaultCredentialRow {
    /// Its id.
    pub id: VaultCredentialId,
    /// Its workspace.
    pub workspace_id: WorkspaceId,
    /// Its vault.
    pub vault_id: VaultId,
    /// What it is for; never changes.
    pub slot: CredentialSlot,
    /// Its name.
    pub display_name: Option<String>,
    /// What responses show of how it authenticates.
    pub auth: Value,
    /// Strings by name.
    pub metadata: Map<String, Value>,
    /// How often its secrets were replaced.
    pub generation: u64,
    /// When it was made.
    pub created_at: Time,
    /// When it was last changed.
    pub updated_at: Time,
    /// When it was archived.
    pub archived_at: Option<Time>,
}

/// A secret in its sealed form.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedSecret {
    /// Which of the credential's secrets it is.
    pub field: String,
    /// The data key that it is sealed under.
    pub data_key_id: DataKeyId,
    /// The sealed bytes.
    pub sealed: Vec<u8>,
}

impl fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedSecret({}, {})", self.field, self.data_key_id)
    }
}

/// A credential with its secrets, as they were at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct VaultCredentialSecrets {
    /// The credential.
    pub row: VaultCredentialRow,
    /// Its secrets.
    pub secrets: Vec<SealedSecret>,
}

/// A credential to be made.
#[derive(Clone, Debug)]
pub struct NewVaultCredential {
    /// Its id.
    pub id: VaultCredentialId,
    /// Its vault.
    pub vault_id: VaultId,
    /// What it is for.
    pub slot: CredentialSlot,
    /// Its name.
    pub display_name: Option<String>,
    /// What responses show of how it authenticates.
    pub auth: Value,
    /// Strings by name.
    pub metadata: Map<String, Value>,
    /// Its secrets.
    pub secrets: Vec<SealedSecret>,
    /// The most credentials in force that its vault may have with it.
    pub limit: usize,
}

pub(crate) const SELECT: &str = "SELECT id, workspace_id, vault_id, kind, slot, display_name, auth, metadata, generation, \
    created_at, updated_at, archived_at FROM vault_credentials";

impl Store {
    /// Makes a credential.
    ///
    /// `NotFound` if the vault is not in the workspace; `Conflict` if it is archived or has a credential in that slot;
    /// `Rejected` if it is full.
    pub async fn create_vault_credential(
        &self,
        workspace: &WorkspaceId,
        new: NewVaultCredential,
        now: Time,
    ) -> Result<VaultCredentialRow, StoreError> {
        let workspace = workspace.clone();
        self.write(move |conn| {
            find_in_force(conn, &workspace, &new.vault_id)?;
            let vault = &new.vault_id;
            let taken: Option<String> = conn
                .prepare_cached(
                    "SELECT id FROM vault_credentials WHERE vault_id = ?1 AND kind = ?2 AND slot = ?3 \
                     AND archived_at IS NULL",
                )?
                .query_row((vault.as_str(), new.slot.used_for.as_str(), &new.slot.name), |r| {
                    r.get(0)
                })
                .optional()?;
            if let Some(other) = taken {
                let what = match new.slot.used_for {
                    CredentialUse::Mcp => "this mcp_server_url",
                    CredentialUse::Variable => "this secret_name",
                };
                return Err(StoreError::conflict(format!(
                    "credential `{other}` of vault `{vault}` already is for {what}: update it, or archive it first"
                )));
            }
            let held: i64 = conn
                .prepare_cached("SELECT count(*) FROM vault_credentials WHERE vault_id = ?1 AND archived_at IS NULL")?
                .query_row([vault.as_str()], |r| r.get(0))?;
            if held as usize >= new.limit {
                return Err(StoreError::rejected(format!(
                    "vault `{vault}` has {held} credentials, which is the most that a vault holds: archive or delete one"
                )));
            }
            conn.prepare_cached(
                "INSERT INTO vault_credentials (id, workspace_id, vault_id, kind, slot, display_name, auth, metadata, \
                 generation, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 1, ?9, ?9)",
            )?
            .execute((
                new.id.as_str(),
                workspace.as_str(),
                vault.as_str(),
                new.slot.used_for.as_str(),
                &new.slot.name,
                &new.display_name,
                new.auth.to_string(),
                serde_json::to_string(&new.metadata)?,
                now.as_micros(),
            ))?;
            keep_secrets(conn, &new.id, &new.secrets)?;
            find(conn, &workspace, Some(vault), &new.id)
        })
        .await
    }

    /// The credential of that id in a vault.
    pub async fn vault_credential(
        &self,
        workspace: &WorkspaceId,
        vault: &VaultId,
        id: &VaultCredentialId,
    ) -> Result<VaultCredentialRow, StoreError> {
        let (workspace, vault, id) = (workspace.clone(), vault.clone(), id.clone());
        self.read(move |conn| {
            crate::vaults::find(conn, &workspace, &vault)?;
            find(conn, &workspace, Some(&vault), &id)
        })
        .await
    }

    /// A credential with its sealed secrets, read at one moment.
    pub async fn vault_credential_secrets(
        &self,
        workspace: &WorkspaceId,
        id: &VaultCredentialId,
    ) -> Result<VaultCredentialSecrets, StoreError> {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.read(move |conn| {
            let row = find(conn, &workspace, None, &id)?;
            let secrets = secrets_of(conn, &id)?;
            Ok(VaultCredentialSecrets { row, secrets })
        })
        .await
    }

    /// The credential in force for a slot, in the first of the vaults that has one.
    pub async fn find_vault_credential(
        &self,
        workspace: &WorkspaceId,
        vaults: &[VaultId],
        slot: &CredentialSlot,
    ) -> Result<Option<VaultCredentialRow>, StoreError> {
        let (workspace, vaults, slot) = (workspace.clone(), vaults.to_vec(), slot.clone());
        self.read(move |conn| {
            for vault in &vaults {
                let found = conn
                    .prepare_cached(&format!(
                        "{SELECT} WHERE vault_id = ?1 AND kind = ?2 AND slot = ?3 AND workspace_id = ?4 \
                         AND archived_at IS NULL"
                    ))?
                    .query_row(
                        (vault.as_str(), slot.used_for.as_str(), &slot.name, workspace.as_str()),
                        read,
                    )
                    .optional()?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            Ok(None)
        })
        .await
    }

    /// Credentials of a vault, newest first.
    pub async fn list_vault_credentials(
        &self,
        workspace: &WorkspaceId,
        vault: &VaultId,
        include_archived: bool,
        page: PageRequest,
    ) -> Result<Page<VaultCredentialRow>, StoreError> {
        let mut filter = Filter::default()
            .and("workspace_id = ?", [workspace.to_string()])
            .and("vault_id = ?", [vault.to_string()]);
        if !include_archived {
            filter = filter.and_plain("archived_at IS NULL");
        }
        let (workspace, vault) = (workspace.clone(), vault.clone());
        self.read(move |conn| {
            crate::vaults::find(conn, &workspace, &vault)?;
            Keyset {
                list: "vault credentials",
                select: SELECT,
                key: ("created_at", "id"),
                order: Order::Desc,
                filter,
            }
            .page(conn, &page, read, |row| {
                (row.created_at.as_micros(), row.id.to_string())
            })
        })
        .await
    }

    /// Changes a credential by `edit`, and replaces those of its secrets that are given: name, auth and metadata are
    /// kept, changes of other fields are not. Refused with `Conflict` if it is archived.
    pub async fn update_vault_credential<F>(
        &self,
        workspace: &WorkspaceId,
        vault: &VaultId,
        id: &VaultCredentialId,
        secrets: Vec<SealedSecret>,
        now: Time,
        edit: F,
    ) -> Result<VaultCredentialRow, StoreError>
    where
        F: FnOnce(&mut VaultCredentialRow) -> Result<(), StoreError> + Send + 'static,
    {
        let (workspace, vault, id) = (workspace.clone(), vault.clone(), id.clone());
        self.write(move |conn| {
            crate::vaults::find(conn, &workspace, &vault)?;
            let before = find(conn, &workspace, Some(&vault), &id)?;
            if before.archived_at.is_some() {
                return Err(archived(&id));
            }
            let mut row = before.clone();
            edit(&mut row)?;
            if row == before && secrets.is_empty() {
                return Ok(row);
            }
            // A refresh under way goes by the secrets that it read; new ones take the ground from it.
            if !secrets.is_empty() {
                row.generation = before.generation + 1;
            }
            write_back(conn, &row, now)?;
            keep_secrets(conn, &id, &secrets)?;
            find(conn, &workspace, Some(&vault), &id)
        })
        .await
    }

    /// Keeps what a refresh brought: secrets, and what `edit` makes of the public part as it is now. `None`, and
    /// nothing is kept, if the credential is not of that generation any more or not in force.
    pub async fn keep_refreshed_secrets<F>(
        &self,
        workspace: &WorkspaceId,
        id: &VaultCredentialId,
        generation: u64,
        secrets: Vec<SealedSecret>,
        now: Time,
        edit: F,
    ) -> Result<Option<VaultCredentialRow>, StoreError>
    where
        F: FnOnce(&mut Value) + Send + 'static,
    {
        let (workspace, id) = (workspace.clone(), id.clone());
        self.write(move |conn| {
            let mut row = match find(conn, &workspace, None, &id) {
                Ok(row) => row,
                Err(StoreError::NotFound { .. }) => return Ok(None),
                Err(other) => return Err(other),
            };
            if row.generation != generation || row.archived_at.is_some() {
                return Ok(None);
            }
            edit(&mut row.auth);
            row.generation += 1;
            write_back(conn, &row, now)?;
            keep_secrets(conn, &id, &secrets)?;
            find(conn, &workspace, None, &id).map(Some)
        })
        .await
    }

    /// Archives a credential and deletes its secrets; one that is archived stays as it is.
    pub async fn archive_vault_credential(
        &self,
        workspace: &WorkspaceId,
        vault: &VaultId,
        id: &VaultCredentialId,
        now: Time,
    ) -> Result<VaultCredentialRow, StoreError> {
        let (workspace, vault, id) = (workspace.clone(), vault.clone(), id.clone());
        self.write(move |conn| {
            crate::vaults::find(conn, &workspace, &vault)?;
            let row = find(conn, &workspace, Some(&vault), &id)?;
            if row.archived_at.is_some() {
                return Ok(row);
            }
            conn.prepare_cached(
                "UPDATE vault_credentials SET archived_at = ?2, updated_at = ?2, generation = generation + 1 \
                 WHERE id = ?1",
            )?
            .execute((id.as_str(), now.as_micros()))?;
            conn.prepare_cached("DELETE FROM vault_secrets WHERE credential_id = ?1")?
                .execute([id.as_str()])?;
            find(conn, &workspace, Some(&vault), &id)
        })
        .await
    }

    /// Deletes a credential.
    pub async fn delete_vault_credential(
        &self,
        workspace: &WorkspaceId,
        vault: &VaultId,
        id: &VaultCredentialId,
    ) -> Result<(), StoreError> {
        let (workspace, vault, id) = (workspace.clone(), vault.clone(), id.clone());
        self.write(move |conn| {
            crate::vaults::find(conn, &workspace, &vault)?;
            find(conn, &workspace, Some(&vault), &id)?;
            conn.prepare_cached("DELETE FROM vault_secrets WHERE credential_id = ?1")?
                .execute([id.as_str()])?;
            conn.prepare_cached("DELETE FROM vault_credentials WHERE id = ?1")?
                .execute([id.as_str()])?;
            Ok(())
        })
        .await
    }
}

/// Archives every credential of a vault and deletes their secrets.
pub(crate) fn archive_all(conn: &Connection, vault: &VaultId, now: Time) -> Result<(), StoreError> {
    delete_secrets(conn, vault)?;
    conn.prepare_cached(
        "UPDATE vault_credentials SET archived_at = ?2, updated_at = ?2, generation = generation + 1 \
         WHERE vault_id = ?1 AND archived_at IS NULL",
    )?
    .execute((vault.as_str(), now.as_micros()))?;
    Ok(())
}

/// Deletes every credential of a vault.
pub(crate) fn delete_all(conn: &Connection, vault: &VaultId) -> Result<(), StoreError> {
    delete_secrets(conn, vault)?;
    conn.prepare_cached("DELETE FROM vault_credentials WHERE vault_id = ?1")?
        .execute([vault.as_str()])?;
    Ok(())
}

fn delete_secrets(conn: &Connection, vault: &VaultId) -> Result<(), StoreError> {
    conn.prepare_cached(
        "DELETE FROM vault_secrets WHERE credential_id IN (SELECT id FROM vault_credentials WHERE vault_id = ?1)",
    )?
    .execute([vault.as_str()])?;
    Ok(())
}

fn archived(id: &VaultCredentialId) -> StoreError {
    StoreError::conflict(format!("vault credential `{id}` is archived and cannot be changed"))
}

/// The sealed secrets of a credential.
pub(crate) fn secrets_of(conn: &Connection, id: &VaultCredentialId) -> Result<Vec<SealedSecret>, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT field, data_key_id, sealed FROM vault_secrets WHERE credential_id = ?1")?;
    let secrets = statement.query_map([id.as_str()], |row| {
        Ok(SealedSecret {
            field: row.get(0)?,
            data_key_id: parsed(row, 1)?,
            sealed: row.get(2)?,
        })
    })?;
    Ok(secrets.collect::<rusqlite::Result<_>>()?)
}

fn keep_secrets(conn: &Connection, id: &VaultCredentialId, secrets: &[SealedSecret]) -> Result<(), StoreError> {
    for secret in secrets {
        conn.prepare_cached(
            "INSERT INTO vault_secrets (credential_id, field, data_key_id, sealed) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (credential_id, field) DO UPDATE SET data_key_id = ?3, sealed = ?4",
        )?
        .execute((id.as_str(), &secret.field, secret.data_key_id.as_str(), &secret.sealed))?;
    }
    Ok(())
}

fn write_back(conn: &Connection, row: &VaultCredentialRow, now: Time) -> Result<(), StoreError> {
    conn.prepare_cached(
        "UPDATE vault_credentials SET display_name = ?2, auth = ?3, metadata = ?4, generation = ?5, updated_at = ?6 \
         WHERE id = ?1",
    )?
    .execute((
        row.id.as_str(),
        &row.display_name,
        row.auth.to_string(),
        serde_json::to_string(&row.metadata)?,
        row.generation as i64,
        now.as_micros(),
    ))?;
    Ok(())
}

fn find(
    conn: &Connection,
    workspace: &WorkspaceId,
    vault: Option<&VaultId>,
    id: &VaultCredentialId,
) -> Result<VaultCredentialRow, StoreError> {
    conn.prepare_cached(&format!("{SELECT} WHERE id = ?1 AND workspace_id = ?2"))?
        .query_row((id.as_str(), workspace.as_str()), read)
        .optional()?
        .filter(|row| vault.is_none_or(|vault| row.vault_id == *vault))
        .ok_or_else(|| StoreError::not_found("vault credential", id))
}

pub(crate) fn read(row: &Row<'_>) -> rusqlite::Result<VaultCredentialRow> {
    let used_for = match row.get_ref(3)?.as_str()? {
        "mcp" => CredentialUse::Mcp,
        _ => CredentialUse::Variable,
    };
    Ok(VaultCredentialRow {
        id: parsed(row, 0)?,
        workspace_id: parsed(row, 1)?,
        vault_id: parsed(row, 2)?,
        slot: CredentialSlot {
            used_for,
            name: row.get(4)?,
        },
        display_name: row.get(5)?,
        auth: json(row, 6)?,
        metadata: json(row, 7)?,
        generation: count(row, 8)?,
        created_at: time(row, 9)?,
        updated_at: time(row, 10)?,
        archived_at: maybe_time(row, 11)?,
    })
}
