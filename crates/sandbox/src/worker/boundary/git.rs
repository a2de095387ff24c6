//! Bringing a repository: git runs in a sandbox of its own, with a way out to that repository and nothing else, and with
//! a placeholder in place of the token.
//!
//! What is below `/workspace` is cloned there, once per session, and is the session's from then on. What belongs
//! elsewhere is cloned into the worker's own folder and mounted read-only.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outwork_egress::{Egress, Handle, SessionAuthority};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::error::BoundaryError;
use super::repository::{Checkout, Repository};
use super::rules::Rules;
use super::secrets::Secrets;
use super::session::Boundary;
use crate::worker::hand::Furnishing;
use crate::worker::item::make_folder;
use crate::{Network, ReadOnlyMount, ToolCall};

/// How long bringing one repository may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// What of git's words is passed on.
const SAID: usize = 600;

/// The clone appears under its name when it is whole. A place that is taken by the same repository is left as it is: the
/// session may have worked there.
const SCRIPT: &str = r#"set -eu
place="$OUTWORK_PLACE"
if [ -e "$place" ] && [ -n "$(ls -A "$place" 2>/dev/null || echo file)" ]; then
  if [ "$(git -C "$place" config --get remote.origin.url 2>/dev/null)" = "$OUTWORK_URL" ]; then exit 0; fi
  echo "there is something else already" >&2; exit 3
fi
mkdir -p "$(dirname "$place")"
part="$place.part-$$"
rm -rf "$part"
trap 'rm -rf "$part"' EXIT
if [ -n "$OUTWORK_BRANCH" ]; then
  git clone --quiet --branch="$OUTWORK_BRANCH" -- "$OUTWORK_URL" "$part"
elif [ -n "$OUTWORK_COMMIT" ]; then
  git clone --quiet --no-checkout -- "$OUTWORK_URL" "$part"
  git -C "$part" cat-file -e "$OUTWORK_COMMIT^{commit}" 2>/dev/null || git -C "$part" fetch --quiet origin "$OUTWORK_COMMIT"
  git -C "$part" checkout --quiet --detach "$OUTWORK_COMMIT"
else
  git clone --quiet -- "$OUTWORK_URL" "$part"
fi
rmdir "$place" 2>/dev/null || true
mv -T "$part" "$place"
"#;

/// Brings a repository that is not there yet; gives what is to be mounted, if it is not in the workspace.
pub(crate) async fn bring(
    boundary: &Boundary,
    repository: &Repository,
    rules: Rules,
    secrets: Secrets,
) -> Result<Option<ReadOnlyMount>, BoundaryError> {
    let folder = boundary.folder.join("repositories");
    make_folder(&folder).map_err(BoundaryError::folder(&folder))?;
    let id: String = repository
        .id
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' })
        .collect();
    let done = folder.join(format!("{id}.done"));
    let (workspace, place, mount) = match repository.in_workspace() {
        Some(_) => (boundary.workspace.clone(), repository.place.clone(), None),
        None => {
            let own = folder.join(&id);
            make_folder(&own).map_err(BoundaryError::folder(&own))?;
            let mount = ReadOnlyMount {
                source: own.join("repository"),
                target: PathBuf::from(&repository.place),
            };
            (own, "/workspace/repository".to_owned(), Some(mount))
        }
    };
    if !done.exists() {
        boundary.until_held().await;
        boundary.journal.file_in(&repository.place, None).await?;
        clone(boundary, repository, rules, secrets, &workspace, &place).await?;
        std::fs::write(&done, &repository.url).map_err(BoundaryError::folder(&done))?;
        tracing::info!(
            session = boundary.session,
            url = repository.url,
            place = repository.place,
            "a repository is here"
        );
    }
    Ok(mount)
}

async fn clone(
    boundary: &Boundary,
    repository: &Repository,
    rules: Rules,
    secrets: Secrets,
    workspace: &Path,
    place: &str,
) -> Result<(), BoundaryError> {
    let fail = |reason: String| BoundaryError::Repository {
        url: repository.url.clone(),
        place: repository.place.clone(),
        reason,
    };
    if !rules.open {
        let host = &repository.host;
        return Err(fail(format!(
            "the worker's policy does not allow it; a rule with `host = \"{host}\"` would"
        )));
    }
    let authority = Arc::new(SessionAuthority::make().map_err(BoundaryError::Egress)?);
    let (branch, commit) = match &repository.checkout {
        Checkout::Default => ("", ""),
        Checkout::Branch(name) => (name.as_str(), ""),
        Checkout::Commit(sha) => ("", sha.as_str()),
    };
    let mut env = secrets.env;
    for (name, value) in [
        ("OUTWORK_URL", repository.url.as_str()),
        ("OUTWORK_PLACE", place),
        ("OUTWORK_BRANCH", branch),
        ("OUTWORK_COMMIT", commit),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_ALLOW_PROTOCOL", "https"),
    ] {
        env.push((name.to_owned(), value.to_owned()));
    }
    let furnishing = Furnishing {
        network: Network::Fenced,
        env,
        ca_pem: Some(boundary.trusted(&authority)),
        ..Furnishing::default()
    };
    let hand = boundary.provider.launch(workspace, &furnishing).await;
    let hand = hand.map_err(|error| fail(error.to_string()))?;
    let _registered = boundary.register(&hand)?;
    let fence = hand.take_fence().ok_or(BoundaryError::NoFence)?;
    boundary.journal.policy_known(&rules.policy);
    let mut options = boundary.egress_options(fence, rules.policy, authority)?;
    options.secrets = secrets.set;
    let egress = Egress::start(options).map_err(BoundaryError::Egress)?;
    let timeout_ms = u64::try_from(PATIENCE.as_millis()).unwrap_or(u64::MAX);
    let call = ToolCall {
        name: "bash".to_owned(),
        input: json!({ "command": SCRIPT_IN_SHELL.replace("SCRIPT", SCRIPT), "timeout_ms": timeout_ms }),
        timeout: PATIENCE,
    };
    // Whoever gives the session up drops this, and the sandbox with it.
    let never = CancellationToken::new();
    let output = hand.call(call, &never).await;
    hand.end().await;
    let output = output.map_err(|error| fail(error.to_string()))?;
    if output.is_error {
        return Err(fail(why(&output.text(), &egress)));
    }
    Ok(())
}

/// In a shell of its own, so that its end is the call's.
const SCRIPT_IN_SHELL: &str = "/bin/bash <<'OUTWORK_END'\nSCRIPT\nOUTWORK_END";

/// What git said at last, and what the policy refused.
fn why(said: &str, egress: &Handle) -> String {
    let start = said.char_indices().rev().nth(SAID).map_or(0, |(at, _)| at);
    let mut text = said[start..].trim().to_owned();
    for refusal in egress.refusals() {
        let host = refusal.host.unwrap_or_default();
        text.push_str(&format!("; {host} was refused by {}: {}", refusal.rule, refusal.reason));
    }
    text
}
