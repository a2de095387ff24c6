//! Parts of a configuration that are checked by themselves.

use std::path::PathBuf;

use super::{Edge, Identity, KeySource, Timeouts, file, text};
use crate::error::ConfigError;

pub(super) fn identity(
    identity: &file::IdentityFile,
    at: &impl Fn(&PathBuf) -> PathBuf,
    refuse: &impl Fn(String) -> ConfigError,
) -> Result<Identity, ConfigError> {
    if identity.issuer.is_empty() {
        return Err(refuse("identity.issuer is empty: give the issuer's URL".into()));
    }
    let keys = match (&identity.jwks_file, &identity.jwks_url) {
        (Some(file), None) => KeySource::File(at(file)),
        (None, Some(text)) => {
            let bad = |why: &str| refuse(format!("identity.jwks_url `{text}` {why}"));
            let url: url::Url = text.parse().map_err(|_| bad("is not a URL"))?;
            let loopback = match url.host() {
                Some(url::Host::Ipv4(address)) => address.is_loopback(),
                Some(url::Host::Ipv6(address)) => address.is_loopback(),
                Some(url::Host::Domain(name)) => name == "localhost",
                None => return Err(bad("has no host")),
            };
            match url.scheme() {
                "https" => {}
                "http" if loopback => {}
                _ => return Err(bad("is not https: keys that come in the clear prove nothing")),
            }
            KeySource::Url(url)
        }
        (None, None) => {
            return Err(refuse(
                "identity needs the issuer's keys: give identity.jwks_file or identity.jwks_url".into(),
            ));
        }
        (Some(_), Some(_)) => {
            return Err(refuse(
                "identity.jwks_file and identity.jwks_url exclude each other: leave one out".into(),
            ));
        }
    };
    if identity.ca_file.is_some() && matches!(keys, KeySource::File(_)) {
        return Err(refuse(
            "identity.ca_file is for identity.jwks_url, which is not there".into(),
        ));
    }
    Ok(Identity {
        issuer: identity.issuer.clone(),
        keys,
        ca_file: identity.ca_file.as_ref().map(at),
        required: identity.required,
    })
}

pub(super) fn edge(
    edge: &file::EdgeFile,
    at: &impl Fn(&PathBuf) -> PathBuf,
    refuse: &impl Fn(String) -> ConfigError,
) -> Result<Edge, ConfigError> {
    if edge.addresses.is_empty() {
        return Err(refuse("edge.addresses is empty: give at least one host:port".into()));
    }
    for address in &edge.addresses {
        let parsed = format!("tcp://{address}").parse::<text::Target>();
        parsed.map_err(|_| refuse(format!("edge.addresses: `{address}` is not host:port")))?;
    }
    if edge.ca_file.is_some() && edge.fingerprint.is_some() {
        return Err(refuse(
            "edge.ca_file and edge.fingerprint exclude each other: leave one out".into(),
        ));
    }
    let fingerprint = match &edge.fingerprint {
        Some(text) => {
            let plain: String = text
                .chars()
                .filter(|c| *c != ':')
                .collect::<String>()
                .to_ascii_lowercase();
            if plain.len() != 64 || !plain.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(refuse(
                    "edge.fingerprint is not the SHA-256 of a certificate: 64 hex digits".into(),
                ));
            }
            Some(plain)
        }
        None => None,
    };
    let connections = edge.connections.unwrap_or(2);
    if !(2..=16).contains(&connections) {
        return Err(refuse(format!("edge.connections is {connections}: it is from 2 to 16")));
    }
    Ok(Edge {
        addresses: edge.addresses.clone(),
        server_name: edge.server_name.clone(),
        ca_file: edge.ca_file.as_ref().map(at),
        fingerprint,
        transport: edge.transport,
        connections,
    })
}

pub(super) fn timeouts(
    file: &file::TimeoutsFile,
    refuse: &impl Fn(String) -> ConfigError,
) -> Result<Timeouts, ConfigError> {
    let mut timeouts = Timeouts::default();
    for (key, value, place) in [
        ("handshake", file.handshake, &mut timeouts.handshake),
        ("keep_alive", file.keep_alive, &mut timeouts.keep_alive),
        ("body", file.body, &mut timeouts.body),
        ("connect", file.connect, &mut timeouts.connect),
        ("response", file.response, &mut timeouts.response),
        ("idle", file.idle, &mut timeouts.idle),
        ("stream_idle", file.stream_idle, &mut timeouts.stream_idle),
    ] {
        if let Some(span) = value {
            if span.0.is_zero() {
                return Err(refuse(format!(
                    "timeouts.{key} is 0: nothing could ever arrive in time"
                )));
            }
            *place = span.0;
        }
    }
    Ok(timeouts)
}
