//! The way of a request: routed by the table, checked, carried out, answered.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use bytes::Bytes;
use http::{HeaderMap, Method, header};
use outwork_wire::id::RequestId;

use super::call::Call;
use super::query::Query;
use super::render::{Reply, response};
use super::table::{NOT_SERVED, Operation, Row, TABLE, TOKEN_PATH, Who};
use super::{
    agents, body, boundary, environments, events, evidence, federation, files, halt, identity, keys, models, outputs, resources, service,
    sessions, texts, threads, tunnel_certificates, tunnels, vault_credentials, vaults, versions, work,
};
use crate::app::App;
use crate::auth::{Principal, authorize, check_workspace, credential, credential_required};
use crate::error::{ApiError, ErrorKind};

/// Every operation at its path.
pub fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for row in TABLE {
        let app = app.clone();
        let handler = move |path: Result<RawPathParams, RawPathParamsRejection>, request: Request| {
            handle(app, row, path, request)
        };
        router = router.route(row.path, on(filter(&row.method), handler));
    }
    let method_app = app.clone();
    router
        .method_not_allowed_fallback(move |request: Request| unrouted(method_app, request, true))
        .fallback(move |request: Request| unrouted(app, request, false))
}

fn filter(method: &Method) -> MethodFilter {
    match *method {
        Method::POST => MethodFilter::POST,
        Method::DELETE => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    }
}

async fn handle(
    app: Arc<App>,
    row: &'static Row,
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
) -> Response {
    if request.method() == Method::HEAD {
        // The router takes it for a GET, and a GET may hand out work.
        return unrouted(app, request, true).await;
    }
    let request_id = RequestId::fresh();
    let began = Instant::now();
    let result = match path {
        Ok(path) => carry_out(&app, row, &path, request).await,
        Err(_) => Err(ApiError::invalid("the path is not valid percent-encoded UTF-8")),
    };
    let response = response(result, &request_id);
    app.metrics().request(row, response.status(), began.elapsed());
    tracing::debug!(
        %request_id, operation = ?row.operation, status = response.status().as_u16(),
        micros = began.elapsed().as_micros() as u64, "request"
    );
    response
}

async fn carry_out(
    app: &Arc<App>,
    row: &'static Row,
    path: &RawPathParams,
    request: Request,
) -> Result<Reply, ApiError> {
    let (parts, incoming) = request.into_parts();
    let principal = if row.who.contains(&Who::Anybody) {
        // What anybody may call asks for no credential, and does not fall over one.
        Principal::Anybody
    } else {
        app.authenticate(credential(&parts.headers)?).await?
    };
    let access = authorize(row, principal, |name| {
        path.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    })?;
    if row.path.starts_with("/v1/") {
        versions::check(&parts.headers, row.beta_header(), row.path == TOKEN_PATH)?;
    }
    check_workspace(&parts.headers, &access, app.store.default_workspace())?;
    let (body, incoming) = if row.streams_body() {
        (Bytes::new(), Some(incoming))
    } else {
        (read_body(app, row, &parts.headers, incoming).await?, None)
    };
    let call = Call {
        app: app.clone(),
        access,
        query: Query::parse(parts.uri.query()),
        headers: parts.headers,
        path: path.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        body,
        incoming: Mutex::new(incoming),
    };
    perform(row.operation, call).await
}

/// The largest body from somebody without a credential: a token of an identity provider, and the little around it.
const OPEN_BODY: usize = 32 << 10;

/// Reads the body of a request that was let through. What only reads takes none.
async fn read_body(app: &App, row: &Row, headers: &HeaderMap, incoming: Body) -> Result<Bytes, ApiError> {
    let limits = app.limits();
    if row.who.contains(&Who::Anybody) {
        if row.method != Method::POST {
            return Ok(Bytes::new());
        }
        let _room = app.open_body_room()?;
        return body::read(incoming, OPEN_BODY.min(limits.max_body_bytes), limits.header_timeout).await;
    }
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse::<usize>().ok());
    let none = announced.is_none() && !headers.contains_key(header::TRANSFER_ENCODING) && incoming.is_end_stream();
    let size = if none {
        0
    } else {
        announced.unwrap_or(limits.max_body_bytes).min(limits.max_body_bytes)
    };
    let _room = app.body_room(size).await?;
    let body = body::read(incoming, limits.max_body_bytes, limits.body_timeout).await?;
    if row.method != Method::POST && !body.is_empty() {
        return Err(ApiError::invalid(format!(
            "{} {} takes no body; send its parameters in the query",
            row.method, row.path
        )));
    }
    Ok(body)
}

/// The API's meaning: each operation and what carries it out.
async fn perform(operation: Operation, call: Call) -> Result<Reply, ApiError> {
    match operation {
        Operation::Healthz => service::healthz(call).await,
        Operation::Readyz => service::readyz(call).await,
        Operation::Metrics => service::metrics(call).await,

        Operation::AgentsCreate => agents::create(call).await,
        Operation::AgentsList => agents::list(call).await,
        Operation::AgentsRetrieve => agents::retrieve(call).await,
        Operation::AgentsUpdate => agents::update(call).await,
        Operation::AgentsArchive => agents::archive(call).await,
        Operation::AgentVersionsList => agents::versions(call).await,

        Operation::EnvironmentsCreate => environments::create(call).await,
        Operation::EnvironmentsList => environments::list(call).await,
        Operation::EnvironmentsRetrieve => environments::retrieve(call).await,
        Operation::EnvironmentsUpdate => environments::update(call).await,
        Operation::EnvironmentsDelete => environments::delete(call).await,
        Operation::EnvironmentsArchive => environments::archive(call).await,

        Operation::WorkList => work::list(call).await,
        Operation::WorkPoll => work::poll(call).await,
        Operation::WorkStats => work::stats(call).await,
        Operation::WorkRetrieve => work::retrieve(call).await,
        Operation::WorkUpdate => work::update(call).await,
        Operation::WorkAck => work::ack(call).await,
        Operation::WorkHeartbeat => work::heartbeat(call).await,
        Operation::WorkStop => work::stop(call).await,

        Operation::SessionsCreate => sessions::create(call).await,
        Operation::SessionsList => sessions::list(call).await,
        Operation::SessionsRetrieve => sessions::retrieve(call).await,
        Operation::SessionsUpdate => sessions::update(call).await,
        Operation::SessionsDelete => sessions::delete(call).await,
        Operation::SessionsArchive => sessions::archive(call).await,

        Operation::EventsSend => events::send(call).await,
        Operation::EventsList => events::list(call).await,
        Operation::EventsStream => events::stream(call).await,

        Operation::ThreadsList => threads::list(call).await,
        Operation::ThreadsRetrieve => threads::retrieve(call).await,
        Operation::ThreadsArchive => threads::archive(call).await,
        Operation::ThreadEventsList => threads::events(call).await,
        Operation::ThreadEventsStream => threads::stream(call).await,

        Operation::ResourcesList => resources::list(call).await,
        Operation::ResourcesAdd => resources::add(call).await,
        Operation::ResourcesRetrieve => resources::retrieve(call).await,
        Operation::ResourcesUpdate => resources::update(call).await,
        Operation::ResourcesDelete => resources::delete(call).await,

        Operation::FilesUpload => files::upload(call).await,
        Operation::FilesList => files::list(call).await,
        Operation::FilesRetrieve => files::retrieve(call).await,
        Operation::FilesDelete => files::delete(call).await,
        Operation::FilesContent => files::content(call).await,

        Operation::VaultsCreate => vaults::create(call).await,
        Operation::VaultsList => vaults::list(call).await,
        Operation::VaultsRetrieve => vaults::retrieve(call).await,
        Operation::VaultsUpdate => vaults::update(call).await,
        Operation::VaultsDelete => vaults::delete(call).await,
        Operation::VaultsArchive => vaults::archive(call).await,
        Operation::VaultCredentialsCreate => vault_credentials::create(call).await,
        Operation::VaultCredentialsList => vault_credentials::list(call).await,
        Operation::VaultCredentialsRetrieve => vault_credentials::retrieve(call).await,
        Operation::VaultCredentialsUpdate => vault_credentials::update(call).await,
        Operation::VaultCredentialsDelete => vault_credentials::delete(call).await,
        Operation::VaultCredentialsArchive => vault_credentials::archive(call).await,
        Operation::VaultCredentialsValidate => vault_credentials::validate(call).await,

        Operation::ModelsList => models::list(call).await,
        Operation::ModelsRetrieve => models::retrieve(call).await,

        Operation::ApiKeysCreate => keys::create_api_key(call).await,
        Operation::ApiKeysList => keys::list_api_keys(call).await,
        Operation::ApiKeysRevoke => keys::revoke_api_key(call).await,
        Operation::EnvironmentKeysCreate => keys::create_environment_key(call).await,
        Operation::EnvironmentKeysList => keys::list_environment_keys(call).await,
        Operation::EnvironmentKeysRevoke => keys::revoke_environment_key(call).await,
        Operation::WorkspacesCreate => keys::create_workspace(call).await,
        Operation::WorkspacesList => keys::list_workspaces(call).await,

        Operation::TunnelsCreate => tunnels::create(call).await,
        Operation::TunnelsList => tunnels::list(call).await,
        Operation::TunnelsRetrieve => tunnels::retrieve(call).await,
        Operation::TunnelsArchive => tunnels::archive(call).await,
        Operation::TunnelsRevealToken => tunnels::reveal_token(call).await,
        Operation::TunnelsRotateToken => tunnels::rotate_token(call).await,
        Operation::TunnelsPause => tunnels::pause(call).await,
        Operation::TunnelsResume => tunnels::resume(call).await,
        Operation::TunnelsStatus => tunnels::status(call).await,
        Operation::TunnelsConnections => tunnels::connections(call).await,
        Operation::OwnEdge => tunnels::edge(call).await,
        Operation::TunnelsUsage => tunnels::usage(call).await,
        Operation::TunnelCertificatesCreate => tunnel_certificates::create(call).await,
        Operation::TunnelCertificatesList => tunnel_certificates::list(call).await,
        Operation::TunnelCertificatesRetrieve => tunnel_certificates::retrieve(call).await,
        Operation::TunnelCertificatesArchive => tunnel_certificates::archive(call).await,

        Operation::OauthToken => federation::token(call).await,
        Operation::OpenidConfiguration => identity::configuration(call).await,
        Operation::Jwks => identity::keys(call).await,

        Operation::OwnWorkPoll => work::poll_own(call).await,
        Operation::OwnWorkAck => work::ack_own(call).await,

        Operation::SessionBoundary => boundary::retrieve(call).await,
        Operation::SessionEvidence => evidence::retrieve(call).await,
        Operation::SessionEvidenceAdd => evidence::add(call).await,
        Operation::CallHalt => halt::call(call).await,
        Operation::SessionHalt => halt::session(call).await,
        Operation::EnvironmentHalt => halt::environment(call).await,
        Operation::WorkspaceHalt => halt::workspace(call).await,
        Operation::SessionMounts => resources::mounts(call).await,
        Operation::SessionSecrets => resources::secrets(call).await,
        Operation::SessionOutputsAdd => outputs::add(call).await,
        Operation::SessionOutputsList => outputs::list(call).await,
        Operation::SessionOutputsRefuse => outputs::refuse(call).await,
        Operation::SessionTextsList => texts::list(call).await,
        Operation::SessionTextsRetrieve => texts::retrieve(call).await,
    }
}

/// A request for which the table has no row. It is named only to callers with a valid credential.
async fn unrouted(app: Arc<App>, request: Request, path_exists: bool) -> Response {
    let request_id = RequestId::fresh();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let named = format!("{method} {}", super::shortened(&path));
    let known = match credential(request.headers()) {
        Ok(secret) => match app.authenticate(secret).await {
            Ok(Principal::Anybody) => Err(credential_required()),
            other => other.map(drop),
        },
        Err(error) => Err(error),
    };
    let error = match known {
        Err(error) => error,
        Ok(()) if path_exists => ApiError::new(
            ErrorKind::MethodNotAllowed,
            format!("{named}: this endpoint does not take {method}"),
        ),
        Ok(()) => {
            let part = NOT_SERVED
                .iter()
                .find(|(prefix, _)| path == *prefix || path.strip_prefix(prefix).is_some_and(|r| r.starts_with('/')));
            let message = match part {
                Some((_, words)) => format!("{named}: {words} not supported by this server"),
                None => format!("{named}: there is no such endpoint"),
            };
            ApiError::new(ErrorKind::NotFound, message)
        }
    };
    response(Err(error), &request_id)
}
