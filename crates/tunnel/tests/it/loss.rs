//! What happens when the edge or the network goes: it is noticed, and things go on as soon as they can.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use outwork_tunnel::edge::{self, Edge, Event, LostReason, OpenError};
use outwork_tunnel::link::{LinkState, Mode};
use outwork_tunnel::tls::Identity;
use outwork_tunnel::{Transport, edge::Handle};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::relay::Relay;
use crate::rig::{
    BOUND, Book, TOKEN, TUNNEL, TestEdge, TestGateway, exchange, link_options, on_both, soon, until, until_true,
};

on_both!(
    silent_loss_is_noticed_by_both,
    the_edge_is_killed_and_comes_back,
    one_of_two_connections_is_lost,
    a_gateway_that_is_expected_back_is_waited_for
);

mod bodies {
    use super::*;

    pub async fn silent_loss_is_noticed_by_both(mode: Mode) {
        let edge = TestEdge::start().await;
        let relay = Relay::start(edge.handle.address(), true).await;
        let gateway = TestGateway::start(link_options(&[relay.address], edge.trust(), mode));
        gateway.connected().await;
        let mut events = edge.handle.events();
        let mut stream = edge.open("echo.test").await;
        stream.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        relay.silence();
        let start = Instant::now();
        let error = tokio::time::timeout(BOUND, stream.read_u8())
            .await
            .unwrap()
            .unwrap_err();
        let at_edge = start.elapsed();
        gateway
            .state("lost", |all| all.iter().all(|link| !link.is_connected()))
            .await;
        let at_gateway = start.elapsed();
        println!("{mode:?}: noticed by the edge after {at_edge:?} ({error}), by the gateway after {at_gateway:?}");
        // Three seconds is the promise; a loaded machine gets more here, a design that waits for the kernel does not.
        assert!(at_edge < Duration::from_secs(6) && at_gateway < Duration::from_secs(6));
        for _ in 0..2 {
            let lost = tokio::time::timeout(BOUND, events.recv()).await.unwrap().unwrap();
            let Event::Lost { reason, detail, .. } = lost else {
                panic!("{lost:?}");
            };
            // The gateway is connected a moment before the edge has its control stream: the silence may fall between.
            let early = reason == LostReason::Protocol && detail.ends_with("in time");
            assert!(reason == LostReason::Silent || early, "{reason:?}: {detail}");
        }
        assert!(edge.handle.connections(TUNNEL).is_empty());
    }

    /// An edge in a runtime of its own, which dies without a word.
    struct Mortal {
        runtime: Option<tokio::runtime::Runtime>,
        handle: Handle,
    }

    impl Mortal {
        async fn start(listen: std::net::SocketAddr, identity: Identity) -> Self {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let book = Arc::new(Book::default());
            book.set(TUNNEL, TOKEN);
            let give_up = Instant::now() + BOUND;
            let bound = loop {
                let (identity, book) = (identity.clone(), book.clone());
                let bind = async move { Edge::bind(edge::Options::new(listen, identity), book).await };
                match runtime.spawn(bind).await.unwrap() {
                    Ok(bound) => break bound,
                    // The sockets of the one before may take a moment to go.
                    Err(error) => assert!(Instant::now() < give_up, "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            };
            runtime.spawn(bound.0.run(CancellationToken::new()));
            Self {
                runtime: Some(runtime),
                handle: bound.1,
            }
        }

        fn kill(mut self) {
            self.runtime.take().unwrap().shutdown_background();
        }
    }

    impl Drop for Mortal {
        fn drop(&mut self) {
            if let Some(runtime) = self.runtime.take() {
                runtime.shutdown_background();
            }
        }
    }

    pub async fn the_edge_is_killed_and_comes_back(mode: Mode) {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::self_signed(folder.path(), &["127.0.0.1".into()]).unwrap();
        let trust = outwork_tunnel::tls::Trust::from_fingerprint(identity.fingerprint().unwrap()).unwrap();
        let mut edge = Mortal::start("127.0.0.1:0".parse().unwrap(), identity.clone()).await;
        let address = edge.handle.address();
        let gateway = TestGateway::start(link_options(&[address], trust, mode));
        gateway.connected().await;
        for down in [0, 500, 4000] {
            exchange(edge.handle.open(TUNNEL, "echo.test", soon()).await, b"alive")
                .await
                .unwrap();
            edge.kill();
            tokio::time::sleep(Duration::from_millis(down)).await;
            edge = Mortal::start(address, identity.clone()).await;
            let back = Instant::now();
            loop {
                let opened = edge.handle.open(TUNNEL, "echo.test", soon()).await;
                if exchange(opened, b"alive again").await.is_ok() {
                    break;
                }
                assert!(back.elapsed() < BOUND, "{:?}", gateway.links);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            println!(
                "{mode:?}: down for {down} ms, first success {:?} after the edge was back",
                back.elapsed()
            );
            // 300 ms is the promise, measured by the benchmark; this much shows that no slow timer is waited for.
            assert!(back.elapsed() < Duration::from_secs(2));
            gateway.connected().await;
        }
    }

    pub async fn a_gateway_that_is_expected_back_is_waited_for(mode: Mode) {
        let wait = Duration::from_secs(3);
        let edge = TestEdge::start_with(|options| options.reconnect = wait).await;
        // The edge has only just started: whoever asks before the gateway is there is served when it comes.
        let handle = edge.handle.clone();
        let early = tokio::spawn(async move { handle.open(TUNNEL, "echo.test", soon()).await });
        let gateway = edge.gateway(mode).await;
        exchange(early.await.unwrap(), b"in time").await.unwrap();
        tokio::time::sleep_until(Instant::now() + wait).await;
        // It goes, and another one comes.
        drop(gateway);
        until_true("it is gone", || edge.handle.connections(TUNNEL).is_empty()).await;
        let handle = edge.handle.clone();
        let asked = tokio::spawn(async move { handle.open(TUNNEL, "echo.test", soon()).await });
        let gateway = edge.gateway(mode).await;
        exchange(asked.await.unwrap(), b"still in time").await.unwrap();
        // Nobody waits for a tunnel that had no gateway, nor longer than that for one that had, nor while it is paused.
        let start = Instant::now();
        let error = edge.handle.open("tnl_other", "echo.test", soon()).await.unwrap_err();
        assert_eq!((error, start.elapsed() < wait / 2), (OpenError::NotConnected, true));
        drop(gateway);
        until_true("it is gone", || edge.handle.connections(TUNNEL).is_empty()).await;
        let handle = edge.handle.clone();
        let asked = tokio::spawn(async move { handle.open(TUNNEL, "echo.test", soon()).await });
        let error = edge.handle.open(TUNNEL, "echo.test", soon()).await.unwrap_err();
        assert_eq!((error, start.elapsed() < BOUND), (OpenError::NotConnected, true));
        assert_eq!(asked.await.unwrap().unwrap_err(), OpenError::NotConnected);
        let gateway = edge.gateway(mode).await;
        drop(gateway);
        until_true("it is gone", || edge.handle.connections(TUNNEL).is_empty()).await;
        let (handle, start) = (edge.handle.clone(), Instant::now());
        let asked = tokio::spawn(async move { handle.open(TUNNEL, "echo.test", soon()).await });
        edge.handle.pause(TUNNEL);
        assert_eq!(asked.await.unwrap().unwrap_err(), OpenError::Paused);
        assert!(start.elapsed() < wait / 2);
    }

    pub async fn one_of_two_connections_is_lost(mode: Mode) {
        let edge = TestEdge::start().await;
        let relay = Relay::start(edge.handle.address(), true).await;
        // One link goes through the relay, the other one does not.
        let gateway = TestGateway::start(link_options(
            &[relay.address, edge.handle.address()],
            edge.trust(),
            mode,
        ));
        gateway.connected().await;
        assert!(relay.passed.load(Ordering::SeqCst) > 0);
        relay.silence();
        let start = Instant::now();
        let mut done = 0;
        while start.elapsed() < Duration::from_secs(4) {
            // The call itself is repeated only by its caller; opening one must never fail.
            exchange(edge.handle.open(TUNNEL, "echo.test", soon()).await, b"still")
                .await
                .unwrap();
            done += 1;
        }
        println!("{mode:?}: {done} calls while one connection was silent");
        assert!(done > 2);
        gateway
            .state("both are back", |all| all.iter().all(|link| link.is_connected()))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_udp_tcp_is_taken() {
    let edge = TestEdge::start().await;
    let relay = Relay::start(edge.handle.address(), false).await;
    let gateway = TestGateway::start(link_options(&[relay.address], edge.trust(), Mode::Auto));
    gateway.connected().await;
    edge.echo(b"over TCP").await.unwrap();
    assert!(
        edge.handle
            .connections(TUNNEL)
            .iter()
            .all(|c| c.transport == Transport::Tcp)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_udp_quic_is_taken() {
    let edge = TestEdge::start().await;
    let mut options = edge.link_options(Mode::Auto);
    options.head_start = BOUND;
    let gateway = TestGateway::start(options);
    gateway.connected().await;
    edge.echo(b"over QUIC").await.unwrap();
    assert!(
        edge.handle
            .connections(TUNNEL)
            .iter()
            .all(|c| c.transport == Transport::Quic)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_tcp_connection_is_replaced_at_once() {
    let edge = TestEdge::start().await;
    let relay = Relay::start(edge.handle.address(), true).await;
    let gateway = TestGateway::start(link_options(&[relay.address], edge.trust(), Mode::Tcp));
    gateway.connected().await;
    let before: Vec<_> = edge.handle.connections(TUNNEL).into_iter().map(|c| c.id).collect();
    relay.cut();
    drop(relay);
    gateway
        .state("both are lost", |all| {
            all.iter().all(|link| matches!(link.state, LinkState::Backoff))
        })
        .await;
    until("the edge forgets both", || {
        edge.handle
            .connections(TUNNEL)
            .iter()
            .all(|c| !before.contains(&c.id))
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_data_path_is_dead_is_given_up() {
    let edge = TestEdge::start_with(|options| {
        options.probe_interval = Some(Duration::from_millis(50));
        options.probe_timeout = Duration::from_millis(200);
    })
    .await;
    let mut events = edge.handle.events();
    /// Takes every stream and serves none: pings are answered, data is not.
    struct Deaf;
    impl outwork_tunnel::Accept for Deaf {
        fn admit(&self, _: &outwork_tunnel::Open) -> Result<(), outwork_tunnel::Rejection> {
            Ok(())
        }
        fn serve(&self, inbound: outwork_tunnel::Inbound) -> futures_util::future::BoxFuture<'static, ()> {
            Box::pin(async move {
                let _held = inbound;
                std::future::pending::<()>().await;
            })
        }
    }
    let mut options = edge.link_options(Mode::Tcp);
    options.connections = 1;
    let _links = outwork_tunnel::Links::start(options, Arc::new(Deaf)).unwrap();
    let reason = tokio::time::timeout(BOUND, async {
        loop {
            if let Event::Lost { reason, .. } = events.recv().await.unwrap() {
                return reason;
            }
        }
    });
    assert_eq!(reason.await.unwrap(), LostReason::Probe);
}
