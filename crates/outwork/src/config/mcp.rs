//! The section `[mcp]`: how sessions reach MCP servers.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ipnet::IpNet;
use outwork_plane::{McpNetworks, McpOptions};
use outwork_wire::id::WorkspaceId;
use serde::Deserialize;

use super::{Span, missing};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct McpSettings {
    connect_timeout: Option<Span>,
    call_timeout: Option<Span>,
    ca_file: Option<PathBuf>,
    allowed_networks: Option<Vec<IpNet>>,
    plain_http: Option<bool>,
    workspaces: Option<HashMap<WorkspaceId, NetworkSettings>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkSettings {
    #[serde(default)]
    allowed_networks: Vec<IpNet>,
    #[serde(default)]
    plain_http: bool,
}

impl McpSettings {
    pub(super) fn resolve(&self) -> Result<McpOptions> {
        let workspaces = self.workspaces.iter().flatten().map(|(id, networks)| {
            let networks = McpNetworks {
                allowed_networks: networks.allowed_networks.clone(),
                plain_http: networks.plain_http,
            };
            (id.clone(), networks)
        });
        Ok(McpOptions {
            connect_timeout: self.connect_timeout.context(missing("mcp.connect_timeout"))?.0,
            call_timeout: self.call_timeout.context(missing("mcp.call_timeout"))?.0,
            ca_file: self.ca_file.clone(),
            networks: McpNetworks {
                allowed_networks: self.allowed_networks.clone().context(missing("mcp.allowed_networks"))?,
                plain_http: self.plain_http.context(missing("mcp.plain_http"))?,
            },
            workspaces: workspaces.collect(),
        })
    }
}
