//! Tokens of workloads: given for a token of an identity provider by a rule, short-lived, kept as their hash.
//!
//! An expired one is still found for a while, so that the refusal can say so.

use outwork_wire::Time;
use outwork_wire::id::{FederationRuleId, WorkspaceId};
use rusqlite::Connection;

use crate::columns::{parsed, time};
use crate::keys::{KeyHash, by_hash};
use crate::{Store, StoreError};

/// A token of a workload; may be expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FederatedToken {
    /// The one workspace that it opens.
    pub workspace_id: WorkspaceId,
    /// The rule that it was given by.
    pub rule_id: FederationRuleId,
    /// Whom the identity provider named.
    pub subject: String,
    /// What it may do, in the plane's words.
    pub scope: String,
    /// When it was made.
    pub created_at: Time,
    /// When it ends.
    pub expires_at: Time,
}

/// A token to be kept.
#[derive(Clone)]
pub struct NewFederatedToken {
    /// Its hash.
    pub hash: KeyHash,
    /// The one workspace that it opens.
    pub workspace_id: WorkspaceId,
    /// The rule that it is given by.
    pub rule_id: FederationRuleId,
    /// Whom the identity provider named.
    pub subject: String,
    /// What it may do, in the plane's words.
    pub scope: String,
    /// When it ends.
    pub expires_at: Time,
}

impl Store {
    /// Keeps a token.
    pub async fn add_federated_token(&self, new: NewFederatedToken, now: Time) -> Result<(), StoreError> {
        self.write(move |conn| {
            conn.prepare_cached(
                "INSERT INTO federated_tokens (hash, workspace_id, rule_id, subject, scope, created_at, expires_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute((
                new.hash.bytes(),
                new.workspace_id.as_str(),
                new.rule_id.as_str(),
                &new.subject,
                &new.scope,
                now.as_micros(),
                new.expires_at.as_micros(),
            ))?;
            Ok(())
        })
        .await
    }

    /// Forgets tokens that ended before a time, `limit` of them at most; how many.
    pub async fn prune_federated_tokens(&self, before: Time, limit: usize) -> Result<usize, StoreError> {
        self.write(move |conn| {
            Ok(conn
                .prepare_cached(
                    "DELETE FROM federated_tokens WHERE hash IN \
                     (SELECT hash FROM federated_tokens WHERE expires_at < ?1 ORDER BY expires_at LIMIT ?2)",
                )?
                .execute((before.as_micros(), limit as i64))?)
        })
        .await
    }
}

/// The token of that hash.
pub(crate) fn find(conn: &Connection, hash: &KeyHash) -> Result<Option<FederatedToken>, StoreError> {
    let sql = "SELECT workspace_id, rule_id, subject, scope, created_at, expires_at, hash FROM federated_tokens \
        WHERE hash = ?1";
    by_hash(conn, sql, hash, 6, |row| {
        Ok(FederatedToken {
            workspace_id: parsed(row, 0)?,
            rule_id: parsed(row, 1)?,
            subject: row.get(2)?,
            scope: row.get(3)?,
            created_at: time(row, 4)?,
            expires_at: time(row, 5)?,
        })
    })
}
