//! The tools of an agent as a client sends them, and what becomes of them.
//!
//! Agents, sessions with overrides and session updates take the same tools, so they are parsed and resolved here. What
//! is resolved has every default filled in. Refused, by the path of the field: unknown types and fields, what this
//! server does not run (the web tools, the policy `auto`), names that the model could confuse.

use std::collections::HashSet;

use outwork_wire::agent::{
    BuiltinTool, CustomTool, DefaultToolConfig, McpToolConfig, PermissionPolicy, Tool, ToolConfig,
};
use serde_json::{Map, Value};

use super::fields::{check_length, given};
use crate::error::ApiError;
use crate::http::shortened;

/// The most tools of an agent, those of a toolset counted one by one.
const MAX_TOOLS: usize = 256;
const MAX_TOOL_NAME: usize = 128;
const MAX_SERVER_NAME: usize = 255;
const MAX_TOOL_DESCRIPTION: usize = 16_384;

/// Every built-in tool, those that are not served too.
const BUILTIN: [BuiltinTool; 8] = [
    BuiltinTool::Bash,
    BuiltinTool::Read,
    BuiltinTool::Write,
    BuiltinTool::Edit,
    BuiltinTool::Glob,
    BuiltinTool::Grep,
    BuiltinTool::WebFetch,
    BuiltinTool::WebSearch,
];

/// One entry of `tools` as a client sends it. Which fields belong to which type is checked by [`resolve_tools`].
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ToolParams {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "given")]
    configs: Option<Vec<ToolConfigParams>>,
    #[serde(default)]
    default_config: Option<DefaultConfigParams>,
    #[serde(default, deserialize_with = "given")]
    name: Option<String>,
    #[serde(default, deserialize_with = "given")]
    description: Option<String>,
    #[serde(default, deserialize_with = "given")]
    input_schema: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "given")]
    mcp_server_name: Option<String>,
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ToolConfigParams {
    name: String,
    #[serde(rename = "type", default, deserialize_with = "given")]
    kind: Option<String>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    permission_policy: Option<PolicyParams>,
    #[serde(default)]
    allowed_domains: Option<Value>,
    #[serde(default)]
    blocked_domains: Option<Value>,
    #[serde(default)]
    max_content_tokens: Option<Value>,
    #[serde(default)]
    url_sources: Option<Value>,
    #[serde(default)]
    user_location: Option<Value>,
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct DefaultConfigParams {
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    permission_policy: Option<PolicyParams>,
}

#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyParams {
    #[serde(rename = "type")]
    kind: String,
}

/// Checks the entries of `tools` and fills in every default. `path` is where they stand, for messages.
pub(crate) fn resolve_tools(params: &[ToolParams], path: &str) -> Result<Vec<Tool>, ApiError> {
    let mut names = HashSet::new();
    let mut toolset = false;
    let mut count = 0;
    let mut tools = Vec::with_capacity(params.len());
    for (index, entry) in params.iter().enumerate() {
        let at = format!("{path}.{index}");
        let tool = match entry.kind.as_str() {
            "agent_toolset_20260401" => {
                if std::mem::replace(&mut toolset, true) {
                    return Err(ApiError::invalid(format!(
                        "{at}: agent_toolset_20260401 is given twice; put all settings into one entry"
                    )));
                }
                count += BuiltinTool::SANDBOXED.len();
                entry.toolset(&at)?
            }
            "custom" => {
                count += 1;
                let custom = entry.custom(&at)?;
                if !names.insert(custom.name.clone()) {
                    return Err(ApiError::invalid(format!(
                        "{at}.name: `{}` is the name of two tools; names must be unique",
                        custom.name
                    )));
                }
                Tool::Custom(custom)
            }
            "mcp_toolset" => {
                let tool = entry.mcp_toolset(&at)?;
                if let Tool::McpToolset { configs, .. } = &tool {
                    count += configs.len();
                }
                tool
            }
            other => {
                return Err(ApiError::invalid(format!(
                    "{at}.type: `{}` is not supported; use agent_toolset_20260401, mcp_toolset or custom",
                    shortened(other)
                )));
            }
        };
        tools.push(tool);
    }
    if count > MAX_TOOLS {
        return Err(ApiError::invalid(format!(
            "{path}: at most {MAX_TOOLS} tools are allowed over all entries, not {count}"
        )));
    }
    Ok(tools)
}

impl ToolParams {
    fn toolset(&self, at: &str) -> Result<Tool, ApiError> {
        self.refuse(
            at,
            "agent_toolset_20260401",
            &[
                ("name", self.name.is_some()),
                ("description", self.description.is_some()),
                ("input_schema", self.input_schema.is_some()),
                ("mcp_server_name", self.mcp_server_name.is_some()),
            ],
        )?;
        let default_config = self.default_config(at, PermissionPolicy::AlwaysAllow {})?;
        let mut configs: Vec<ToolConfig> = Vec::new();
        for (index, params) in self.configs.iter().flatten().enumerate() {
            let at = format!("{at}.configs.{index}");
            let config = params.resolve(&at, default_config)?;
            if configs.iter().any(|c| c.name == config.name) {
                return Err(ApiError::invalid(format!(
                    "{at}.name: `{}` is configured twice",
                    config.name.as_str()
                )));
            }
            configs.push(config);
        }
        Ok(Tool::AgentToolset {
            configs,
            default_config,
        })
    }

    fn mcp_toolset(&self, at: &str) -> Result<Tool, ApiError> {
        self.refuse(
            at,
            "mcp_toolset",
            &[
                ("name", self.name.is_some()),
                ("description", self.description.is_some()),
                ("input_schema", self.input_schema.is_some()),
            ],
        )?;
        let server = self
            .mcp_server_name
            .clone()
            .ok_or_else(|| ApiError::invalid(format!("{at}.mcp_server_name: is required for an mcp_toolset")))?;
        check_length(&format!("{at}.mcp_server_name"), &server, 1..=MAX_SERVER_NAME)?;
        // What a server offers is not known here, so somebody is asked unless the agent's owner says otherwise.
        let default_config = self.default_config(at, PermissionPolicy::AlwaysAsk {})?;
        let mut configs: Vec<McpToolConfig> = Vec::new();
        for (index, params) in self.configs.iter().flatten().enumerate() {
            let at = format!("{at}.configs.{index}");
            let config = params.resolve_mcp(&at, default_config)?;
            if configs.iter().any(|c| c.name == config.name) {
                return Err(ApiError::invalid(format!(
                    "{at}.name: `{}` is configured twice",
                    shortened(&config.name)
                )));
            }
            configs.push(config);
        }
        Ok(Tool::McpToolset {
            mcp_server_name: server,
            configs,
            default_config,
        })
    }

    fn default_config(&self, at: &str, policy: PermissionPolicy) -> Result<DefaultToolConfig, ApiError> {
        let given = self.default_config.as_ref();
        Ok(DefaultToolConfig {
            enabled: given.and_then(|c| c.enabled).unwrap_or(true),
            permission_policy: match given.and_then(|c| c.permission_policy.as_ref()) {
                Some(policy) => policy.resolve(&format!("{at}.default_config.permission_policy"))?,
                None => policy,
            },
        })
    }

    fn custom(&self, at: &str) -> Result<CustomTool, ApiError> {
        self.refuse(
            at,
            "custom",
            &[
                ("configs", self.configs.is_some()),
                ("default_config", self.default_config.is_some()),
                ("mcp_server_name", self.mcp_server_name.is_some()),
            ],
        )?;
        let required = |field: &str| ApiError::invalid(format!("{at}.{field}: is required for a custom tool"));
        let name = self.name.clone().ok_or_else(|| required("name"))?;
        check_tool_name(&format!("{at}.name"), &name)?;
        let description = self.description.clone().ok_or_else(|| required("description"))?;
        check_length(&format!("{at}.description"), &description, 1..=MAX_TOOL_DESCRIPTION)?;
        let input_schema = self.input_schema.clone().ok_or_else(|| required("input_schema"))?;
        Ok(CustomTool {
            name,
            description,
            input_schema: checked_schema(&format!("{at}.input_schema"), input_schema)?,
        })
    }

    fn refuse(&self, at: &str, kind: &str, fields: &[(&str, bool)]) -> Result<(), ApiError> {
        match fields.iter().find(|(_, present)| *present) {
            Some((field, _)) => Err(ApiError::invalid(format!(
                "{at}.{field}: is not a field of a tool of type {kind}"
            ))),
            None => Ok(()),
        }
    }
}

impl ToolConfigParams {
    fn resolve(&self, at: &str, default: DefaultToolConfig) -> Result<ToolConfig, ApiError> {
        let name = BUILTIN.into_iter().find(|t| t.as_str() == self.name).ok_or_else(|| {
            ApiError::invalid(format!(
                "{at}.name: `{}` is not a built-in tool; use one of {}",
                shortened(&self.name),
                BUILTIN.map(BuiltinTool::as_str).join(", ")
            ))
        })?;
        if let Some(kind) = self.kind.as_deref().filter(|kind| *kind != name.as_str()) {
            return Err(ApiError::invalid(format!(
                "{at}.type: must be the same as `name`, `{}`, not `{}`",
                name.as_str(),
                shortened(kind)
            )));
        }
        let enabled = self.enabled.unwrap_or(default.enabled);
        let web = matches!(name, BuiltinTool::WebFetch | BuiltinTool::WebSearch);
        if web && enabled {
            return Err(ApiError::invalid(format!(
                "{at}.enabled: {} is not supported by this server, as sandboxes have no network; send `enabled: \
                 false` or leave the entry out, it is off then too",
                name.as_str()
            )));
        }
        self.refuse_web_settings(at, name, web)?;
        Ok(ToolConfig {
            name,
            kind: name,
            enabled,
            permission_policy: match &self.permission_policy {
                Some(policy) => policy.resolve(&format!("{at}.permission_policy"))?,
                None => default.permission_policy,
            },
        })
    }

    /// The same for a tool of an MCP server, whose names are the server's own.
    fn resolve_mcp(&self, at: &str, default: DefaultToolConfig) -> Result<McpToolConfig, ApiError> {
        check_length(&format!("{at}.name"), &self.name, 1..=MAX_SERVER_NAME)?;
        if self.kind.is_some() {
            return Err(ApiError::invalid(format!(
                "{at}.type: is not a setting of a tool of an MCP server"
            )));
        }
        if let Some((field, _)) = self.web_settings().into_iter().find(|(_, value)| value.is_some()) {
            return Err(ApiError::invalid(format!(
                "{at}.{field}: is not a setting of a tool of an MCP server"
            )));
        }
        Ok(McpToolConfig {
            name: self.name.clone(),
            enabled: self.enabled.unwrap_or(default.enabled),
            permission_policy: match &self.permission_policy {
                Some(policy) => policy.resolve(&format!("{at}.permission_policy"))?,
                None => default.permission_policy,
            },
        })
    }

    fn web_settings(&self) -> [(&'static str, &Option<Value>); 5] {
        [
            ("allowed_domains", &self.allowed_domains),
            ("blocked_domains", &self.blocked_domains),
            ("max_content_tokens", &self.max_content_tokens),
            ("url_sources", &self.url_sources),
            ("user_location", &self.user_location),
        ]
    }

    fn refuse_web_settings(&self, at: &str, name: BuiltinTool, web: bool) -> Result<(), ApiError> {
        match self.web_settings().iter().find(|(_, value)| value.is_some()) {
            Some((field, _)) if web => Err(ApiError::invalid(format!(
                "{at}.{field}: is not supported by this server, as it does not run {}",
                name.as_str()
            ))),
            Some((field, _)) => Err(ApiError::invalid(format!(
                "{at}.{field}: is not a setting of {}",
                name.as_str()
            ))),
            None => Ok(()),
        }
    }
}

impl PolicyParams {
    fn resolve(&self, at: &str) -> Result<PermissionPolicy, ApiError> {
        match self.kind.as_str() {
            "always_allow" => Ok(PermissionPolicy::AlwaysAllow {}),
            "always_ask" => Ok(PermissionPolicy::AlwaysAsk {}),
            "auto" => Err(ApiError::invalid(format!(
                "{at}.type: auto is not supported by this server; use always_allow or always_ask"
            ))),
            other => Err(ApiError::invalid(format!(
                "{at}.type: `{}` is not a permission policy; use always_allow or always_ask",
                shortened(other)
            ))),
        }
    }
}

fn check_tool_name(at: &str, name: &str) -> Result<(), ApiError> {
    check_length(at, name, 1..=MAX_TOOL_NAME)?;
    if let Some(wrong) = name
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && *c != '_' && *c != '-')
    {
        return Err(ApiError::invalid(format!(
            "{at}: may have letters, digits, `_` and `-` only, not `{}`",
            wrong.escape_debug()
        )));
    }
    if name.starts_with("mcp__") {
        return Err(ApiError::invalid(format!(
            "{at}: must not start with `mcp__`, which is kept for the tools of MCP servers"
        )));
    }
    if BUILTIN.iter().any(|tool| tool.as_str() == name) {
        return Err(ApiError::invalid(format!(
            "{at}: `{name}` is the name of a built-in tool; choose another one"
        )));
    }
    Ok(())
}

/// Checks the schema of a custom tool's input. Fields that are null are left out, as they say nothing.
fn checked_schema(at: &str, mut schema: Map<String, Value>) -> Result<Map<String, Value>, ApiError> {
    let invalid = |message: String| Err(ApiError::invalid(format!("{at}{message}")));
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        return invalid(".type: must be `object`".into());
    }
    for field in ["oneOf", "anyOf", "allOf"] {
        if schema.contains_key(field) {
            return invalid(format!(".{field}: is not allowed at the top of the schema"));
        }
    }
    for (field, expected) in [("properties", "an object"), ("required", "a list of names")] {
        match schema.get(field) {
            None => {}
            Some(Value::Null) => {
                schema.shift_remove(field);
            }
            Some(Value::Object(_)) if field == "properties" => {}
            Some(Value::Array(names)) if field == "required" && names.iter().all(Value::is_string) => {}
            Some(_) => return invalid(format!(".{field}: must be {expected}")),
        }
    }
    if schema.values().any(has_reference) || schema.get("$ref").is_some_and(Value::is_string) {
        return invalid(": `$ref` is not allowed; write the schema out where it is used".into());
    }
    Ok(schema)
}

/// Whether a schema refers to another one. Nesting is bounded by the limit of the body's depth.
fn has_reference(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.get("$ref").is_some_and(Value::is_string) || map.values().any(has_reference),
        Value::Array(list) => list.iter().any(has_reference),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tools(value: Value) -> Result<Vec<Tool>, String> {
        let params: Vec<ToolParams> = serde_json::from_value(value).map_err(|e| e.to_string())?;
        resolve_tools(&params, "tools").map_err(|e| e.message)
    }

    fn refusal(value: Value) -> String {
        tools(value).unwrap_err()
    }

    fn custom(name: &str, schema: Value) -> Value {
        json!([{ "type": "custom", "name": name, "description": "d", "input_schema": schema }])
    }

    #[test]
    fn a_toolset_gets_its_defaults() {
        let resolved = tools(json!([{ "type": "agent_toolset_20260401" }])).unwrap();
        assert_eq!(
            serde_json::to_value(&resolved).unwrap(),
            json!([{
                "type": "agent_toolset_20260401", "configs": [],
                "default_config": { "enabled": true, "permission_policy": { "type": "always_allow" } },
            }])
        );
        let resolved = tools(json!([{
            "type": "agent_toolset_20260401",
            "default_config": { "enabled": false, "permission_policy": { "type": "always_ask" } },
            "configs": [{ "name": "bash", "type": "bash", "enabled": true }, { "name": "web_search" }],
        }]))
        .unwrap();
        assert_eq!(
            serde_json::to_value(&resolved).unwrap()[0]["configs"],
            json!([
                { "name": "bash", "type": "bash", "enabled": true, "permission_policy": { "type": "always_ask" } },
                { "name": "web_search", "type": "web_search", "enabled": false,
                  "permission_policy": { "type": "always_ask" } },
            ])
        );
    }

    #[test]
    fn what_is_not_run_is_refused_with_its_place() {
        let toolset = |configs: Value| json!([{ "type": "agent_toolset_20260401", "configs": configs }]);
        let web = refusal(toolset(json!([{ "name": "bash" }, { "name": "web_search" }])));
        assert!(web.starts_with("tools.0.configs.1.enabled: web_search"), "{web}");
        assert!(tools(toolset(json!([{ "name": "web_search", "enabled": false }]))).is_ok());
        let setting = refusal(toolset(
            json!([{ "name": "web_fetch", "enabled": false, "max_content_tokens": 5 }]),
        ));
        assert!(
            setting.starts_with("tools.0.configs.0.max_content_tokens: "),
            "{setting}"
        );
        let setting = refusal(toolset(json!([{ "name": "bash", "allowed_domains": [] }])));
        assert!(setting.ends_with("is not a setting of bash"), "{setting}");
        let auto = refusal(toolset(
            json!([{ "name": "bash", "permission_policy": { "type": "auto" } }]),
        ));
        assert!(
            auto.starts_with("tools.0.configs.0.permission_policy.type: auto"),
            "{auto}"
        );
        let twice = refusal(toolset(json!([{ "name": "bash" }, { "name": "bash" }])));
        assert!(twice.starts_with("tools.0.configs.1.name: "), "{twice}");
        let kind = refusal(toolset(json!([{ "name": "bash", "type": "read" }])));
        assert!(kind.starts_with("tools.0.configs.0.type: "), "{kind}");
        assert!(
            refusal(json!([{ "type": "agent_toolset_20260401" }, { "type": "agent_toolset_20260401" }]))
                .contains("twice")
        );
        assert!(refusal(json!([{ "type": "computer" }])).contains("`computer`"));
        assert!(refusal(json!([{ "type": "custom", "colour": 1 }])).contains("`colour`"));
        assert!(refusal(toolset(Value::Null)).contains("null"));
    }

    #[test]
    fn custom_tools_are_checked() {
        let object = || json!({ "type": "object" });
        assert!(tools(custom("look-up_1", object())).is_ok());
        for name in ["", "a b", "mcp__x", "bash", "web_fetch", &"a".repeat(129)] {
            let message = refusal(custom(name, object()));
            assert!(message.starts_with("tools.0.name: "), "{message}");
        }
        for schema in [
            json!({}),
            json!({ "type": "string" }),
            json!({ "type": "object", "anyOf": [] }),
            json!({ "type": "object", "properties": [] }),
            json!({ "type": "object", "required": [1] }),
            json!({ "type": "object", "properties": { "a": { "$ref": "#/x" } } }),
            json!({ "type": "object", "$ref": "#/x" }),
        ] {
            let message = refusal(custom("a", schema));
            assert!(message.starts_with("tools.0.input_schema"), "{message}");
        }
        let nulls = json!({ "type": "object", "properties": null, "required": null, "additionalProperties": false });
        let Tool::Custom(tool) = &tools(custom("a", nulls)).unwrap()[0] else {
            panic!("a custom tool was given");
        };
        assert_eq!(
            Value::from(tool.input_schema.clone()),
            json!({ "type": "object", "additionalProperties": false })
        );
        let mut two = custom("a", object());
        let entry = two[0].clone();
        two.as_array_mut().unwrap().push(entry);
        assert!(refusal(two).starts_with("tools.1.name: "));
        let missing = refusal(json!([{ "type": "custom", "name": "a", "description": "d" }]));
        assert!(missing.starts_with("tools.0.input_schema: "), "{missing}");
        let many: Vec<Value> = (0..257)
            .map(|n| custom(&format!("t{n}"), object())[0].clone())
            .collect();
        assert!(refusal(json!(many)).contains("256"));
    }

    #[test]
    fn tools_of_an_mcp_server_ask_unless_told_otherwise() {
        let resolved = tools(json!([{
            "type": "mcp_toolset", "mcp_server_name": "notes",
            "configs": [{ "name": "find", "permission_policy": { "type": "always_allow" } }, { "name": "drop it", "enabled": false }],
        }]))
        .unwrap();
        assert_eq!(
            serde_json::to_value(&resolved).unwrap(),
            json!([{
                "type": "mcp_toolset", "mcp_server_name": "notes",
                "configs": [
                    { "name": "find", "enabled": true, "permission_policy": { "type": "always_allow" } },
                    { "name": "drop it", "enabled": false, "permission_policy": { "type": "always_ask" } },
                ],
                "default_config": { "enabled": true, "permission_policy": { "type": "always_ask" } },
            }])
        );
        let with = |field: &str, value: Value| {
            let mut entry = json!({ "type": "mcp_toolset", "mcp_server_name": "notes" });
            entry[field] = value;
            refusal(json!([entry]))
        };
        assert!(refusal(json!([{ "type": "mcp_toolset" }])).starts_with("tools.0.mcp_server_name: "));
        assert!(with("name", json!("x")).starts_with("tools.0.name: "));
        assert!(with("configs", json!([{ "name": "a" }, { "name": "a" }])).starts_with("tools.0.configs.1.name: "));
        assert!(with("configs", json!([{ "name": "a", "type": "a" }])).starts_with("tools.0.configs.0.type: "));
        assert!(with("configs", json!([{ "name": "a", "url_sources": [] }])).contains("url_sources"));
    }
}
