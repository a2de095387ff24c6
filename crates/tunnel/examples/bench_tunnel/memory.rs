//! What it weighs: ends that are idle, and ten thousand streams that are.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::load::trip;
use crate::origin::Origin;
use crate::ours::{IDLE, Ours, WARM};
use crate::rathole::Rathole;
use crate::way::{Duplex, Line, Ports, Way, dial, resident};
use crate::{Failure, Plan, show};

const STREAMS: usize = 10_000;

fn megabytes(what: &str, whose: &str, value: f64) {
    show(Line {
        what,
        whose,
        unit: "MB",
        values: &[value],
    });
}

/// The ends in the private network: ours when its links came up, and both now, after whatever was measured before.
pub(crate) fn before(ways: &[Arc<Way>]) {
    for way in ways {
        let name = way.name();
        match &**way {
            Way::Direct(_) => {}
            Way::Ours(ours) => {
                megabytes("end in the private network, idle", &name, ours.idle);
                megabytes("end in the private network, after load", &name, ours.gateway.resident());
            }
            Way::Rathole(rathole) => {
                megabytes(
                    "end in the private network, after load",
                    &name,
                    rathole.client.resident(),
                );
            }
        }
    }
}

/// Ten thousand idle streams, each in a fresh process for ours, so that nothing else is in the figure.
pub(crate) async fn measure(plan: &Plan, origin: Ports) -> Result<(), Failure> {
    for mode in ["tcp", "quic"] {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["memory", mode, &origin.echo.to_string(), &origin.sink.to_string()]);
        let status = tokio::task::block_in_place(|| command.status())?;
        if !status.success() {
            return Err("the measurement of memory failed".into());
        }
    }
    if let Some(program) = &plan.rathole {
        rathole(program).await?;
    }
    Ok(())
}

/// What the process for ours does.
pub(crate) async fn ours(arguments: &[String]) -> Result<(), Failure> {
    let [mode, echo, sink] = arguments else {
        return Err("arguments of a measurement of memory".into());
    };
    let ports = Ports {
        echo: echo.parse()?,
        sink: sink.parse()?,
    };
    let ours = Ours::start(if mode == "quic" { "quic" } else { "tcp" }, ports).await?;
    let name = format!("ours {mode}");
    megabytes("edge, no stream", &name, resident("self"));
    let mut raw = Vec::new();
    for _ in 0..STREAMS {
        raw.push(ours.open_raw(IDLE).await?);
    }
    megabytes("edge, 10,000 idle streams", &name, resident("self"));
    drop(raw);
    let mut inner = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = ours.open(WARM).await?;
        trip(&mut stream).await?;
        inner.push(stream);
    }
    // The caller's ends of the inner TLS are in this process too.
    megabytes(
        "edge and callers, 10,000 idle streams with inner TLS",
        &name,
        resident("self"),
    );
    megabytes(
        "gateway, 10,000 idle streams with inner TLS",
        &name,
        ours.gateway.resident(),
    );
    Ok(())
}

/// The same streams through rathole, where each is a connection at both of its ends: as many as this user may open files
/// for.
async fn rathole(program: &Path) -> Result<(), Failure> {
    let wanted = (STREAMS * 2 + 1000) as u64;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let more = Rlimit {
            current: limit.maximum.map_or(Some(wanted), |most| Some(most.min(wanted))),
            maximum: limit.maximum,
        };
        setrlimit(Resource::Nofile, more)?;
        limit = more;
    }
    let allowed = limit
        .current
        .map_or(STREAMS, |files| (files.saturating_sub(1000) / 2) as usize);
    let streams = STREAMS.min(allowed);
    // The one before began under the old limit.
    let origin = Origin::start()?;
    let rathole = Rathole::start(program, origin.ports).await?;
    let Some(server) = &rathole.server else {
        return Ok(());
    };
    megabytes("edge, no stream", "rathole", server.resident());
    let mut open: Vec<Box<dyn Duplex>> = Vec::new();
    for _ in 0..streams {
        let mut stream = dial(rathole.ports.echo).await?;
        trip(&mut stream).await?;
        open.push(stream);
    }
    let named = if streams == STREAMS {
        "rathole".to_owned()
    } else {
        format!("rathole ({streams} of them)")
    };
    megabytes("edge, 10,000 idle streams", &named, server.resident());
    megabytes("gateway, 10,000 idle streams", &named, rathole.client.resident());
    Ok(())
}
