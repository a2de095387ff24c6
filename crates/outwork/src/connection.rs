//! Which server a command calls, and with which key.
//!
//! The admin key of a data folder is only ever sent to this machine: a key that was found, not given, must not
//! travel to an address that somebody put into a variable.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use outwork_client::{Client, ClientError, Credential, Options};
use secrecy::SecretString;

use crate::cli::task::Connection;
use crate::config::{Environment, check_url, default_data_dir, secret_file};

/// Where a server listens unless it is told.
pub(crate) const DEFAULT_BASE_URL: &str = "http://127.0.0.1:8400";
/// The file in a data folder that holds the admin key.
pub(crate) const ADMIN_KEY_FILE: &str = "admin.key";

/// A server and a key, found.
pub(crate) struct Target {
    pub(crate) base_url: String,
    pub(crate) key: SecretString,
    /// Where the key came from, for errors.
    pub(crate) source: String,
    ca_file: Option<PathBuf>,
}

/// The server's address: flag, `OUTWORK_BASE_URL`, `ANTHROPIC_BASE_URL`, this machine.
pub(crate) fn base_url(flag: Option<&str>, environment: Environment<'_>) -> Result<String> {
    let given = flag
        .map(str::to_owned)
        .or_else(|| environment("OUTWORK_BASE_URL"))
        .or_else(|| environment("ANTHROPIC_BASE_URL"));
    match given {
        Some(url) => check_url(&url).context("the server's address (--base-url)"),
        None => Ok(DEFAULT_BASE_URL.to_owned()),
    }
}

/// Finds server and key.
pub(crate) fn target(connection: &Connection, environment: Environment<'_>) -> Result<Target> {
    let base_url = base_url(connection.base_url.as_deref(), environment)?;
    let found = |key, source: &str| {
        Ok(Target {
            base_url: base_url.clone(),
            key,
            source: source.to_owned(),
            ca_file: connection.ca_file.clone(),
        })
    };
    if let Some(path) = &connection.api_key_file {
        return found(secret_file(path)?, &path.display().to_string());
    }
    for name in ["OUTWORK_API_KEY", "ANTHROPIC_API_KEY"] {
        if let Some(key) = environment(name) {
            return found(SecretString::from(key), name);
        }
    }
    let folder = match &connection.data_dir {
        Some(folder) => folder.clone(),
        None => default_data_dir(environment)?,
    };
    let path = folder.join(ADMIN_KEY_FILE);
    if !is_here(&base_url) {
        bail!("there is no key for {base_url}: set OUTWORK_API_KEY, or give --api-key-file");
    }
    if !path.try_exists().unwrap_or(true) {
        bail!(
            "there is no key for {base_url}: set OUTWORK_API_KEY, or give --data-dir if the server runs on this \
             machine (there is no {})",
            path.display()
        );
    }
    found(secret_file(&path)?, &path.display().to_string())
}

/// A client for the server that the flags and variables name.
pub(crate) fn client(connection: &Connection, environment: Environment<'_>) -> Result<Client> {
    target(connection, environment)?.client()
}

impl Target {
    /// A client for it.
    pub(crate) fn client(&self) -> Result<Client> {
        let mut options = Options::new(&self.base_url, Credential::ApiKey(self.key.clone()));
        if let Some(path) = &self.ca_file {
            let pem = std::fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
            options.ca_certificates.push(pem);
        }
        Ok(Client::new(options)?)
    }
}

/// Whether an address is on this machine.
pub(crate) fn is_here(base_url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(base_url) else {
        return false;
    };
    let Some(host) = url.host_str() else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What a person can do about an error of a call, if there is something.
pub(crate) fn advice(error: &anyhow::Error) -> Option<&'static str> {
    match error.downcast_ref::<ClientError>()? {
        ClientError::Connect { cause, .. } if cause.contains("certificate") => Some(
            "give the authority that signed the server's certificate with --ca-file; a self-signed certificate must \
             not say CA:TRUE",
        ),
        ClientError::Connect { .. } => Some("start one with `outwork up`, or name another with --base-url"),
        error => match error.status()? {
            401 => Some(
                "the key was looked for in --api-key-file, OUTWORK_API_KEY, ANTHROPIC_API_KEY and the data folder, in \
                 this order; unset the variable that holds another server's key",
            ),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn keys_and_addresses_are_looked_for_in_order() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(ADMIN_KEY_FILE), "local\n").unwrap();
        let connection = Connection {
            data_dir: Some(folder.path().to_owned()),
            ..Connection::default()
        };
        let none = |_: &str| None;
        let here = target(&connection, &none).unwrap();
        assert_eq!(
            (here.base_url.as_str(), here.key.expose_secret()),
            (DEFAULT_BASE_URL, "local")
        );
        let both = |name: &str| match name {
            "ANTHROPIC_API_KEY" => Some("theirs".to_owned()),
            "OUTWORK_API_KEY" => Some("ours".to_owned()),
            "ANTHROPIC_BASE_URL" => Some("https://example.com/".to_owned()),
            _ => None,
        };
        let there = target(&connection, &both).unwrap();
        assert_eq!(
            (there.base_url.as_str(), there.key.expose_secret()),
            ("https://example.com", "ours")
        );
    }

    #[test]
    fn a_key_that_was_found_stays_on_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(ADMIN_KEY_FILE), "local").unwrap();
        for url in [
            "https://example.com",
            "http://127.0.0.1.example.com",
            "http://10.0.0.1:8400",
        ] {
            let connection = Connection {
                data_dir: Some(folder.path().to_owned()),
                base_url: Some(url.to_owned()),
                ..Connection::default()
            };
            let error = target(&connection, &|_| None).err().unwrap().to_string();
            assert!(error.contains("no key for"), "{error}");
        }
        for url in ["http://localhost:1", "http://127.0.0.2:1", "https://[::1]:2"] {
            assert!(is_here(url), "{url}");
        }
    }
}
