//! Lists the tools of an MCP server, or calls one.
//!
//! ```text
//! cargo run -p outwork-mcp --example mcp_call -- http://127.0.0.1:3001/mcp
//! cargo run -p outwork-mcp --example mcp_call -- http://127.0.0.1:3001/mcp echo '{"message": "hello"}'
//! ```
//!
//! `MCP_TOKEN` is sent as a bearer token, and `MCP_TIMEOUT` is the time for a call in seconds. Servers on this machine
//! are allowed here, which they are not by default.

use std::{error::Error, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use outwork_mcp::{
    AddressPolicy, CallContext, Connector, Credentials, Direct, Limits, Rejected, ServerSpec, content,
    dial::SystemResolver, oversize,
};
use secrecy::SecretString;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

struct Fixed(SecretString);

impl Credentials for Fixed {
    fn token(&self) -> BoxFuture<'_, Option<SecretString>> {
        Box::pin(async { Some(self.0.clone()) })
    }

    fn refresh_after_rejection<'a>(
        &'a self,
        _: &'a SecretString,
    ) -> BoxFuture<'a, Result<Option<SecretString>, Rejected>> {
        Box::pin(async { Ok(None) })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let Some(url) = arguments.next() else {
        return Err("usage: mcp_call URL [TOOL [ARGUMENTS AS JSON]]".into());
    };
    let (tool, input) = (arguments.next(), arguments.next().unwrap_or_else(|| "{}".into()));
    let seconds = std::env::var("MCP_TIMEOUT")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60.0);
    let credentials = std::env::var("MCP_TOKEN")
        .ok()
        .map(|token| Arc::new(Fixed(token.into())) as Arc<dyn Credentials>);
    let spec = ServerSpec {
        name: "example".into(),
        url: url.parse()?,
        dial: Arc::new(Direct::new(Arc::new(SystemResolver), [])?),
        policy: AddressPolicy {
            allow: vec!["127.0.0.0/8".parse()?, "::1/128".parse()?],
            plain_http: true,
        },
        headers: None,
        credentials,
        limits: Limits::default(),
        watch_tools: false,
    };
    let cancel = CancellationToken::new();
    let deadline = || Instant::now() + Duration::from_secs_f64(seconds);
    let connection = Connector::new("mcp_call", env!("CARGO_PKG_VERSION"))
        .connect(spec, deadline(), &cancel)
        .await?;
    println!("revision {}", connection.protocol_version());
    let outcome = match tool {
        None => connection.tools(deadline(), &cancel).await.map(|tools| {
            for tool in tools {
                let hints = [
                    (tool.read_only, "read-only"),
                    (tool.idempotent, "idempotent"),
                    (tool.destructive, "destructive"),
                ];
                let hints: Vec<&str> = hints
                    .into_iter()
                    .filter_map(|(set, word)| set.then_some(word))
                    .collect();
                println!("{} [{}]: {}", tool.name, hints.join(", "), tool.description);
            }
        }),
        Some(tool) => {
            let input = serde_json::from_str(&input)?;
            connection
                .call(&tool, input, CallContext::default(), deadline(), &cancel)
                .await
                .map(|result| {
                    println!("{}", if result.is_error { "failed" } else { "done" });
                    match oversize(&result) {
                        Some(long) => println!("{}\n... {} bytes in all", long.preview, long.full.len()),
                        None => println!("{:#?}", content::to_wire(&result)),
                    }
                })
        }
    };
    connection.close(deadline()).await;
    Ok(outcome.map_err(|error| {
        let words = error.server_message.as_deref().unwrap_or("nothing");
        format!(
            "{error} ({}, sent: {}, the server says: {words})",
            error.kind, error.sent
        )
    })?)
}
