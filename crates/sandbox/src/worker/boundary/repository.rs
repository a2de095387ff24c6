//! A Git repository that belongs into a sandbox: where it is, and how git inside reaches it without its token.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use outwork_client::{Mount, MountKind};
use outwork_egress::policy::HostPattern;
use serde_json::Value;

use super::error::BoundaryError;

/// The user with which Git hosts take tokens. Those that look at the user at all take this one.
const USER: &str = "x-access-token";
const WORKSPACE: &str = "/workspace/";

/// A repository.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Repository {
    /// The resource's id.
    pub id: String,
    /// Its address, over https.
    pub url: String,
    pub host: HostPattern,
    pub port: u16,
    /// The path of the address, without an ending.
    path: String,
    /// Where it belongs inside.
    pub place: String,
    pub checkout: Checkout,
    /// Whether there is a token for it.
    pub authorized: bool,
}

/// What is checked out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Checkout {
    /// The default branch.
    #[default]
    Default,
    Branch(String),
    Commit(String),
}

impl Repository {
    /// The repositories among mounts.
    pub fn among(mounts: &[Mount]) -> Result<Vec<Self>, BoundaryError> {
        let read = |mount: &Mount| match &mount.kind {
            MountKind::GithubRepository {
                url,
                checkout,
                authorized,
            } => Some(Self::read(
                &mount.id,
                url,
                &mount.mount_path,
                checkout.as_ref(),
                *authorized,
            )),
            MountKind::File { .. } | MountKind::Other => None,
        };
        mounts.iter().filter_map(read).collect()
    }

    /// Reads one. What is said about it is the server's, and is not believed to be in order.
    pub fn read(
        id: &str,
        url: &str,
        place: &str,
        checkout: Option<&Value>,
        authorized: bool,
    ) -> Result<Self, BoundaryError> {
        let wrong = |reason: &str| BoundaryError::Repository {
            url: url.to_owned(),
            place: place.to_owned(),
            reason: reason.to_owned(),
        };
        let plain = |text: &str| !text.contains(|c: char| c.is_control() || c.is_whitespace());
        let rest = url.strip_prefix("https://").filter(|rest| plain(rest));
        let (authority, path) = rest
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(|| wrong("its address is not https://host/path"))?;
        if authority.contains('@') || path.contains(['?', '#']) {
            return Err(wrong("its address has a user, a query or a fragment"));
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong("its port is none"))?),
            None => (authority, 443),
        };
        let host: HostPattern = host.parse().map_err(|reason: String| wrong(&reason))?;
        let (HostPattern::Exact(_), true) = (&host, !place.contains('\0')) else {
            return Err(wrong("its host is not the name of one"));
        };
        let path = path.trim_end_matches('/');
        let path = path.strip_suffix(".git").unwrap_or(path);
        if path.is_empty() || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(wrong("its address names no repository"));
        }
        let checkout = match checkout {
            None | Some(Value::Null) => Checkout::Default,
            Some(checkout) => {
                let text = |name: &str| {
                    let text = checkout[name].as_str().filter(|text| plain(text) && !text.is_empty());
                    text.map(str::to_owned)
                        .ok_or_else(|| wrong("its checkout is not known"))
                };
                match checkout["type"].as_str() {
                    Some("branch") => Checkout::Branch(text("name")?),
                    Some("commit") => {
                        let sha = text("sha")?;
                        if !sha.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                            return Err(wrong("its commit is not a hash"));
                        }
                        Checkout::Commit(sha)
                    }
                    _ => return Err(wrong("its checkout is not known")),
                }
            }
        };
        Ok(Self {
            id: id.to_owned(),
            url: url.to_owned(),
            host,
            port,
            path: format!("/{path}"),
            place: place.to_owned(),
            checkout,
            authorized,
        })
    }

    /// The paths under which a server knows it.
    pub fn paths(&self) -> [String; 2] {
        [self.path.clone(), format!("{}.git", self.path)]
    }

    /// Its place below the workspace. Elsewhere a sandbox can only read.
    pub fn in_workspace(&self) -> Option<&str> {
        self.place.strip_prefix(WORKSPACE)
    }

    /// What tells git to send the placeholder to this repository, and to no other.
    pub fn git_settings(&self, placeholder: &str) -> Vec<(String, String)> {
        let origin = match self.port {
            443 => format!("https://{}", self.host),
            port => format!("https://{}:{port}", self.host),
        };
        let pair = STANDARD.encode(format!("{USER}:{placeholder}"));
        let setting = |path: &String| {
            (
                format!("http.{origin}{path}.extraHeader"),
                format!("Authorization: Basic {pair}"),
            )
        };
        self.paths().iter().map(setting).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_read_or_refused() {
        let read = |url: &str| Repository::read("r", url, "/workspace/x", None, false);
        let repository = read("https://git.example:8443/team/name.git").unwrap();
        assert_eq!(repository.port, 8443);
        assert_eq!(repository.paths(), ["/team/name", "/team/name.git"]);
        assert_eq!(repository.in_workspace(), Some("x"));
        let settings = repository.git_settings("placeholder");
        assert_eq!(settings[1].0, "http.https://git.example:8443/team/name.git.extraHeader");
        for bad in [
            "http://git.example/a",
            "https://git.example",
            "https://git.example/",
            "https://user@git.example/a",
            "https://git.example/a?b",
            "https://git.example/a/../b",
            "https://*.example/a",
            "https://127.0.0.1/a",
            "https://git.example:x/a",
            "https://git.example/a b",
            "file:///etc",
            "--upload-pack=x",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_checked_out() {
        let read =
            |checkout: Value| Repository::read("r", "https://g.example/a", "/workspace/x", Some(&checkout), false);
        let of = |checkout| read(checkout).map(|repository| repository.checkout).ok();
        assert_eq!(of(Value::Null), Some(Checkout::Default));
        let branch = of(json!({"type": "branch", "name": "main"}));
        assert_eq!(branch, Some(Checkout::Branch("main".into())));
        let commit = of(json!({"type": "commit", "sha": "00ff"}));
        assert_eq!(commit, Some(Checkout::Commit("00ff".into())));
        for bad in [
            json!({"type": "tag", "name": "v1"}),
            json!({"type": "branch"}),
            json!({"type": "commit", "sha": "--all"}),
        ] {
            assert_eq!(of(bad.clone()), None, "{bad}");
        }
    }
}
