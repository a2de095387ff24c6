//! The MCP servers of one run: connections, the catalog of their tools, and the calls that are under way.
//!
//! A run connects to all servers at once when it first needs their tools. A server that fails takes its tools from
//! the run; the next run tries it again. A call goes on in a task of its own until it has a result, its deadline ends,
//! or it is not wanted any more. A call that a server may have taken up is repeated only if the server said that a
//! repetition does no harm.

use std::collections::HashMap;
use std::sync::Arc;

use outwork_engine::{Catalog, McpCall, McpTool, ServerFailure};
use outwork_ledger::{Credential, Decision, Hash, Kind};
use outwork_mcp::{CallContext, CallError, CallErrorKind, oversize};
use outwork_store::Store;
use outwork_wire::ContentBlock;
use outwork_wire::agent::McpServer;
use outwork_wire::id::EventId;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::long_texts;
use crate::error::ApiError;
use crate::evidence::{Evidence, Subject, at_server};
use crate::mcp::{Caller, Reach, Reached};

/// The connections of a run, shared with the calls that use them.
type Connections = Arc<tokio::sync::Mutex<HashMap<String, Arc<Reached>>>>;

/// The MCP servers of one run.
#[derive(Default)]
pub(crate) struct McpRun {
    catalog: Option<Catalog>,
    connections: Connections,
    connecting: Option<CancellationToken>,
    calls: HashMap<EventId, CancellationToken>,
    tasks: JoinSet<News>,
}

/// What comes of the tasks of a run.
pub(crate) enum News {
    /// All servers answered or failed.
    Connected {
        tools: Vec<McpTool>,
        failures: Vec<ServerFailure>,
        cancelled: bool,
    },
    /// A call has its result.
    Answered {
        call: EventId,
        content: Vec<ContentBlock>,
        is_error: bool,
        failure: Option<ServerFailure>,
    },
}

impl McpRun {
    /// The tools, once the run is connected.
    pub(crate) fn catalog(&self) -> Option<&Catalog> {
        self.catalog.as_ref()
    }

    /// Whether nothing is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.tasks.is_empty()
    }

    /// What comes next; for ever pending if nothing is under way.
    pub(crate) async fn next(&mut self) -> News {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(news)) => return news,
                // A task that panicked is a defect; what it was to bring is then asked for again.
                Some(Err(error)) if error.is_panic() => {
                    tracing::error!(%error, "a task at an MCP server died");
                    self.connecting = None;
                    self.calls.clear();
                }
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Takes note of news. Gives the failures that are to be told, and the call's result.
    pub(crate) fn note(&mut self, news: &News) {
        match news {
            News::Connected { tools, cancelled, .. } => {
                self.connecting = None;
                if !cancelled {
                    self.catalog = Some(Catalog::new(tools.iter().cloned()));
                }
            }
            News::Answered { call, .. } => drop(self.calls.remove(call)),
        }
    }

    /// Connects to the servers, unless that is under way.
    pub(crate) fn connect(&mut self, reach: &Arc<Reach>, caller: Caller, servers: Vec<McpServer>) {
        if self.connecting.is_some() {
            return;
        }
        let cancel = CancellationToken::new();
        self.connecting = Some(cancel.clone());
        let (reach, connections) = (reach.clone(), self.connections.clone());
        self.tasks
            .spawn(async move { connect_all(&reach, &caller, servers, &connections, &cancel).await });
    }

    /// Has exactly these calls under way: begins those that are missing, and cancels those that nobody wants.
    pub(crate) fn keep(&mut self, on: &On, servers: &[McpServer], wanted: Vec<McpCall>, rules: Vec<String>) {
        self.calls.retain(|id, cancel| {
            let keep = wanted.iter().any(|call| call.id == *id);
            if !keep {
                cancel.cancel();
            }
            keep
        });
        for (call, rule) in wanted.into_iter().zip(rules) {
            if self.calls.contains_key(&call.id) {
                continue;
            }
            let cancel = CancellationToken::new();
            self.calls.insert(call.id.clone(), cancel.clone());
            let server = servers.iter().find(|server| server.name() == call.server).cloned();
            let at = At {
                on: on.clone(),
                server,
                rule,
                connections: self.connections.clone(),
                cancel,
            };
            self.tasks.spawn(at.call(call));
        }
    }

    /// The run needs nothing of its servers now: what is under way is cancelled.
    pub(crate) fn stop_all(&mut self) {
        if let Some(connecting) = &self.connecting {
            connecting.cancel();
        }
        for (_, cancel) in self.calls.drain() {
            cancel.cancel();
        }
    }

    /// The run is over: connections are closed, and the next run connects anew.
    pub(crate) fn end(&mut self) {
        self.stop_all();
        self.catalog = None;
        self.connections = Connections::default();
    }
}

async fn connect_all(
    reach: &Arc<Reach>,
    caller: &Caller,
    servers: Vec<McpServer>,
    connections: &Connections,
    cancel: &CancellationToken,
) -> News {
    let mut order: Vec<String> = Vec::new();
    let mut attempts = JoinSet::new();
    for server in servers {
        order.push(server.name().to_owned());
        let (reach, caller, connections, cancel) = (reach.clone(), caller.clone(), connections.clone(), cancel.clone());
        attempts.spawn(async move {
            let listed = list(&reach, &caller, &server, &connections, &cancel).await;
            (server.name().to_owned(), listed)
        });
    }
    let (mut by_server, mut failures) = (HashMap::new(), Vec::new());
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            Ok((server, Ok(tools))) => drop(by_server.insert(server, tools)),
            Ok((_, Err(failure))) => failures.push(failure),
            Err(error) => tracing::error!(%error, "a connection to an MCP server died"),
        }
    }
    // In the order of the agent, whichever server was first: the model's cache depends on it.
    failures.sort_by_key(|failure| order.iter().position(|name| *name == failure.server));
    News::Connected {
        tools: order
            .iter()
            .filter_map(|name| by_server.remove(name))
            .flatten()
            .collect(),
        failures,
        cancelled: cancel.is_cancelled(),
    }
}

async fn list(
    reach: &Reach,
    caller: &Caller,
    server: &McpServer,
    connections: &Connections,
    cancel: &CancellationToken,
) -> Result<Vec<McpTool>, ServerFailure> {
    let connection = connection(reach, caller, server, connections, cancel).await?;
    let tools = connection
        .connection
        .tools(reach.list_deadline(), cancel)
        .await
        .map_err(|error| failure(server.name(), &error))?;
    Ok(tools
        .into_iter()
        .map(|tool| McpTool {
            server: server.name().to_owned(),
            repeatable: tool.repeatable(),
            name: tool.name,
            description: tool.description,
            input_schema: (*tool.input_schema).clone(),
        })
        .collect())
}

/// The connection of the run to a server, made if there is none that works.
async fn connection(
    reach: &Reach,
    caller: &Caller,
    server: &McpServer,
    connections: &Connections,
    cancel: &CancellationToken,
) -> Result<Arc<Reached>, ServerFailure> {
    if let Some(open) = connections.lock().await.get(server.name())
        && !open.connection.is_closed()
    {
        return Ok(open.clone());
    }
    let fresh = Arc::new(reach.connect(caller, server, cancel).await?);
    connections.lock().await.insert(server.name().to_owned(), fresh.clone());
    Ok(fresh)
}

/// What the calls of a session are made with.
#[derive(Clone)]
pub(crate) struct On {
    pub(crate) reach: Arc<Reach>,
    pub(crate) store: Store,
    pub(crate) evidence: Arc<Evidence>,
    pub(crate) subject: Subject,
    pub(crate) caller: Caller,
}

/// What a call is made with.
struct At {
    on: On,
    server: Option<McpServer>,
    /// What let it through.
    rule: String,
    connections: Connections,
    cancel: CancellationToken,
}

impl At {
    async fn call(self, call: McpCall) -> News {
        let Some(server) = &self.server else {
            let text = format!(
                "The agent has no MCP server `{}` any more; the call was not made.",
                call.server
            );
            return answered(&call, vec![ContentBlock::text(text)], true, None);
        };
        let deadline = self.on.reach.call_deadline();
        for last in [false, true] {
            let connection = match connection(&self.on.reach, &self.on.caller, server, &self.connections, &self.cancel).await
            {
                Ok(connection) => connection,
                Err(failure) => {
                    let text = format!("The call was not made. {}", failure.message);
                    return answered(&call, vec![ContentBlock::text(text)], true, Some(failure));
                }
            };
            if let Err(error) = self.record(&call, server, connection.credential.as_ref()).await {
                tracing::warn!(session = %self.on.caller.session, cause = ?error.cause, "an MCP call was not made: the ledger cannot be written");
                let text = "The call was not made: the server cannot record it at the moment. Try again later.";
                return answered(&call, vec![ContentBlock::text(text)], true, None);
            }
            let context = CallContext {
                call_id: Some(call.id.to_string()),
                ..CallContext::default()
            };
            let result = connection
                .connection
                .call(&call.tool, call.input.clone(), context, deadline, &self.cancel)
                .await;
            match result {
                Ok(result) => {
                    let content = match oversize(&result) {
                        Some(long) => long_texts::shorten(&self.on.store, &self.on.caller, &call.id, &result, long).await,
                        None => outwork_mcp::content::to_wire(&result),
                    };
                    return answered(&call, content, result.is_error, None);
                }
                Err(error) if !last && may_repeat(&call, &error) => {
                    tracing::info!(session = %self.on.caller.session, server = call.server, kind = %error.kind, "an MCP call is repeated");
                    self.connections.lock().await.remove(server.name());
                }
                Err(error) => return failed(&call, &error),
            }
        }
        unreachable!("the second attempt returns")
    }
}

impl At {
    /// Records that the call is made. When this returns, it may be.
    async fn record(&self, call: &McpCall, server: &McpServer, credential: Option<&Credential>) -> Result<(), ApiError> {
        let input = Hash::of_json(&serde_json::Value::Object(call.input.clone()));
        let record = self
            .on
            .subject
            .record(Kind::McpCall)
            .call(call.id.as_str())
            .tool(call.tool.as_str())
            .mcp_method("tools/call")
            .input_hash(input)
            .decided(Decision::Allowed, self.rule.as_str());
        let mut record = at_server(record, server.name(), Url::parse(server.url()).ok().as_ref());
        record.credential = credential.cloned();
        self.on.evidence.cross(vec![record]).await
    }
}

/// Whether a call that failed is made once more: its connection is at fault, and it did nothing or may do it twice.
fn may_repeat(call: &McpCall, error: &CallError) -> bool {
    error.kind == CallErrorKind::Connection && (!error.sent || call.repeatable)
}

fn failed(call: &McpCall, error: &CallError) -> News {
    let mut text = error.message.clone();
    if let Some(words) = &error.server_message {
        text.push_str("\nThe server said: ");
        text.push_str(words);
    }
    if error.sent && !call.repeatable && !matches!(error.kind, CallErrorKind::Protocol | CallErrorKind::ToolGone) {
        text.push_str("\nWhether the call had an effect is not known; find out before it is made again.");
    }
    let broken = matches!(error.kind, CallErrorKind::Connection | CallErrorKind::Authentication);
    let failure = broken.then(|| failure(&call.server, error));
    answered(call, vec![ContentBlock::text(text)], true, failure)
}

fn failure(server: &str, error: &CallError) -> ServerFailure {
    ServerFailure {
        server: server.to_owned(),
        authentication: error.kind == CallErrorKind::Authentication,
        message: error.message.clone(),
    }
}

fn answered(call: &McpCall, content: Vec<ContentBlock>, is_error: bool, failure: Option<ServerFailure>) -> News {
    News::Answered {
        call: call.id.clone(),
        content,
        is_error,
        failure,
    }
}
