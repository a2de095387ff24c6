//! How a credential authenticates: the public part, as it is kept and shown, and the names of its secrets.

use outwork_store::{CredentialSlot, CredentialUse, VaultCredentialRow};
use outwork_wire::Time;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;

use super::VaultError;

/// The secret of `static_bearer`.
pub(crate) const TOKEN: &str = "token";
/// The present access token of `mcp_oauth`.
pub(crate) const ACCESS_TOKEN: &str = "access_token";
/// What a new access token is got with.
pub(crate) const REFRESH_TOKEN: &str = "refresh_token";
/// The secret that the client itself shows to the token endpoint.
pub(crate) const CLIENT_SECRET: &str = "client_secret";
/// The secret of `environment_variable`.
pub(crate) const SECRET_VALUE: &str = "secret_value";

/// The longest address, in characters.
const MAX_URL: usize = 2048;

/// What is public of how a credential authenticates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum PublicAuth {
    StaticBearer {
        mcp_server_url: String,
    },
    McpOauth {
        mcp_server_url: String,
        expires_at: Option<Time>,
        refresh: Option<PublicRefresh>,
    },
    EnvironmentVariable {
        secret_name: String,
        networking: Networking,
        injection_location: InjectionLocation,
    },
}

/// What is public of how a token is refreshed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PublicRefresh {
    pub(crate) client_id: String,
    pub(crate) token_endpoint: String,
    pub(crate) token_endpoint_auth: ClientAuth,
    pub(crate) scope: Option<String>,
    pub(crate) resource: Option<String>,
}

/// How a client shows the token endpoint who it is (RFC 6749, section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub(crate) enum ClientAuth {
    #[serde(rename = "none")]
    None {},
    #[serde(rename = "client_secret_basic")]
    Basic {},
    #[serde(rename = "client_secret_post")]
    Post {},
}

/// Where a variable's value may be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Networking {
    Unrestricted {},
    Limited { allowed_hosts: Vec<String> },
}

/// Which parts of a request a variable's value may be put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InjectionLocation {
    pub(crate) body: bool,
    pub(crate) header: bool,
}

impl PublicAuth {
    /// The public part of a credential that is kept.
    pub(crate) fn of(row: &VaultCredentialRow) -> Result<Self, VaultError> {
        serde_json::from_value(row.auth.clone()).map_err(|_| VaultError::Incomplete(row.id.clone()))
    }

    /// As it is kept and shown.
    pub(crate) fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }

    /// The type on the wire.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::StaticBearer { .. } => "static_bearer",
            Self::McpOauth { .. } => "mcp_oauth",
            Self::EnvironmentVariable { .. } => "environment_variable",
        }
    }

    /// What the credential is for. The address must have been checked.
    pub(crate) fn slot(&self) -> CredentialSlot {
        match self {
            Self::StaticBearer { mcp_server_url } | Self::McpOauth { mcp_server_url, .. } => mcp_slot(mcp_server_url),
            Self::EnvironmentVariable { secret_name, .. } => CredentialSlot {
                used_for: CredentialUse::Variable,
                name: secret_name.clone(),
            },
        }
    }
}

/// The slot of an MCP server's address: two ways to write one address are one slot. A text that is no address is the
/// slot of itself, which no credential has.
pub(crate) fn mcp_slot(address: &str) -> CredentialSlot {
    let name = match Url::parse(address) {
        Ok(mut url) => {
            url.set_fragment(None);
            let path = url.path().trim_end_matches('/').to_owned();
            url.set_path(&path);
            let text = url.to_string();
            match url.query() {
                None => text.trim_end_matches('/').to_owned(),
                Some(_) => text,
            }
        }
        Err(_) => address.to_owned(),
    };
    CredentialSlot {
        used_for: CredentialUse::Mcp,
        name,
    }
}

/// The addresses that secrets of a credential are sent to.
pub(crate) fn addresses(auth: &PublicAuth) -> Vec<(&'static str, &str)> {
    match auth {
        PublicAuth::StaticBearer { mcp_server_url } => vec![("auth.mcp_server_url", mcp_server_url)],
        PublicAuth::McpOauth {
            mcp_server_url,
            refresh,
            ..
        } => {
            let mut addresses = vec![("auth.mcp_server_url", mcp_server_url.as_str())];
            addresses.extend(
                refresh
                    .iter()
                    .map(|r| ("auth.refresh.token_endpoint", r.token_endpoint.as_str())),
            );
            addresses
        }
        PublicAuth::EnvironmentVariable { .. } => Vec::new(),
    }
}

/// Checks an address that secrets are sent to. What is wrong with it, without the address.
pub(crate) fn check_address(text: &str) -> Result<Url, String> {
    if text.chars().count() > MAX_URL {
        return Err(format!("must have at most {MAX_URL} characters"));
    }
    let url = Url::parse(text).map_err(|_| "is not a URL such as https://mcp.example.com/mcp".to_owned())?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user name or a password".into());
    }
    if url.fragment().is_some() {
        return Err("must not have a fragment (`#…`)".into());
    }
    match (url.scheme(), url.host()) {
        ("https" | "http", Some(_)) => Ok(url),
        _ => Err("must be an https address".into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn two_ways_to_write_an_address_are_one_slot() {
        let same = [
            "https://MCP.example.com/mcp",
            "https://mcp.example.com:443/mcp",
            "https://mcp.example.com/mcp/",
            "https://mcp.example.com/a/../mcp",
        ];
        for text in same {
            assert_eq!(mcp_slot(text), mcp_slot(same[0]), "{text}");
        }
        assert_eq!(mcp_slot("https://a.example"), mcp_slot("https://a.example/"));
        for other in [
            "http://mcp.example.com/mcp",
            "https://mcp.example.com/mcp?x=1",
            "https://mcp.example.com:8443/mcp",
            "https://mcp.example.com/MCP",
            "https://mcp.example.com.evil.example/mcp",
        ] {
            assert_ne!(mcp_slot(other), mcp_slot(same[0]), "{other}");
        }
    }

    #[test]
    fn addresses_hold_no_secret_themselves() {
        for good in [
            "https://mcp.example.com/mcp?x=1",
            "http://127.0.0.1:8000/mcp",
            "https://[::1]/",
        ] {
            check_address(good).unwrap();
        }
        for bad in [
            "https://user:pass@mcp.example.com/",
            "https://mcp.example.com/#x",
            "ftp://mcp.example.com/",
            "mcp.example.com",
            "",
            &format!("https://a.example/{}", "x".repeat(3000)),
        ] {
            let error = check_address(bad).err().unwrap();
            assert!(
                !error.contains("mcp.example.com/mcp") || error.contains("such as"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_public_part_is_what_the_contract_shows() {
        let auth = PublicAuth::McpOauth {
            mcp_server_url: "https://a.example/mcp".into(),
            expires_at: None,
            refresh: Some(PublicRefresh {
                client_id: "c".into(),
                token_endpoint: "https://a.example/token".into(),
                token_endpoint_auth: ClientAuth::Basic {},
                scope: None,
                resource: None,
            }),
        };
        assert_eq!(
            auth.to_value(),
            json!({
                "type": "mcp_oauth", "mcp_server_url": "https://a.example/mcp", "expires_at": null,
                "refresh": {
                    "client_id": "c", "token_endpoint": "https://a.example/token",
                    "token_endpoint_auth": { "type": "client_secret_basic" }, "scope": null, "resource": null,
                },
            })
        );
    }
}
