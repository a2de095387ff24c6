//! What a server may ask of the connector: nothing but a sign of life.
//!
//! No capability is declared, so a server that asks nevertheless is told that there is no such method; its call goes
//! on without. Of what it tells, only the change of its tools counts.

// Sampling and roots are deprecated in the newest revision; servers of older ones ask for them all the same.
#![expect(deprecated)]

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rmcp::{
    ClientHandler, ErrorData, RoleClient,
    model::{
        ClientCapabilities, ClientConfig, ConstString, CreateMessageRequestMethod, CreateMessageRequestParams,
        CreateMessageResult, ElicitRequestParams, ElicitResult, ErrorCode, Implementation, ListRootsResult,
    },
    service::{NotificationContext, RequestContext},
};

/// The connector's side of the protocol.
#[derive(Clone, Debug)]
pub(crate) struct Handler {
    pub(crate) implementation: Implementation,
    pub(crate) tools_changed: Arc<AtomicBool>,
}

fn refuse(method: &'static str) -> ErrorData {
    ErrorData::new(
        ErrorCode::METHOD_NOT_FOUND,
        format!("{method} is not supported by this client"),
        None,
    )
}

impl ClientHandler for Handler {
    async fn create_message(
        &self,
        _: CreateMessageRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<CreateMessageResult, ErrorData> {
        Err(refuse(CreateMessageRequestMethod::VALUE))
    }

    async fn list_roots(&self, _: RequestContext<RoleClient>) -> Result<ListRootsResult, ErrorData> {
        Err(refuse("roots/list"))
    }

    async fn create_elicitation(
        &self,
        _: ElicitRequestParams,
        _: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        Err(refuse("elicitation/create"))
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.tools_changed.store(true, Ordering::SeqCst);
    }

    fn get_info(&self) -> ClientConfig {
        ClientConfig::new(ClientCapabilities::default(), self.implementation.clone())
    }
}
