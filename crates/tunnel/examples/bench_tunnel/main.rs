//! Measures the tunnel beside a direct connection and, where it is given, rathole with Noise: in turn, in the same run,
//! over loopback, with the same load against the same origin.
//!
//! `cargo run --release -p outwork-tunnel --example bench_tunnel -- [--quick] [--rathole PROGRAM] [--only PART]...`
//!
//! A line a figure: what, whose, unit, every value that was measured; tabs between. Processes: this one is the load and,
//! for ours, the edge (as in the plane); the gateway, the origin and both ends of rathole have one each. Rathole's side
//! of a call is one process longer, since its server stands by itself, and encrypts once; ours encrypts twice.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

mod load;
mod memory;
mod origin;
mod ours;
mod rathole;
#[path = "../../tests/it/relay.rs"]
#[allow(dead_code, clippy::unwrap_used)]
mod relay;
mod trouble;
mod way;

use way::{Line, Way};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PARTS: &[&str] = &["latency", "load", "new", "bulk", "restart", "silence", "idle"];

/// What is measured, how often, beside what.
struct Plan {
    quick: bool,
    rathole: Option<PathBuf>,
    only: Vec<String>,
}

impl Plan {
    fn read(arguments: &[String]) -> Result<Self, Failure> {
        let mut plan = Self {
            quick: false,
            rathole: None,
            only: Vec::new(),
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--quick" => plan.quick = true,
                "--rathole" => plan.rathole = Some(words.next().ok_or("--rathole needs a program")?.into()),
                "--only" => match words.next() {
                    Some(part) if PARTS.contains(&part.as_str()) => plan.only.push(part.clone()),
                    other => return Err(format!("--only {other:?}: the parts are {}", PARTS.join(", ")).into()),
                },
                other => return Err(format!("{other} is not known here; see the top of main.rs").into()),
            }
        }
        Ok(plan)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| wanted == part)
    }

    /// How often something is repeated.
    fn rounds(&self, whole: usize) -> usize {
        if self.quick { whole.div_ceil(4) } else { whole }
    }

    /// How long one figure of a load is taken.
    fn span(&self) -> Duration {
        Duration::from_millis(if self.quick { 500 } else { 2000 })
    }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.first().map(String::as_str) {
        // The other processes of a run are this program again.
        Some("origin") => runtime.block_on(origin::run()),
        Some("gateway") => runtime.block_on(ours::gateway(&arguments[1..])),
        Some("edge") => runtime.block_on(trouble::edge(&arguments[1..])),
        Some("memory") => runtime.block_on(memory::ours(&arguments[1..])),
        // The load is a task like any other, as calls are in the plane.
        _ => {
            let plan = Plan::read(&arguments)?;
            runtime.block_on(async { tokio::spawn(async move { measure(&plan).await }).await? })
        }
    }
}

async fn measure(plan: &Plan) -> Result<(), Failure> {
    let origin = origin::Origin::start()?;
    let mut ways = vec![Arc::new(Way::Direct(origin.ports))];
    for mode in ["tcp", "quic"] {
        ways.push(Arc::new(Way::Ours(ours::Ours::start(mode, origin.ports).await?)));
    }
    if let Some(program) = &plan.rathole {
        let rathole = rathole::Rathole::start(program, origin.ports).await?;
        ways.push(Arc::new(Way::Rathole(rathole)));
    }
    if plan.wants("latency") {
        load::latency(&ways, plan).await?;
    }
    if plan.wants("load") {
        load::throughput(&ways, plan).await?;
    }
    if plan.wants("new") {
        load::fresh(&ways, plan).await?;
    }
    if plan.wants("bulk") {
        load::bulk(&ways, plan).await?;
    }
    if plan.wants("idle") {
        memory::before(&ways);
    }
    drop(ways);
    if plan.wants("idle") {
        memory::measure(plan, origin.ports).await?;
    }
    if plan.wants("restart") {
        trouble::restart(plan, origin.ports).await?;
    }
    if plan.wants("silence") {
        trouble::silence(plan, origin.ports).await?;
    }
    Ok(())
}

/// Prints a figure as a line.
fn show(line: Line<'_>) {
    use std::io::Write as _;
    let values: Vec<String> = line.values.iter().map(|value| format!("{value:.3}")).collect();
    println!("{}\t{}\t{}\t{}", line.what, line.whose, line.unit, values.join(" "));
    // Lines come as they are measured, also into a pipe; nobody is there to be told if that fails.
    let _ = std::io::stdout().flush();
}
