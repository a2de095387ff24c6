//! The MCP servers of an agent as a client sends them.
//!
//! Refused, by the path of the field: names that are not unique, and URLs that no client of MCP could use or that hold
//! a credential. Credentials belong into a vault.

use std::collections::HashSet;

use outwork_wire::agent::McpServer;
use url::Url;

use super::fields::check_length;
use crate::error::ApiError;
use crate::http::shortened;

const MAX_SERVERS: usize = 20;
const MAX_NAME: usize = 255;
const MAX_URL: usize = 2048;

/// One entry of `mcp_servers`.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct McpServerParams {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    url: String,
}

/// Checks the entries of `mcp_servers`. `path` is where they stand, for messages.
pub(crate) fn resolve_mcp_servers(params: Vec<McpServerParams>, path: &str) -> Result<Vec<McpServer>, ApiError> {
    if params.len() > MAX_SERVERS {
        return Err(ApiError::invalid(format!(
            "{path}: at most {MAX_SERVERS} MCP servers are allowed, not {}",
            params.len()
        )));
    }
    let mut names = HashSet::new();
    let mut servers = Vec::with_capacity(params.len());
    for (index, entry) in params.into_iter().enumerate() {
        let at = format!("{path}.{index}");
        if entry.kind != "url" {
            return Err(ApiError::invalid(format!(
                "{at}.type: `{}` is not supported; use url",
                shortened(&entry.kind)
            )));
        }
        check_length(&format!("{at}.name"), &entry.name, 1..=MAX_NAME)?;
        if !names.insert(entry.name.clone()) {
            return Err(ApiError::invalid(format!(
                "{at}.name: `{}` is the name of two servers; names must be unique",
                shortened(&entry.name)
            )));
        }
        check_length(&format!("{at}.url"), &entry.url, 1..=MAX_URL)?;
        check_url(&entry.url).map_err(|fault| ApiError::invalid(format!("{at}.url: {fault}")))?;
        servers.push(McpServer::Url {
            name: entry.name,
            url: entry.url,
        });
    }
    Ok(servers)
}

fn check_url(text: &str) -> Result<(), String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err("must begin with https:// (or http://, where the server allows it)".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a name or a password; put the credential into a vault".into());
    }
    if url.fragment().is_some() {
        return Err("must not have a fragment".into());
    }
    // Whoever guards the way to it would take such a host for a pattern.
    if url.host_str().is_some_and(|host| host.contains('*')) {
        return Err("its host must be one name, without `*`".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn servers(value: Value) -> Result<Vec<McpServer>, String> {
        let params = serde_json::from_value(value).map_err(|e| e.to_string())?;
        resolve_mcp_servers(params, "mcp_servers").map_err(|e| e.message)
    }

    #[test]
    fn servers_are_checked() {
        let server = |name: &str, url: &str| json!({ "type": "url", "name": name, "url": url });
        assert!(
            servers(json!([
                server("a", "https://a.example/mcp"),
                server("b", "http://10.0.0.1:8080/")
            ]))
            .is_ok()
        );
        for (entries, path) in [
            (
                json!([{ "type": "stdio", "name": "a", "url": "https://a.example" }]),
                "mcp_servers.0.type",
            ),
            (json!([server("", "https://a.example")]), "mcp_servers.0.name"),
            (
                json!([server("a", "https://a.example"), server("a", "https://b.example")]),
                "mcp_servers.1.name",
            ),
            (json!([server("a", "a.example/mcp")]), "mcp_servers.0.url"),
            (json!([server("a", "ftp://a.example")]), "mcp_servers.0.url"),
            (json!([server("a", "https://me:secret@a.example")]), "mcp_servers.0.url"),
            (json!([server("a", "https://a.example/#x")]), "mcp_servers.0.url"),
            (
                json!([server("a", "https://*/mcp")]),
                "mcp_servers.0.url: its host must be one name",
            ),
            (
                json!([server("a", "https://*.com/")]),
                "mcp_servers.0.url: its host must be one name",
            ),
            (
                json!([server("a", "https://%2a.com/")]),
                "mcp_servers.0.url: its host must be one name",
            ),
            (
                json!([{ "type": "url", "name": "a", "url": "https://a.example", "token": "x" }]),
                "`token`",
            ),
            (
                json!(
                    (0..21)
                        .map(|n| server(&n.to_string(), "https://a.example"))
                        .collect::<Vec<_>>()
                ),
                "20",
            ),
        ] {
            let refusal = servers(entries).unwrap_err();
            assert!(refusal.contains(path) && !refusal.contains("secret"), "{refusal}");
        }
    }
}
