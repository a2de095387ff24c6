//! Workload identity: a token of an identity provider is exchanged for a short-lived one that manages tunnels.
//!
//! The variables are those of the published SDKs. A key that was given comes first; what was found in a data folder
//! comes last. Neither the identity token nor what is got for it reaches an error.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use outwork_client::{Client, Credential, Options};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use crate::cli::task::Connection;
use crate::config::{Environment, secret_file};
use crate::connection;

const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const RULE: &str = "ANTHROPIC_FEDERATION_RULE_ID";
const ORGANIZATION: &str = "ANTHROPIC_ORGANIZATION_ID";
const WORKSPACE: &str = "ANTHROPIC_WORKSPACE_ID";
const TOKEN: &str = "ANTHROPIC_IDENTITY_TOKEN";
const TOKEN_FILE: &str = "ANTHROPIC_IDENTITY_TOKEN_FILE";
/// How long the exchange may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A client for managing tunnels: with the key that was given, with workload identity if the environment describes
/// one, with the key of a data folder.
pub(crate) async fn client(connection: &Connection, environment: Environment<'_>) -> Result<Client> {
    let has_key = connection.api_key_file.is_some()
        || ["OUTWORK_API_KEY", "ANTHROPIC_API_KEY"]
            .iter()
            .any(|name| environment(name).is_some());
    let Some(rule) = environment(RULE).filter(|_| !has_key) else {
        return connection::client(connection, environment);
    };
    let organization = environment(ORGANIZATION).with_context(|| format!("{RULE} is set, but not {ORGANIZATION}"))?;
    let identity = match (environment(TOKEN), environment(TOKEN_FILE)) {
        (Some(token), _) => SecretString::from(token),
        (None, Some(path)) => secret_file(path.as_ref())?,
        (None, None) => bail!("{RULE} is set, but neither {TOKEN_FILE} nor {TOKEN}"),
    };
    let base_url = connection::base_url(connection.base_url.as_deref(), environment)?;
    let mut body = json!({
        "grant_type": GRANT,
        "assertion": identity.expose_secret(),
        "federation_rule_id": rule,
        "organization_id": organization,
    });
    if let Some(workspace) = environment(WORKSPACE) {
        body["workspace_id"] = workspace.into();
    }
    let authorities = match &connection.ca_file {
        Some(path) => Some(std::fs::read(path).with_context(|| format!("could not read {}", path.display()))?),
        None => None,
    };
    let token = exchange(&base_url, authorities.as_deref(), &body).await?;
    let mut options = Options::new(base_url, Credential::Bearer(token));
    options.ca_certificates.extend(authorities);
    Ok(Client::new(options)?)
}

async fn exchange(base_url: &str, authorities: Option<&[u8]>, body: &Value) -> Result<SecretString> {
    let mut http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(LIMIT);
    if let Some(pem) = authorities {
        http = http.tls_certs_merge(reqwest::Certificate::from_pem_bundle(pem)?);
    }
    let url = format!("{base_url}/v1/oauth/token");
    let answer = http
        .build()?
        .post(&url)
        .header("anthropic-beta", "oauth-2025-04-20,oidc-federation-2026-04-01")
        .json(body)
        .send()
        .await
        .with_context(|| format!("could not exchange the identity token at {url}"))?;
    let status = answer.status();
    let said: Value = answer.json().await.unwrap_or_default();
    if !status.is_success() {
        let why = said
            .pointer("/error/message")
            .and_then(Value::as_str)
            .unwrap_or_default();
        bail!("the server gives no token for this identity ({status}): {why}");
    }
    let token = said["access_token"]
        .as_str()
        .context("the server gave no token for this identity")?;
    Ok(SecretString::from(token))
}
