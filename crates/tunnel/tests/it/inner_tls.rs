//! The inner TLS through a real tunnel, and an edge between that tries to get in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use outwork_tunnel::certificate::{MadeAuthority, SERVER_LIFETIME, make_authority, make_server_certificate};
use outwork_tunnel::edge::{Direction, OpenError, Tap};
use outwork_tunnel::frame::{Open, Rejection};
use outwork_tunnel::inner::{Connector, InnerError, ReachError, server_config};
use outwork_tunnel::link::{Accept, Inbound, Links, Mode};
use outwork_wire::Time;
use rustls::HandshakeKind;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::ExposeSecret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

use crate::rig::{TUNNEL, TestEdge, on_both, soon};

on_both!(
    through_the_tunnel,
    what_a_tap_sees,
    asked_for_with_the_first_flight,
    the_wrong_authority,
    the_wrong_name,
    no_authority,
    a_swapped_stream,
    dates
);

const DOMAIN: &str = "x1.tunnel.test";

/// Ends the inner TLS with a certificate and echoes.
struct Gateway(TlsAcceptor);

impl Gateway {
    fn new(authority: &MadeAuthority, domain: &str) -> Self {
        let now = Time::now();
        let made = make_server_certificate(authority, domain, SERVER_LIFETIME, now).unwrap();
        Self::with(&made.certificate_pem, made.key_pem.expose_secret())
    }

    fn with(certificate: &str, key: &str) -> Self {
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).unwrap();
        let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
        Self(TlsAcceptor::from(Arc::new(server_config(resolver).unwrap())))
    }
}

impl Accept for Gateway {
    fn admit(&self, _: &Open) -> Result<(), Rejection> {
        Ok(())
    }

    fn serve(&self, inbound: Inbound) -> BoxFuture<'static, ()> {
        let acceptor = self.0.clone();
        Box::pin(async move {
            let Ok(mut stream) = acceptor.accept(inbound.stream).await else {
                return;
            };
            let mut buffer = [0; 4096];
            while let Ok(len) = stream.read(&mut buffer).await {
                if len == 0 || stream.write_all(&buffer[..len]).await.is_err() {
                    break;
                }
            }
            // The other side may be gone.
            let _ = stream.shutdown().await;
        })
    }
}

/// A tunnel whose gateway shows `domain` under `authority`.
async fn tunnel(mode: Mode, authority: &MadeAuthority, domain: &str) -> (TestEdge, Links) {
    let edge = TestEdge::start().await;
    let links = serve(&edge, mode, authority, domain).await;
    (edge, links)
}

async fn serve(edge: &TestEdge, mode: Mode, authority: &MadeAuthority, domain: &str) -> Links {
    let links = Links::start(edge.link_options(mode), Arc::new(Gateway::new(authority, domain))).unwrap();
    let mut status = links.status();
    status
        .wait_for(|all| all.iter().all(|link| link.is_connected()))
        .await
        .unwrap();
    links
}

fn authority(name: &str) -> MadeAuthority {
    make_authority(name, Time::now()).unwrap()
}

async fn connect(
    edge: &TestEdge,
    connector: &Connector,
    host: &str,
    authorities: &[CertificateDer<'static>],
) -> Result<outwork_tunnel::inner::TlsStream<outwork_tunnel::edge::Stream>, InnerError> {
    let stream = edge.handle.open(TUNNEL, host, soon()).await.unwrap();
    connector.connect(stream, host, authorities).await
}

mod bodies {
    use super::*;

    pub async fn through_the_tunnel(mode: Mode) {
        let own = authority("own");
        let (edge, _links) = tunnel(mode, &own, DOMAIN).await;
        let connector = Connector::new();
        let authorities = [
            authority("being rotated").authority().der.clone(),
            own.authority().der.clone(),
        ];
        let host = format!("wiki.{DOMAIN}");
        let mut kinds = Vec::new();
        for _ in 0..5 {
            let mut stream = connect(&edge, &connector, &host, &authorities).await.unwrap();
            let session = stream.get_ref().1;
            assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
            assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
            kinds.push(session.handshake_kind().unwrap());
            stream.write_all(b"hello").await.unwrap();
            let mut back = [0; 5];
            stream.read_exact(&mut back).await.unwrap();
            assert_eq!(&back, b"hello");
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut back).await.unwrap(), 0, "an end that TLS vouches for");
        }
        assert_eq!(kinds[0], HandshakeKind::Full);
        assert!(
            kinds[1..].iter().all(|kind| *kind == HandshakeKind::Resumed),
            "{kinds:?}"
        );
        // Another host, and another set of authorities, start from nothing.
        let stream = connect(&edge, &connector, DOMAIN, &authorities).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        let stream = connect(&edge, &connector, &host, &authorities[1..]).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        // And an authority that was withdrawn opens nothing, whatever was resumed before.
        let error = connect(&edge, &connector, &host, &authorities[..1]).await.unwrap_err();
        assert!(matches!(error, InnerError::UnknownAuthority), "{error}");
    }

    pub async fn what_a_tap_sees(mode: Mode) {
        const WORDS: &[u8] = b"the words of a payload";
        let seen: Arc<Mutex<HashMap<Direction, Vec<u8>>>> = Arc::default();
        let kept = seen.clone();
        let tap = Tap::new(move |direction, host, bytes| {
            assert!(host.ends_with(DOMAIN), "{host}");
            kept.lock()
                .unwrap()
                .entry(direction)
                .or_default()
                .extend_from_slice(bytes);
        });
        let own = authority("own");
        let edge = TestEdge::start_with(|options| options.tap = Some(tap)).await;
        let _links = serve(&edge, mode, &own, DOMAIN).await;
        let host = format!("wiki.{DOMAIN}");
        let authorities = [own.authority().der.clone()];
        let mut stream = Connector::new()
            .open(&edge.handle, TUNNEL, &host, &authorities, soon())
            .await
            .unwrap();
        stream.write_all(WORDS).await.unwrap();
        let mut back = vec![0; WORDS.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, WORDS);
        let usage = edge.handle.usage_of(TUNNEL);
        let seen = seen.lock().unwrap();
        for direction in [Direction::ToGateway, Direction::FromGateway] {
            let bytes = &seen[&direction];
            // TLS begins with a handshake record, and no word of what it carries is in it.
            assert_eq!(&bytes[..2], &[0x16, 0x03], "{direction:?}");
            assert!(
                !bytes.windows(WORDS.len()).any(|window| window == WORDS),
                "{direction:?}"
            );
        }
        // Every byte that was counted was shown.
        assert_eq!(seen[&Direction::ToGateway].len() as u64, usage[0].sent);
        assert_eq!(seen[&Direction::FromGateway].len() as u64, usage[0].received);
    }

    pub async fn asked_for_with_the_first_flight(mode: Mode) {
        let own = authority("own");
        let (edge, links) = tunnel(mode, &own, DOMAIN).await;
        let connector = Connector::new();
        let authorities = [own.authority().der.clone()];
        let mut kinds = Vec::new();
        for _ in 0..3 {
            let mut stream = connector
                .open(&edge.handle, TUNNEL, DOMAIN, &authorities, soon())
                .await
                .unwrap();
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            for _ in 0..100 {
                stream.write_all(&[9; 1000]).await.unwrap();
                let mut back = vec![0; 1000];
                stream.read_exact(&mut back).await.unwrap();
                assert!(back.iter().all(|byte| *byte == 9));
            }
            let carrier = stream.get_ref().0.stream().expect("it is open");
            assert!(
                edge.handle
                    .connections(TUNNEL)
                    .iter()
                    .any(|c| c.id == carrier.connection_id())
            );
        }
        assert_eq!(
            kinds,
            [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]
        );
        let usage = edge.handle.usage_of(TUNNEL);
        assert!(
            usage[0].sent > 300_000 && usage[0].streams == 3,
            "the first flight is counted too: {usage:?}"
        );

        let foreign = [authority("foreign").authority().der.clone()];
        let error = connector
            .open(&edge.handle, TUNNEL, DOMAIN, &foreign, soon())
            .await
            .unwrap_err();
        assert!(
            matches!(error, ReachError::Inner(InnerError::UnknownAuthority)),
            "{error}"
        );
        let error = connector
            .open(&edge.handle, TUNNEL, DOMAIN, &[], soon())
            .await
            .unwrap_err();
        assert!(matches!(error, ReachError::Inner(InnerError::NoAuthority)), "{error}");
        edge.handle.pause(TUNNEL);
        let error = connector
            .open(&edge.handle, TUNNEL, DOMAIN, &authorities, soon())
            .await
            .unwrap_err();
        assert!(matches!(error, ReachError::Open(OpenError::Paused)), "{error}");
        edge.handle.resume(TUNNEL);
        drop(links);
        crate::rig::until_true("the gateway is gone", || edge.handle.connections(TUNNEL).is_empty()).await;
        let error = connector
            .open(&edge.handle, TUNNEL, DOMAIN, &authorities, soon())
            .await
            .unwrap_err();
        assert!(matches!(error, ReachError::Open(OpenError::NotConnected)), "{error}");
    }

    pub async fn the_wrong_authority(mode: Mode) {
        let (edge, _links) = tunnel(mode, &authority("own"), DOMAIN).await;
        let foreign = authority("own");
        let error = connect(&edge, &Connector::new(), DOMAIN, &[foreign.authority().der.clone()])
            .await
            .unwrap_err();
        assert!(
            matches!(error, InnerError::UnknownAuthority),
            "the same name is not the same key: {error}"
        );
    }

    pub async fn the_wrong_name(mode: Mode) {
        let own = authority("own");
        let (edge, _links) = tunnel(mode, &own, "other.tunnel.test").await;
        let authorities = [own.authority().der.clone()];
        for host in [DOMAIN, "wiki.x1.tunnel.test", "deep.wiki.other.tunnel.test"] {
            let error = connect(&edge, &Connector::new(), host, &authorities).await.unwrap_err();
            assert!(matches!(&error, InnerError::WrongName { .. }), "{host}: {error}");
            assert!(
                error.to_string().contains("other.tunnel.test"),
                "it says which names there are: {error}"
            );
        }
    }

    pub async fn no_authority(mode: Mode) {
        let (edge, _links) = tunnel(mode, &authority("own"), DOMAIN).await;
        let error = connect(&edge, &Connector::new(), DOMAIN, &[]).await.unwrap_err();
        assert!(matches!(error, InnerError::NoAuthority), "{error}");
        assert!(
            edge.handle.usage().iter().all(|usage| usage.sent == 0),
            "nothing is sent"
        );
    }

    /// The edge hands the plane a stream of another tunnel's gateway.
    pub async fn a_swapped_stream(mode: Mode) {
        let (own, other) = (authority("own"), authority("other"));
        let edge = TestEdge::start().await;
        edge.book.set("tnl_other", "other");
        let mut options = edge.link_options(mode);
        (options.tunnel_id, options.token) = ("tnl_other".into(), "other".to_owned().into());
        let links = Links::start(options, Arc::new(Gateway::new(&other, "x2.tunnel.test"))).unwrap();
        let mut status = links.status();
        status
            .wait_for(|all| all.iter().all(|link| link.is_connected()))
            .await
            .unwrap();
        let swapped = edge.handle.open("tnl_other", DOMAIN, soon()).await.unwrap();
        let connector = Connector::new();
        let error = connector
            .connect(swapped, DOMAIN, &[own.authority().der.clone()])
            .await
            .unwrap_err();
        assert!(matches!(error, InnerError::UnknownAuthority), "{error}");
        // Even under the same authority the name keeps them apart.
        let swapped = edge.handle.open("tnl_other", DOMAIN, soon()).await.unwrap();
        let error = connector
            .connect(swapped, DOMAIN, &[other.authority().der.clone()])
            .await
            .unwrap_err();
        assert!(matches!(error, InnerError::WrongName { .. }), "{error}");
    }

    pub async fn dates(mode: Mode) {
        let own = authority("own");
        let edge = TestEdge::start().await;
        let now = Time::now();
        for (made_at, wanted) in [
            (now.plus_seconds(-200 * 86_400), "expired"),
            (now.plus_seconds(2 * 86_400), "not valid yet"),
        ] {
            let made = make_server_certificate(&own, DOMAIN, SERVER_LIFETIME, made_at).unwrap();
            let gateway = Gateway::with(&made.certificate_pem, made.key_pem.expose_secret());
            let links = Links::start(edge.link_options(mode), Arc::new(gateway)).unwrap();
            let mut status = links.status();
            status
                .wait_for(|all| all.iter().all(|link| link.is_connected()))
                .await
                .unwrap();
            let error = connect(&edge, &Connector::new(), DOMAIN, &[own.authority().der.clone()])
                .await
                .unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
            links.drain(std::time::Duration::from_secs(1)).await;
        }
    }
}
