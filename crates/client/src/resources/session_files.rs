//! `/v1/outwork/sessions/{session_id}`: what the worker of a session puts into its sandbox, takes out of it, and uses
//! outside of it. Only this project's server has these endpoints, and all but the lists want the token of the session's
//! work item.

use std::time::Duration;

use reqwest::Method;
use reqwest::multipart::Form;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::files::SENDING;
use crate::{Client, Download, Pages, Query, Result, Upload, path};

/// How long the server may take to make the evidence of a session.
const MAKING: Duration = Duration::from_secs(600);

/// What belongs to one session.
pub struct SessionFiles<'a> {
    pub(super) client: &'a Client,
    session_id: String,
}

/// A resource as a worker mounts it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Mount {
    /// The resource's id.
    pub id: String,
    /// Where it belongs in the sandbox.
    pub mount_path: String,
    /// Whether its bytes can be had: a file may have been deleted, or have expired.
    pub available: bool,
    /// What it is.
    #[serde(flatten)]
    pub kind: MountKind,
}

/// What a mount is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MountKind {
    /// A file, to be read by [`Files::download`](crate::Files::download) with the same token.
    File {
        /// Its id.
        file_id: String,
        /// How many bytes it has; absent if it was deleted.
        size_bytes: Option<u64>,
        /// Their SHA-256 in hexadecimal digits; absent if it was deleted.
        sha256: Option<String>,
    },
    /// A Git repository.
    GithubRepository {
        /// Its address.
        url: String,
        /// `{"type": "branch", "name": …}` or `{"type": "commit", "sha": …}`; the default branch if absent.
        checkout: Option<Value>,
        /// Whether [`SessionFiles::secrets`] has a token for it.
        authorized: bool,
    },
    /// Of a kind that this client does not know.
    #[serde(other)]
    Other,
}

/// The secrets of a session. They never enter the sandbox. Has no `Debug`.
#[derive(Clone, Deserialize)]
pub struct SessionSecrets {
    /// Tokens of repositories.
    pub repositories: Vec<RepositoryToken>,
    /// Values of variables.
    pub variables: Vec<SessionVariable>,
}

/// The token of a repository. Has no `Debug`.
#[derive(Clone, Deserialize)]
pub struct RepositoryToken {
    /// The resource's id.
    pub resource_id: String,
    /// The repository's address.
    pub url: String,
    /// The token.
    #[serde(deserialize_with = "secret")]
    pub token: SecretString,
}

/// A variable of which the sandbox sees a placeholder only. Has no `Debug`.
#[derive(Clone, Deserialize)]
pub struct SessionVariable {
    /// Its vault.
    pub vault_id: String,
    /// The credential.
    pub credential_id: String,
    /// The variable's name.
    pub name: String,
    /// Its value.
    #[serde(deserialize_with = "secret")]
    pub value: SecretString,
    /// `{"type": "unrestricted"}`, or `{"type": "limited", "allowed_hosts": […]}`.
    pub networking: Value,
    /// `{"body": …, "header": …}`: the parts of a request that the value may be put into.
    pub injection_location: Value,
}

/// A result of a tool that was too long for the conversation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SessionText {
    /// The event of the call.
    pub event_id: String,
    /// Where it belongs, below the sandbox's working folder.
    pub path: String,
    /// How many bytes it has.
    pub size_bytes: u64,
    /// Their SHA-256 in hexadecimal digits.
    pub sha256: String,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    String::deserialize(deserializer).map(SecretString::from)
}

impl<'a> SessionFiles<'a> {
    pub(crate) fn new(client: &'a Client, session_id: String) -> Self {
        Self { client, session_id }
    }

    pub(super) fn path(&self, rest: &[&str]) -> Result<String> {
        let mut parts = vec!["v1", "outwork", "sessions", self.session_id.as_str()];
        parts.extend(rest);
        path(&parts)
    }

    /// What is mounted, as it is now.
    pub async fn mounts(&self) -> Result<Vec<Mount>> {
        self.client
            .pages(self.path(&["mounts"])?, Query::new())
            .collect(usize::MAX)
            .await
    }

    /// The secrets that the worker uses outside the sandbox.
    pub async fn secrets(&self) -> Result<SessionSecrets> {
        self.client.get(self.path(&["secrets"])?, &Query::new()).await
    }

    /// Hands an output over: `path` below the folder of outputs, and the SHA-256 of the bytes in hexadecimal digits. The
    /// same bytes at the same path are one output, however often they are handed over.
    pub async fn add_output(&self, path: &str, sha256: &str, upload: Upload) -> Result<Value> {
        let form = Form::new()
            .text("path", path.to_owned())
            .text("sha256", sha256.to_owned())
            .part("file", upload.part()?);
        let request = self.client.request(Method::POST, self.path(&["outputs"])?);
        request.timeout(SENDING).send_form(form).await
    }

    /// Says that an output was kept back, and why.
    pub async fn refuse_output(
        &self,
        path: &str,
        reason: &str,
        size_bytes: Option<u64>,
        sha256: Option<&str>,
    ) -> Result<Value> {
        let body = json!({ "path": path, "reason": reason, "size_bytes": size_bytes, "sha256": sha256 });
        let request = self.client.request(Method::POST, self.path(&["outputs", "refused"])?);
        // The same reason for the same output is noted once.
        request.json(&body)?.idempotent().send().await
    }

    /// What was handed over or kept back, newest first.
    pub fn outputs(&self, query: Query) -> Result<Pages<Value>> {
        Ok(self.client.pages(self.path(&["outputs"])?, query))
    }

    /// The evidence of the session: the records of the server and its workers, the documents, the event log. Needs the key
    /// of an admin.
    pub async fn evidence(&self) -> Result<Download> {
        let request = self.client.request(Method::GET, self.path(&["evidence"])?);
        request.timeout(MAKING).download().await
    }

    /// Hands over what belongs to the session's evidence: `records`, a bundle of the worker's own ledger; `policy` and
    /// `image`, documents that records name. A later bundle of the same ledger replaces the one before.
    pub async fn add_evidence(&self, part: &str, body: impl Into<bytes::Bytes>) -> Result<Value> {
        let request = self.client.request(Method::POST, self.path(&["evidence"])?);
        let request = request.query("part", part).timeout(SENDING);
        request.bytes("application/octet-stream", body.into()).idempotent().send().await
    }

    /// What is known of the session's long results.
    pub async fn texts(&self) -> Result<Vec<SessionText>> {
        self.client
            .pages(self.path(&["texts"])?, Query::new())
            .collect(usize::MAX)
            .await
    }

    /// A long result.
    pub async fn text(&self, event_id: &str) -> Result<Download> {
        let request = self.client.request(Method::GET, self.path(&["texts", event_id])?);
        request.download().await
    }
}
