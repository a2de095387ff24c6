//! An edge that holds the plane's and the gateway's end of a stream and does with the records between them what it likes.
//! Whatever that is, neither side takes a byte that the other one did not send then and there: it fails instead.
//!
//! What such an edge sees, other certificates and whole streams that are swapped are in `inner_tls`.

use std::io;
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use outwork_tunnel::certificate::{MadeAuthority, SERVER_LIFETIME, make_authority, make_server_certificate};
use outwork_tunnel::edge::Stream;
use outwork_tunnel::frame::{Open, Rejection};
use outwork_tunnel::inner::{Connector, TlsStream, server_config};
use outwork_tunnel::link::{Accept, Inbound, Links, Mode};
use outwork_wire::Time;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, split};
use tokio_rustls::TlsAcceptor;

use crate::rig::{BOUND, TUNNEL, TestEdge, on_both, soon, until, until_true};

on_both!(
    a_record_that_comes_again,
    records_in_another_order,
    a_record_that_is_missing,
    a_record_that_was_changed,
    records_of_two_streams_are_swapped,
    a_conversation_that_is_played_again,
    an_end_that_the_plane_did_not_send,
    an_end_that_the_gateway_did_not_send,
    an_answer_that_comes_again
);

const HOST: &str = "wiki.x1.tunnel.test";

/// What a gateway read on one stream, and how that ended.
#[derive(Debug, Clone, Default)]
struct Seen {
    bytes: Vec<u8>,
    ended: Option<Result<(), io::ErrorKind>>,
}

/// A gateway that echoes and keeps what it read.
#[derive(Clone)]
struct Keeper {
    acceptor: TlsAcceptor,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Keeper {
    fn new(authority: &MadeAuthority) -> Self {
        let made = make_server_certificate(authority, "x1.tunnel.test", SERVER_LIFETIME, Time::now()).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(made.certificate_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(made.key_pem.expose_secret().as_bytes()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).unwrap();
        let config = server_config(Arc::new(SingleCertAndKey::from(certified))).unwrap();
        Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            seen: Arc::default(),
        }
    }

    fn seen(&self, at: usize) -> Seen {
        self.seen.lock().unwrap().get(at).cloned().unwrap_or_default()
    }

    /// How a stream ended, once it has.
    async fn ended(&self, at: usize) -> Result<(), io::ErrorKind> {
        until("the gateway's stream has ended", || self.seen(at).ended).await
    }
}

impl Accept for Keeper {
    fn admit(&self, _: &Open) -> Result<(), Rejection> {
        Ok(())
    }

    fn serve(&self, inbound: Inbound) -> BoxFuture<'static, ()> {
        let Self { acceptor, seen } = self.clone();
        let at = {
            let mut seen = seen.lock().unwrap();
            seen.push(Seen::default());
            seen.len() - 1
        };
        Box::pin(async move {
            let work = async {
                let mut stream = acceptor.accept(inbound.stream).await?;
                let mut buffer = [0; 4096];
                loop {
                    let len = stream.read(&mut buffer).await?;
                    if len == 0 {
                        return stream.shutdown().await;
                    }
                    seen.lock().unwrap()[at].bytes.extend_from_slice(&buffer[..len]);
                    stream.write_all(&buffer[..len]).await?;
                }
            };
            let ended: io::Result<()> = work.await;
            seen.lock().unwrap()[at].ended = Some(ended.map_err(|error| error.kind()));
        })
    }
}

type Record = Vec<u8>;

/// One direction through the edge.
struct Way<W> {
    out: Arc<tokio::sync::Mutex<W>>,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    /// Records are kept back and not passed on.
    holding: bool,
    held: Vec<Record>,
    /// Everything that came, passed on or not.
    all: Vec<Record>,
}

impl<W: AsyncWriteExt + Unpin + Send + 'static> Way<W> {
    fn new(mut from: impl AsyncRead + Unpin + Send + 'static, to: W) -> Self {
        let (out, kept) = (Arc::new(tokio::sync::Mutex::new(to)), Arc::<Mutex<Kept>>::default());
        let way = Self {
            out: out.clone(),
            kept: kept.clone(),
        };
        tokio::spawn(async move {
            while let Ok(record) = read_record(&mut from).await {
                let pass = {
                    let mut kept = kept.lock().unwrap();
                    kept.all.push(record.clone());
                    if kept.holding {
                        kept.held.push(record.clone());
                    }
                    !kept.holding
                };
                if pass && out.lock().await.write_all(&record).await.is_err() {
                    return;
                }
            }
            // Whoever is gone already needs not be told.
            let _ = out.lock().await.shutdown().await;
        });
        way
    }

    fn hold(&self) {
        self.kept.lock().unwrap().holding = true;
    }

    /// So many records that were kept back, once they are there.
    async fn held(&self, count: usize) -> Vec<Record> {
        until("the records are there", || {
            let kept = self.kept.lock().unwrap();
            (kept.held.len() >= count).then(|| kept.held.clone())
        })
        .await
    }

    async fn send(&self, record: &[u8]) {
        // The other side may have had enough.
        let _ = self.out.lock().await.write_all(record).await;
    }

    /// An end of the stream below TLS.
    async fn end(&self) {
        let _ = self.out.lock().await.shutdown().await;
    }
}

async fn read_record(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Record> {
    let mut record = vec![0; 5];
    from.read_exact(&mut record).await?;
    let len = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.resize(5 + len, 0);
    from.read_exact(&mut record[5..]).await?;
    Ok(record)
}

/// A stream whose records the edge has in its hands.
struct Taken {
    plane: TlsStream<DuplexStream>,
    up: Way<WriteHalf<Stream>>,
    down: Way<WriteHalf<DuplexStream>>,
}

struct Scene {
    edge: TestEdge,
    _links: Links,
    keeper: Keeper,
    authority: MadeAuthority,
    connector: Connector,
}

impl Scene {
    async fn set(mode: Mode) -> Self {
        let authority = make_authority("own", Time::now()).unwrap();
        let keeper = Keeper::new(&authority);
        let edge = TestEdge::start().await;
        let links = Links::start(edge.link_options(mode), Arc::new(keeper.clone())).unwrap();
        let mut status = links.status();
        status
            .wait_for(|all| all.iter().all(|link| link.is_connected()))
            .await
            .unwrap();
        Self {
            edge,
            _links: links,
            keeper,
            authority,
            connector: Connector::new(),
        }
    }

    /// Both ways to a gateway, in the edge's hands.
    async fn between(&self) -> (DuplexStream, Way<WriteHalf<Stream>>, Way<WriteHalf<DuplexStream>>) {
        let (near, far) = tokio::io::duplex(64 << 10);
        let stream = self.edge.handle.open(TUNNEL, HOST, soon()).await.unwrap();
        let (from_plane, to_plane): (ReadHalf<_>, _) = split(far);
        let (from_gateway, to_gateway) = split(stream);
        (near, Way::new(from_plane, to_gateway), Way::new(from_gateway, to_plane))
    }

    /// A stream over which one word went and came back, so that nothing of the handshake is under way any more.
    async fn take(&self) -> Taken {
        let (near, up, down) = self.between().await;
        let authorities = [self.authority.authority().der.clone()];
        let mut plane = self.connector.connect(near, HOST, &authorities).await.unwrap();
        plane.write_all(b"hello").await.unwrap();
        let mut back = [0; 5];
        plane.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"hello");
        Taken { plane, up, down }
    }
}

/// What the plane reads until it gets no more, and how that ended.
async fn rest(plane: &mut TlsStream<DuplexStream>) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = tokio::time::timeout(BOUND, plane.read(&mut buffer));
        match read.await.expect("the plane's stream ends") {
            Ok(0) => return (bytes, Ok(())),
            Ok(len) => bytes.extend_from_slice(&buffer[..len]),
            Err(error) => return (bytes, Err(error)),
        }
    }
}

/// The plane writes these, each in a record of its own; the edge keeps them.
async fn written(taken: &mut Taken, words: &[&[u8]]) -> Vec<Record> {
    taken.up.hold();
    for (at, word) in words.iter().enumerate() {
        taken.plane.write_all(word).await.unwrap();
        taken.plane.flush().await.unwrap();
        assert_eq!(taken.up.held(at + 1).await.len(), at + 1);
    }
    taken.up.held(words.len()).await
}

mod bodies {
    use super::*;

    const MAC: io::ErrorKind = io::ErrorKind::InvalidData;

    pub async fn a_record_that_comes_again(mode: Mode) {
        let scene = Scene::set(mode).await;
        let mut taken = scene.take().await;
        let records = written(&mut taken, &[b" once"]).await;
        taken.up.send(&records[0]).await;
        until_true("it is taken", || scene.keeper.seen(0).bytes == b"hello once").await;
        taken.up.send(&records[0]).await;
        assert_eq!(scene.keeper.ended(0).await, Err(MAC));
        assert_eq!(scene.keeper.seen(0).bytes, b"hello once");
        let (echoed, ended) = rest(&mut taken.plane).await;
        assert!(
            b" once".starts_with(&echoed[..]) && ended.is_err(),
            "{echoed:?} {ended:?}"
        );
    }

    pub async fn records_in_another_order(mode: Mode) {
        let scene = Scene::set(mode).await;
        let mut taken = scene.take().await;
        let records = written(&mut taken, &[b" one", b" two"]).await;
        taken.up.send(&records[1]).await;
        taken.up.send(&records[0]).await;
        assert_eq!(scene.keeper.ended(0).await, Err(MAC));
        assert_eq!(scene.keeper.seen(0).bytes, b"hello");
    }

    pub async fn a_record_that_is_missing(mode: Mode) {
        let scene = Scene::set(mode).await;
        let mut taken = scene.take().await;
        let records = written(&mut taken, &[b" do not", b" delete it"]).await;
        taken.up.send(&records[1]).await;
        assert_eq!(scene.keeper.ended(0).await, Err(MAC));
        assert_eq!(scene.keeper.seen(0).bytes, b"hello");
    }

    pub async fn a_record_that_was_changed(mode: Mode) {
        let scene = Scene::set(mode).await;
        // In its body, in its tag, in its length: longer and shorter than it is.
        for (stream, (at, change)) in [(5, 1), (usize::MAX, 0x80), (4, 1), (4, 2)].into_iter().enumerate() {
            let mut taken = scene.take().await;
            let mut record = written(&mut taken, &[b" pay 10"]).await.remove(0);
            let at = at.min(record.len() - 1);
            record[at] ^= change;
            taken.up.send(&record).await;
            // Where a record says that it is longer than it is, the rest is waited for, and never comes.
            taken.up.end().await;
            let ended = scene.keeper.ended(stream).await;
            assert!(
                matches!(ended, Err(MAC | io::ErrorKind::UnexpectedEof)),
                "{at}: {ended:?}"
            );
            assert_eq!(scene.keeper.seen(stream).bytes, b"hello", "{at}");
        }
    }

    pub async fn records_of_two_streams_are_swapped(mode: Mode) {
        let scene = Scene::set(mode).await;
        let mut first = scene.take().await;
        let mut second = scene.take().await;
        let mine = written(&mut first, &[b" of the first"]).await;
        let yours = written(&mut second, &[b" of the second"]).await;
        first.up.send(&yours[0]).await;
        second.up.send(&mine[0]).await;
        for stream in [0, 1] {
            assert_eq!(scene.keeper.ended(stream).await, Err(MAC));
            assert_eq!(scene.keeper.seen(stream).bytes, b"hello");
        }
        for mut taken in [first, second] {
            let (echoed, ended) = rest(&mut taken.plane).await;
            assert!(echoed.is_empty() && ended.is_err(), "{echoed:?} {ended:?}");
        }
    }

    /// Everything that the plane sent, once more, on a stream of its own: as it is, and with a session to resume.
    pub async fn a_conversation_that_is_played_again(mode: Mode) {
        let scene = Scene::set(mode).await;
        for stream in [0, 2] {
            let taken = scene.take().await;
            let played = taken.up.kept.lock().unwrap().all.clone();
            assert!(played.len() >= 3, "a hello, an end of the handshake, a word");
            let (_near, up, _down) = scene.between().await;
            for record in &played {
                up.send(record).await;
            }
            assert!(scene.keeper.ended(stream + 1).await.is_err());
            assert!(scene.keeper.seen(stream + 1).bytes.is_empty(), "nothing is taken twice");
            assert_eq!(scene.keeper.seen(stream).bytes, b"hello");
        }
    }

    pub async fn an_end_that_the_plane_did_not_send(mode: Mode) {
        let scene = Scene::set(mode).await;
        let mut taken = scene.take().await;
        let records = written(&mut taken, &[b" delete all", b" but these"]).await;
        taken.up.send(&records[0]).await;
        taken.up.end().await;
        // What came is there, and that it is not all is known.
        assert_eq!(scene.keeper.ended(0).await, Err(io::ErrorKind::UnexpectedEof));
        assert_eq!(scene.keeper.seen(0).bytes, b"hello delete all");
    }

    pub async fn an_end_that_the_gateway_did_not_send(mode: Mode) {
        let scene = Scene::set(mode).await;
        for whole in [true, false] {
            let mut taken = scene.take().await;
            taken.down.hold();
            taken.plane.write_all(b" twice").await.unwrap();
            let record = taken.down.held(1).await.remove(0);
            let sent = if whole { record.len() } else { record.len() - 1 };
            taken.down.send(&record[..sent]).await;
            taken.down.end().await;
            let (bytes, ended) = rest(&mut taken.plane).await;
            assert_eq!(bytes, if whole { &b" twice"[..] } else { b"" });
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    pub async fn an_answer_that_comes_again(mode: Mode) {
        let scene = Scene::set(mode).await;
        let mut taken = scene.take().await;
        taken.down.hold();
        taken.plane.write_all(b" granted").await.unwrap();
        let record = taken.down.held(1).await.remove(0);
        taken.down.send(&record).await;
        let mut answer = [0; 8];
        taken.plane.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b" granted");
        taken.down.send(&record).await;
        let (bytes, ended) = rest(&mut taken.plane).await;
        assert_eq!((&bytes[..], ended.unwrap_err().kind()), (&b""[..], MAC));
    }
}
