//! Commands over the resources of a server.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;
use super::task::Connection;

/// Which server, and how the answer is written.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Common {
    #[command(flatten)]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// One resource.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// Its id
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// A list.
#[derive(Debug, Args)]
#[group(id = "list_flags")]
pub(crate) struct List {
    /// Archived ones too
    #[arg(long)]
    pub(crate) include_archived: bool,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    pub(crate) limit: usize,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `outwork agents`
#[derive(Debug, Subcommand)]
pub(crate) enum AgentsCommand {
    /// Make an agent
    Create(AgentCreate),
    /// List agents
    #[command(visible_alias = "ls")]
    List(List),
    /// Show an agent
    Show {
        #[command(flatten)]
        one: One,
        /// One version of it
        #[arg(long)]
        version: Option<u64>,
    },
    /// List the versions of an agent
    Versions(One),
    /// Archive an agent
    Archive(One),
}

/// A new agent.
#[derive(Debug, Args)]
pub(crate) struct AgentCreate {
    /// Its name
    #[arg(long, required_unless_present = "file")]
    pub(crate) name: Option<String>,
    /// Its model
    #[arg(long, required_unless_present = "file")]
    pub(crate) model: Option<String>,
    /// Its system prompt
    #[arg(long, conflicts_with = "file")]
    pub(crate) system: Option<String>,
    /// What it is for
    #[arg(long, conflicts_with = "file")]
    pub(crate) description: Option<String>,
    /// Ask before every tool call
    #[arg(long, conflicts_with = "file")]
    pub(crate) ask: bool,
    /// No tools
    #[arg(long, conflicts_with_all = ["file", "ask"])]
    pub(crate) no_tools: bool,
    /// The whole agent as the API takes it, JSON; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "model"])]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// `outwork environments`
#[derive(Debug, Subcommand)]
pub(crate) enum EnvironmentsCommand {
    /// Make an environment
    Create {
        /// Its name
        #[arg(long)]
        name: String,
        /// Where its tools run
        #[arg(long, value_enum, default_value_t = EnvironmentType::SelfHosted)]
        r#type: EnvironmentType,
        /// What it is for
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// List environments
    #[command(visible_alias = "ls")]
    List(List),
    /// Show an environment and its queue
    Show(One),
    /// Archive an environment
    Archive(One),
    /// Delete an environment
    Delete {
        #[command(flatten)]
        one: One,
        /// Also with work in its queue
        #[arg(long)]
        force: bool,
    },
    /// Keys of an environment, for its workers
    #[command(subcommand)]
    Keys(EnvironmentKeysCommand),
}

/// Where an environment's tools run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EnvironmentType {
    /// On workers that you start with the environment's key
    #[value(name = "self_hosted", alias = "self-hosted")]
    SelfHosted,
    /// On the server's own workers, as `outwork up` has one
    Cloud,
}

/// `outwork environments keys`
#[derive(Debug, Subcommand)]
pub(crate) enum EnvironmentKeysCommand {
    /// Make a key; it is shown once
    Create {
        /// The environment
        environment_id: String,
        /// Its name, for example the host it is for
        #[arg(long)]
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// List keys
    #[command(visible_alias = "ls")]
    List {
        /// The environment
        environment_id: String,
        #[command(flatten)]
        common: Common,
    },
    /// Revoke a key at once
    #[command(visible_alias = "delete")]
    Revoke {
        /// The environment
        environment_id: String,
        /// The key
        key_id: String,
        #[command(flatten)]
        common: Common,
    },
}

/// `outwork sessions`
#[derive(Debug, Subcommand)]
pub(crate) enum SessionsCommand {
    /// Make a session
    Create {
        /// The agent
        #[arg(long)]
        agent: String,
        /// The environment
        #[arg(long)]
        environment: String,
        /// Its title
        #[arg(long)]
        title: Option<String>,
        /// A vault whose credentials it may use; may be given several times
        #[arg(long = "vault", value_name = "VAULT")]
        vaults: Vec<String>,
        /// A first message
        #[arg(long)]
        message: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// List sessions
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        list: List,
        /// Only sessions of this agent
        #[arg(long)]
        agent: Option<String>,
        /// Only sessions of these states
        #[arg(long, value_delimiter = ',', value_parser = ["idle", "running", "rescheduling", "terminated"])]
        status: Vec<String>,
    },
    /// Show a session
    Show(One),
    /// Archive a session
    Archive(One),
    /// Delete a session and its events
    Delete(One),
    /// Show the events of a session
    Events {
        #[command(flatten)]
        one: One,
        /// Only events of these types
        #[arg(long = "type", value_delimiter = ',', value_name = "TYPE")]
        types: Vec<String>,
        /// Show the whole output of tools
        #[arg(long, short = 'v')]
        verbose: bool,
    },
    /// Watch a session live, from its beginning
    Stream {
        #[command(flatten)]
        one: One,
        /// Show the whole output of tools
        #[arg(long, short = 'v')]
        verbose: bool,
    },
    /// Send a message, and return
    Send {
        /// The session
        id: String,
        /// The message; without it, standard input is read
        message: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Stop what a session does
    Interrupt(One),
    /// Approve calls that ask; without ids, all that wait
    Approve {
        #[command(flatten)]
        one: One,
        /// The calls
        event_ids: Vec<String>,
    },
    /// Deny calls that ask; without ids, all that wait
    Deny {
        #[command(flatten)]
        one: One,
        /// The calls
        event_ids: Vec<String>,
        /// Why, for the agent
        #[arg(long)]
        message: Option<String>,
    },
}

/// `outwork keys`
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key; it is shown once
    Create {
        /// Its name
        #[arg(long)]
        name: String,
        /// Its role
        #[arg(long)]
        role: Option<String>,
        /// When it ends, for example 720h
        #[arg(long, value_name = "TIME")]
        expires_in: Option<crate::config::Span>,
        #[command(flatten)]
        common: Common,
    },
    /// List keys
    #[command(visible_alias = "ls")]
    List(Common),
    /// Revoke a key at once
    #[command(visible_alias = "delete")]
    Revoke(One),
}

/// `outwork models`
#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List models
    #[command(visible_alias = "ls")]
    List(Common),
    /// Show a model
    Show(One),
}
