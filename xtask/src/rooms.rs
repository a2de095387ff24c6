//! The table of rooms: which crate of the workspace may depend on which. A crate that is not in the
//! table, or an arrow that is not in it, fails. Dependencies of tests are free.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::metadata::{self, Package};
use crate::workspace::Workspace;

/// Each room and the rooms that it may stand on.
const ROOMS: &[(&str, &[&str])] = &[
    ("outwork-wire", &[]),
    ("outwork-ledger", &["outwork-wire"]),
    ("outwork-engine", &["outwork-wire"]),
    ("outwork-store", &["outwork-wire"]),
    ("outwork-client", &["outwork-wire"]),
    ("outwork-model", &["outwork-wire"]),
    ("outwork-rehearsal", &[]),
    ("outwork-image", &[]),
    ("outwork-egress", &["outwork-wire", "outwork-ledger"]),
    ("outwork-mcp", &["outwork-wire"]),
    ("outwork-tunnel", &["outwork-wire"]),
    ("outwork-gateway", &["outwork-wire", "outwork-ledger", "outwork-tunnel"]),
    (
        "outwork-plane",
        &[
            "outwork-wire",
            "outwork-engine",
            "outwork-store",
            "outwork-model",
            "outwork-ledger",
            "outwork-mcp",
            "outwork-tunnel",
        ],
    ),
    (
        "outwork-sandbox",
        &[
            "outwork-wire",
            "outwork-client",
            "outwork-ledger",
            "outwork-egress",
            "outwork-image",
        ],
    ),
    (
        "outwork",
        &[
            "outwork-wire",
            "outwork-ledger",
            "outwork-engine",
            "outwork-store",
            "outwork-client",
            "outwork-model",
            "outwork-rehearsal",
            "outwork-egress",
            "outwork-image",
            "outwork-mcp",
            "outwork-tunnel",
            "outwork-gateway",
            "outwork-plane",
            "outwork-sandbox",
        ],
    ),
    ("xtask", &[]),
];

/// Fails with every arrow of the workspace that the table does not have.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let wrong = violations(&metadata::packages(workspace)?);
    if wrong.is_empty() {
        return Ok(());
    }
    bail!(
        "the rooms are not as the table in xtask/src/rooms.rs says:\n  {}",
        wrong.join("\n  ")
    );
}

fn violations(packages: &[Package]) -> Vec<String> {
    let table: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let ours: Vec<&Package> = packages.iter().filter(|package| package.ours).collect();
    let mut wrong = Vec::new();
    for package in &ours {
        let Some(allowed) = table.get(package.name.as_str()) else {
            wrong.push(format!("the crate {} is not in the table", package.name));
            continue;
        };
        for target in &package.depends_on {
            let is_ours = ours.iter().any(|other| other.name == *target);
            if is_ours && !allowed.contains(&target.as_str()) {
                wrong.push(format!(
                    "{} depends on {target}, which the table does not allow",
                    package.name
                ));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, depends_on: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            version: "0.1.0".to_owned(),
            licence: None,
            ours: true,
            depends_on: depends_on.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    #[test]
    fn the_workspace_keeps_the_table() {
        check(&Workspace::find().unwrap()).unwrap();
    }

    #[test]
    fn an_arrow_that_is_not_in_the_table_is_found() {
        let packages = [
            package("outwork-engine", &["outwork-store", "serde"]),
            package("outwork-store", &[]),
        ];
        assert_eq!(
            violations(&packages),
            ["outwork-engine depends on outwork-store, which the table does not allow"]
        );
    }

    #[test]
    fn a_crate_that_is_not_in_the_table_is_found() {
        assert_eq!(
            violations(&[package("outwork-extras", &[])]),
            ["the crate outwork-extras is not in the table"]
        );
    }

    #[test]
    fn the_table_has_no_cycle() {
        // Rooms are listed bottom-up: each may name only rooms above it in the file.
        for (position, (room, allowed)) in ROOMS.iter().enumerate() {
            for target in *allowed {
                let below = ROOMS.iter().position(|(name, _)| name == target).unwrap();
                assert!(below < position, "{room} stands on {target}, which is listed after it");
            }
        }
    }
}
