//! One configuration in force, with all that was made from it. A reload makes the next one and swaps it in; calls under
//! way keep theirs.
//!
//! What did not change is carried over: connections, what was learnt of tools, counters of rates, verified identities.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;
use rustls::ClientConfig;
use tokio_util::task::TaskTracker;

use crate::caller::Verifier;
use crate::config::{Config, Route, UpstreamTls};
use crate::error::Error;
use crate::inner::Inner;
use crate::mcp::approval::Approvals;
use crate::mcp::hints::Hints;
use crate::mcp::rates::Rates;
use crate::metrics::{Metrics, RouteMetrics};
use crate::route::Table;
use crate::upstream::dial::{Dialer, Resolver};
use crate::upstream::pool::Pool;
use crate::upstream::tls::client_config;

/// A configuration in force.
pub struct Generation {
    /// The configuration.
    pub config: Config,
    /// Its routes.
    pub table: Table<Arc<RouteState>>,
    /// The inner TLS.
    pub inner: Arc<Inner>,
    /// Who callers are, where that is checked.
    pub verifier: Option<Arc<Verifier>>,
    /// Named approvals. Changed in place: they are read on every call that needs one.
    pub approvals: ArcSwap<Approvals>,
    upstream_tls: UpstreamClient,
}

/// What upstreams are verified with: what was wanted, the bytes of the authorities, what was made of both.
type UpstreamClient = (UpstreamTls, Option<Vec<u8>>, Arc<ClientConfig>);

/// A route in force.
pub struct RouteState {
    /// The route.
    pub route: Route,
    /// The upstream's `host:port`.
    pub authority: HeaderValue,
    /// Connections to it.
    pub pool: Arc<Pool>,
    /// What it says about its tools.
    pub hints: Arc<Hints>,
    /// What counts against limits.
    pub rates: Arc<Rates>,
    /// What is counted for the owner.
    pub metrics: Arc<RouteMetrics>,
}

/// What generations are made with.
pub(crate) struct Parts {
    pub resolver: Arc<dyn Resolver>,
    pub metrics: Arc<Metrics>,
    pub tasks: TaskTracker,
}

impl Generation {
    /// Makes everything that a configuration needs, taking from `before` what did not change.
    pub(crate) fn build(config: Config, before: Option<&Generation>, parts: &Parts) -> Result<Generation, Error> {
        let inner = Arc::new(Inner::load(&config.tls)?);
        let upstream_tls = upstream_tls(&config.upstream_tls, before)?;
        let verifier = match (&config.identity, before) {
            (None, _) => None,
            (Some(identity), Some(before)) if before.config.identity.as_ref() == Some(identity) => {
                before.verifier.clone().inspect(|verifier| reload_keys(verifier))
            }
            (Some(identity), _) => Some(Arc::new(Verifier::new(identity)?)),
        };
        let states = config.routes.values().map(|route| {
            let before = before.and_then(|before| before.table.iter().find(|state| state.route.name == route.name));
            let state = RouteState::build(route, &config, &upstream_tls.2, before, parts)?;
            Ok((route.name.clone(), Arc::new(state)))
        });
        let states: Vec<(String, Arc<RouteState>)> = states.collect::<Result<_, Error>>()?;
        let table = Table::new(states, config.tunnel_domain.clone());
        for (host, _) in table.hosts().filter(|(host, _)| !inner.covers(host)) {
            tracing::warn!(
                host,
                "the certificate in tls.cert_file is not for this route's host: callers will refuse it"
            );
        }
        let approvals = ArcSwap::from_pointee(read_approvals(config.approvals_file.as_deref()));
        Ok(Generation {
            config,
            table,
            inner,
            verifier,
            approvals,
            upstream_tls,
        })
    }
}

fn reload_keys(verifier: &Verifier) {
    if let Err(error) = verifier.reload() {
        tracing::error!(%error, "the old keys of the identity issuer stay in use");
    }
}

/// A bad approvals file approves nothing, so that taking an approval out always works.
fn read_approvals(path: Option<&Path>) -> Approvals {
    let Some(path) = path else { return Approvals::default() };
    let read = std::fs::read_to_string(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    });
    match read.and_then(|text| Ok(Approvals::parse(&text, path)?)) {
        Ok(approvals) => approvals,
        Err(error) => {
            tracing::error!(%error, "no approval holds until this file can be read");
            Approvals::default()
        }
    }
}

fn upstream_tls(wanted: &UpstreamTls, before: Option<&Generation>) -> Result<UpstreamClient, Error> {
    let bytes = match &wanted.ca_file {
        Some(path) => Some(std::fs::read(path).map_err(|source| Error::File {
            action: "read",
            path: path.clone(),
            source,
        })?),
        None => None,
    };
    if let Some((old, old_bytes, config)) = before.map(|before| &before.upstream_tls)
        && old == wanted
        && *old_bytes == bytes
    {
        return Ok((wanted.clone(), bytes, config.clone()));
    }
    let config = client_config(wanted.ca_file.as_deref(), wanted.include_system_cas)?;
    Ok((wanted.clone(), bytes, config))
}

impl RouteState {
    fn build(
        route: &Route,
        config: &Config,
        tls: &Arc<ClientConfig>,
        before: Option<&Arc<RouteState>>,
        parts: &Parts,
    ) -> Result<RouteState, Error> {
        let dialer = Dialer {
            target: route.target.clone(),
            policy: config.addresses.clone(),
            resolver: parts.resolver.clone(),
            tls: tls.clone(),
            limit: config.timeouts.connect,
        };
        let same_target = before.filter(|before| before.route.target == route.target);
        let same_way = same_target.filter(|before| {
            let old = before.pool.dialer();
            old.policy == dialer.policy && Arc::ptr_eq(&old.tls, tls) && old.limit == dialer.limit
        });
        let authority = HeaderValue::from_str(&route.target.authority())
            .map_err(|_| Error::Links(format!("the upstream of {} cannot stand in a header", route.name)))?;
        Ok(RouteState {
            authority,
            pool: same_way.map_or_else(|| Pool::new(dialer), |before| before.pool.clone()),
            hints: same_target.map_or_else(Arc::default, |before| before.hints.clone()),
            rates: before.filter(|before| before.route.same(route)).map_or_else(
                || Arc::new(Rates::new(&route.rules.limits)),
                |before| before.rates.clone(),
            ),
            metrics: parts.metrics.route(&route.name),
            route: route.clone(),
        })
    }
}
