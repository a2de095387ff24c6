//! A door into a tunnel for programs that only speak plain HTTP: what they send to a port of this machine goes through an
//! edge, a link and a gateway, TLS inside, to one upstream server. For test suites that compare a server reached directly
//! with the same server reached through a tunnel.
//!
//! ```text
//! entry http://127.0.0.1:3001 [quic|tcp [RULE...]]
//! ```
//!
//! Each rule is a line of the route's mapping in the gateway's configuration, such as `tools: {read_only: true}`. It prints
//! `entry: listening on http://ADDRESS` and runs until its standard input ends. A `Host` header that names the door becomes
//! the name of the route; every other one stays, so that a server's own checks can be tested.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use outwork_gateway::run::{self, Options};
use outwork_tunnel::certificate::{make_authority, make_server_certificate};
use outwork_tunnel::edge::{self, Admission, Authenticator, Credentials, Edge};
use outwork_tunnel::frame::RefusedCode;
use outwork_tunnel::inner::Connector;
use outwork_tunnel::tls::Identity;
use outwork_wire::Time;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use secrecy::ExposeSecret as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const TUNNEL: &str = "tnl_entry";
const DOMAIN: &str = "entry.example";
const HOST: &str = "server.entry.example";
const TOKEN: &str = "a token of this run";
const PATIENCE: Duration = Duration::from_secs(10);

struct OneToken;

impl Authenticator for OneToken {
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> BoxFuture<'a, Result<Admission, RefusedCode>> {
        let good = credentials.token.expose_secret() == TOKEN && credentials.tunnel_id == TUNNEL;
        let admission = Admission {
            tunnel_id: TUNNEL.to_owned(),
            generation: 1,
        };
        Box::pin(std::future::ready(
            good.then_some(admission).ok_or(RefusedCode::BadToken),
        ))
    }
}

struct Door {
    edge: edge::Handle,
    connector: Connector,
    authority: CertificateDer<'static>,
    own: HeaderValue,
}

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

impl Door {
    async fn open(&self) -> Result<SendRequest<Incoming>, Box<dyn Error + Send + Sync>> {
        let deadline = Instant::now() + PATIENCE;
        let authorities = [self.authority.clone()];
        let stream = self
            .connector
            .open(&self.edge, TUNNEL, HOST, &authorities, deadline)
            .await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn pass(&self, mut request: Request<Incoming>) -> Result<Answer, Box<dyn Error + Send + Sync>> {
        if request.headers().get(header::HOST) == Some(&self.own) {
            request
                .headers_mut()
                .insert(header::HOST, HeaderValue::from_static(HOST));
        }
        // A connection for each request: what ends one ends no other.
        let response = self.open().await?.send_request(request).await?;
        Ok(response.map(|body| body.boxed()))
    }
}

fn failed(error: &dyn Error) -> Answer {
    let body = Full::new(Bytes::from(format!("entry: {error}\n"))).map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let upstream = arguments
        .next()
        .ok_or("give the upstream's address, such as http://127.0.0.1:3001")?;
    let transport = arguments.next().unwrap_or_else(|| "quic".into());
    let rules: String = arguments.map(|rule| format!("    {rule}\n")).collect();
    let folder = tempfile::tempdir()?;
    let identity = Identity::self_signed(&folder.path().join("edge"), &["127.0.0.1".to_owned()])?;
    let fingerprint = identity.fingerprint().ok_or("no fingerprint")?.to_owned();
    let (service, edge) = Edge::bind(edge::Options::new("127.0.0.1:0".parse()?, identity), Arc::new(OneToken)).await?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn(service.run(stop.clone()));

    let authority = make_authority("entry", Time::now())?;
    let certificate = make_server_certificate(&authority, DOMAIN, Duration::from_secs(86_400), Time::now())?;
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
    write("tls.crt", &certificate.certificate_pem)?;
    write("tls.key", certificate.key_pem.expose_secret())?;
    write("token", TOKEN)?;
    write(
        "config.yaml",
        &format!(
            "tunnel_domain: {DOMAIN}\ntunnel_id: {TUNNEL}\ntoken_file: token\n\
             tls: {{cert_file: tls.crt, key_file: tls.key}}\nupstream: {{allowed_ips: [127.0.0.1/32]}}\n\
             edge: {{addresses: ['{}'], fingerprint: '{fingerprint}', transport: {transport}}}\n\
             health: {{listen_addr: '127.0.0.1:0'}}\nledger: {{dir: ledger}}\nroutes:\n  server:\n    url: {upstream}\n{rules}",
            edge.address()
        ),
    )?;
    let gateway = run::start(Options::new(folder.path().join("config.yaml"))).await?;
    let mut links = gateway.links();
    links
        .wait_for(|links| links.iter().all(|link| link.is_connected()))
        .await?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let door = Arc::new(Door {
        edge,
        connector: Connector::new(),
        authority: CertificateDer::from_pem_slice(authority.certificate_pem.as_bytes())?,
        own: HeaderValue::try_from(address.to_string())?,
    });
    println!("entry: listening on http://{address}");
    let serve = async {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let door = door.clone();
            let service = service_fn(move |request| {
                let door = door.clone();
                async move { Ok::<_, Infallible>(door.pass(request).await.unwrap_or_else(|error| failed(&*error))) }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    };
    let mut end = Vec::new();
    let mut input = tokio::io::stdin();
    tokio::select! {
        () = serve => {}
        _ = input.read_to_end(&mut end) => {}
    }
    gateway.shutdown().await;
    stop.cancel();
    serving.await?;
    Ok(())
}
