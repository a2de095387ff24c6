//! `docs/parity.md`: for every operation of the contract, what the published Python SDK got back from the
//! built binary. The calls are made by `tests/sdk/python/parity`; this module runs it and renders its
//! answer, so that no row is written by hand and the check and the page come from the same run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process::{self, Bounds};
use crate::workspace::Workspace;
use crate::{contract, sdk};

/// What `cargo xtask parity` takes.
#[derive(clap::Args)]
pub(crate) struct ParityArguments {
    /// Drive this binary instead of building one.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Print the page instead of writing it.
    #[arg(long)]
    print: bool,
    /// Show the output of the calls as they are made.
    #[arg(long, short)]
    verbose: bool,
}

/// Makes the calls and writes the page.
pub(crate) fn write(arguments: &ParityArguments) -> Result<()> {
    let workspace = Workspace::find()?;
    let binary = match &arguments.binary {
        Some(binary) => binary.clone(),
        None => build(&workspace)?,
    };
    let page = page(&workspace, &binary, arguments.verbose)?;
    if arguments.print {
        print!("{page}");
        return Ok(());
    }
    let target = target(&workspace);
    if let Some(folder) = target.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    }
    std::fs::write(&target, page).with_context(|| format!("could not write {}", target.display()))?;
    println!("wrote {}", target.display());
    Ok(())
}

/// Makes the calls and compares the page with the committed one.
pub(crate) fn check(workspace: &Workspace, verbose: bool) -> Result<()> {
    let fresh = page(workspace, &workspace.binary("debug"), verbose)?;
    let target = target(workspace);
    let committed = std::fs::read_to_string(&target).unwrap_or_default();
    if fresh == committed {
        return Ok(());
    }
    let differences: Vec<String> = difference(&committed, &fresh);
    bail!(
        "docs/parity.md is not what the binary does; run `cargo xtask parity` and look at the change:\n{}",
        differences.join("\n")
    );
}

fn target(workspace: &Workspace) -> PathBuf {
    workspace.root.join("docs/parity.md")
}

fn build(workspace: &Workspace) -> Result<PathBuf> {
    let mut command = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--package", "outwork"])
        .current_dir(&workspace.root);
    let bounds = Bounds {
        deadline: Duration::from_secs(20 * 60),
        stream: true,
    };
    process::run(command, &workspace.kept("xtask")?.join("build.log"), bounds)?;
    Ok(workspace.binary("debug"))
}

fn page(workspace: &Workspace, binary: &std::path::Path, verbose: bool) -> Result<String> {
    let python = sdk::python(workspace, verbose)?;
    let folder = workspace.kept("xtask")?;
    let answer = folder.join("parity.json");
    let mut command = python.command();
    command
        .arg(workspace.root.join("tests/sdk/python/parity.py"))
        .arg(contract::operations_file(workspace))
        .arg(&answer)
        .env("OUTWORK_BINARY", binary);
    let bounds = Bounds {
        deadline: Duration::from_secs(300),
        stream: verbose,
    };
    process::run(command, &folder.join("parity.log"), bounds).context("could not make the calls")?;
    let text = std::fs::read_to_string(&answer).with_context(|| format!("could not read {}", answer.display()))?;
    let rows: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", answer.display()))?;
    render(&rows)
}

fn render(answer: &Value) -> Result<String> {
    let text = |row: &Value, field: &str| -> Result<String> {
        row[field]
            .as_str()
            .map(str::to_owned)
            .with_context(|| format!("a row has no {field}: {row}"))
    };
    let rows = answer["rows"].as_array().context("the answer has no rows")?;
    let mut counts: BTreeMap<&str, usize> = ["pass", "refused", "missing", "wrong"].map(|name| (name, 0)).into();
    let mut sections: Vec<(String, Vec<String>)> = Vec::new();
    for row in rows {
        let outcome = text(row, "outcome")?;
        let count = counts
            .get_mut(outcome.as_str())
            .with_context(|| format!("an unknown outcome: {outcome}"))?;
        *count += 1;
        let path = text(row, "path")?;
        let section = path.split('/').nth(2).unwrap_or_default().to_owned();
        let line = format!(
            "| `{} {path}` | `{}` | {} |",
            text(row, "method")?,
            text(row, "call")?,
            text(row, "result")?.replace('|', "\\|")
        );
        match sections.last_mut() {
            Some((name, lines)) if *name == section => lines.push(line),
            _ => sections.push((section, vec![line])),
        }
    }
    let mut page = format!(
        "# Parity\n\n\
         Written by `cargo xtask parity`, which calls every operation of the contract with the published Python SDK\n\
         (`anthropic` {}) against the built binary. Do not edit.\n\n\
         | outcome | operations | meaning |\n|---|---|---|\n",
        text(answer, "sdk")?
    );
    let meanings = [
        (
            "pass",
            "the answer is valid, field by field, against the SDK's own types",
        ),
        ("refused", "a clear error: not supported, or not for this object"),
        ("missing", "the server does not know the route"),
        (
            "wrong",
            "an answer that the SDK's types do not allow, an error of the server, or a call that could not be made",
        ),
    ];
    for (outcome, meaning) in meanings {
        writeln!(page, "| {outcome} | {} | {meaning} |", counts[outcome]).context("could not write to a string")?;
    }
    writeln!(page, "| all | {} | |", rows.len()).context("could not write to a string")?;
    for (section, lines) in sections {
        write!(
            page,
            "\n## {section}\n\n| operation | call | result |\n|---|---|---|\n{}\n",
            lines.join("\n")
        )
        .context("could not write to a string")?;
    }
    Ok(page)
}

fn difference(committed: &str, fresh: &str) -> Vec<String> {
    let gone = committed
        .lines()
        .filter(|line| !fresh.lines().any(|other| other == *line))
        .map(|line| format!("- {line}"));
    let come = fresh
        .lines()
        .filter(|line| !committed.lines().any(|other| other == *line))
        .map(|line| format!("+ {line}"));
    gone.chain(come).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_counted_and_grouped() {
        let row = |path: &str, outcome: &str| json!({"method": "GET", "path": path, "call": "x.list", "outcome": outcome, "result": outcome});
        let rows = [
            row("/v1/agents", "pass"),
            row("/v1/agents/{id}", "pass"),
            row("/v1/dreams", "refused"),
        ];
        let page = render(&json!({"sdk": "1.0", "rows": rows})).unwrap();
        assert!(page.contains("| pass | 2 |") && page.contains("| refused | 1 |") && page.contains("| all | 3 |"));
        assert_eq!(page.matches("\n## ").count(), 2);
    }

    #[test]
    fn an_unknown_outcome_is_an_error() {
        let row = json!({"method": "GET", "path": "/v1/x", "call": "x", "outcome": "perhaps", "result": ""});
        assert!(render(&json!({"sdk": "1.0", "rows": [row]})).is_err());
    }
}
