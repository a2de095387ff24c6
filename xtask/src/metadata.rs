//! What `cargo metadata` says about the workspace: its own packages, and every package that the
//! lock file pins. Read once per question and parsed by hand: three fields are used.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;

/// One package of the dependency graph.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    /// The name in the registry or the workspace.
    pub(crate) name: String,
    /// The version.
    pub(crate) version: String,
    /// The SPDX expression, if the package has one.
    pub(crate) licence: Option<String>,
    /// Whether it lives in this workspace.
    pub(crate) ours: bool,
    /// The names of the packages that it depends on outside of its tests (build dependencies included).
    pub(crate) depends_on: Vec<String>,
}

/// Every package that a Linux build can pull in, ours among them.
pub(crate) fn packages(workspace: &Workspace) -> Result<Vec<Package>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(&workspace.root)
        .output()
        .context("could not run `cargo metadata`")?;
    if !output.status.success() {
        bail!(
            "`cargo metadata` failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let document: Value = serde_json::from_slice(&output.stdout).context("`cargo metadata` did not print JSON")?;
    let reachable = reachable(&document)?;
    let all = document["packages"]
        .as_array()
        .context("`cargo metadata` printed no packages")?;
    all.iter()
        .filter(|package| package["id"].as_str().is_some_and(|id| reachable.contains(id)))
        .map(parse)
        .collect()
}

fn reachable(document: &Value) -> Result<std::collections::BTreeSet<&str>> {
    let nodes = document["resolve"]["nodes"]
        .as_array()
        .context("`cargo metadata` printed no resolved graph")?;
    Ok(nodes.iter().filter_map(|node| node["id"].as_str()).collect())
}

fn parse(package: &Value) -> Result<Package> {
    let text = |field: &str| package[field].as_str().map(str::to_owned);
    let name = text("name").context("a package without a name in `cargo metadata`")?;
    let version = text("version").with_context(|| format!("the package {name} has no version"))?;
    let depends_on = package["dependencies"]
        .as_array()
        .with_context(|| format!("the package {name} has no list of dependencies"))?
        .iter()
        .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
        .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
        .collect();
    Ok(Package {
        name,
        version,
        licence: text("license"),
        ours: package["source"].is_null(),
        depends_on,
    })
}
