//! The private server of `outwork demo --private`: a real MCP server over the official SDK, with made-up orders.
//!
//! Numbers of orders and parcels are drawn anew at every start, so an agent that names them has called it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use rand::Rng;
use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorData, Implementation, JsonObject,
    ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool, ToolAnnotations,
};
use rmcp::service::{RequestContext, RoleServer};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// The orders that are late, of one customer.
const CUSTOMER: &str = "Hartmann";

/// What the server knows.
#[derive(Clone)]
pub(super) struct Orders {
    order: u32,
    parcel: u32,
}

impl Orders {
    /// Fresh numbers.
    pub(super) fn draw(rng: &mut impl Rng) -> Self {
        Self {
            order: rng.random_range(40_000..50_000),
            parcel: rng.random_range(100_000..1_000_000),
        }
    }

    /// The parcel's number: what only a caller can know.
    pub(super) fn parcel(&self) -> String {
        format!("PZ-{}", self.parcel)
    }

    fn late(&self, customer: &str) -> Option<String> {
        CUSTOMER.to_lowercase().contains(&customer.to_lowercase()).then(|| {
            format!(
                "Order {} of {CUSTOMER} & Sons, 12 pump seals: late. Parcel {}.",
                self.order,
                self.parcel()
            )
        })
    }

    fn track(&self, parcel: &str) -> Option<String> {
        (parcel == self.parcel())
            .then(|| format!("Parcel {parcel}: held at the depot in Bremerhaven, papers missing; expected on Friday."))
    }
}

fn schema(field: &str, about: &str) -> Arc<JsonObject> {
    let Value::Object(schema) = json!({
        "type": "object",
        "properties": { field: { "type": "string", "description": about } },
        "required": [field],
    }) else {
        return Arc::default();
    };
    Arc::new(schema)
}

fn tools() -> Vec<Tool> {
    let reads = || ToolAnnotations::new().read_only(true).idempotent(true);
    vec![
        Tool::new(
            "late_orders",
            "Orders of a customer that are late, with their parcels.",
            schema("customer", "The customer, or a part of the name."),
        )
        .with_annotations(reads()),
        Tool::new(
            "track_parcel",
            "Where a parcel is, and when it is expected.",
            schema("parcel", "The parcel's number."),
        )
        .with_annotations(reads()),
        // There so that the gateway's rule has something to keep out.
        Tool::new(
            "cancel_order",
            "Cancels an order.",
            schema("order", "The order's number."),
        )
        .with_annotations(ToolAnnotations::new().read_only(false).destructive(true)),
    ]
}

impl ServerHandler for Orders {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("orders", env!("CARGO_PKG_VERSION")))
    }

    fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> impl Future<Output = Result<ListToolsResult, ErrorData>> + Send + '_ {
        std::future::ready(Ok(ListToolsResult::with_all_items(tools())))
    }

    fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> impl Future<Output = Result<CallToolResponse, ErrorData>> + Send + '_ {
        let argument = |name: &str| {
            let arguments = request.arguments.as_ref();
            arguments
                .and_then(|arguments| arguments.get(name)?.as_str())
                .unwrap_or_default()
                .to_owned()
        };
        let found = match request.name.as_ref() {
            "late_orders" => self.late(&argument("customer")),
            "track_parcel" => self.track(&argument("parcel")),
            "cancel_order" => Some("Cancelled.".to_owned()),
            other => {
                let message = format!("there is no tool {other}");
                return std::future::ready(Err(ErrorData::invalid_params(message, None)));
            }
        };
        let result = match found {
            Some(text) => CallToolResult::success(vec![ContentBlock::text(text)]),
            None => CallToolResult::error(vec![ContentBlock::text("Nothing was found.")]),
        };
        std::future::ready(Ok(result.into()))
    }
}

/// Serves at `/mcp` until `stop`. Tells where, and what only a caller can know, once it listens.
pub(super) async fn serve(
    listen: SocketAddr,
    stop: CancellationToken,
    tell: impl FnOnce(SocketAddr, &Orders),
) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .with_context(|| format!("could not listen on {listen}"))?;
    let address = listener.local_addr().context("could not see where it listens")?;
    let orders = Orders::draw(&mut rand::rng());
    tell(address, &orders);
    let config = StreamableHttpServerConfig::default()
        // Each answer is one JSON document: there is no stream that its reader could leave early.
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_allowed_hosts([address.ip().to_string(), address.to_string()])
        .with_cancellation_token(stop.child_token());
    let sessions = Arc::new(LocalSessionManager::default());
    let service = StreamableHttpService::new(move || Ok(orders.clone()), sessions, config);
    let router = Router::new().route_service("/mcp", service);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("the private server broke down")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_told() {
        let orders = Orders::draw(&mut rand::rng());
        let late = orders.late("hartmann").unwrap();
        assert!(late.contains(&orders.parcel()));
        assert!(orders.track(&orders.parcel()).unwrap().contains("Friday"));
        assert_eq!((orders.late("somebody"), orders.track("PZ-1")), (None, None));
    }
}
