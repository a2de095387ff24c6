//! Health and metrics on a loopback address: `/healthz`, `/readyz`, `/metrics`. The only thing that listens.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::gateway::Gateway;

/// Connections at once. A scraper needs one.
const CONNECTIONS: usize = 32;
/// For a request's head.
const TIME: Duration = Duration::from_secs(10);

/// An open health endpoint.
pub struct Health {
    listener: TcpListener,
    address: SocketAddr,
}

impl Health {
    /// Opens it. The configuration has made sure that the address is a loopback one.
    pub async fn open(address: SocketAddr) -> Result<Health, Error> {
        let failed = |source| Error::Health { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Health { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`.
    pub async fn serve(self, gateway: Arc<Gateway>, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let tasks = TaskTracker::new();
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else {
                break;
            };
            let stream = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    // Out of descriptors, or the peer is gone already: the next may do.
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
                () = stop.cancelled() => break,
            };
            let gateway = gateway.clone();
            tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
                let gateway = &gateway;
                let service = service_fn(|request| async move { Ok::<_, Infallible>(answer(gateway, &request)) });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(TIME)
                    .max_buf_size(16 * 1024)
                    .serve_connection(TokioIo::new(stream), service);
                // A scraper that breaks off is no concern.
                let _ = connection.await;
                drop(slot);
            }));
        }
        tasks.close();
        tasks.wait().await;
    }
}

fn answer(gateway: &Gateway, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, text) = if *request.method() != Method::GET {
        (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned())
    } else {
        match request.uri().path() {
            "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => match ready(gateway) {
                Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
            },
            "/metrics" => (StatusCode::OK, gateway.metrics.render()),
            _ => (
                StatusCode::NOT_FOUND,
                "there are /healthz, /readyz and /metrics\n".to_owned(),
            ),
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn ready(gateway: &Gateway) -> Result<(), &'static str> {
    gateway.ready()?;
    if gateway.metrics.links.load(std::sync::atomic::Ordering::Relaxed) < 1 {
        return Err("no link to the edge is up");
    }
    Ok(())
}
