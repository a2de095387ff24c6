//! The command line: what may be said, and its help. Nothing happens here.
//!
//! Every command parses into one variant of [`Command`]; unknown flags are refused by the parser. A flag that can
//! hold a secret shows no value in its help.

pub(crate) mod evidence;
pub(crate) mod files;
pub(crate) mod plane;
pub(crate) mod policy;
pub(crate) mod resources;
pub(crate) mod task;
pub(crate) mod tunnel;
pub(crate) mod tunnels;
pub(crate) mod vaults;
pub(crate) mod worker;

use clap::builder::styling::{AnsiColor, Style, Styles};
use clap::{CommandFactory, Parser, Subcommand};

use crate::exit;
use crate::terminal::Colour;

const STYLES: Styles = Styles::styled()
    .header(Style::new().bold())
    .usage(Style::new().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(Style::new().dimmed());

/// Managed agents on your own machines.
///
/// `outwork demo` shows the whole of it in a minute, with no key. `outwork up` starts a server with a local
/// worker; `outwork run "TASK"` gives it something to do.
#[derive(Debug, Parser)]
#[command(name = "outwork", version, styles = STYLES, after_help = exit::HELP, max_term_width = 100)]
#[command(disable_help_subcommand = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// When to use colours.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "WHEN",
        alias = "colour"
    )]
    pub(crate) color: Colour,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one value per process, parsed once")]
pub(crate) enum Command {
    /// Start a server: API, agent loop, session log, work queue
    Serve(plane::ServeArgs),
    /// Start a server and a local worker for `cloud` environments
    Up(plane::UpArgs),
    /// Run the tools of an environment's sessions, each session in a sandbox
    Worker(worker::WorkerArgs),
    /// Give an agent a task and watch it work
    Run(task::RunArgs),
    /// Agents and their versions
    #[command(subcommand, visible_alias = "agent")]
    Agents(resources::AgentsCommand),
    /// Environments and their keys
    #[command(subcommand, visible_alias = "environment", alias = "env", alias = "envs")]
    Environments(resources::EnvironmentsCommand),
    /// Sessions and their events
    #[command(subcommand, visible_alias = "session")]
    Sessions(resources::SessionsCommand),
    /// Files: what sessions are given, and what they bring forth
    #[command(subcommand, visible_alias = "file")]
    Files(files::FilesCommand),
    /// Stop what a call, a session, an environment or a workspace does
    Halt(evidence::HaltArgs),
    /// What sandboxes may reach: ask beforehand, and get rules for what was refused
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Proof of what a session did: fetch it, verify it, read it
    Evidence(evidence::EvidenceArgs),
    /// The server's ledger: one record for each crossing
    #[command(subcommand)]
    Ledger(evidence::LedgerCommand),
    /// Vaults: credentials that sessions use, and the key that they are sealed under
    #[command(subcommand, visible_alias = "vault")]
    Vaults(vaults::VaultsCommand),
    /// Tunnels: the ways into private networks
    #[command(subcommand)]
    Tunnels(tunnels::TunnelsCommand),
    /// The gateway beside private servers: set it up, run it, stop what passes, see what passed
    #[command(subcommand)]
    Tunnel(tunnel::TunnelCommand),
    /// API keys
    #[command(subcommand, visible_alias = "key")]
    Keys(resources::KeysCommand),
    /// Models that the server can reach
    #[command(subcommand, visible_alias = "model")]
    Models(resources::ModelsCommand),
    /// Watch an agent mend a small project in a sandbox, (--private) reach a server in a private network, or (--boundary)
    /// try to steal; no key needed
    Demo(task::DemoArgs),
    /// Parts of `outwork demo --private`
    #[command(subcommand, hide = true)]
    DemoHost(task::DemoHostCommand),
    /// Start a Messages API server that plays a scenario file
    Rehearsal(task::RehearsalArgs),
    /// Check what this machine offers, and say how to mend what is missing
    Doctor(task::DoctorArgs),
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version {
        #[command(flatten)]
        output: Output,
    },
}

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Output {
    /// Write JSON, one object per line
    #[arg(long)]
    pub(crate) json: bool,
}

/// The completions of a shell.
pub(crate) fn completions(shell: clap_complete::Shell, out: &mut impl std::io::Write) {
    clap_complete::generate(shell, &mut Cli::command(), "outwork", out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_shell_gets_completions_of_every_command() {
        for shell in [
            clap_complete::Shell::Bash,
            clap_complete::Shell::Zsh,
            clap_complete::Shell::Fish,
        ] {
            let mut text = Vec::new();
            completions(shell, &mut text);
            let text = String::from_utf8(text).unwrap();
            for command in ["serve", "worker", "sessions", "doctor"] {
                assert!(text.contains(command), "{shell}: no {command}");
            }
        }
    }

    #[test]
    fn the_forms_of_the_guide_parse() {
        for line in [
            "outwork serve --listen 127.0.0.1:0 --data-dir /tmp/x --insecure-http --log-format json",
            "outwork up --concurrency 2 --isolation none",
            "outwork worker --environment-id env_1 --workdir . --max-idle 60s --memory-limit 512MiB --drain",
            "outwork worker run --environment-id env_1 --session-id sesn_1 --work-id work_1",
            "outwork run --json --agent agent_1 --environment env_1 do it",
            "outwork sessions send sesn_1 hello",
            "outwork sessions approve sesn_1 sevt_1",
            "outwork environments keys create env_1 --name host-1",
            "outwork keys create --name ci",
            "outwork files upload data.csv --name input.csv --expires-in 24h",
            "outwork files list --session sesn_1",
            "outwork file download file_1 --output -",
            "outwork policy check api.example.com:443 GET /v1/x --policy p.toml --environment env_1",
            "outwork policy check 10.0.0.1 --session sesn_1 --json",
            "outwork policy suggest sesn_1 --state-dir /tmp/x",
            "outwork halt session sesn_1 --force --reason runaway",
            "outwork halt call sevt_1",
            "outwork evidence sesn_1 -o proof.jsonl",
            "outwork evidence verify proof.jsonl --key ab",
            "outwork evidence report proof.jsonl --markdown",
            "outwork ledger verify --ledger /tmp/x --key ab",
            "outwork ledger export --session sesn_1 --form ocsf",
            "outwork vaults create --name Alice",
            "outwork vaults credentials create vlt_1 --mcp-server https://mcp.example.com/mcp",
            "outwork vaults credentials create vlt_1 --variable API_KEY --host api.example.com --secret-file key",
            "outwork vaults credentials create vlt_1 --auth-file oauth.json",
            "outwork vaults credentials replace-secret vlt_1 vcrd_1",
            "outwork vaults credentials validate vlt_1 vcrd_1",
            "outwork vault rotate-master-key --data-dir /tmp/x",
            "outwork tunnels create --name office",
            "outwork tunnels token tnl_1 --rotate --reason lost",
            "outwork tunnels certificates add tnl_1 ca.pem",
            "outwork tunnel setup --name office --folder /tmp/x --route wiki=http://wiki:8080",
            "outwork tunnel setup --offline --tunnel tnl_1 --domain a.b --token-file - --edge a:1 --edge-fingerprint ab",
            "outwork tunnel renew --folder /tmp/x --before 24h --force",
            "outwork tunnel run --config config.yaml --edge a:1 --tunnel tnl_1 --token-file t --log-level debug",
            "outwork tunnel check --config config.yaml",
            "outwork tunnel kill wiki",
            "outwork tunnel revive --all",
            "outwork tunnel records --verify --key ab",
            "outwork tunnel records --route wiki --since 1h --refused",
            "outwork tunnel status --json",
            "outwork demo --model claude --dir /tmp/x --task fix --check true",
            "outwork demo --private --loopback --json",
            "outwork demo --boundary --isolation none",
            "outwork demo-host enter --pid 1 -- tunnel run --folder x",
            "outwork rehearsal --listen 127.0.0.1:0 --scenario a.toml",
            "outwork doctor --json",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        assert!(Cli::try_parse_from(["outwork", "serve", "--lisen", "x"]).is_err());
    }
}
