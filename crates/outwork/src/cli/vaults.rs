//! Flags of `vaults`. No flag takes a secret: secrets come on standard input or from a file.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Output;
use super::resources::{Common, List, One};

/// `outwork vaults`
#[derive(Debug, Subcommand)]
pub(crate) enum VaultsCommand {
    /// Make a vault
    Create {
        /// Its name, for example the user whose credentials it holds
        #[arg(long)]
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// List vaults
    #[command(visible_alias = "ls")]
    List(List),
    /// Show a vault
    Show(One),
    /// Archive a vault and its credentials; their secrets are deleted
    Archive(One),
    /// Delete a vault with its credentials
    Delete(One),
    /// Credentials of a vault
    #[command(subcommand, visible_alias = "credential")]
    Credentials(CredentialsCommand),
    /// Seal everything under a new master key; the server must be stopped
    #[command(after_help = ROTATION)]
    RotateMasterKey(RotateArgs),
}

const ROTATION: &str = "\
Without OUTWORK_MASTER_KEY a new key is made and takes the place of the one in the data folder.
With it, its first key is the new one, and further ones after commas open what is there.
Interrupted at any point, it can be done again, and the server starts as before.";

/// `outwork vaults rotate-master-key`
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// The server's data folder [default: as for `outwork serve`]
    #[arg(long, env = "OUTWORK_DATA_DIR", value_name = "FOLDER")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The server's settings file
    #[arg(long, env = "OUTWORK_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// `outwork vaults credentials`
#[derive(Debug, Subcommand)]
pub(crate) enum CredentialsCommand {
    /// Store a credential; its secret is read from standard input
    Create(CredentialCreate),
    /// List credentials
    #[command(visible_alias = "ls")]
    List {
        /// The vault
        vault_id: String,
        #[command(flatten)]
        list: List,
    },
    /// Show a credential, without its secret
    Show(InVault),
    /// Replace the secret of a bearer token or a variable; it is read from standard input
    ReplaceSecret {
        #[command(flatten)]
        credential: InVault,
        /// Read the secret from this file instead
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
    },
    /// Try an OAuth credential out against its MCP server
    Validate(InVault),
    /// Archive a credential; its secret is deleted
    Archive(InVault),
    /// Delete a credential
    Delete(InVault),
}

/// One credential.
#[derive(Debug, Args)]
pub(crate) struct InVault {
    /// The vault
    pub(crate) vault_id: String,
    /// The credential
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// A new credential.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["mcp_server", "variable", "auth_file"]))]
pub(crate) struct CredentialCreate {
    /// The vault
    pub(crate) vault_id: String,
    /// A bearer token for the MCP server at this address
    #[arg(long, value_name = "URL")]
    pub(crate) mcp_server: Option<String>,
    /// A value for the environment variable of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) variable: Option<String>,
    /// Where the variable's value may be sent; may be given several times [default: wherever the sandbox may]
    #[arg(long = "host", value_name = "HOST", requires = "variable")]
    pub(crate) hosts: Vec<String>,
    /// `auth` as the API takes it, JSON, for example of an OAuth credential; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "secret_file")]
    pub(crate) auth_file: Option<PathBuf>,
    /// Read the secret from this file instead of standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Its name
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) common: Common,
}
