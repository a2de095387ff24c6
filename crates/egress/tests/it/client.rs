//! Clients inside the sandbox: plain TCP, TLS, HTTP written by hand, HTTP/2, DNS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RecordType};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::world::World;

/// What a test waits for at most; nothing takes so long.
const PATIENCE: Duration = Duration::from_secs(10);

pub async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("in time")
}

impl World {
    /// A connection of the sandbox to any address: it ends up at the boundary.
    pub async fn dial(&self, to: &str) -> TcpStream {
        let to: SocketAddr = to.parse().unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        self.origins.0.lock().unwrap().insert(socket.local_addr().unwrap(), to);
        match in_time(socket.connect(self.tcp)).await {
            Ok(stream) => stream,
            // Refused so fast that connecting failed: the same as a connection that is gone.
            Err(_) => {
                let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                TcpStream::connect(gone.local_addr().unwrap()).await.unwrap()
            }
        }
    }

    /// TLS to any address, with any name.
    pub async fn tls(&self, to: &str, name: &str, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = self.client_config();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = self.dial(to).await;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        in_time(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
    }

    /// A client that trusts the session's authority, and the servers' for connections that are passed through.
    pub fn client_config(&self) -> ClientConfig {
        let mut roots = self.internet.roots();
        roots.add(self.session.certificate_der().clone()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// Asks for the addresses of a name, as clients do before they connect.
    pub async fn lookup(&self, name: &str) -> Message {
        self.ask(name, RecordType::A).await
    }

    /// Asks a question by UDP.
    pub async fn ask(&self, name: &str, kind: RecordType) -> Message {
        let query = question(name, kind);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&query, self.dns).await.unwrap();
        let mut buffer = vec![0; 4096];
        let (length, _) = in_time(socket.recv_from(&mut buffer)).await.unwrap();
        Message::from_vec(&buffer[..length]).unwrap()
    }

    /// Sends bytes in the clear and reads until the end.
    pub async fn plain(&self, to: &str, bytes: &[u8]) -> String {
        let mut stream = self.dial(to).await;
        let _ = stream.write_all(bytes).await;
        rest(&mut stream).await
    }

    /// Sends a request over TLS with HTTP/1.1 and reads the response. An error is its text.
    pub async fn secure(&self, to: &str, name: &str, request: &str) -> String {
        match self.tls(to, name, &["http/1.1"]).await {
            Ok(mut stream) => {
                let _ = stream.write_all(request.as_bytes()).await;
                answer(&mut stream).await
            }
            Err(error) => format!("error: {error}"),
        }
    }

    /// Sends a request over TLS with HTTP/2.
    pub async fn http2(&self, to: &str, name: &str, request: Request<Full<Bytes>>) -> Result<Reply, String> {
        let stream = self.tls(to, name, &["h2"]).await.map_err(|error| error.to_string())?;
        let mut client = handshake2(stream).await?;
        send2(&mut client, request).await
    }
}

pub type Client2 = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

pub async fn handshake2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Result<Client2, String> {
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (client, connection) = in_time(handshake).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(client)
}

/// A response that was read to its end.
#[derive(Debug)]
pub struct Reply {
    pub head: Response<()>,
    pub body: String,
    pub trailers: Option<http::HeaderMap>,
}

pub async fn send2(client: &mut Client2, request: Request<Full<Bytes>>) -> Result<Reply, String> {
    let response = in_time(client.send_request(request))
        .await
        .map_err(|error| error.to_string())?;
    let (head, body) = response.into_parts();
    let body = in_time(body.collect()).await.map_err(|error| error.to_string())?;
    let trailers = body.trailers().cloned();
    Ok(Reply {
        head: Response::from_parts(head, ()),
        body: String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        trailers,
    })
}

/// A request of HTTP/2.
pub fn get2(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).unwrap()
}

pub fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.edns = Some(Edns::new());
    message.to_vec().unwrap()
}

/// Everything until the end, or the error that it ends with.
pub async fn rest<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut all = Vec::new();
    let end = in_time(stream.read_to_end(&mut all)).await;
    let text = String::from_utf8_lossy(&all).into_owned();
    match end {
        Ok(_) => text,
        Err(error) => format!("{text}error: {error}"),
    }
}

/// One response with its body.
pub async fn answer<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut all = Vec::new();
    loop {
        if let Some(length) = whole(&all) {
            return String::from_utf8_lossy(&all[..length]).into_owned();
        }
        match in_time(stream.read_buf(&mut all)).await {
            Ok(0) => return String::from_utf8_lossy(&all).into_owned(),
            Ok(_) => {}
            Err(error) => return format!("{}error: {error}", String::from_utf8_lossy(&all)),
        }
    }
}

/// The length of a response, once it is there.
fn whole(bytes: &[u8]) -> Option<usize> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes).ok()? else {
        return None;
    };
    if response.code == Some(101) {
        return Some(head);
    }
    let field = |name: &str| {
        response
            .headers
            .iter()
            .find(|field| field.name.eq_ignore_ascii_case(name))
    };
    if field("transfer-encoding").is_some() {
        let end = bytes.windows(5).position(|window| window == b"0\r\n\r\n")?;
        return Some(end + 5);
    }
    let length: usize = std::str::from_utf8(field("content-length")?.value).ok()?.parse().ok()?;
    (bytes.len() >= head + length).then_some(head + length)
}
