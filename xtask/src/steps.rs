//! `cargo xtask test`: the steps that a change must pass, in the order in which they fail soonest. Each
//! says its number, its name and its time; the output of a step is kept and shown when it fails. A step
//! that needs the binary brings the build with it. Every step has a deadline.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{self, Bounds};
use crate::workspace::Workspace;
use crate::{deploy, fuzz, licences, parity, rooms, sdk};

/// What `cargo xtask test` takes.
#[derive(clap::Args)]
pub(crate) struct TestArguments {
    /// Run only this step (may be given more than once); `--list` names them.
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// List the steps and stop.
    #[arg(long)]
    list: bool,
    /// Show the output of every step as it comes.
    #[arg(long, short)]
    verbose: bool,
    /// Go on after a step fails and name all that failed.
    #[arg(long)]
    keep_going: bool,
}

struct Step {
    name: &'static str,
    what: &'static str,
    needs_binary: bool,
    run: fn(&Run) -> Result<()>,
}

/// What a step knows.
pub(crate) struct Run {
    pub(crate) workspace: Workspace,
    pub(crate) verbose: bool,
}

const BUILD: Step = Step {
    name: "build",
    what: "the binary that the suites drive",
    needs_binary: false,
    run: build,
};

const STEPS: &[Step] = &[
    Step {
        name: "format",
        what: "every file is formatted",
        needs_binary: false,
        run: format,
    },
    Step {
        name: "rooms",
        what: "crates depend on each other as the table says",
        needs_binary: false,
        run: check_rooms,
    },
    Step {
        name: "licences",
        what: "every dependency has an allowed licence",
        needs_binary: false,
        run: check_licences,
    },
    Step {
        name: "lint",
        what: "clippy, warnings denied",
        needs_binary: false,
        run: lint,
    },
    Step {
        name: "rust",
        what: "cargo test over the workspace",
        needs_binary: false,
        run: rust,
    },
    Step {
        name: "fuzz",
        what: "every fuzz target, from its seeds on, for some seconds",
        needs_binary: false,
        run: fuzz::check,
    },
    Step {
        name: "deploy",
        what: "the Helm chart, Compose files, units and Dockerfile of deploy/",
        needs_binary: false,
        run: deploy::check,
    },
    BUILD,
    Step {
        name: "python",
        what: "the published Python SDK and its worker",
        needs_binary: true,
        run: python,
    },
    Step {
        name: "types",
        what: "the TypeScript suite is well-typed",
        needs_binary: false,
        run: types,
    },
    Step {
        name: "typescript",
        what: "the published TypeScript SDK and its worker",
        needs_binary: true,
        run: typescript,
    },
    Step {
        name: "parity",
        what: "docs/parity.md says what the binary does",
        needs_binary: true,
        run: check_parity,
    },
];

/// Runs the chosen steps.
pub(crate) fn test(arguments: &TestArguments) -> Result<()> {
    if arguments.list {
        for step in STEPS {
            println!("{:<11} {}", step.name, step.what);
        }
        return Ok(());
    }
    let chosen = choose(&arguments.only)?;
    let context = Run {
        workspace: Workspace::find()?,
        verbose: arguments.verbose,
    };
    let started = Instant::now();
    let mut failed = Vec::new();
    for (position, step) in chosen.iter().enumerate() {
        println!("[{}/{}] {}: {}", position + 1, chosen.len(), step.name, step.what);
        let begun = Instant::now();
        let result = (step.run)(&context);
        let took = begun.elapsed().as_secs_f64();
        match result {
            Ok(()) => println!("      ok, {took:.1} s"),
            Err(error) => {
                println!("      FAILED, {took:.1} s");
                if !arguments.keep_going {
                    return Err(error).with_context(|| {
                        format!(
                            "the step {name} failed (again with: cargo xtask test --only {name})",
                            name = step.name
                        )
                    });
                }
                eprintln!("{error:#}");
                failed.push(step.name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    println!(
        "all {} steps passed in {:.0} s",
        chosen.len(),
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

fn choose(only: &[String]) -> Result<Vec<&'static Step>> {
    if let Some(unknown) = only
        .iter()
        .find(|name| !STEPS.iter().any(|step| step.name == name.as_str()))
    {
        let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        bail!("there is no step {unknown}; the steps are {}", names.join(", "));
    }
    if only.is_empty() {
        return Ok(STEPS.iter().collect());
    }
    let wanted = |step: &Step| only.iter().any(|name| name == step.name);
    let needs_build = STEPS.iter().any(|step| wanted(step) && step.needs_binary);
    Ok(STEPS
        .iter()
        .filter(|step| wanted(step) || (needs_build && step.name == BUILD.name))
        .collect())
}

impl Run {
    /// Runs a program; its output is kept under the step's name, and its end shown if it fails.
    pub(crate) fn run(&self, name: &str, command: Command, minutes: u64) -> Result<()> {
        let log = self.workspace.kept("xtask")?.join(format!("{name}.log"));
        let bounds = Bounds {
            deadline: Duration::from_secs(minutes * 60),
            stream: self.verbose,
        };
        process::run(command, &log, bounds)
    }

    /// The cargo that runs this.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(&self.workspace.root);
        // The variables that cargo gives to what it runs would rebuild crates that read them.
        for name in [
            "CARGO_MANIFEST_DIR",
            "CARGO_MANIFEST_PATH",
            "CARGO_PKG_NAME",
            "CARGO_PKG_VERSION",
        ] {
            command.env_remove(name);
        }
        command
    }
}

fn format(context: &Run) -> Result<()> {
    context
        .run("format", context.cargo(&["fmt", "--all", "--", "--check"]), 5)
        .context("some files are not formatted; run `cargo fmt --all`")
}

fn check_rooms(context: &Run) -> Result<()> {
    rooms::check(&context.workspace)
}

fn check_licences(context: &Run) -> Result<()> {
    let checked = licences::check(&context.workspace)?;
    println!("      {checked} packages");
    Ok(())
}

fn lint(context: &Run) -> Result<()> {
    let arguments = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "--deny",
        "warnings",
    ];
    context.run("lint", context.cargo(&arguments), 20)
}

fn rust(context: &Run) -> Result<()> {
    context.run(
        "rust",
        context.cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]),
        30,
    )
}

fn build(context: &Run) -> Result<()> {
    context.run(
        "build",
        // With a door into a tunnel, for the suite that goes through one.
        context.cargo(&[
            "build",
            "--package",
            "outwork",
            "--package",
            "outwork-gateway",
            "--bins",
            "--example",
            "entry",
            "--locked",
        ]),
        20,
    )
}

fn python(context: &Run) -> Result<()> {
    let python = sdk::python(&context.workspace, context.verbose)?;
    let mut command = python.command();
    command
        .args(["-m", "pytest", "--quiet", "-p", "no:cacheprovider", "tests/sdk/python"])
        .current_dir(&context.workspace.root)
        .env("OUTWORK_BINARY", required_binary(&context.workspace)?);
    context.run("python", command, 15)
}

fn types(context: &Run) -> Result<()> {
    let typescript = sdk::typescript(&context.workspace, context.verbose)?;
    let mut command = Command::new(&typescript.node);
    command
        .arg(typescript.folder.join("node_modules/typescript/bin/tsc"))
        .arg("--project")
        .arg(typescript.folder.join("suite"));
    context.run("types", command, 5)
}

fn typescript(context: &Run) -> Result<()> {
    let typescript = sdk::typescript(&context.workspace, context.verbose)?;
    let mut command = Command::new(&typescript.node);
    command
        .args([
            "--test",
            "--test-concurrency=1",
            "--test-timeout=180000",
            "--disable-warning=ExperimentalWarning",
        ])
        .current_dir(typescript.folder.join("suite"))
        .env("OUTWORK_BINARY", required_binary(&context.workspace)?);
    context.run("typescript", command, 10)
}

fn check_parity(context: &Run) -> Result<()> {
    parity::check(&context.workspace, context.verbose)
}

fn required_binary(workspace: &Workspace) -> Result<std::path::PathBuf> {
    let binary = workspace.binary("debug");
    if !Path::new(&binary).exists() {
        bail!("{} is not there; the step build makes it", binary.display());
    }
    Ok(binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(only: &[&str]) -> Vec<&'static str> {
        let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
        choose(&only).unwrap().iter().map(|step| step.name).collect()
    }

    #[test]
    fn a_step_that_needs_the_binary_brings_the_build() {
        assert_eq!(names(&["python"]), ["build", "python"]);
        assert_eq!(names(&["format"]), ["format"]);
        assert_eq!(names(&[]).len(), STEPS.len());
    }

    #[test]
    fn an_unknown_step_is_named_with_the_known_ones() {
        let Err(error) = choose(&["pyton".to_owned()]) else {
            panic!("an unknown step was taken")
        };
        let text = error.to_string();
        assert!(text.contains("pyton") && text.contains("python"), "{text}");
    }
}
