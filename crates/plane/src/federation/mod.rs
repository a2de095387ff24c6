//! Workload identity: whose tokens are believed, and what they are exchanged for.
//!
//! A [`Rule`] says which identity provider is believed about which subjects, and what such a workload may do, where
//! and for how long. Rules stand in the settings; with none, no token is believed. What is checked of a token: its
//! signature by a key that the issuer publishes, `iss`, `aud`, `exp`, `nbf`, `iat`, and `sub` against the rule.

mod issuer;
mod rule;
mod verify;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use outwork_store::Store;
use outwork_wire::id::{FederationRuleId, WorkspaceId};
use tokio::sync::{Semaphore, SemaphorePermit};

pub use rule::{FederationOptions, FederationRule, Scope, SubjectPattern};

use crate::error::PlaneError;
use issuer::Issuer;

/// How many tokens are looked at side by side. The endpoint needs no key, and signatures cost time.
const AT_ONCE: usize = 16;

/// Why a token is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FederationError {
    /// The token does not fit: for its holder, what and why.
    #[error("{0}")]
    Refused(String),
    /// Whether it does cannot be said now.
    #[error("{0}")]
    Unavailable(String),
}

/// The rules with their issuers, ready for use.
pub(crate) struct Federation {
    /// What a caller must name as its organization.
    pub(crate) organization_id: String,
    rules: BTreeMap<FederationRuleId, Rule>,
    slots: Semaphore,
}

/// A rule whose workspace was found.
pub(crate) struct Rule {
    pub(crate) id: FederationRuleId,
    pub(crate) workspace: WorkspaceId,
    pub(crate) asks: FederationRule,
    issuer: Arc<Issuer>,
}

impl Federation {
    /// Checks the rules against the store; nothing is fetched.
    pub(crate) async fn new(options: FederationOptions, store: &Store) -> Result<Self, PlaneError> {
        let mut issuers: HashMap<String, Arc<Issuer>> = HashMap::new();
        let mut rules = BTreeMap::new();
        for asks in options.rules {
            let fault = |reason: String| PlaneError::Federation {
                rule: asks.id.to_string(),
                reason,
            };
            let workspace = match &asks.workspace {
                None => store.default_workspace().clone(),
                Some(id) => store.workspace(id).await.map_err(|error| fault(error.to_string()))?.id,
            };
            let issuer = match issuers.get(&asks.issuer) {
                Some(issuer) => issuer.clone(),
                None => {
                    let issuer = Arc::new(Issuer::new(&asks.issuer).map_err(&fault)?);
                    issuers.insert(asks.issuer.clone(), issuer.clone());
                    issuer
                }
            };
            let rule = Rule {
                id: asks.id.clone(),
                workspace,
                issuer,
                asks: asks.clone(),
            };
            if rules.insert(asks.id.clone(), rule).is_some() {
                return Err(fault("there is another rule with this id".into()));
            }
        }
        Ok(Self {
            organization_id: options.organization_id,
            rules,
            slots: Semaphore::new(AT_ONCE),
        })
    }

    /// The rule of that id.
    pub(crate) fn rule(&self, id: &FederationRuleId) -> Option<&Rule> {
        self.rules.get(id)
    }

    /// Room to look at one more token, if there is any.
    pub(crate) fn slot(&self) -> Option<SemaphorePermit<'_>> {
        self.slots.try_acquire().ok()
    }
}
