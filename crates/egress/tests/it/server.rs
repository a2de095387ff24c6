//! The internet of the tests: TLS, HTTP and plain TCP servers that write down what reaches them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Everything that reached a server, in order.
#[derive(Default)]
pub struct Seen(Mutex<Vec<String>>);

impl Seen {
    pub fn add(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }

    pub fn has(&self, part: &str) -> bool {
        self.0.lock().unwrap().iter().any(|what| what.contains(part))
    }

    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// The authority that signs servers' certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rustls::pki_types::CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Authority")
    }
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Authority {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }

    fn sign(&self, name: &str) -> CertifiedKey {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        CertifiedKey::new(
            vec![certificate],
            provider.key_provider.load_private_key(private).unwrap(),
        )
    }
}

impl ResolvesServerCert for Authority {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // A server whose certificate is for another name.
        let name = match hello.server_name() {
            Some("a.wild.example") => "somebody.else.example",
            Some(name) => name,
            None => "93.184.216.10",
        };
        Some(Arc::new(self.sign(name)))
    }
}

/// Where the servers listen.
pub struct Servers {
    tls: SocketAddr,
    http: SocketAddr,
    raw: SocketAddr,
    mail: SocketAddr,
}

impl Servers {
    pub async fn start(seen: Arc<Seen>, authority: Arc<Authority>) -> Servers {
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(authority);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (tls, http, raw, mail) = (bind().await, bind().await, bind().await, bind().await);
        let servers = Servers {
            tls: tls.local_addr().unwrap(),
            http: http.local_addr().unwrap(),
            raw: raw.local_addr().unwrap(),
            mail: mail.local_addr().unwrap(),
        };
        let notes = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = tls.accept().await {
                let (acceptor, notes) = (acceptor.clone(), notes.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        web(stream, notes).await;
                    }
                });
            }
        });
        let notes = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = http.accept().await {
                tokio::spawn(web(stream, notes.clone()));
            }
        });
        for (listener, greeting) in [(raw, &b""[..]), (mail, b"220 mail.example\r\n")] {
            let notes = seen.clone();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(echo(stream, notes.clone(), greeting));
                }
            });
        }
        servers
    }

    /// The server behind a port of any address.
    pub fn behind(&self, port: u16) -> SocketAddr {
        match port {
            443 | 8443 => self.tls,
            80 | 8080 => self.http,
            25 => self.mail,
            _ => self.raw,
        }
    }
}

async fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// Greets, writes down what comes and says it back.
async fn echo(mut stream: tokio::net::TcpStream, seen: Arc<Seen>, greeting: &[u8]) {
    if stream.write_all(greeting).await.is_err() {
        return;
    }
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        seen.add(format!("raw {}", String::from_utf8_lossy(&buffer[..read])));
        if stream.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

type Body = BoxBody<Bytes, Infallible>;

async fn web<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, seen: Arc<Seen>) {
    let service = service_fn(move |request| {
        let seen = seen.clone();
        async move { Ok::<_, Infallible>(answer(request, &seen).await) }
    });
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
}

fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

async fn answer(mut request: Request<Incoming>, seen: &Arc<Seen>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    let host = match head.uri.authority() {
        Some(authority) => authority.to_string(),
        None => head
            .headers
            .get("host")
            .map_or("", |host| host.to_str().unwrap())
            .to_owned(),
    };
    let line = format!(
        "{} {} {:?} host={host} {:?}",
        head.method, head.uri, head.version, head.headers
    );
    // Before the body: what got here got here.
    seen.add(line.clone());
    let mut response = Response::new(text(""));
    match head.uri.path() {
        "/redirect" => {
            *response.status_mut() = http::StatusCode::FOUND;
            response
                .headers_mut()
                .insert("location", "https://evil.example/taken".parse().unwrap());
        }
        "/ws" => {
            *response.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert("connection", "upgrade".parse().unwrap());
            headers.insert("upgrade", "websocket".parse().unwrap());
            let seen = seen.clone();
            tokio::spawn(async move {
                let Ok(upgraded) = upgrade.await else { return };
                let mut stream = TokioIo::new(upgraded);
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    seen.add(format!("ws {}", String::from_utf8_lossy(&buffer[..read])));
                    if stream.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
            });
        }
        "/big" => *response.body_mut() = text(vec![b'x'; 8 << 20]),
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let frames = [Ok(Frame::data(Bytes::from("data"))), Ok(Frame::trailers(trailers))];
            *response.body_mut() = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
            response.headers_mut().insert("trailer", "grpc-status".parse().unwrap());
        }
        _ => {
            let collected = body.collect().await;
            let broken = collected.is_err();
            let body = collected.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let shown = String::from_utf8_lossy(&body[..body.len().min(4096)]).into_owned();
            seen.add(format!(
                "body of {} {}: {shown} ({} bytes, broken: {broken})",
                head.method,
                head.uri,
                body.len()
            ));
            *response.body_mut() = text(format!("{line}\n{shown}"));
        }
    }
    response
}
