//! Flags of `worker` and `worker run`.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args, Subcommand};
use serde::Deserialize;

use super::plane::LogArgs;
use crate::config::Span;

const VARIABLES: &str = "\
Variables, where a flag is not given (the first that is set):
  --environment-id   OUTWORK_ENVIRONMENT_ID, ANTHROPIC_ENVIRONMENT_ID
  --environment-key  OUTWORK_ENVIRONMENT_KEY, ANTHROPIC_ENVIRONMENT_KEY
  --base-url         OUTWORK_BASE_URL, ANTHROPIC_BASE_URL

SIGTERM drains: the running call is ended, its result is posted, the sessions are
released. A second signal ends at once. SIGUSR1 kills every sandbox at once, which
is recorded, and then drains.";

/// `outwork worker`
#[derive(Debug, Args)]
#[command(after_help = VARIABLES, args_conflicts_with_subcommands = true)]
pub(crate) struct WorkerArgs {
    #[command(subcommand)]
    pub(crate) command: Option<WorkerCommand>,
    #[command(flatten)]
    pub(crate) poll: PollArgs,
}

/// What a worker may do beside polling.
#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// Serve one session that was already claimed: what a program of --on-work runs
    Run(WorkArgs),
}

/// Polling for work.
#[derive(Debug, Args)]
pub(crate) struct PollArgs {
    #[command(flatten)]
    pub(crate) queue: QueueArgs,
    /// A program that serves each claimed session, instead of this process
    ///
    /// `outwork worker run --item -` is one. It is run by the shell, with the work item on its standard input and ANTHROPIC_SESSION_ID,
    /// ANTHROPIC_WORK_ID, ANTHROPIC_ENVIRONMENT_ID, ANTHROPIC_ENVIRONMENT_KEY and ANTHROPIC_BASE_URL set.
    /// It must not return before the session is finished.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) on_work: Option<String>,
    /// End when the queue is empty
    #[arg(long)]
    pub(crate) drain: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// One claimed work item.
#[derive(Debug, Args)]
#[command(after_help = "Every value may come from the variable that --on-work sets for it.")]
pub(crate) struct WorkArgs {
    #[command(flatten)]
    pub(crate) queue: QueueArgs,
    /// The session
    #[arg(long, env = "ANTHROPIC_SESSION_ID", value_name = "ID")]
    pub(crate) session_id: String,
    /// The work item
    #[arg(long, env = "ANTHROPIC_WORK_ID", value_name = "ID")]
    pub(crate) work_id: String,
    /// The work item's JSON, for the secret in it; `-` is standard input, where --on-work puts it
    /// [default: the secret is taken from ANTHROPIC_WORK_SECRET, if it is set]
    #[arg(long, value_name = "FILE")]
    pub(crate) item: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// Whose work, and where.
#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    /// The environment whose sessions to serve
    #[arg(long, value_name = "ID")]
    pub(crate) environment_id: Option<String>,
    /// The environment's key; better given as a variable, since other users can see flags
    #[arg(long, value_name = "KEY")]
    pub(crate) environment_key: Option<String>,
    /// The server [default: http://127.0.0.1:8400]
    #[arg(long, value_name = "URL")]
    pub(crate) base_url: Option<String>,
    /// Certificate authorities to trust, PEM
    #[arg(long, env = "OUTWORK_CA_FILE", value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// The folder that sessions work in
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub(crate) workdir: PathBuf,
    /// A settings file
    #[arg(long, env = "OUTWORK_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// What sandboxes may use.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct LimitArgs {
    /// How many sessions run at the same time [default: 1; of `up` 4]
    #[arg(long, value_name = "COUNT", help_heading = "Sandboxes")]
    pub(crate) concurrency: Option<usize>,
    /// How long a session's sandbox stays after its last turn [default: 60s]
    #[arg(long, value_name = "TIME", help_heading = "Sandboxes")]
    pub(crate) max_idle: Option<Span>,
    /// Whether tools are kept apart from this machine [default: full]
    #[arg(long, value_enum, value_name = "HOW", help_heading = "Sandboxes")]
    pub(crate) isolation: Option<Isolation>,
    /// Memory of a sandbox, for example 512MiB [default: 4GiB]
    #[arg(long, value_name = "SIZE", help_heading = "Sandboxes")]
    pub(crate) memory_limit: Option<ByteSize>,
    /// Cores of a sandbox, for example 1.5 [default: no limit]
    #[arg(long, value_name = "CORES", help_heading = "Sandboxes")]
    pub(crate) cpu_limit: Option<f64>,
    /// Processes and threads of a sandbox [default: 1024]
    #[arg(long, value_name = "COUNT", help_heading = "Sandboxes")]
    pub(crate) process_limit: Option<u32>,
    /// Temporary files of a sandbox, and its largest single file [default: 4GiB]
    #[arg(long, value_name = "SIZE", help_heading = "Sandboxes")]
    pub(crate) disk_limit: Option<ByteSize>,
    /// The longest that one call of a tool may take [default: 150s]
    #[arg(long, value_name = "TIME", help_heading = "Sandboxes")]
    pub(crate) call_limit: Option<Span>,
    /// How much of a command's output is kept, its end [default: 100KiB]
    #[arg(long, value_name = "SIZE", help_heading = "Sandboxes")]
    pub(crate) output_limit: Option<ByteSize>,
    /// How long a sandbox may stand, whatever it does; then it is killed [default: no limit]
    #[arg(long, value_name = "TIME", help_heading = "Sandboxes")]
    pub(crate) time_limit: Option<Span>,
    /// What all calls in a sandbox together may answer; then it is killed [default: no limit]
    #[arg(long, value_name = "SIZE", help_heading = "Sandboxes")]
    pub(crate) total_output_limit: Option<ByteSize>,
    /// A graphics device that sandboxes may use, for example nvidia0 or dri/renderD128; may be repeated
    #[arg(long = "device", value_name = "NAME", help_heading = "Sandboxes")]
    pub(crate) devices: Vec<String>,
    #[command(flatten)]
    pub(crate) boundary: BoundaryArgs,
}

/// What sandboxes may reach, what they stand on, and what is kept of it.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct BoundaryArgs {
    /// What sandboxes may reach at most, TOML or JSON [default: what a cloud environment says, and nothing otherwise]
    #[arg(long, value_name = "FILE", help_heading = "Boundary")]
    pub(crate) policy: Option<PathBuf>,
    /// The root filesystem: a folder, an OCI layout or archive, or HOST/NAME@sha256:… of a registry
    /// [default: this machine's system folders]
    #[arg(long, value_name = "IMAGE", help_heading = "Boundary")]
    pub(crate) image: Option<String>,
    /// Take a registry's image by its tag, whatever it is today
    #[arg(long, help_heading = "Boundary")]
    pub(crate) unpinned_image: bool,
    /// A command that looks at each result before it is sent, as `$1`; ending with an error, it keeps the file back
    #[arg(long, value_name = "COMMAND", help_heading = "Boundary")]
    pub(crate) scan_command: Option<String>,
    /// Where records, cached files and unsent results are kept; not in a workspace
    #[arg(long, value_name = "FOLDER", help_heading = "Boundary")]
    pub(crate) state_dir: Option<PathBuf>,
}

/// Whether tools are kept apart from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Isolation {
    /// Every isolation step, or nothing runs
    Full,
    /// None at all: tools run as the user who started this, with all that they may do
    None,
}
