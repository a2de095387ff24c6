//! Who is admitted, and what the others are told.

use crate::rig::on_both;

on_both!(
    a_bad_token_is_reported_and_not_hammered,
    a_rotated_token,
    another_token_is_tried_at_once,
    archived,
    too_many_connections,
    an_edge_that_is_not_trusted,
);

mod bodies {
    use outwork_tunnel::Transport;
    use outwork_tunnel::edge::{Event, LostReason, OpenError};
    use outwork_tunnel::frame::RefusedCode;
    use outwork_tunnel::link::{LinkState, Mode};
    use outwork_tunnel::tls::Trust;
    use secrecy::SecretString;

    use crate::rig::{BOUND, TUNNEL, TestEdge, TestGateway, soon, until_true};

    fn is_refused(state: &LinkState, wanted: RefusedCode) -> bool {
        matches!(state, LinkState::Refused { code, .. } if *code == wanted)
    }

    pub async fn a_bad_token_is_reported_and_not_hammered(mode: Mode) {
        let edge = TestEdge::start().await;
        let mut events = edge.handle.events();
        let mut options = edge.link_options(mode);
        options.token = SecretString::from("stolen-and-wrong");
        options.connections = 1;
        let gateway = TestGateway::start(options);
        gateway
            .state("refused", |all| is_refused(&all[0].state, RefusedCode::BadToken))
            .await;
        let refused = tokio::time::timeout(BOUND, events.recv()).await.unwrap().unwrap();
        let Event::Refused {
            tunnel_id,
            transport,
            code,
            ..
        } = &refused
        else {
            panic!("{refused:?}")
        };
        assert_eq!((tunnel_id.as_str(), *code), (TUNNEL, RefusedCode::BadToken));
        assert_eq!(
            *transport,
            if mode == Mode::Quic {
                Transport::Quic
            } else {
                Transport::Tcp
            }
        );
        assert!(
            !format!("{refused:?} {:?}", gateway.links).contains("stolen"),
            "no token in events or states"
        );
        assert_eq!(
            edge.handle.open(TUNNEL, "echo.test", soon()).await.unwrap_err(),
            OpenError::NotConnected
        );
        // The second try comes after half of the cap at the earliest.
        let first = tokio::time::Instant::now();
        tokio::time::timeout(BOUND, events.recv()).await.unwrap().unwrap();
        assert!(first.elapsed() > std::time::Duration::from_secs(2));
    }

    pub async fn a_rotated_token(mode: Mode) {
        let edge = TestEdge::start().await;
        let old = edge.gateway(mode).await;
        let mut stream = edge.open("echo.test").await;
        edge.book.set(TUNNEL, "token-two");
        let stale = TestGateway::start(edge.link_options(mode));
        stale
            .state("refused", |all| {
                all.iter().all(|link| is_refused(&link.state, RefusedCode::BadToken))
            })
            .await;
        assert!(
            old.states()
                .iter()
                .all(|state| matches!(state, LinkState::Connected { .. })),
            "live ones go on"
        );
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"x").await.unwrap();
        assert_eq!(tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap(), b'x');
        edge.echo(b"and new streams on them too").await.unwrap();
        let mut options = edge.link_options(mode);
        options.token = SecretString::from("token-two");
        let new = TestGateway::start(options);
        new.connected().await;
        let generations: Vec<_> = edge.handle.connections(TUNNEL).iter().map(|c| c.generation).collect();
        assert_eq!(generations, [1, 1, 2, 2]);
    }

    pub async fn another_token_is_tried_at_once(mode: Mode) {
        let edge = TestEdge::start().await;
        edge.book.set(TUNNEL, "token-two");
        let gateway = TestGateway::start(edge.link_options(mode));
        gateway
            .state("refused", |all| {
                all.iter().all(|link| is_refused(&link.state, RefusedCode::BadToken))
            })
            .await;
        let start = tokio::time::Instant::now();
        gateway.links.set_token(SecretString::from("token-two")).unwrap();
        gateway.connected().await;
        assert!(
            start.elapsed() < std::time::Duration::from_millis(2400),
            "the backoff is over: {:?}",
            start.elapsed()
        );
    }

    pub async fn archived(mode: Mode) {
        let edge = TestEdge::start().await;
        let gateway = edge.gateway(mode).await;
        let mut events = edge.handle.events();
        let mut stream = edge.open("echo.test").await;
        edge.handle.close(TUNNEL);
        let error = tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
        assert_eq!(
            edge.handle.open(TUNNEL, "echo.test", soon()).await.unwrap_err(),
            OpenError::Closed
        );
        gateway
            .state("refused", |all| {
                all.iter().all(|link| is_refused(&link.state, RefusedCode::Archived))
            })
            .await;
        until_true("no connection is left", || edge.handle.connections(TUNNEL).is_empty()).await;
        let lost = tokio::time::timeout(BOUND, events.recv()).await.unwrap().unwrap();
        assert!(
            matches!(
                lost,
                Event::Lost {
                    reason: LostReason::Archived,
                    ..
                }
            ),
            "{lost:?}"
        );
        edge.handle.resume(TUNNEL);
        assert_eq!(
            edge.handle.open(TUNNEL, "echo.test", soon()).await.unwrap_err(),
            OpenError::Closed,
            "for good"
        );
    }

    pub async fn too_many_connections(mode: Mode) {
        let edge = TestEdge::start_with(|options| options.max_connections = 2).await;
        let _gateway = edge.gateway(mode).await;
        let second = TestGateway::start(edge.link_options(mode));
        second
            .state("refused", |all| {
                all.iter()
                    .all(|link| is_refused(&link.state, RefusedCode::TooManyConnections))
            })
            .await;
        assert_eq!(edge.handle.connections(TUNNEL).len(), 2);
        edge.echo(b"the others go on").await.unwrap();
    }

    pub async fn an_edge_that_is_not_trusted(mode: Mode) {
        let edge = TestEdge::start().await;
        let mut events = edge.handle.events();
        for trust in [Trust::Fingerprint([7; 32]), Trust::Public] {
            let mut options = edge.link_options(mode);
            options.trust = trust;
            let gateway = TestGateway::start(options);
            gateway
                .state("untrusted", |all| {
                    all.iter().all(|link| {
                        link.last_error
                            .as_deref()
                            .is_some_and(|error| error.contains("not the one that is trusted"))
                    })
                })
                .await;
            assert!(edge.handle.connections(TUNNEL).is_empty());
        }
        assert!(events.try_recv().is_err(), "no hello and so no token reached the edge");
        let file = tempfile::NamedTempFile::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let own = outwork_tunnel::tls::Identity::self_signed(folder.path(), &["edge.test".into()]).unwrap();
        std::fs::copy(folder.path().join("edge.crt"), file.path()).unwrap();
        let mut options = edge.link_options(mode);
        options.trust = Trust::from_file(file.path()).unwrap();
        let gateway = TestGateway::start(options);
        gateway
            .state("untrusted", |all| all.iter().all(|link| link.last_error.is_some()))
            .await;
        // The same file is enough for the edge that has it, under the name that it has.
        let edge = TestEdge::start_with(|options| options.identity = own).await;
        let mut options = edge.link_options(mode);
        options.trust = Trust::from_file(file.path()).unwrap();
        let unnamed = TestGateway::start(options.clone());
        unnamed
            .state("the name is wrong", |all| {
                all.iter().all(|link| link.last_error.is_some())
            })
            .await;
        options.server_name = Some("edge.test".into());
        TestGateway::start(options).connected().await;
    }
}
