//! `outwork serve` and `outwork up`: configure, build, announce, drain.

use std::io::Write;

use anyhow::Result;
use outwork_plane::{AdminKey, Plane};
use outwork_sandbox::worker::Queue;

use crate::cli::plane::{ServeArgs, UpArgs};
use crate::cli::worker::LimitArgs;
use crate::config::{self, PlaneConfig, process_environment};
use crate::exit::Exit;
use crate::roles::{self, Job, LocalWorker};
use crate::{signals, telemetry};

pub(crate) async fn serve(args: ServeArgs) -> Result<Exit> {
    if args.plane.print_config {
        return print_config();
    }
    let config = config::plane(&args.plane, &LimitArgs::default(), false, &process_environment)?;
    telemetry::start(&config.log)?;
    let asked = signals::drain_token()?;
    let plane = roles::start_plane(&config).await?;
    announce(&plane)?;
    asked.cancelled().await;
    plane.shutdown().await;
    Ok(Exit::Done)
}

pub(crate) async fn up(args: UpArgs) -> Result<Exit> {
    if args.plane.print_config {
        return print_config();
    }
    let config = config::plane(&args.plane, &args.limits, true, &process_environment)?;
    telemetry::start(&config.log)?;
    let asked = signals::drain_token()?;
    let plane = roles::start_plane(&config).await?;
    let mut worker = match LocalWorker::start(job(&args, &config, &plane), &config.worker) {
        Ok(worker) => worker,
        Err(error) => {
            plane.shutdown().await;
            return Err(error);
        }
    };
    announce(&plane)?;
    let ended = tokio::select! {
        () = asked.cancelled() => None,
        error = worker.ended() => Some(error),
    };
    worker.drain().await;
    plane.shutdown().await;
    ended.map_or(Ok(Exit::Done), Err)
}

fn job(args: &UpArgs, config: &PlaneConfig, plane: &Plane) -> Job {
    Job {
        base_url: args
            .local_url
            .clone()
            .unwrap_or_else(|| roles::local_url(plane, config.tls.is_some())),
        ca_files: config.tls.iter().map(|tls| tls.cert.clone()).collect(),
        queue: Queue::Cloud,
        key: roles::worker_key(plane),
        workdir: config.data_dir.join("workspaces"),
        apart: true,
    }
}

/// One line when it is ready; before it the admin key, if it was made just now.
fn announce(plane: &Plane) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if let AdminKey::Made { key, path } = plane.admin_key() {
        writeln!(out, "outwork: admin key {} (kept in {})", key.expose(), path.display())?;
    }
    if let Some(edge) = plane.edge() {
        writeln!(out, "outwork: gateways of tunnels connect to {}", edge.listen)?;
    }
    writeln!(out, "outwork: listening on {}", plane.base_url())?;
    out.flush()?;
    Ok(())
}

fn print_config() -> Result<Exit> {
    std::io::stdout().write_all(config::DEFAULTS.as_bytes())?;
    Ok(Exit::Done)
}
