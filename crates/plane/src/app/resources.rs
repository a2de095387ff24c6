//! Resources of sessions: files and repositories, given when a session is made or added later.
//!
//! A place is an absolute path in plain form, outside of what belongs to the system and of the folder that outputs are
//! taken from. Tokens of repositories go in and never come out here: they are sealed before the store sees them, and
//! only a session's worker gets them ([`super::session_secrets`]).

use outwork_store::{
    Checkout, FileRow, MAX_SESSION_FILES, MAX_SESSION_REPOSITORIES, NewSessionResource, Page, PageRequest,
    ResourceSpec, SessionResourceRow,
};
use outwork_wire::Time;
use outwork_wire::agent::EnvironmentKind;
use outwork_wire::id::{FileId, ResourceId, SessionId, WorkspaceId};
use secrecy::SecretString;

use super::App;
use super::boundary::still_held;
use super::sessions::find;
use crate::auth::Access;
use crate::error::ApiError;
use crate::run::changes::Changed;
use crate::vault::auth::check_address;

/// The secret of a repository: its token.
pub(crate) const TOKEN: &str = "authorization_token";
/// The longest path, and the longest name in it, in bytes. Source: limits of Linux file systems, with room.
const MAX_PATH: usize = 1024;
const MAX_NAME: usize = 255;
/// Where files are unless something else is said, as with the hosted service.
const UPLOADS: &str = "/mnt/session/uploads";
/// Where repositories are unless something else is said, as with the hosted service.
const REPOSITORIES: &str = "/workspace";
/// Places that nothing is put into: the system's own, and the folder whose content is taken out.
const KEPT_FREE: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/mnt/session/outputs"];
/// Places that things are put into, and not in place of.
const FOLDERS: [&str; 4] = ["/", "/mnt", "/mnt/session", UPLOADS];

/// A resource to be made, as it was asked for.
pub(crate) struct ResourceDraft {
    /// Where it was in the request, for messages: empty, or for example `resources.0.`
    pub(crate) at: String,
    pub(crate) mount_path: Option<String>,
    pub(crate) what: DraftKind,
}

/// What is to be mounted.
pub(crate) enum DraftKind {
    File {
        file: FileId,
    },
    Repository {
        url: String,
        checkout: Option<Checkout>,
        token: Option<SecretString>,
    },
}

/// What a session's worker mounts.
pub(crate) struct Mount {
    pub(crate) row: SessionResourceRow,
    /// The file, unless it was deleted.
    pub(crate) file: Option<FileRow>,
}

impl Mount {
    /// Whether its bytes can be had.
    pub(crate) fn is_available(&self) -> bool {
        match &self.row.spec {
            ResourceSpec::File { .. } => self.file.as_ref().is_some_and(|file| file.has_bytes(Time::now())),
            ResourceSpec::GithubRepository { .. } => true,
        }
    }
}

/// Checks and seals the resources that a session is to be made with.
pub(super) async fn resolve(
    app: &App,
    workspace: &WorkspaceId,
    environment: EnvironmentKind,
    drafts: Vec<ResourceDraft>,
) -> Result<Vec<NewSessionResource>, ApiError> {
    if drafts.is_empty() {
        return Ok(Vec::new());
    }
    check_environment(app, environment)?;
    let (mut files, mut repositories) = (0, 0);
    let mut resolved: Vec<NewSessionResource> = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let (count, limit, what) = match &draft.what {
            DraftKind::File { .. } => (&mut files, MAX_SESSION_FILES, "files"),
            DraftKind::Repository { .. } => (&mut repositories, MAX_SESSION_REPOSITORIES, "repositories"),
        };
        *count += 1;
        if *count > limit {
            return Err(ApiError::invalid(format!(
                "resources: a session has at most {limit} {what}"
            )));
        }
        let at = draft.at.clone();
        let new = resolve_one(app, workspace, draft).await?;
        if let Some(other) = resolved.iter().find(|other| other.mount_path == new.mount_path) {
            return Err(ApiError::invalid(format!(
                "{at}mount_path: another resource is at `{}`; give each a place of its own",
                other.mount_path
            )));
        }
        resolved.push(new);
    }
    Ok(resolved)
}

/// Adds a file to a session.
pub(crate) async fn add(
    app: &App,
    access: &Access,
    session: &SessionId,
    draft: ResourceDraft,
) -> Result<SessionResourceRow, ApiError> {
    let workspace = access.workspace()?;
    let row = find(app, access, session).await?;
    check_environment(app, row.environment_kind)?;
    let new = resolve_one(app, workspace, draft).await?;
    let added = app
        .store
        .add_session_resource(workspace, session, new, Time::now())
        .await?;
    app.changes.ring(Changed::Session(session.clone()));
    Ok(added)
}

/// Resources of a session, in the order in which they were added.
pub(crate) async fn list(
    app: &App,
    access: &Access,
    session: &SessionId,
    page: PageRequest,
) -> Result<Page<SessionResourceRow>, ApiError> {
    find(app, access, session).await?;
    Ok(app
        .store
        .list_session_resources(access.workspace()?, session, page)
        .await?)
}

/// The resource of that id.
pub(crate) async fn retrieve(
    app: &App,
    access: &Access,
    session: &SessionId,
    id: &ResourceId,
) -> Result<SessionResourceRow, ApiError> {
    find(app, access, session).await?;
    Ok(app.store.session_resource(access.workspace()?, session, id).await?)
}

/// Gives a repository another token.
pub(crate) async fn replace_token(
    app: &App,
    access: &Access,
    session: &SessionId,
    id: &ResourceId,
    token: SecretString,
) -> Result<SessionResourceRow, ApiError> {
    let workspace = access.workspace()?;
    let row = retrieve(app, access, session, id).await?;
    if let ResourceSpec::GithubRepository { url, .. } = &row.spec {
        check_repository(app, workspace, url, true).map_err(ApiError::invalid)?;
    }
    let sealed = app
        .vaults
        .inner
        .sealer
        .seal_resource(workspace, id, TOKEN, &token)
        .await?;
    let replaced = app
        .store
        .replace_resource_secrets(workspace, session, id, vec![sealed], Time::now())
        .await?;
    app.changes.ring(Changed::Session(session.clone()));
    Ok(replaced)
}

/// Takes a resource from a session.
pub(crate) async fn delete(app: &App, access: &Access, session: &SessionId, id: &ResourceId) -> Result<(), ApiError> {
    find(app, access, session).await?;
    app.store
        .delete_session_resource(access.workspace()?, session, id)
        .await?;
    app.changes.ring(Changed::Session(session.clone()));
    Ok(())
}

/// What the worker of a session mounts.
pub(crate) async fn mounts(app: &App, access: &Access, session: &SessionId) -> Result<Vec<Mount>, ApiError> {
    let row = find(app, access, session).await?;
    still_held(app, access, &row).await?;
    let ids: Vec<FileId> = row
        .resources
        .iter()
        .filter_map(|resource| match &resource.spec {
            ResourceSpec::File { file_id } => Some(file_id.clone()),
            ResourceSpec::GithubRepository { .. } => None,
        })
        .collect();
    let files = app.store.files_of_ids(access.workspace()?, None, &ids).await?;
    Ok(row
        .resources
        .into_iter()
        .map(|row| {
            let file = match &row.spec {
                ResourceSpec::File { file_id } => files.iter().find(|file| file.id == *file_id).cloned(),
                ResourceSpec::GithubRepository { .. } => None,
            };
            Mount { row, file }
        })
        .collect())
}

fn check_environment(app: &App, environment: EnvironmentKind) -> Result<(), ApiError> {
    match environment {
        EnvironmentKind::SelfHosted if !app.files.self_hosted_resources => Err(ApiError::invalid(
            "resources: sessions of self_hosted environments take none on this server \
             (files.self_hosted_resources = false); leave the field out",
        )),
        EnvironmentKind::SelfHosted | EnvironmentKind::Cloud => Ok(()),
    }
}

async fn resolve_one(app: &App, workspace: &WorkspaceId, draft: ResourceDraft) -> Result<NewSessionResource, ApiError> {
    let at = draft.at;
    let id = ResourceId::fresh();
    let (spec, usual, secrets) = match draft.what {
        DraftKind::File { file } => {
            let found = app.store.file(workspace, &file).await?;
            if !found.has_bytes(Time::now()) {
                return Err(ApiError::invalid(format!(
                    "{at}file_id: file `{file}` has expired and its bytes are gone; upload it again"
                )));
            }
            let usual = format!("{UPLOADS}/{file}");
            (ResourceSpec::File { file_id: file }, usual, Vec::new())
        }
        DraftKind::Repository { url, checkout, token } => {
            let name = check_repository(app, workspace, &url, token.is_some())
                .map_err(|fault| ApiError::invalid(format!("{at}{fault}")))?;
            let mut secrets = Vec::new();
            if let Some(token) = &token {
                let sealer = &app.vaults.inner.sealer;
                secrets.push(sealer.seal_resource(workspace, &id, TOKEN, token).await?);
            }
            let spec = ResourceSpec::GithubRepository {
                url,
                checkout,
                authorized: token.is_some(),
            };
            (spec, format!("{REPOSITORIES}/{name}"), secrets)
        }
    };
    let mount_path = draft.mount_path.unwrap_or(usual);
    check_mount_path(&mount_path).map_err(|fault| ApiError::invalid(format!("{at}mount_path: {fault}")))?;
    Ok(NewSessionResource {
        id,
        mount_path,
        spec,
        secrets,
    })
}

/// Checks the address of a repository and gives its name.
fn check_repository(app: &App, workspace: &WorkspaceId, text: &str, with_token: bool) -> Result<String, String> {
    let url = check_address(text).map_err(|fault| format!("url: {fault}"))?;
    if url.query().is_some() {
        return Err("url: must not have a query (`?…`)".into());
    }
    if url.scheme() != "https" && with_token && !app.vaults.inner.outbound.plain_http(workspace) {
        return Err("url: must be https, as this server sends no token in clear text (`mcp.plain_http`)".into());
    }
    let name = url.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let name = name.strip_suffix(".git").unwrap_or(name);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err("url: must end with the name of a repository, such as https://github.com/owner/name".into());
    }
    Ok(name.to_owned())
}

/// Refuses what is no absolute path in plain form, or a place that is not to be had.
pub(crate) fn check_mount_path(path: &str) -> Result<(), String> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err("must be an absolute path such as /workspace/data.csv".into());
    };
    if path.len() > MAX_PATH {
        return Err(format!("must have at most {MAX_PATH} bytes"));
    }
    if FOLDERS.contains(&path) {
        return Err(format!(
            "`{path}` is a folder that things are put into: give a path below it"
        ));
    }
    check_names(rest)?;
    let inside = |folder: &str| {
        path.strip_prefix(folder)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match KEPT_FREE.iter().find(|folder| inside(folder)) {
        Some(folder) => Err(format!("nothing is mounted in {folder}: give another path")),
        None => Ok(()),
    }
}

/// Refuses a path, without the slash it may begin with, that is not in plain form.
pub(crate) fn check_names(path: &str) -> Result<(), String> {
    for name in path.split('/') {
        if matches!(name, "" | "." | "..") {
            return Err("must have no empty names, no `.` and no `..`, and no slash at its end".into());
        }
        if name.len() > MAX_NAME {
            return Err(format!("each name in it must have at most {MAX_NAME} bytes"));
        }
        if name.chars().any(char::is_control) {
            return Err("must have no control characters".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_plain_absolute_paths_that_are_free() {
        for good in [
            "/workspace/a.csv",
            "/workspace",
            "/mnt/session/uploads/x",
            "/etc/app.conf",
            "/a b/ä",
            "/mnt/session/outputs2",
        ] {
            assert!(check_mount_path(good).is_ok(), "{good}");
        }
        let long_name = format!("/a/{}", "x".repeat(256));
        let long = format!("/{}", "ab/".repeat(400)) + "c";
        for bad in [
            "",
            "a",
            "a/b",
            "./a",
            "~/a",
            "/",
            "/a/",
            "//a",
            "/a//b",
            "/a/../b",
            "/a/./b",
            "/..",
            "/a\0b",
            "/a\nb",
            "/proc/self/mem",
            "/sys",
            "/dev/null",
            "/run/x",
            "/mnt/session/outputs",
            "/mnt/session/outputs/x",
            "/mnt/session/uploads",
            "/mnt",
            &long_name,
            &long,
        ] {
            assert!(check_mount_path(bad).is_err(), "{bad}");
        }
    }
}
