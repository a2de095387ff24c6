//! A caller: the plane's end of the inner TLS, over an in-memory stream.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{World, soon};

pub struct Caller {
    pub host: String,
    sender: SendRequest<Full<Bytes>>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The rule by which the gateway refused, if it did.
    pub fn rule(&self) -> Option<String> {
        let value: Value = serde_json::from_slice(&self.body).ok()?;
        let data = &value["error"]["data"];
        (data["by"] == "gateway").then(|| data["rule"].as_str().unwrap().to_owned())
    }
}

/// TLS to the gateway: a stream opened for `host`, asking for `name`.
pub async fn tls(world: &World, host: &str, name: &str) -> io::Result<TlsStream<DuplexStream>> {
    let (near, far) = tokio::io::duplex(256 * 1024);
    let (gateway, host, draining) = (world.gateway.clone(), host.to_owned(), world.draining.clone());
    tokio::spawn(async move { gateway.serve(&host, far, draining).await });
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(world.authority.der.clone())).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    soon(TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), near)).await
}

/// Sends bytes and reads until the gateway closes, or has nothing more to say for a while after an answer.
pub async fn raw(world: &World, host: &str, bytes: &[u8]) -> String {
    let mut stream = tls(world, host, host).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let pause = std::time::Duration::from_millis(if text.is_empty() { 10_000 } else { 300 });
        match tokio::time::timeout(pause, stream.read(&mut buffer)).await {
            Ok(Ok(0)) | Ok(Err(_)) | Err(_) => return String::from_utf8_lossy(&text).into_owned(),
            Ok(Ok(read)) => text.extend_from_slice(&buffer[..read]),
        }
    }
}

impl Caller {
    pub async fn connect(world: &World, host: &str) -> io::Result<Caller> {
        let stream = tls(world, host, host).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Caller {
            host: host.to_owned(),
            sender,
        })
    }

    pub fn request(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .body(Full::new(body.into()))
            .unwrap()
    }

    /// A request whose answer is read to its end.
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        let response = self.open(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = soon(body.collect()).await.unwrap().to_bytes();
        Answer {
            status: head.status,
            headers: head.headers,
            body,
        }
    }

    /// A request whose answer is not read.
    pub async fn open(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        soon(async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        })
        .await
    }

    /// A message as a POST, with more headers.
    pub fn message(&self, message: &Value, headers: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
        let mut request = self.request(Method::POST, "/mcp", message.to_string());
        request
            .headers_mut()
            .insert("content-type", "application/json".parse().unwrap());
        request
            .headers_mut()
            .insert("accept", "application/json, text/event-stream".parse().unwrap());
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        request
    }

    pub async fn post(&mut self, message: &Value, headers: &[(&'static str, &str)]) -> Answer {
        let request = self.message(message, headers);
        self.send(request).await
    }

    /// Calls a tool.
    pub async fn tool(&mut self, name: &str, arguments: Value) -> Answer {
        self.post(&call(name, arguments), &[]).await
    }
}

pub fn call(name: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": name, "arguments": arguments}})
}
