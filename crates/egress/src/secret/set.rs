//! The set of secrets that one sandbox may use, with the tables that find them.

use std::sync::Arc;

use super::finder::Finder;
use super::needle::spellings;
use super::outcome::{Blocked, Handling, Location, Reason, Rules};
use super::spec::{self, Destination, Kind, SecretSpec, SpecError};
use http::StatusCode;

/// An immutable snapshot of secrets and their rules. Clones share it; the last one that is dropped wipes it.
#[derive(Clone)]
pub struct SecretSet {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) specs: Vec<SecretSpec>,
    pub(super) rules: Rules,
    /// Finds placeholders, to put values there.
    pub(super) out: Finder,
    /// Finds values, to put placeholders there.
    pub(super) back: Finder,
    /// In lower case, as host and header names are.
    pub(super) lower_placeholders: Vec<String>,
    pub(super) lower_values: Vec<zeroize::Zeroizing<String>>,
}

impl SecretSet {
    /// Checks the specs and builds the tables; misuse of placeholders is blocked.
    pub fn new(specs: Vec<SecretSpec>) -> Result<Self, SpecError> {
        Self::with_rules(specs, Rules::default())
    }

    /// As [`SecretSet::new`], with rules about misuse.
    pub fn with_rules(specs: Vec<SecretSpec>, rules: Rules) -> Result<Self, SpecError> {
        spec::check(&specs)?;
        let each = |swap: fn(&SecretSpec) -> (&str, &str)| {
            let needles = specs.iter().enumerate().flat_map(|(owner, spec)| {
                let (from, to) = swap(spec);
                spellings(owner, from, to)
            });
            Finder::new(needles.collect())
        };
        let out = each(|spec| (&spec.placeholder, spec.secret()));
        let back = each(|spec| (spec.secret(), &spec.placeholder));
        Ok(SecretSet {
            inner: Arc::new(Inner {
                out,
                back,
                rules,
                lower_placeholders: specs.iter().map(|s| s.placeholder.to_ascii_lowercase()).collect(),
                lower_values: specs
                    .iter()
                    .map(|s| zeroize::Zeroizing::new(s.secret().to_ascii_lowercase()))
                    .collect(),
                specs,
            }),
        })
    }

    /// No secrets: everything passes as it is.
    pub fn empty() -> Self {
        Self::new(Vec::new()).expect("a set without specs has nothing to refuse")
    }

    /// This set and more secrets, captured ones for instance.
    pub fn extended(&self, more: Vec<SecretSpec>) -> Result<Self, SpecError> {
        let mut specs = self.inner.specs.clone();
        specs.extend(more);
        Self::with_rules(specs, self.inner.rules)
    }

    /// Whether there is no secret.
    pub fn is_empty(&self) -> bool {
        self.inner.specs.is_empty()
    }

    /// Name and placeholder of each secret: what the sandbox's environment holds.
    pub fn placeholders(&self) -> impl Iterator<Item = (&str, &str)> {
        self.inner
            .specs
            .iter()
            .map(|s| (s.name.as_str(), s.placeholder.as_str()))
    }

    /// Whether any credential names this host. Connections to others need not be opened for the sake of secrets.
    pub fn bound_to(&self, host: &str) -> bool {
        self.inner.specs.iter().any(|spec| spec.names(host))
    }
}

impl Inner {
    /// Whether a placeholder that stands in `location` on its way to `to` is substituted (true), passes as it is
    /// (false), or blocks the request.
    pub(super) fn judge(&self, owner: usize, to: &Destination, location: Location) -> Result<bool, Blocked> {
        let spec = &self.specs[owner];
        let refused = |handling: Handling, blocked: Blocked| match handling {
            Handling::Block => Err(blocked),
            Handling::Pass => Ok(false),
        };
        if !spec.names(&to.host) {
            return refused(self.rules.foreign, Blocked::foreign(&spec.name, &to.host, location));
        }
        let allowed = spec.locations;
        let fits = match location {
            Location::Header => allowed.header,
            Location::Basic => allowed.basic,
            Location::Query => allowed.query,
            Location::Body | Location::WebSocket => allowed.body,
            Location::Signature => true,
            Location::Path | Location::Host | Location::Name => false,
        };
        // The secret half of an AWS key is only ever signed with.
        let sent = location == Location::Signature || !matches!(spec.kind, Kind::AwsSecretKey { .. });
        if !fits || !sent {
            let reason = Reason::Misplaced { location };
            return refused(
                self.rules.misplaced,
                Blocked::new(&spec.name, StatusCode::FORBIDDEN, reason),
            );
        }
        if !to.is_tls() && !spec.cleartext {
            return Err(Blocked::new(&spec.name, StatusCode::FORBIDDEN, Reason::Cleartext));
        }
        Ok(true)
    }

    /// Whether any secret may be put into bodies for this destination.
    pub(super) fn bodies_for(&self, to: &Destination) -> bool {
        self.specs
            .iter()
            .any(|spec| spec.locations.body && spec.names(&to.host))
    }

    pub(super) fn name(&self, owner: usize) -> &str {
        &self.specs[owner].name
    }
}
