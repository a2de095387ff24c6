//! What was refused to a sandbox lately: for the agent's operator, and to propose rules from.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use outwork_wire::Time;

use crate::policy::Protocol;

/// How many different refusals are kept.
const KEPT: usize = 512;

/// Something that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// When it was last refused.
    pub at: Time,
    /// How often.
    pub count: u64,
    /// On what level.
    pub protocol: Protocol,
    /// The host, where a name was said.
    pub host: Option<String>,
    /// The address.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: Option<u16>,
    /// The method.
    pub method: Option<String>,
    /// The path, without its query.
    pub path: Option<String>,
    /// The rule or check that refused.
    pub rule: String,
    /// Why.
    pub reason: String,
}

/// The refusals of a sandbox: the last ones, equal ones counted together.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<VecDeque<Refusal>>);

impl Refusals {
    pub(crate) fn add(&self, refusal: Refusal) {
        let same = |known: &Refusal| {
            known.protocol == refusal.protocol
                && known.host == refusal.host
                && known.address == refusal.address
                && known.port == refusal.port
                && known.method == refusal.method
                && known.path == refusal.path
                && known.rule == refusal.rule
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.iter_mut().find(|known| same(known)) {
            known.count += 1;
            known.at = refusal.at;
            return;
        }
        if all.len() == KEPT {
            all.pop_front();
        }
        all.push_back(refusal);
    }

    pub(crate) fn all(&self) -> Vec<Refusal> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }
}
