//! What a session's worker uses outside the sandbox and never puts into it: tokens of the session's repositories, and
//! the values of variables that its vaults hold. Only the token of the session's own work item gets them, and the log
//! says that it did.

use outwork_ledger::{Credential, Decision, Kind, Record};
use outwork_store::SessionRow;
use outwork_wire::id::{ResourceId, SessionId, VaultCredentialId, VaultId};
use secrecy::SecretString;

use super::App;
use super::boundary::still_held;
use super::resources::TOKEN;
use super::sessions::find;
use crate::auth::Access;
use crate::error::ApiError;
use crate::evidence::Subject;
use crate::vault::VaultError;
use crate::vault::auth::{InjectionLocation, Networking, PublicAuth, SECRET_VALUE};

/// The secrets of a session.
pub(crate) struct SessionSecrets {
    pub(crate) repositories: Vec<RepositoryToken>,
    pub(crate) variables: Vec<Variable>,
}

/// The token of a repository.
pub(crate) struct RepositoryToken {
    pub(crate) resource: ResourceId,
    pub(crate) url: String,
    pub(crate) token: SecretString,
}

/// A variable whose value is put into requests on their way out.
pub(crate) struct Variable {
    pub(crate) vault: VaultId,
    pub(crate) credential: VaultCredentialId,
    pub(crate) name: String,
    pub(crate) value: SecretString,
    pub(crate) networking: Networking,
    pub(crate) injection_location: InjectionLocation,
}

/// The secrets of a session, for its worker.
pub(crate) async fn of(app: &App, access: &Access, session: &SessionId) -> Result<SessionSecrets, ApiError> {
    let workspace = access.workspace()?;
    let row = find(app, access, session).await?;
    still_held(app, access, &row).await?;
    let sealer = &app.vaults.inner.sealer;
    let mut repositories = Vec::new();
    for held in app.store.repository_secrets(workspace, session).await? {
        let outwork_store::ResourceSpec::GithubRepository { url, .. } = held.row.spec else {
            continue;
        };
        for secret in held.secrets.iter().filter(|secret| secret.field == TOKEN) {
            repositories.push(RepositoryToken {
                resource: held.row.id.clone(),
                url: url.clone(),
                token: sealer.open_resource(workspace, &held.row.id, secret).await?,
            });
        }
    }
    let mut variables = Vec::new();
    for held in app.store.variable_secrets(workspace, &row.vault_ids).await? {
        let incomplete = || VaultError::Incomplete(held.row.id.clone());
        let PublicAuth::EnvironmentVariable {
            secret_name,
            networking,
            injection_location,
        } = PublicAuth::of(&held.row)?
        else {
            return Err(incomplete().into());
        };
        let secret = held.secrets.iter().find(|secret| secret.field == SECRET_VALUE);
        let secret = secret.ok_or_else(incomplete)?;
        variables.push(Variable {
            vault: held.row.vault_id.clone(),
            credential: held.row.id.clone(),
            name: secret_name,
            value: sealer.open(workspace, &held.row.id, secret).await?,
            networking,
            injection_location,
        });
    }
    app.evidence
        .cross(given(&row, access, &repositories, &variables))
        .await?;
    tracing::info!(
        event = "session.secrets_given", %session, to = %access.principal(), repositories = repositories.len(),
        variables = variables.len(), "the session's worker was given its secrets"
    );
    Ok(SessionSecrets {
        repositories,
        variables,
    })
}

/// The records of secrets that a worker is about to be given: which, and to whom.
fn given(row: &SessionRow, access: &Access, repositories: &[RepositoryToken], variables: &[Variable]) -> Vec<Record> {
    let subject = Subject::from(row);
    let to = access.principal().to_string();
    let record = |id: &str, name: &str, method: &str| {
        subject
            .record(Kind::CredentialUse)
            .destination(format!("worker of {to}"))
            .actor(to.as_str())
            .credential(Credential {
                id: Some(id.to_owned()),
                name: Some(name.to_owned()),
                method: Some(method.to_owned()),
            })
            .decided(Decision::Allowed, "session.secrets")
    };
    let tokens = repositories
        .iter()
        .map(|of| record(of.resource.as_str(), &of.url, "github_repository"));
    let values = variables
        .iter()
        .map(|of| record(of.credential.as_str(), &of.name, "environment_variable"));
    tokens.chain(values).collect()
}
