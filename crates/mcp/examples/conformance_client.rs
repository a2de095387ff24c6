//! The client that the protocol's own conformance suite drives.
//!
//! ```text
//! cargo build -p outwork-mcp --example conformance_client
//! npx @modelcontextprotocol/conformance client --requirements 2026-07-28 --command target/debug/examples/conformance_client
//! ```
//!
//! The suite adds the URL of a server to the command and names the scenario in the environment. What a scenario wants
//! beyond listing the tools and calling each of them stands here; scenarios that want a client that is more than a
//! caller of tools (an OAuth client, elicitation) fail.

use std::{error::Error, sync::Arc, time::Duration};

use outwork_mcp::{
    AddressPolicy, CallContext, Connection, Connector, Direct, Limits, ServerSpec, Tool, dial::SystemResolver,
};
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args()
        .next_back()
        .filter(|last| last.contains("://"))
        .ok_or("the suite gives a URL")?;
    let scenario = std::env::var("MCP_CONFORMANCE_SCENARIO").unwrap_or_default();
    let context: Value = match std::env::var("MCP_CONFORMANCE_CONTEXT") {
        Ok(context) => serde_json::from_str(&context)?,
        Err(_) => Value::Null,
    };
    let spec = ServerSpec {
        name: "conformance".into(),
        url: url.parse()?,
        dial: Arc::new(Direct::new(Arc::new(SystemResolver), [])?),
        policy: AddressPolicy {
            allow: vec!["127.0.0.0/8".parse()?, "::1/128".parse()?],
            plain_http: true,
        },
        headers: None,
        credentials: None,
        limits: Limits::default(),
        watch_tools: false,
    };
    let connector = Connector::new("outwork-conformance", env!("CARGO_PKG_VERSION"));
    let connection = connector
        .connect(spec, Instant::now() + TIMEOUT, &CancellationToken::new())
        .await?;
    println!("revision {}", connection.protocol_version());
    let outcome = play(&connection, &scenario, &context).await;
    connection.close(Instant::now() + TIMEOUT).await;
    outcome
}

async fn play(connection: &Connection, scenario: &str, context: &Value) -> Result<(), Box<dyn Error>> {
    let tools = connection
        .tools(Instant::now() + TIMEOUT, &CancellationToken::new())
        .await?;
    println!("{} tools", tools.len());
    let mut failed = None;
    for (name, input) in calls(scenario, context, &tools) {
        let deadline = Instant::now() + TIMEOUT;
        let cancel = CancellationToken::new();
        match connection
            .call(&name, input, CallContext::default(), deadline, &cancel)
            .await
        {
            Ok(result) => println!("{name}: {:?}", result.content),
            Err(error) => {
                eprintln!("{error} ({})", error.kind);
                failed = Some(error);
            }
        }
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}

/// The calls that a scenario wants.
fn calls(scenario: &str, context: &Value, tools: &[Tool]) -> Vec<(String, Map<String, Value>)> {
    let object = |value: Value| value.as_object().cloned().unwrap_or_default();
    match scenario {
        "tools_call" => vec![("add_numbers".into(), object(json!({"a": 5, "b": 3})))],
        "http-custom-headers" => context["toolCalls"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|call| {
                (
                    call["name"].as_str().unwrap_or_default().to_owned(),
                    object(call["arguments"].clone()),
                )
            })
            .collect(),
        "json-schema-2020-12-preservation" => tools
            .iter()
            .filter(|tool| tool.name == "json_schema_2020_12_tool")
            .map(|tool| ("json_schema_echo".into(), object(json!({"schema": *tool.input_schema}))))
            .collect(),
        _ => tools.iter().map(|tool| (tool.name.clone(), sample(tool))).collect(),
    }
}

/// A word for every text that a tool requires.
fn sample(tool: &Tool) -> Map<String, Value> {
    let required = tool
        .input_schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    required
        .filter_map(|name| Some((name.as_str()?.to_owned(), json!("word"))))
        .collect()
}
