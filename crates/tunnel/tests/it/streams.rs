//! Streams over both transports: bytes, ends, resets, flow control, limits, metering.

use crate::rig::on_both;

on_both!(
    both_ways,
    half_close,
    bulk_both_ways_at_once,
    a_slow_reader_blocks_nobody_else,
    dropping_resets,
    the_handlers_end_is_seen,
    rejected,
    probe,
    metered,
    many_at_once,
    one_after_another,
    busy,
    unusable_hosts,
);

mod bodies {
    use std::io;

    use outwork_tunnel::edge::OpenError;
    use outwork_tunnel::frame::RejectionCode;
    use outwork_tunnel::link::Mode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use crate::rig::{BOUND, TUNNEL, TestEdge, soon, until, until_true};

    pub async fn both_ways(mode: Mode) {
        let edge = TestEdge::start().await;
        let gateway = edge.gateway(mode).await;
        let mut stream = edge.open("echo.test").await;
        for round in 0..100u32 {
            stream.write_all(&round.to_be_bytes()).await.unwrap();
            assert_eq!(stream.read_u32().await.unwrap(), round);
        }
        let connections = edge.handle.connections(TUNNEL);
        assert_eq!(connections.len(), 2);
        assert!(
            connections
                .iter()
                .all(|c| (c.transport == outwork_tunnel::Transport::Quic) == (mode == Mode::Quic))
        );
        assert_eq!(connections.iter().map(|c| c.in_flight).sum::<usize>(), 1);
        let mut indexes: Vec<_> = connections.iter().map(|c| c.index).collect();
        indexes.sort_unstable();
        assert_eq!(indexes, [0, 1]);
        assert_eq!(gateway.links.counters().iter().map(|c| c.admitted).sum::<u64>(), 1);
        drop(stream);
        until_true("the gateway counts the stream out", || {
            gateway.links.counters().iter().all(|c| c.in_flight == 0)
        })
        .await;
    }

    pub async fn half_close(mode: Mode) {
        let edge = TestEdge::start().await;
        let gateway = edge.gateway(mode).await;
        let mut stream = edge.open("record.test").await;
        stream.write_all(b"all of it").await.unwrap();
        stream.shutdown().await.unwrap();
        assert!(stream.write_all(b"more").await.is_err(), "the sending half has ended");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, 9u64.to_be_bytes());
        assert_eq!(
            *gateway.handler.recorded.lock().unwrap(),
            [(b"all of it".to_vec(), Ok(()))]
        );
    }

    pub async fn bulk_both_ways_at_once(mode: Mode) {
        const BLOCKS: usize = 512;
        let edge = TestEdge::start().await;
        let _gateway = edge.gateway(mode).await;
        let (mut reader, mut writer) = tokio::io::split(edge.open("echo.test").await);
        let block: Vec<u8> = (0..65_536u32).map(|at| (at * 31 % 251) as u8).collect();
        let sent = block.clone();
        let sender = tokio::spawn(async move {
            for at in 0..BLOCKS {
                let mut block = sent.clone();
                block[0] = at as u8;
                writer.write_all(&block).await.unwrap();
            }
            writer.shutdown().await.unwrap();
        });
        let mut back = vec![0; block.len()];
        for at in 0..BLOCKS {
            reader.read_exact(&mut back).await.unwrap();
            assert_eq!(back[0], at as u8);
            assert!(back[1..] == block[1..], "block {at} came back changed");
        }
        assert_eq!(reader.read(&mut back).await.unwrap(), 0);
        sender.await.unwrap();
    }

    pub async fn a_slow_reader_blocks_nobody_else(mode: Mode) {
        let edge = TestEdge::start().await;
        let mut options = edge.link_options(mode);
        options.connections = 1;
        let gateway = crate::rig::TestGateway::start(options);
        gateway.connected().await;
        // The plane does not read what one handler pours, another handler does not read what the plane pours.
        let unread = edge.open("pour.test").await;
        let mut blocked = edge.open("hold.test").await;
        let block = vec![1u8; 65_536];
        let mut sent = 0u64;
        while let Ok(written) = tokio::time::timeout(std::time::Duration::from_millis(500), blocked.write(&block)).await
        {
            sent += written.unwrap() as u64;
            assert!(sent < 64 << 20, "flow control holds the writer");
        }
        assert!(sent > 1 << 20, "the window is used: {sent}");
        for _ in 0..20 {
            tokio::time::timeout(BOUND, edge.echo(&block)).await.unwrap().unwrap();
        }
        drop(unread);
        // Once it reads, it goes on.
        let mut held = gateway.handler.held.lock().unwrap().pop().unwrap();
        tokio::spawn(async move { tokio::io::copy(&mut held, &mut tokio::io::sink()).await });
        tokio::time::timeout(BOUND, blocked.write_all(&block))
            .await
            .unwrap()
            .unwrap();
    }

    pub async fn dropping_resets(mode: Mode) {
        let edge = TestEdge::start().await;
        let gateway = edge.gateway(mode).await;
        let mut stream = edge.open("record.test").await;
        stream.write_all(b"begun").await.unwrap();
        drop(stream);
        let recorded = until("the handler sees the end", || {
            gateway.handler.recorded.lock().unwrap().pop()
        })
        .await;
        assert_eq!(
            recorded.1,
            Err(io::ErrorKind::ConnectionReset),
            "a reset is no end of file"
        );
    }

    pub async fn the_handlers_end_is_seen(mode: Mode) {
        let edge = TestEdge::start().await;
        let _gateway = edge.gateway(mode).await;
        // It leaves in the middle; what it wrote before may or may not arrive.
        let mut stream = edge.open("leave.test").await;
        stream.write_all(b"x").await.unwrap();
        let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        // It leaves at once: over QUIC that may overtake its yes.
        match edge.handle.open(TUNNEL, "drop.test", soon()).await {
            Ok(mut stream) => assert!(stream.read_u8().await.is_err()),
            Err(error) => assert!(matches!(error, OpenError::Lost(_)), "{error}"),
        }
    }

    pub async fn rejected(mode: Mode) {
        let edge = TestEdge::start().await;
        let gateway = edge.gateway(mode).await;
        let error = edge.handle.open(TUNNEL, "unknown.test", soon()).await.unwrap_err();
        let OpenError::Rejected(rejection) = error else {
            panic!("{error}")
        };
        assert_eq!(rejection.code, RejectionCode::UnknownHost);
        assert_eq!(rejection.message, "no route for `unknown.test`");
        assert_eq!(
            gateway.links.counters().iter().map(|c| c.rejected).sum::<u64>(),
            1,
            "it is final: asked once"
        );
        edge.echo(b"the connection lives on").await.unwrap();
    }

    pub async fn probe(mode: Mode) {
        let edge = TestEdge::start_with(|options| options.probe_interval = Some(BOUND)).await;
        let gateway = edge.gateway(mode).await;
        let connection = edge.handle.probe(TUNNEL, "echo.test", soon()).await.unwrap();
        assert!(edge.handle.connections(TUNNEL).iter().any(|c| c.id == connection));
        assert!(edge.handle.usage().is_empty(), "a probe is no usage");
        assert_eq!(gateway.links.counters().iter().map(|c| c.probes).sum::<u64>(), 1);
        assert!(gateway.links.counters().iter().any(|c| c.last_probe.is_some()));
        let error = edge.handle.probe(TUNNEL, "unknown.test", soon()).await.unwrap_err();
        assert!(matches!(error, OpenError::Rejected(_)), "{error}");
    }

    pub async fn metered(mode: Mode) {
        let edge = TestEdge::start().await;
        let _gateway = edge.gateway(mode).await;
        edge.echo(&[1; 1000]).await.unwrap();
        edge.echo(&[1; 500]).await.unwrap();
        let mut open = edge.open("record.test").await;
        open.write_all(b"12345").await.unwrap();
        let usage = edge.handle.usage();
        let seen: Vec<_> = usage
            .iter()
            .map(|u| (u.host.as_str(), u.streams, u.open, u.sent, u.received))
            .collect();
        assert_eq!(seen, [("echo.test", 2, 0, 1500, 1500), ("record.test", 1, 1, 5, 0)]);
        assert_eq!(usage, edge.handle.usage_of(TUNNEL));
        assert!(edge.handle.usage_of("tnl_other").is_empty());
    }

    pub async fn many_at_once(mode: Mode) {
        let edge = std::sync::Arc::new(TestEdge::start().await);
        let _gateway = edge.gateway(mode).await;
        let mut streams = Vec::new();
        for _ in 0..1000 {
            streams.push(edge.open("echo.test").await);
        }
        let loads: Vec<_> = edge.handle.connections(TUNNEL).iter().map(|c| c.in_flight).collect();
        assert_eq!(loads, [500, 500], "the least loaded connection is taken");
        for (at, stream) in streams.iter_mut().enumerate() {
            stream.write_u32(at as u32).await.unwrap();
        }
        for (at, stream) in streams.iter_mut().enumerate() {
            assert_eq!(stream.read_u32().await.unwrap(), at as u32);
        }
    }

    pub async fn one_after_another(mode: Mode) {
        let edge = TestEdge::start().await;
        let gateway = edge.gateway(mode).await;
        for _ in 0..10 {
            edge.echo(b"x").await.unwrap();
        }
        let admitted: Vec<_> = gateway.links.counters().iter().map(|c| c.admitted).collect();
        assert_eq!(admitted, [5, 5], "idle connections take turns");
    }

    pub async fn busy(mode: Mode) {
        let edge = TestEdge::start_with(|options| options.max_streams = 2).await;
        let _gateway = edge.gateway(mode).await;
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(edge.open("echo.test").await);
        }
        assert_eq!(
            edge.handle.open(TUNNEL, "echo.test", soon()).await.unwrap_err(),
            OpenError::Busy
        );
        open.pop();
        edge.echo(b"a place is free").await.unwrap();
    }

    pub async fn unusable_hosts(mode: Mode) {
        let edge = TestEdge::start().await;
        let _gateway = edge.gateway(mode).await;
        for host in ["", "UPPER.test", "a b", "a.test:443", "a\r\nb"] {
            let error = edge.handle.open(TUNNEL, host, soon()).await.unwrap_err();
            assert!(matches!(error, OpenError::InvalidHost(_)), "{error}");
        }
        let error = edge.handle.open("tnl_other", "echo.test", soon()).await.unwrap_err();
        assert_eq!(error, OpenError::NotConnected, "a stream belongs to its own tunnel");
    }
}
