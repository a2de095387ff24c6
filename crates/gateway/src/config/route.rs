//! One route of the configuration, checked: where it leads and the rules that hold on it.

use std::sync::Arc;

use super::file::RouteKeys;
use super::text::{Scheme, Target, host_name};
use crate::rules::Rules;

/// A route.
#[derive(Clone)]
pub struct Route {
    /// Its name: a label under the tunnel's domain, or a full host name.
    pub name: String,
    /// Where it leads.
    pub target: Target,
    /// The rules that hold on it.
    pub rules: Arc<Rules>,
    /// As it was written, to see whether it changed.
    keys: RouteKeys,
}

/// What the rest of the file says that a route depends on.
pub(super) struct Surroundings<'a> {
    pub tunnel_domain: Option<&'a str>,
    pub has_identity: bool,
    pub identity_required: bool,
    pub has_approvals: bool,
}

impl Route {
    /// Whether two routes are the same in all that they say.
    pub fn same(&self, other: &Route) -> bool {
        self.name == other.name && self.keys == other.keys
    }

    pub(super) fn check(name: &str, keys: RouteKeys, around: &Surroundings<'_>) -> Result<Route, String> {
        let shown = host_name(name).map_err(|_| {
            "the name is neither a label of letters, digits and hyphens nor a full host name".to_owned()
        })?;
        if !shown.contains('.') && around.tunnel_domain.is_none() {
            return Err("the name is a label, and tunnel_domain, under which labels are, is missing".to_owned());
        }
        let target: Target = keys.url.parse()?;
        if target.scheme == Scheme::Tcp {
            if keys != (RouteKeys { url: keys.url.clone(), ..RouteKeys::default() }) {
                return Err("a tcp:// route carries bytes that nobody reads, so it can have no rules; leave only url, or \
                            use http:// or https://"
                    .to_owned());
            }
            if around.identity_required {
                return Err("a tcp:// route cannot carry the caller's identity, which identity.required asks for".to_owned());
            }
        }
        if keys.callers.is_some() && !around.has_identity {
            return Err("callers needs identity: without an issuer nobody's identity can be checked".to_owned());
        }
        if keys.pass_identity && !around.has_identity {
            return Err("pass_identity needs identity: an identity that nobody checked is not passed on".to_owned());
        }
        if !keys.approvals.is_empty() && !around.has_approvals {
            return Err("approvals needs approvals_file, where the owner writes them".to_owned());
        }
        let rules = Arc::new(Rules::compile(&keys)?);
        Ok(Route { name: shown, target, rules, keys })
    }
}
