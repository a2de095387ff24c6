//! Flags of `run`, `demo`, `rehearsal`, `doctor`, and of every command that calls a server.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;
use super::plane::LogArgs;

/// Which server, and as whom.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Connection {
    /// The server [default: OUTWORK_BASE_URL, ANTHROPIC_BASE_URL, http://127.0.0.1:8400]
    #[arg(long, value_name = "URL", help_heading = "Server")]
    pub(crate) base_url: Option<String>,
    /// A file with the API key [default: OUTWORK_API_KEY, ANTHROPIC_API_KEY, the key in the data folder]
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Data folder of a local server, for its admin key
    #[arg(long, env = "OUTWORK_DATA_DIR", value_name = "FOLDER", help_heading = "Server")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Certificate authorities to trust, PEM
    #[arg(long, env = "OUTWORK_CA_FILE", value_name = "FILE", help_heading = "Server")]
    pub(crate) ca_file: Option<PathBuf>,
}

/// `outwork run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// What to do; without it, standard input is read
    #[arg(value_name = "TASK")]
    pub(crate) task: Vec<String>,
    /// The agent, by id or name; without it one is made for --model, and used again
    #[arg(long, value_name = "AGENT")]
    pub(crate) agent: Option<String>,
    /// The model of the agent that is made [default: the server's first]
    #[arg(long, value_name = "MODEL", conflicts_with = "agent")]
    pub(crate) model: Option<String>,
    /// The environment, by id or name; without it a `cloud` one is made, and used again
    #[arg(long, value_name = "ENVIRONMENT")]
    pub(crate) environment: Option<String>,
    /// Go on with this session instead of a new one
    #[arg(long, value_name = "SESSION", conflicts_with_all = ["agent", "model", "environment", "title"])]
    pub(crate) session: Option<String>,
    /// The title of the new session
    #[arg(long)]
    pub(crate) title: Option<String>,
    /// Ask before every tool call (of the agent that is made)
    #[arg(long, conflicts_with_all = ["agent", "session"])]
    pub(crate) ask: bool,
    /// Approve every call that asks
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    /// Show the whole output of tools
    #[arg(long, short = 'v')]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// `outwork demo`
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// A real model; needs OUTWORK_MODEL_API_KEY or ANTHROPIC_API_KEY (and perhaps …_BASE_URL)
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Show a private server instead: a network that the server cannot reach, a gateway in it, a call through its tunnel
    #[arg(long, conflicts_with_all = ["model", "dir", "task", "check"])]
    pub(crate) private: bool,
    /// With --private: no network namespace, also for root; the private server is then on loopback, which is refused
    #[arg(long, requires = "private")]
    pub(crate) loopback: bool,
    /// Show an agent that a file tells to steal: twelve ways out, what stopped each, and the evidence of it
    #[arg(long, conflicts_with_all = ["private", "model", "dir", "task", "check"])]
    pub(crate) boundary: bool,
    /// With --boundary: a policy that allows everything, to see what it is good for
    #[arg(long, requires = "boundary", hide = true)]
    pub(crate) open_policy: bool,
    /// A folder of yours instead of the demo project; it is changed in place
    #[arg(long, value_name = "FOLDER", requires = "task")]
    pub(crate) dir: Option<PathBuf>,
    /// Another task
    #[arg(long, value_name = "TASK")]
    pub(crate) task: Option<String>,
    /// The command that says whether the task is done [default with the demo project: its own]
    #[arg(long, value_name = "COMMAND")]
    pub(crate) check: Option<String>,
    /// Whether tools are kept apart from this machine
    #[arg(long, value_enum, value_name = "HOW", default_value = "full")]
    pub(crate) isolation: super::worker::Isolation,
    /// Keep the temporary folder
    #[arg(long)]
    pub(crate) keep: bool,
    /// Show the whole output of tools
    #[arg(long, short = 'v')]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// `outwork demo-host`: parts of `outwork demo --private` that stand in a network of their own
#[derive(Debug, Subcommand)]
pub(crate) enum DemoHostCommand {
    /// Run the private server
    Server(DemoServerArgs),
    /// Become another command of this program that ends with its parent, perhaps in the network of a process
    Enter {
        /// The process
        #[arg(long)]
        pid: Option<u32>,
        /// The command
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        line: Vec<std::ffi::OsString>,
    },
}

/// `outwork demo-host server`
#[derive(Debug, Args)]
pub(crate) struct DemoServerArgs {
    /// Where to listen
    #[arg(long)]
    pub(crate) listen: SocketAddr,
    /// In a network namespace of its own, with this end of a pair of interfaces and this address on it
    #[arg(long, num_args = 2, value_names = ["INTERFACE", "ADDRESS"])]
    pub(crate) network: Option<Vec<String>>,
}

/// `outwork rehearsal`
#[derive(Debug, Args)]
pub(crate) struct RehearsalArgs {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// The scenario file; without it only the plays that are always there
    #[arg(long, value_name = "FILE")]
    pub(crate) scenario: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// `outwork doctor`
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) connection: Connection,
}
