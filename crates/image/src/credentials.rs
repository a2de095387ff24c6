//! Credentials of registries, read from a file in the form that container tools write (`~/.docker/config.json`).
//!
//! Credential helpers are programs; they are not run. A registry whose credentials only a helper has is refused with
//! that said, rather than asked anonymously. Values have no `Debug` and no `Serialize`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::error::{Error, Result};

/// The largest file that is read.
const FILE_BYTES: u64 = 1 << 20;

/// How to prove who asks.
#[derive(Clone)]
pub(crate) enum Credential {
    /// For the registry or its token service.
    Basic { user: String, password: SecretString },
    /// A refresh token for the registry's token service.
    Identity(SecretString),
    /// A bearer token for the registry itself.
    Token(SecretString),
}

/// Credentials by registry. Empty: everything is asked anonymously.
#[derive(Clone, Default)]
pub struct Credentials {
    entries: BTreeMap<String, Credential>,
    helpers: Vec<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

#[derive(Deserialize)]
struct FileDoc {
    #[serde(default)]
    auths: BTreeMap<String, EntryDoc>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct EntryDoc {
    auth: Option<SecretString>,
    username: Option<String>,
    password: Option<SecretString>,
    #[serde(rename = "identitytoken")]
    identity: Option<SecretString>,
    #[serde(rename = "registrytoken")]
    token: Option<SecretString>,
}

impl Credentials {
    /// Reads a file. One that is not there is an error: whoever names a file means it.
    pub fn from_file(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io("look at", path))?;
        if metadata.len() > FILE_BYTES {
            return Err(wrong(path.display(), "is larger than 1 MiB"));
        }
        let text = std::fs::read(path).map_err(Error::io("read", path))?;
        let text = SecretString::from(String::from_utf8(text).map_err(|_| wrong(path.display(), "is not UTF-8"))?);
        Self::from_json(&text, &path.display().to_string())
    }

    /// Reads the text of such a file; `place` is named in errors.
    pub fn from_json(text: &SecretString, place: &str) -> Result<Self> {
        // The parser's own message could quote what it read.
        let doc: FileDoc = serde_json::from_str(text.expose_secret()).map_err(|error| {
            let at = format!(
                "is not a credentials file (line {}, column {})",
                error.line(),
                error.column()
            );
            wrong(place, at)
        })?;
        let mut credentials = Self {
            helpers: doc.helpers.keys().map(|host| host_of(host)).collect(),
            ..Self::default()
        };
        for (key, entry) in doc.auths {
            // Tools that use a helper leave an empty entry behind.
            if let Some(credential) = entry.read(&format!("{place}: auths.{key}"))? {
                credentials.entries.insert(host_of(&key), credential);
            }
        }
        Ok(credentials)
    }

    /// Adds a user's password for a registry, `host[:port]`.
    pub fn add(&mut self, host: &str, user: impl Into<String>, password: SecretString) {
        let user = user.into();
        self.entries.insert(host_of(host), Credential::Basic { user, password });
    }

    pub(crate) fn of(&self, host: &str) -> Result<Option<&Credential>> {
        let host = host_of(host);
        let found = self.entries.get(&host);
        if found.is_none() && self.helpers.contains(&host) {
            let problem = "are kept by a credential helper, and helpers are not run; write them into `auths`";
            return Err(wrong(format!("of {host}"), problem));
        }
        Ok(found)
    }
}

impl EntryDoc {
    fn read(self, place: &str) -> Result<Option<Credential>> {
        if let Some(token) = filled(self.token) {
            return Ok(Some(Credential::Token(token)));
        }
        if let Some(token) = filled(self.identity) {
            return Ok(Some(Credential::Identity(token)));
        }
        if let Some(auth) = filled(self.auth) {
            let problem = || wrong(place, "`auth` is not `user:password` in base64");
            let bytes = STANDARD.decode(auth.expose_secret()).map_err(|_| problem())?;
            let text = SecretString::from(String::from_utf8(bytes).map_err(|_| problem())?);
            let (user, password) = text.expose_secret().split_once(':').ok_or_else(problem)?;
            return Ok(Some(Credential::Basic {
                user: user.to_owned(),
                password: SecretString::from(password.trim_end_matches('\0')),
            }));
        }
        match (self.username, filled(self.password)) {
            (Some(user), Some(password)) => Ok(Some(Credential::Basic { user, password })),
            (None, None) => Ok(None),
            _ => Err(wrong(place, "has a user without password, or a password without user")),
        }
    }
}

fn filled(text: Option<SecretString>) -> Option<SecretString> {
    text.filter(|text| !text.expose_secret().is_empty())
}

fn wrong(place: impl ToString, problem: impl Into<String>) -> Error {
    Error::Credentials {
        place: place.to_string(),
        problem: problem.into(),
    }
}

/// Keys are hosts, or addresses as older tools wrote them; the hub has several names.
fn host_of(key: &str) -> String {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let host = key.split('/').next().unwrap_or_default().to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Credentials> {
        Credentials::from_json(&SecretString::from(text), "test")
    }

    #[test]
    fn the_usual_file() {
        let auth = STANDARD.encode("user:pa:ss");
        let text = format!(
            r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{auth}"}},"R.example:5000":{{"identitytoken":"t"}},"empty.example":{{}}}},
                "credHelpers":{{"helped.example":"x"}},"credsStore":"desktop"}}"#
        );
        let credentials = read(&text).unwrap();
        let Some(Credential::Basic { user, password }) = credentials.of("docker.io").unwrap() else {
            panic!("no basic credential");
        };
        assert_eq!((user.as_str(), password.expose_secret()), ("user", "pa:ss"));
        assert!(matches!(
            credentials.of("r.example:5000"),
            Ok(Some(Credential::Identity(_)))
        ));
        assert!(matches!(credentials.of("empty.example"), Ok(None)));
        assert!(matches!(
            credentials.of("helped.example"),
            Err(Error::Credentials { .. })
        ));
        assert!(!format!("{credentials:?}").contains("pa:ss"));
    }

    #[test]
    fn errors_do_not_quote_the_file() {
        for text in [
            r#"{"auths":{"h":{"auth":"s3cret"}}}"#,
            r#"{"auths":"s3cret"}"#,
            r#"{"auths":{"h":{"username":"s3cret"}}}"#,
        ] {
            let Err(error) = read(text) else {
                panic!("{text} was accepted")
            };
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
