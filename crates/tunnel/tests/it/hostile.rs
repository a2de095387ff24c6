//! Peers that mean harm, before they are admitted and after.

use std::sync::Arc;
use std::time::Duration;

use outwork_tunnel::edge::{Event, LostReason, OpenError};
use outwork_tunnel::frame::{Frame, HEADER_LEN, Hello, LAYOUT, PROTOCOL, decode};
use outwork_tunnel::link::Mode;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rig::{BOUND, TOKEN, TUNNEL, TestEdge, TestGateway, soon, until_true};

const ALPN_TCP: &[u8] = b"outwork-tunnel-h2/1";
const ALPN_QUIC: &[u8] = b"outwork-tunnel/1";

fn client_config(alpn: &[u8]) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

trait Pipe: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Pipe for T {}

/// Past the outer TLS, where the hello is expected. The second value keeps the connection.
async fn knock(edge: &TestEdge, mode: Mode) -> (Box<dyn Pipe>, Option<(quinn::Endpoint, quinn::Connection)>) {
    let address = edge.handle.address();
    match mode {
        Mode::Quic => {
            let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(client_config(ALPN_QUIC)).unwrap();
            let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
            let config = quinn::ClientConfig::new(Arc::new(crypto));
            let connection = endpoint
                .connect_with(config, address, "edge.test")
                .unwrap()
                .await
                .unwrap();
            let (send, receive) = connection.open_bi().await.unwrap();
            (Box::new(tokio::io::join(receive, send)), Some((endpoint, connection)))
        }
        _ => {
            let stream = TcpStream::connect(address).await.unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(client_config(ALPN_TCP)));
            (
                Box::new(
                    connector
                        .connect("edge.test".try_into().unwrap(), stream)
                        .await
                        .unwrap(),
                ),
                None,
            )
        }
    }
}

/// Reads until the other side ends it, one way or the other.
async fn ends(pipe: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(BOUND, pipe.read_to_end(&mut answer)).await;
    // Whether it is an end or a reset does not matter; that it comes does.
    let _ = read.expect("the edge ends the connection");
    answer
}

fn hello() -> Vec<u8> {
    let mut bytes = Vec::new();
    let hello = Hello {
        protocol: PROTOCOL,
        tunnel_id: TUNNEL.into(),
        token: TOKEN.to_owned().into(),
        instance: "evil".into(),
        index: 0,
        software: "evil/1".into(),
    };
    Frame::Hello(hello).encode(&mut bytes).unwrap();
    bytes
}

async fn is_not_admitted(mode: Mode, bytes: &[u8]) {
    let edge = TestEdge::start().await;
    let (mut pipe, _keep) = knock(&edge, mode).await;
    pipe.write_all(bytes).await.unwrap();
    let answer = ends(&mut pipe).await;
    assert!(answer.is_empty(), "who breaks the protocol gets no answer");
    assert!(edge.handle.connections(TUNNEL).is_empty());
    let gateway = edge.gateway(mode).await;
    edge.echo(b"others are served").await.unwrap();
    drop(gateway);
}

crate::rig::on_both!(
    an_oversized_hello,
    garbage,
    another_frame_first,
    another_version,
    a_slow_hello,
    a_crowd_of_strangers,
    an_admitted_peer_that_floods,
    an_admitted_peer_that_breaks_the_protocol,
    more_streams_than_a_gateway_takes,
);

mod bodies {
    use super::*;

    pub async fn an_oversized_hello(mode: Mode) {
        is_not_admitted(mode, &[LAYOUT, 1, 0xff, 0xff, 1, 2, 3]).await;
    }

    pub async fn garbage(mode: Mode) {
        is_not_admitted(mode, b"GET / HTTP/1.1\r\nhost: edge\r\n\r\n").await;
    }

    pub async fn another_frame_first(mode: Mode) {
        let mut bytes = Vec::new();
        Frame::Ping(1).encode(&mut bytes).unwrap();
        is_not_admitted(mode, &bytes).await;
    }

    pub async fn another_version(mode: Mode) {
        let edge = TestEdge::start().await;
        let (mut pipe, keep) = knock(&edge, mode).await;
        let mut bytes = hello();
        bytes[HEADER_LEN..HEADER_LEN + 2].copy_from_slice(&99u16.to_be_bytes());
        pipe.write_all(&bytes).await.unwrap();
        let answer = ends(&mut pipe).await;
        let (frame, _) = decode(&answer).unwrap().unwrap();
        let Frame::Refused(refused) = frame else {
            panic!("{frame:?}")
        };
        assert_eq!(refused.code, outwork_tunnel::frame::RefusedCode::UnsupportedVersion);
        drop(keep);
    }

    pub async fn a_slow_hello(mode: Mode) {
        let edge = TestEdge::start_with(|options| options.handshake_timeout = Duration::from_millis(700)).await;
        let (mut pipe, _keep) = knock(&edge, mode).await;
        let start = tokio::time::Instant::now();
        let hello = hello();
        // A byte now and then does not lengthen the time.
        let mut ended = false;
        for byte in hello.iter().cycle().take(200) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if pipe.write_all(&[*byte]).await.is_err() || pipe.flush().await.is_err() {
                ended = true;
                break;
            }
        }
        assert!(ended, "the edge gave up");
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(edge.handle.connections(TUNNEL).is_empty());
    }

    pub async fn a_crowd_of_strangers(mode: Mode) {
        let edge = TestEdge::start_with(|options| {
            options.max_unauthenticated = 8;
            options.handshake_timeout = Duration::from_secs(2);
        })
        .await;
        // They fill every place and say nothing, without TLS even.
        let mut crowd = Vec::new();
        for _ in 0..40 {
            crowd.push(TcpStream::connect(edge.handle.address()).await.unwrap());
        }
        for stream in &mut crowd[8..] {
            ends(stream).await;
        }
        // The places come back by themselves, and then gateways get in.
        let gateway = TestGateway::start(edge.link_options(mode));
        gateway.connected().await;
        edge.echo(b"served").await.unwrap();
    }

    pub async fn an_admitted_peer_that_floods(mode: Mode) {
        let edge = TestEdge::start().await;
        let (mut pipe, keep) = knock(&edge, mode).await;
        pipe.write_all(&hello()).await.unwrap();
        until_true("it is admitted", || edge.handle.connections(TUNNEL).len() == 1).await;
        match keep {
            // A gateway can open no second stream, of either kind.
            Some((_endpoint, connection)) => {
                for _ in 0..3 {
                    let opened = tokio::time::timeout(Duration::from_millis(200), connection.open_bi()).await;
                    assert!(opened.is_err(), "no credit for streams");
                    assert!(
                        tokio::time::timeout(Duration::from_millis(200), connection.open_uni())
                            .await
                            .is_err()
                    );
                }
                edge.handle.close(TUNNEL);
            }
            // Where it may speak HTTP/2 as a server it sends a flood of frames for streams that nobody opened.
            None => {
                let mut flood = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00".to_vec();
                for stream in 1..2000u32 {
                    let id = (stream * 2).to_be_bytes();
                    flood.extend_from_slice(&[0, 0, 4, 3, 0, id[0], id[1], id[2], id[3], 0, 0, 0, 8]);
                    flood.extend_from_slice(&[0, 0, 1, 1, 4, id[0], id[1], id[2], id[3], 0x88]);
                }
                // The edge may close while it is sent.
                let _ = pipe.write_all(&flood).await;
                let _ = pipe.flush().await;
            }
        }
        until_true("it is out", || edge.handle.connections(TUNNEL).is_empty()).await;
    }

    pub async fn an_admitted_peer_that_breaks_the_protocol(mode: Mode) {
        let edge = TestEdge::start().await;
        let mut events = edge.handle.events();
        let (mut pipe, _keep) = knock(&edge, mode).await;
        pipe.write_all(&hello()).await.unwrap();
        until_true("it is admitted", || edge.handle.connections(TUNNEL).len() == 1).await;
        // It opens no stream, so a stream that is asked for is not answered with another's bytes.
        pipe.write_all(&[0x55; 300]).await.unwrap();
        pipe.flush().await.unwrap();
        let lost = tokio::time::timeout(BOUND, async {
            loop {
                if let Event::Lost { reason, .. } = events.recv().await.unwrap() {
                    return reason;
                }
            }
        });
        let reason = lost.await.unwrap();
        assert!(
            matches!(reason, LostReason::Protocol | LostReason::Closed),
            "{reason:?}"
        );
        let error = edge.handle.open(TUNNEL, "echo.test", soon()).await.unwrap_err();
        assert_eq!(error, OpenError::NotConnected);
    }

    pub async fn more_streams_than_a_gateway_takes(mode: Mode) {
        let edge = TestEdge::start().await;
        let mut options = edge.link_options(mode);
        (options.connections, options.max_streams) = (1, 50);
        let gateway = TestGateway::start(options);
        gateway.connected().await;
        let mut open = Vec::new();
        let full = loop {
            let deadline = tokio::time::Instant::now() + Duration::from_millis(500);
            match edge.handle.open(TUNNEL, "echo.test", deadline).await {
                Ok(stream) => open.push(stream),
                Err(error) => break error,
            }
            assert!(open.len() <= 50);
        };
        assert!(matches!(full, OpenError::TimedOut | OpenError::Lost(_)), "{full}");
        assert_eq!(open.len(), 50);
        drop(open);
        edge.echo(b"served again").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_bears_an_edge_that_sends_garbage() {
    // An edge with the right certificate that has turned evil: it admits, and then speaks no HTTP/2.
    let folder = tempfile::tempdir().unwrap();
    let identity = outwork_tunnel::tls::Identity::self_signed(folder.path(), &["127.0.0.1".into()]).unwrap();
    let trust = outwork_tunnel::tls::Trust::from_fingerprint(identity.fingerprint().unwrap()).unwrap();
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    use rustls_pki_types::pem::PemObject;
    let mut config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(&read("edge.crt")).unwrap()],
                rustls_pki_types::PrivateKeyDer::from_pem_slice(&read("edge.key")).unwrap(),
            )
            .unwrap();
    config.alpn_protocols = vec![ALPN_TCP.to_vec()];
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let evil = tokio::spawn(async move {
        let mut admitted = 0u32;
        while admitted < 3 {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut header = [0; HEADER_LEN];
            stream.read_exact(&mut header).await.unwrap();
            let mut body = vec![0; usize::from(u16::from_be_bytes([header[2], header[3]]))];
            stream.read_exact(&mut body).await.unwrap();
            let mut welcome = Vec::new();
            let frame = outwork_tunnel::frame::Welcome {
                connection_id: "c".into(),
                heartbeat_ms: 0,
            };
            Frame::Welcome(frame).encode(&mut welcome).unwrap();
            welcome.extend_from_slice(&[0x41; 500]);
            stream.write_all(&welcome).await.unwrap();
            admitted += 1;
            ends(&mut stream).await;
        }
    });
    let mut options = crate::rig::link_options(&[address], trust, Mode::Tcp);
    options.connections = 1;
    let gateway = TestGateway::start(options);
    tokio::time::timeout(BOUND, evil)
        .await
        .expect("the gateway gives up and dials again")
        .unwrap();
    assert_eq!(gateway.links.counters()[0].admitted, 0);
}
