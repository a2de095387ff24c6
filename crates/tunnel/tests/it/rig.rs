//! An edge, a gateway and what the tests ask of both.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use outwork_tunnel::edge::{self, Admission, Authenticator, Credentials, Edge, Handle, OpenError, Stream};
use outwork_tunnel::frame::{Open, RefusedCode, Rejection, RejectionCode, StreamKind};
use outwork_tunnel::link::{self, Accept, EdgeAddress, Inbound, LinkState, Links, Mode, echo};
use outwork_tunnel::tls::{Identity, Trust};
use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub const TUNNEL: &str = "tnl_test";
pub const TOKEN: &str = "token-one";
/// How long a condition is waited for; far more than it takes.
pub const BOUND: Duration = Duration::from_secs(30);

/// Runs a test with each transport.
macro_rules! on_both {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn quic() {
                super::bodies::$name(outwork_tunnel::link::Mode::Quic).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn tcp() {
                super::bodies::$name(outwork_tunnel::link::Mode::Tcp).await;
            }
        }
    )*};
}
pub(crate) use on_both;

/// Polls a condition until it holds.
pub async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + BOUND;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < give_up, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub async fn until_true(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(())).await;
}

pub fn soon() -> Instant {
    Instant::now() + BOUND
}

/// The tokens of tunnels.
#[derive(Default)]
pub struct Book(pub Mutex<HashMap<String, (String, u64)>>);

impl Book {
    pub fn set(&self, tunnel: &str, token: &str) {
        let mut book = self.0.lock().unwrap();
        let entry = book.entry(tunnel.to_owned()).or_default();
        *entry = (token.to_owned(), entry.1 + 1);
    }
}

impl Authenticator for Book {
    fn authenticate<'a>(&'a self, credentials: Credentials<'a>) -> BoxFuture<'a, Result<Admission, RefusedCode>> {
        Box::pin(async move {
            let book = self.0.lock().unwrap();
            match book.get(credentials.tunnel_id) {
                Some((token, generation)) if token == credentials.token.expose_secret() => Ok(Admission {
                    tunnel_id: credentials.tunnel_id.to_owned(),
                    generation: *generation,
                }),
                _ => Err(RefusedCode::BadToken),
            }
        })
    }
}

/// An edge that serves in a task.
pub struct TestEdge {
    pub handle: Handle,
    pub book: Arc<Book>,
    pub identity: Identity,
    pub shutdown: CancellationToken,
    pub task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl TestEdge {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut edge::Options)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::self_signed(folder.path(), &["127.0.0.1".into(), "edge.test".into()]).unwrap();
        let book = Arc::new(Book::default());
        book.set(TUNNEL, TOKEN);
        let mut options = edge::Options::new("127.0.0.1:0".parse().unwrap(), identity.clone());
        // Who expects nothing back is told at once; the tests that do expect something say so.
        options.reconnect = std::time::Duration::ZERO;
        change(&mut options);
        let (service, handle) = Edge::bind(options, book.clone()).await.unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(service.run(shutdown.clone()));
        Self {
            handle,
            book,
            identity,
            shutdown,
            task,
            _folder: folder,
        }
    }

    pub fn trust(&self) -> Trust {
        Trust::from_fingerprint(self.identity.fingerprint().unwrap()).unwrap()
    }

    pub fn link_options(&self, mode: Mode) -> link::Options {
        link_options(&[self.handle.address()], self.trust(), mode)
    }

    /// A gateway that serves [`Handler`], connected on all of its links.
    pub async fn gateway(&self, mode: Mode) -> TestGateway {
        let gateway = TestGateway::start(self.link_options(mode));
        gateway.connected().await;
        gateway
    }

    pub async fn open(&self, host: &str) -> Stream {
        self.handle
            .open(TUNNEL, host, soon())
            .await
            .unwrap_or_else(|error| panic!("{host}: {error}"))
    }

    /// One round trip over a fresh stream.
    pub async fn echo(&self, text: &[u8]) -> Result<(), String> {
        exchange(self.handle.open(TUNNEL, "echo.test", soon()).await, text).await
    }
}

pub async fn exchange(opened: Result<Stream, OpenError>, text: &[u8]) -> Result<(), String> {
    let mut stream = opened.map_err(|error| error.to_string())?;
    let exchange = async {
        stream.write_all(text).await?;
        stream.shutdown().await?;
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await?;
        Ok::<_, std::io::Error>(back)
    };
    let back = exchange.await.map_err(|error| error.to_string())?;
    if back == text {
        Ok(())
    } else {
        Err(format!("{} bytes came back of {}", back.len(), text.len()))
    }
}

pub fn link_options(edges: &[SocketAddr], trust: Trust, mode: Mode) -> link::Options {
    let edges = edges
        .iter()
        .map(|edge| edge.to_string().parse::<EdgeAddress>().unwrap())
        .collect();
    let mut options = link::Options::new(edges, trust, TUNNEL, SecretString::from(TOKEN));
    options.mode = mode;
    options
}

pub struct TestGateway {
    pub links: Links,
    pub handler: Arc<Handler>,
}

impl TestGateway {
    pub fn start(options: link::Options) -> Self {
        let handler = Arc::new(Handler::default());
        Self {
            links: Links::start(options, Arc::new(Shared(handler.clone()))).unwrap(),
            handler,
        }
    }

    pub async fn connected(&self) {
        self.state("every link is connected", |all| {
            all.iter().all(|link| link.is_connected())
        })
        .await;
    }

    pub async fn state(&self, what: &str, condition: impl FnMut(&Vec<link::LinkStatus>) -> bool) {
        let mut status = self.links.status();
        let waited = tokio::time::timeout(BOUND, status.wait_for(condition))
            .await
            .map(|met| met.map(|_| ()));
        match waited {
            Ok(met) => met.unwrap(),
            Err(_) => panic!("waited in vain: {what}: {:?}", self.links),
        }
    }

    pub fn states(&self) -> Vec<LinkState> {
        self.links
            .status()
            .borrow()
            .iter()
            .map(|link| link.state.clone())
            .collect()
    }
}

/// What a stream sent, and how it ended.
pub type Recorded = (Vec<u8>, Result<(), std::io::ErrorKind>);

/// What a stream does is the first label of its host.
#[derive(Default)]
pub struct Handler {
    /// What streams to `record` sent, each with how it ended.
    pub recorded: Mutex<Vec<Recorded>>,
    /// Streams to `hold` that are held unread.
    pub held: Mutex<Vec<outwork_tunnel::Stream>>,
}

/// The handler, shared with the test.
pub struct Shared(Arc<Handler>);

impl Accept for Shared {
    fn admit(&self, open: &Open) -> Result<(), Rejection> {
        if open.host == "unknown.test" {
            return Err(Rejection::new(
                RejectionCode::UnknownHost,
                format!("no route for `{}`", open.host),
            ));
        }
        Ok(())
    }

    fn serve(&self, inbound: Inbound) -> BoxFuture<'static, ()> {
        let handler = self.0.clone();
        Box::pin(async move { handler.run(inbound).await })
    }
}

impl Handler {
    async fn run(&self, mut inbound: Inbound) {
        if inbound.kind == StreamKind::Probe {
            // A probe whose caller gave up fails; there is nobody to tell.
            let _ = echo(&mut inbound.stream).await;
            return;
        }
        match inbound.host.split('.').next() {
            Some("echo") => {
                let (mut reader, mut writer) = tokio::io::split(inbound.stream);
                // A reset ends the copy; the stream is dropped and so reset too.
                if tokio::io::copy_buf(
                    &mut tokio::io::BufReader::with_capacity(65_536, &mut reader),
                    &mut writer,
                )
                .await
                .is_ok()
                {
                    let _ = writer.shutdown().await;
                }
            }
            Some("record") => {
                let mut bytes = Vec::new();
                let end = inbound
                    .stream
                    .read_to_end(&mut bytes)
                    .await
                    .map(|_| ())
                    .map_err(|error| error.kind());
                if end.is_ok() {
                    let _ = inbound.stream.write_all(&(bytes.len() as u64).to_be_bytes()).await;
                    let _ = inbound.stream.shutdown().await;
                }
                self.recorded.lock().unwrap().push((bytes, end));
            }
            Some("hold") => self.held.lock().unwrap().push(inbound.stream),
            Some("pour") => {
                let block = vec![7u8; 65_536];
                while inbound.stream.write_all(&block).await.is_ok() {}
            }
            Some("drop") => {}
            Some("leave") => {
                let _ = inbound.stream.read_u8().await;
                let _ = inbound.stream.write_all(b"some").await;
            }
            other => panic!("no such behaviour: {other:?}"),
        }
    }
}
