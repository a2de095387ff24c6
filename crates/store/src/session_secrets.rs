//! The sealed secrets that a session's worker uses outside the sandbox: tokens of its repositories, and the credentials
//! of its vaults that are for variables. The store cannot open any of them.

use outwork_wire::id::{ResourceId, SessionId, VaultId, WorkspaceId};
use rusqlite::Connection;

use crate::columns::parsed;
use crate::session_resources::{self, SessionResourceRow};
use crate::vault_credentials::{self, SealedSecret, VaultCredentialRow, VaultCredentialSecrets};
use crate::{Store, StoreError};

/// A repository with its sealed token.
#[derive(Clone, Debug)]
pub struct RepositorySecrets {
    /// The resource.
    pub row: SessionResourceRow,
    /// What is sealed of it.
    pub secrets: Vec<SealedSecret>,
}

impl Store {
    /// The repositories of a session that have secrets, with these.
    pub async fn repository_secrets(
        &self,
        workspace: &WorkspaceId,
        session: &SessionId,
    ) -> Result<Vec<RepositorySecrets>, StoreError> {
        let (workspace, session) = (workspace.clone(), session.clone());
        self.read(move |conn| {
            let rows: Vec<SessionResourceRow> = conn
                .prepare_cached(&format!(
                    "{} WHERE session_id = ?1 AND workspace_id = ?2 AND file_id IS NULL ORDER BY number",
                    session_resources::SELECT
                ))?
                .query_map((session.as_str(), workspace.as_str()), session_resources::read)?
                .collect::<rusqlite::Result<_>>()?;
            let mut found = Vec::new();
            for row in rows {
                let secrets = of_resource(conn, &row.id)?;
                if !secrets.is_empty() {
                    found.push(RepositorySecrets { row, secrets });
                }
            }
            Ok(found)
        })
        .await
    }

    /// The credentials in force for variables in these vaults, in the order of the vaults; of several for one variable
    /// the first.
    pub async fn variable_secrets(
        &self,
        workspace: &WorkspaceId,
        vaults: &[VaultId],
    ) -> Result<Vec<VaultCredentialSecrets>, StoreError> {
        let (workspace, vaults) = (workspace.clone(), vaults.to_vec());
        self.read(move |conn| {
            let mut found: Vec<VaultCredentialSecrets> = Vec::new();
            for vault in &vaults {
                let rows: Vec<VaultCredentialRow> = conn
                    .prepare_cached(&format!(
                        "{} WHERE vault_id = ?1 AND workspace_id = ?2 AND kind = 'variable' AND archived_at IS NULL \
                         ORDER BY created_at, id",
                        vault_credentials::SELECT
                    ))?
                    .query_map((vault.as_str(), workspace.as_str()), vault_credentials::read)?
                    .collect::<rusqlite::Result<_>>()?;
                for row in rows {
                    if found.iter().any(|known| known.row.slot == row.slot) {
                        continue;
                    }
                    let secrets = vault_credentials::secrets_of(conn, &row.id)?;
                    found.push(VaultCredentialSecrets { row, secrets });
                }
            }
            Ok(found)
        })
        .await
    }
}

fn of_resource(conn: &Connection, id: &ResourceId) -> Result<Vec<SealedSecret>, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT field, data_key_id, sealed FROM session_resource_secrets WHERE resource_id = ?1")?;
    let secrets = statement.query_map([id.as_str()], |row| {
        Ok(SealedSecret {
            field: row.get(0)?,
            data_key_id: parsed(row, 1)?,
            sealed: row.get(2)?,
        })
    })?;
    Ok(secrets.collect::<rusqlite::Result<_>>()?)
}
