//! The sandbox, as its own example measures it: cold starts in turn with `bwrap`, `crun` and the sandbox runtime of the
//! field, where they are installed, and calls in a running one.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use super::Setting;
use super::table::{Row, Summary};
use crate::process::{self, Bounds};

/// The version of the peer that is a package.
const RUNTIME: &str = "@anthropic-ai/sandbox-runtime@0.0.78";
/// What the figures have to be: the beginning of a name, the peer, the goal.
const GOALS: &[(&str, &str, &str)] = &[
    ("sandbox cold start to exit", "bwrap", "half of bwrap"),
    ("sandbox with its fence", "bwrap", "half of bwrap"),
    ("sandbox with its fence", "crun", "0.4 of crun"),
    ("sandbox with its fence", "sandbox-runtime", "a tenth"),
    ("kill of 300", "", "50"),
    ("restore of 10 MiB", "", "10"),
    ("a sandbox at rest", "", "2"),
];

/// Cold starts beside the peers that are here, and calls in a running sandbox.
pub(crate) fn sandbox(setting: &Setting) -> Result<Vec<Row>> {
    let mut arguments = vec![setting.times(200).to_string()];
    match runtime(setting) {
        Ok(entry) => arguments.push(entry.to_string_lossy().into_owned()),
        Err(error) => println!("  sandbox-runtime is not measured: {error:#}"),
    }
    let printed = super::example(setting, "outwork-sandbox", "bench_sandbox", &arguments, 10)?;
    for line in printed
        .lines()
        .filter(|line| line.contains("not measured") || line.contains("not installed"))
    {
        println!("  {line}");
    }
    let rows = rows(&printed);
    if rows.is_empty() {
        bail!("the example printed no figures: {printed}");
    }
    Ok(rows)
}

/// The entry file of the peer that is a package, installed once.
fn runtime(setting: &Setting) -> Result<PathBuf> {
    let folder = setting.workspace.kept("xtask/sandbox-runtime")?;
    let entry = folder.join("node_modules/@anthropic-ai/sandbox-runtime/dist/index.js");
    if !entry.is_file() {
        println!("  installing {RUNTIME} ...");
        let mut install = Command::new("npm");
        install.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]);
        install.arg(&folder).arg(RUNTIME);
        let bounds = Bounds {
            deadline: Duration::from_secs(600),
            stream: false,
        };
        process::run(install, &folder.join("install.log"), bounds)?;
    }
    Ok(entry)
}

/// Lines of ours, each with a row for every peer that follows it.
fn rows(printed: &str) -> Vec<Row> {
    let goal = |name: &str, peer: &str| {
        let fits = |goal: &&(&str, &str, &'static str)| {
            name.starts_with(goal.0) && peer.starts_with(goal.1) && goal.1.is_empty() == peer.is_empty()
        };
        GOALS.iter().find(fits).map(|goal| goal.2)
    };
    let mut rows: Vec<Row> = Vec::new();
    let mut ours: Option<(String, &'static str, Summary)> = None;
    for (name, unit, summary) in printed.lines().filter_map(figures) {
        let Some(peer) = name.strip_prefix("beside ") else {
            let row = Row::of(name.clone(), unit, summary);
            rows.push(match goal(&name, "") {
                Some(goal) => row.goal(goal),
                None => row,
            });
            ours = Some((name, unit, summary));
            continue;
        };
        let Some((name, unit, ours)) = &ours else { continue };
        let row = Row::of(name.clone(), unit, *ours).beside(peer, summary);
        rows.push(match goal(name, peer) {
            Some(goal) => row.goal(goal),
            None => row,
        });
    }
    rows
}

/// A line that ends in `min 1.0  p50 2.0  p95 3.0 ms`: its name, its unit and its figures.
fn figures(line: &str) -> Option<(String, &'static str, Summary)> {
    let (name, rest) = line.split_once(" min ")?;
    let mut words = rest.split_whitespace();
    let mut number = |label: Option<&str>| -> Option<f64> {
        if let Some(label) = label
            && words.next()? != label
        {
            return None;
        }
        words.next()?.parse().ok()
    };
    let summary = Summary {
        least: number(None)?,
        median: number(Some("p50"))?,
        p95: number(Some("p95"))?,
    };
    let unit = words.next()?;
    let unit = ["ms", "MB"].into_iter().find(|known| *known == unit)?;
    Some((name.trim().to_owned(), unit, summary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_figures_is_read() {
        let line = "sandbox cold start to exit, static program   min   1.250  p50   2.500  p95  10.000 ms";
        let (name, unit, summary) = figures(line).unwrap();
        assert_eq!(unit, "ms");
        assert_eq!(name, "sandbox cold start to exit, static program");
        assert_eq!((summary.least, summary.median, summary.p95), (1.25, 2.5, 10.0));
        assert!(figures("ratio of p50: 0.40").is_none());
        let text = format!("{line}\nbeside bwrap --unshare-all min 2.0 p50 5.0 p95 9.0 ms\n");
        let text = crate::bench::table::render(&rows(&text));
        assert!(text.contains("0.50") && text.ends_with("half of bwrap"), "{text}");
    }
}
