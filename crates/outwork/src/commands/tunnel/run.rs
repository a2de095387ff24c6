//! `outwork tunnel run`: the gateway, until it is told to end.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use outwork_gateway::config::{Config, Edge, TransportChoice};
use outwork_gateway::run::{self, Handle, Options};
use outwork_tunnel::link::{LinkState, LinkStatus};
use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::no_configuration;
use crate::cli::plane::LogFormat;
use crate::cli::tunnel::{EdgeArgs, RunArgs};
use crate::config::{LogConfig, process_environment, secret_file};
use crate::exit::Exit;
use crate::{signals, telemetry};

/// Instead of a file.
const TOKEN: &str = "OUTWORK_TUNNEL_TOKEN";

pub(super) async fn run(args: RunArgs) -> Result<Exit> {
    let given = args.log.log_level.clone();
    let level = telemetry::start_changeable(&LogConfig {
        format: args.log.log_format.unwrap_or(LogFormat::Text),
        level: given.clone().unwrap_or_else(|| "info".to_owned()),
    })?;
    let asked = signals::drain_token()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let config = args.place.config();
    if !config.try_exists().unwrap_or(true) {
        return Err(no_configuration(&config));
    }
    let mut options = Options::new(&config);
    options.edge = edge(&args.edge, &config)?;
    options.tunnel_id = args.tunnel.clone();
    options.token = match &args.token_file {
        Some(path) => Some(secret_file(path)?),
        None => process_environment(TOKEN).map(SecretString::from),
    };
    if given.is_none() {
        // The file says how much is logged, and may say another thing later.
        options.on_log_level = Some(Box::new(move |wanted| level(wanted.as_str())));
    }
    let handle = run::start(options)
        .await
        .with_context(|| "the gateway does not start; `outwork tunnel check` looks at the whole configuration")?;
    announce(&handle)?;
    let told = tokio::spawn(tell(handle.links()));
    loop {
        tokio::select! {
            () = asked.cancelled() => break,
            _ = hangup.recv() => {
                tracing::info!("reading the configuration again");
                handle.reload();
            }
        }
    }
    let cut = handle.shutdown().await;
    told.abort();
    if cut > 0 {
        eprintln!("outwork: {cut} calls did not end within shutdown_timeout and were cut");
        return Ok(Exit::Failed);
    }
    tracing::info!("drained");
    Ok(Exit::Done)
}

/// The edge that the flags name. What they leave out is as the configuration says.
fn edge(flags: &EdgeArgs, config: &Path) -> Result<Option<Edge>> {
    let nothing = flags.addresses.is_empty()
        && flags.edge_fingerprint.is_none()
        && flags.edge_ca_file.is_none()
        && flags.edge_name.is_none();
    if nothing {
        return Ok(None);
    }
    let present = Config::load(config)?.edge;
    let mut edge = present.unwrap_or(Edge {
        addresses: Vec::new(),
        server_name: None,
        ca_file: None,
        fingerprint: None,
        transport: TransportChoice::default(),
        connections: 2,
    });
    if !flags.addresses.is_empty() {
        edge.addresses = flags.addresses.clone();
    }
    if edge.addresses.is_empty() {
        anyhow::bail!("--edge is missing: give the host:port where the plane takes gateways");
    }
    if let Some(fingerprint) = &flags.edge_fingerprint {
        let plain = fingerprint.strip_prefix("sha256:").unwrap_or(fingerprint);
        (edge.fingerprint, edge.ca_file) = (Some(plain.to_owned()), None);
    }
    if let Some(path) = &flags.edge_ca_file {
        (edge.fingerprint, edge.ca_file) = (None, Some(path.clone()));
    }
    if let Some(name) = &flags.edge_name {
        edge.server_name = Some(name.clone());
    }
    Ok(Some(edge))
}

/// One line on standard output when it is up; the links follow by themselves.
fn announce(handle: &Handle) -> Result<()> {
    let live = handle.gateway().live();
    let routes = live.config.routes.len();
    let mut out = std::io::stdout().lock();
    write!(
        out,
        "outwork: gateway of {} with {routes} {}",
        handle.gateway().tunnel_id.as_deref().unwrap_or("a tunnel"),
        if routes == 1 { "route" } else { "routes" },
    )?;
    match handle.health() {
        Some(address) => writeln!(out, "; health and metrics on {address}")?,
        None => writeln!(out, "; it listens on nothing")?,
    }
    out.flush()?;
    Ok(())
}

/// Says in the log why links do not come up, once for each reason, with what to do.
async fn tell(mut links: watch::Receiver<Vec<LinkStatus>>) {
    let mut said: HashMap<usize, String> = HashMap::new();
    loop {
        let now: Vec<LinkStatus> = links.borrow_and_update().clone();
        for link in now {
            let reason = match (&link.state, &link.last_error) {
                (LinkState::Connected { .. }, _) => {
                    said.remove(&link.index);
                    continue;
                }
                (LinkState::Refused { message, .. }, _) => message.clone(),
                // A link that was up and is lost is said by the gateway itself.
                (LinkState::Backoff, Some(error)) if link.connects == 0 => error.clone(),
                _ => continue,
            };
            if said.insert(link.index, reason.clone()).as_ref() == Some(&reason) {
                continue;
            }
            match &link.state {
                LinkState::Refused { .. } => tracing::error!(
                    link = link.index,
                    edge = link.edge,
                    reason,
                    "the edge refuses this gateway: compare tunnel_id, and take the present token with `outwork tunnel \
                     setup` or `outwork tunnels token`"
                ),
                _ => tracing::warn!(
                    link = link.index,
                    edge = link.edge,
                    reason,
                    "the edge is not reached yet; compare edge.addresses and edge.fingerprint with what `outwork tunnel \
                     setup` shows"
                ),
            }
        }
        if links.changed().await.is_err() {
            return;
        }
    }
}
