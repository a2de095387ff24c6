//! The files of `deploy/`, checked as far as that goes without a cluster and without a container engine: the Helm chart
//! is linted and rendered by Helm's own engine and judged by the schemas of Kubernetes, Compose files by the schema of
//! the Compose specification, units by systemd, and what the chart makes of its values by the gateway itself.
//!
//! What is not on the machine (systemd) is skipped with a line that says so; everything else is installed under the
//! build folder from pinned versions.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::sdk;
use crate::steps::Run;

/// The exposure that `systemd-analyze security` may find, in tenths. A worker makes sandboxes, so most of what a unit
/// could take away from it has to stay.
const UNITS: &[(&str, u32)] = &[
    ("outwork-gateway.service", 15),
    ("outwork-gateway-renew.service", 15),
    ("outwork.service", 15),
    ("outwork-worker.service", 60),
];

/// Checks everything in `deploy/`.
pub(crate) fn check(run: &Run) -> Result<()> {
    let python = sdk::packages(
        &run.workspace,
        "deploy/check/requirements.txt",
        "deploy/python",
        run.verbose,
    )?;
    let scripts = run.workspace.root.join("deploy/check");
    let out = run.workspace.kept("deploy/rendered")?;
    let mut chart = python.command();
    chart.arg(scripts.join("chart.py")).arg(&out);
    run.run("deploy-chart", chart, 5).context("the Helm chart")?;
    let mut containers = python.command();
    containers.arg(scripts.join("containers.py"));
    run.run("deploy-containers", containers, 5)
        .context("the Compose files and the Dockerfile")?;
    gateway(run, &out)?;
    units(run)
}

/// The gateway reads what the chart made for it, and refuses what it should.
fn gateway(run: &Run, rendered: &Path) -> Result<()> {
    let reads = |files: &[PathBuf]| {
        let mut command = run.cargo(&["run", "--quiet", "--locked", "--package", "outwork-gateway"]);
        command.args(["--example", "bench_gateway", "--", "config"]).args(files);
        run.run("deploy-gateway", command, 20)
    };
    let names = ["least", "most", "one"];
    let files = names.map(|name| rendered.join("config").join(name).join("config.yaml"));
    reads(&files).context("the gateway does not take what the chart makes")?;
    let broken = rendered.join("config/broken.yaml");
    let text = std::fs::read_to_string(&files[0]).with_context(|| format!("could not read {}", files[0].display()))?;
    write(&broken, &text.replace("token_file:", "tokenfile:"))?;
    if reads(&[broken]).is_ok() {
        bail!("the gateway took a misspelt key, so its taking the others means nothing");
    }
    Ok(())
}

/// Units: every line known, every rule kept, nothing left open that could be closed.
fn units(run: &Run) -> Result<()> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("      skipped: systemd-analyze is not on this machine, so the units were not verified");
        return Ok(());
    }
    let source = run.workspace.root.join("deploy/systemd");
    let root = image(run, &source)?;
    let mut names = listed(&source, "service")?;
    names.extend(listed(&source, "timer")?);
    for name in &names {
        verify(&root, name)?;
    }
    misspelt(&root)?;
    for name in listed(&source, "service")? {
        let Some((_, most)) = UNITS.iter().find(|(unit, _)| *unit == name) else {
            bail!("{name} has no bound in xtask/src/deploy.rs");
        };
        let mut command = Command::new("systemd-analyze");
        command
            .args(["security", "--offline=yes", "--no-pager"])
            .arg(format!("--threshold={most}"))
            .arg(format!("--root={}", root.display()))
            .arg(&name);
        run.run(&format!("deploy-security-{name}"), command, 1)
            .with_context(|| format!("{name} is open to more than {}.{}", most / 10, most % 10))?;
    }
    Ok(())
}

/// A root with the units, the targets that they name, and something to execute.
fn image(run: &Run, source: &Path) -> Result<PathBuf> {
    let root = run.workspace.kept("deploy/root")?;
    std::fs::remove_dir_all(&root).with_context(|| format!("could not empty {}", root.display()))?;
    let system = root.join("etc/systemd/system");
    for folder in [&system, &root.join("usr/bin"), &root.join("bin")] {
        std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    }
    for program in ["usr/bin/outwork", "bin/kill"] {
        let path = root.join(program);
        write(&path, "#!/bin/sh\n")?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
            .with_context(|| format!("could not make {program} executable"))?;
    }
    for unit in [
        "sysinit",
        "basic",
        "shutdown",
        "network-online",
        "nss-lookup",
        "timers",
        "multi-user",
    ] {
        let name = format!("{unit}.target");
        write(&system.join(&name), &format!("[Unit]\nDescription={unit}\n"))?;
    }
    for name in listed(source, "service")?.into_iter().chain(listed(source, "timer")?) {
        std::fs::copy(source.join(&name), system.join(&name)).with_context(|| format!("could not copy {name}"))?;
    }
    Ok(root)
}

/// Unknown lines are only warnings of `systemd-analyze verify`, so it must not say anything at all.
fn verify(root: &Path, name: &str) -> Result<()> {
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .arg(format!("--root={}", root.display()))
        .arg(root.join("etc/systemd/system").join(name))
        .output()
        .context("could not run systemd-analyze")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !said.trim().is_empty() {
        bail!("systemd does not take {name}: {said}");
    }
    Ok(())
}

/// That a mistake would be seen: a unit with one is refused.
fn misspelt(root: &Path) -> Result<()> {
    let path = root.join("etc/systemd/system/misspelt.service");
    write(&path, "[Service]\nExecStart=/usr/bin/outwork\nProtectSytem=strict\n")?;
    let refused = verify(root, "misspelt.service").is_err();
    std::fs::remove_file(&path).with_context(|| format!("could not remove {}", path.display()))?;
    if !refused {
        bail!("systemd-analyze took a misspelt line, so what it says of the units means nothing");
    }
    Ok(())
}

fn listed(folder: &Path, extension: &str) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("could not list {}", folder.display()))?
            .path();
        if path.extension().is_some_and(|found| found == extension) {
            names.extend(path.file_name().and_then(|name| name.to_str()).map(str::to_owned));
        }
    }
    names.sort();
    Ok(names)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}
