//! `cargo xtask bench`: figures of the release build, one row a case, ours and the peer's in turn where there
//! is a peer. It prints; it never fails because a figure is high, and it is no part of `cargo xtask test`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{self, Bounds};
use crate::workspace::Workspace;

mod boundary;
mod plane;
mod sandbox;
mod servers;
mod store;
mod streams;
mod table;
mod tunnel;
mod turn;

use table::Row;

/// What `cargo xtask bench` takes.
#[derive(clap::Args)]
pub(crate) struct BenchArguments {
    /// Fewer repetitions and smaller numbers, to see that everything runs.
    #[arg(long)]
    quick: bool,
    /// Run only this case (may be given more than once); `--list` names them.
    #[arg(long, value_name = "CASE")]
    only: Vec<String>,
    /// List the cases and stop.
    #[arg(long)]
    list: bool,
}

/// What a case needs to know.
pub(crate) struct Setting {
    workspace: Workspace,
    quick: bool,
}

impl Setting {
    /// How often something is repeated: `whole`, or a good deal less when in a hurry.
    fn times(&self, whole: usize) -> usize {
        if self.quick { (whole / 10).max(2) } else { whole }
    }
}

struct Case {
    name: &'static str,
    what: &'static str,
    run: fn(&Setting) -> Result<Vec<Row>>,
}

const CASES: &[Case] = &[
    Case {
        name: "start",
        what: "start to ready, empty data folder",
        run: plane::start,
    },
    Case {
        name: "memory",
        what: "idle memory of the plane",
        run: plane::memory,
    },
    Case {
        name: "claim",
        what: "session created to work claimed by a waiting worker",
        run: plane::claim,
    },
    Case {
        name: "turn",
        what: "a tool turn without model time",
        run: turn::turn,
    },
    Case {
        name: "append",
        what: "durable event appends over 64 sessions",
        run: store::append,
    },
    Case {
        name: "streams",
        what: "open event streams",
        run: streams::streams,
    },
    Case {
        name: "sandbox",
        what: "sandbox cold start beside bwrap, crun and sandbox-runtime, a call in a running sandbox",
        run: sandbox::sandbox,
    },
    Case {
        name: "boundary",
        what: "the way out of a sandbox beside mitmdump and a direct connection, records of the ledger",
        run: boundary::boundary,
    },
    Case {
        name: "tunnel",
        what: "the tunnel beside rathole with Noise and a direct connection, MCP calls through the gateway",
        run: tunnel::tunnel,
    },
];

/// Runs the chosen cases and prints the table.
pub(crate) fn run(arguments: &BenchArguments) -> Result<()> {
    if arguments.list {
        for case in CASES {
            println!("{:<9} {}", case.name, case.what);
        }
        return Ok(());
    }
    if let Some(unknown) = arguments
        .only
        .iter()
        .find(|name| !CASES.iter().any(|case| case.name == name.as_str()))
    {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        bail!("there is no case {unknown}; the cases are {}", names.join(", "));
    }
    let setting = Setting {
        workspace: Workspace::find()?,
        quick: arguments.quick,
    };
    println!("building for release ...");
    build(&setting.workspace, &["build", "--release", "--package", "outwork"])?;
    let mut rows = Vec::new();
    let mut failed = Vec::new();
    let before = load();
    for case in CASES
        .iter()
        .filter(|case| arguments.only.is_empty() || arguments.only.iter().any(|n| n == case.name))
    {
        println!("{}: {} ...", case.name, case.what);
        match (case.run)(&setting) {
            Ok(measured) => rows.extend(measured),
            Err(error) => failed.push(format!("{}: {error:#}", case.name)),
        }
    }
    println!("\n{}", table::render(&rows));
    println!("load average before {before}, after {}", load());
    if !failed.is_empty() {
        bail!("cases that could not be measured:\n  {}", failed.join("\n  "));
    }
    Ok(())
}

/// How busy the machine is, so that whoever reads the figures knows.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// Builds something with cargo, quietly unless it fails.
fn build(workspace: &Workspace, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(&workspace.root);
    let bounds = Bounds {
        deadline: Duration::from_secs(40 * 60),
        stream: false,
    };
    process::run(command, &workspace.kept("xtask")?.join("bench-build.log"), bounds)
}

/// Builds an example of another package, runs it, and gives what it printed.
fn example(setting: &Setting, package: &str, name: &str, arguments: &[String], minutes: u64) -> Result<String> {
    build(
        &setting.workspace,
        &["build", "--release", "--package", package, "--example", name],
    )?;
    let program = setting.workspace.target.join("release/examples").join(name);
    let log = setting.workspace.kept("xtask")?.join(format!("bench-{name}.log"));
    let mut command = Command::new(&program);
    command.args(arguments);
    let bounds = Bounds {
        deadline: Duration::from_secs(minutes * 60),
        stream: false,
    };
    process::run(command, &log, bounds)?;
    std::fs::read_to_string(&log).with_context(|| format!("could not read {}", log.display()))
}
