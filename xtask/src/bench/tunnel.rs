//! The tunnel beside a direct connection and rathole with Noise, raw and with calls of MCP tools through the gateway.
//! Two examples measure, in turn and round by round; here the peer is fetched and their lines become rows.
//!
//! The peer is installed with cargo under the build folder, at one version, without its lock file: that one names
//! packages that current compilers refuse. Where it cannot be installed its columns stay empty, with a line that says so.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};

use super::Setting;
use super::table::{Row, Summary};
use crate::process::{self, Bounds};

const RATHOLE: &str = "0.5.0";
const MINUTES: u64 = 20;

/// What the figures have to be, by the names that the examples give them.
const GOALS: &[(&str, &str)] = &[
    ("added p50, one call at a time", "at most rathole"),
    ("32 at a time", "30000, above rathole"),
    ("new connections", "above rathole"),
    ("new connections, inner TLS on a warm link", "12000"),
    ("bulk, one stream", "3.5, above rathole"),
    ("edge restarted to first success", "300"),
    ("silent loss noticed by the edge", "3"),
    ("silent loss noticed by the gateway", "3"),
    ("edge, 10,000 idle streams", "200"),
    ("edge and callers, 10,000 idle streams with inner TLS", "200"),
    ("gateway, idle", "10"),
    ("one of two connections closed: failed read-only calls", "0"),
    ("one of two connections silent: failed read-only calls", "0"),
];
/// The goal for calls of tools with every rule on.
const WITH_RULES: (&str, &str, &str) = ("MCP call, added p50, one at a time", ", rules", "60");
/// Figures of the peer that stand beside ones of ours with another name.
const BESIDE: &[(&str, &str)] = &[(
    "gateway, 10,000 idle streams with inner TLS",
    "gateway, 10,000 idle streams",
)];

/// Measures everything.
pub(crate) fn tunnel(setting: &Setting) -> Result<Vec<Row>> {
    let mut arguments = quick(setting);
    match rathole(setting) {
        Ok(program) => arguments.extend(["--rathole".to_owned(), program.to_string_lossy().into_owned()]),
        Err(error) => println!("  rathole is not measured: {error:#}"),
    }
    let raw = super::example(setting, "outwork-tunnel", "bench_tunnel", &arguments, MINUTES)?;
    let mut arguments = quick(setting);
    let product = setting.workspace.binary("release");
    if runs_gateways(&product) {
        arguments.extend(["--program".to_owned(), product.to_string_lossy().into_owned()]);
    } else {
        println!("  this binary has no `tunnel run`: the gateway is the example's own process");
    }
    let calls = super::example(setting, "outwork-gateway", "bench_gateway", &arguments, MINUTES)?;
    let lines: Vec<Line> = raw.lines().chain(calls.lines()).filter_map(Line::read).collect();
    if lines.is_empty() {
        bail!("the examples printed no figures: {raw}{calls}");
    }
    Ok(rows(&lines))
}

fn quick(setting: &Setting) -> Vec<String> {
    let quick = setting.quick.then(|| "--quick".to_owned());
    quick.into_iter().collect()
}

fn runs_gateways(program: &PathBuf) -> bool {
    let status = Command::new(program)
        .args(["tunnel", "run", "--help"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}

/// The peer, installed once.
fn rathole(setting: &Setting) -> Result<PathBuf> {
    let root = setting.workspace.kept("xtask/tools")?;
    let program = root.join("bin/rathole");
    let version = Command::new(&program).arg("--version").output();
    if version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(RATHOLE)) {
        return Ok(program);
    }
    println!("  installing rathole {RATHOLE} ...");
    let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    install
        .args(["install", "rathole", "--version", RATHOLE, "--force", "--root"])
        .arg(&root)
        .env("CARGO_TARGET_DIR", setting.workspace.kept("xtask/rathole")?)
        .current_dir(&setting.workspace.root);
    let bounds = Bounds {
        deadline: Duration::from_secs(MINUTES * 60),
        stream: false,
    };
    process::run(
        install,
        &setting.workspace.kept("xtask")?.join("rathole-install.log"),
        bounds,
    )?;
    Ok(program)
}

/// A line of the examples: what, whose, unit, values.
#[derive(Debug, PartialEq)]
struct Line {
    what: String,
    whose: String,
    unit: &'static str,
    values: Vec<f64>,
}

impl Line {
    fn read(text: &str) -> Option<Self> {
        let mut cells = text.split('\t');
        let (what, whose, unit) = (cells.next()?, cells.next()?, cells.next()?);
        let values: Option<Vec<f64>> = cells.next()?.split(' ').map(|value| value.parse().ok()).collect();
        let unit = ["us", "ms", "s", "req/s", "conn/s", "Gbit/s", "MB", "calls"]
            .into_iter()
            .find(|known| *known == unit)?;
        Some(Self {
            what: what.to_owned(),
            whose: whose.to_owned(),
            unit,
            values: values?,
        })
    }
}

fn rows(lines: &[Line]) -> Vec<Row> {
    let peer = |what: &str| {
        let other = BESIDE.iter().find(|(ours, _)| *ours == what).map(|(_, peer)| *peer);
        lines
            .iter()
            .find(|line| line.whose.starts_with("rathole") && (line.what == what || Some(&*line.what) == other))
    };
    lines
        .iter()
        .filter(|line| !line.whose.starts_with("rathole"))
        .map(|line| {
            let mut row = Row::new(format!("{}: {}", line.whose, line.what), line.unit, line.values.clone());
            if line.whose == "direct" {
                return row;
            }
            if let Some(peer) = peer(&line.what) {
                row = row.beside(peer.whose.clone(), Summary::of(&peer.values));
            }
            let (what, whose, goal) = WITH_RULES;
            if line.what == what && line.whose.ends_with(whose) {
                return row.goal(goal);
            }
            match GOALS.iter().find(|(what, _)| *what == line.what) {
                Some((_, goal)) => row.goal(goal),
                None => row,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::table;

    #[test]
    fn lines_become_rows_beside_the_peer() {
        let printed = "32 at a time\tdirect\treq/s\t100.0 102.0\n\
                       32 at a time\tours tcp\treq/s\t30.0 50.0 40.0\n\
                       32 at a time\trathole\treq/s\t20.0\n\
                       a line of something else\n";
        let lines: Vec<Line> = printed.lines().filter_map(Line::read).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[1].values, [30.0, 50.0, 40.0]);
        let text = table::render(&rows(&lines));
        let shown: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(shown.len(), 2, "{text}");
        assert!(
            shown[1].contains("ours tcp") && shown[1].contains("2.00") && shown[1].ends_with("above rathole"),
            "{text}"
        );
        assert!(!shown[0].contains("rathole"), "{text}");
    }
}
