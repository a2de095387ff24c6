//! The kill path: paused means that the next byte does not pass.

use crate::rig::on_both;

on_both!(
    paused_streams_pass_nothing,
    a_waiting_reader_and_writer_are_told,
    pause_without_connections,
    resumed
);

mod bodies {
    use std::io;

    use outwork_tunnel::edge::OpenError;
    use outwork_tunnel::link::Mode;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use crate::rig::{BOUND, TUNNEL, TestEdge, TestGateway, soon, until, until_true};

    pub async fn paused_streams_pass_nothing(mode: Mode) {
        let edge = TestEdge::start().await;
        let gateway = edge.gateway(mode).await;
        let mut recorded = edge.open("record.test").await;
        let mut poured = edge.open("pour.test").await;
        recorded.write_all(b"before").await.unwrap();
        poured.read_exact(&mut [0; 1000]).await.unwrap();
        let metered = |edge: &TestEdge| {
            let usage = edge.handle.usage_of(TUNNEL);
            usage.iter().map(|u| (u.sent, u.received)).collect::<Vec<_>>()
        };

        edge.handle.pause(TUNNEL);
        let before = metered(&edge);
        // Bytes are there to be read, and the writer has credit.
        assert_eq!(
            poured.read(&mut [0; 1000]).await.unwrap_err().kind(),
            io::ErrorKind::ConnectionAborted
        );
        assert_eq!(
            recorded.write(b"after").await.unwrap_err().kind(),
            io::ErrorKind::ConnectionAborted
        );
        assert_eq!(
            recorded.flush().await.unwrap_err().kind(),
            io::ErrorKind::ConnectionAborted
        );
        assert_eq!(
            recorded.shutdown().await.unwrap_err().kind(),
            io::ErrorKind::ConnectionAborted
        );
        assert_eq!(metered(&edge), before);
        assert_eq!(
            edge.handle.open(TUNNEL, "echo.test", soon()).await.unwrap_err(),
            OpenError::Paused
        );
        assert_eq!(
            edge.handle.probe(TUNNEL, "echo.test", soon()).await.unwrap_err(),
            OpenError::Paused
        );
        // The handler got what passed before, and no orderly end.
        let (bytes, end) = until("the handler ends", || gateway.handler.recorded.lock().unwrap().pop()).await;
        assert!(b"before".starts_with(&bytes), "{bytes:?}");
        assert_eq!(end, Err(io::ErrorKind::ConnectionReset));
        assert_eq!(edge.handle.connections(TUNNEL).len(), 2, "the connections stay");
    }

    pub async fn a_waiting_reader_and_writer_are_told(mode: Mode) {
        let edge = TestEdge::start().await;
        let _gateway = edge.gateway(mode).await;
        let (mut reader, mut writer) = tokio::io::split(edge.open("hold.test").await);
        let sent = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let count = sent.clone();
        let reading = tokio::spawn(async move { reader.read_u8().await });
        let writing = tokio::spawn(async move {
            loop {
                let written = writer.write(&[0; 65_536]).await?;
                count.fetch_add(written as u64, std::sync::atomic::Ordering::SeqCst);
            }
            #[allow(unreachable_code)]
            Ok::<(), io::Error>(())
        });
        let mut last = 0;
        // Both wait once the window is full, which shows in a count that does not change any more.
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            let now = sent.load(std::sync::atomic::Ordering::SeqCst);
            if now == last && now > 0 {
                break;
            }
            last = now;
        }
        edge.handle.pause(TUNNEL);
        for error in [
            tokio::time::timeout(BOUND, reading)
                .await
                .unwrap()
                .unwrap()
                .unwrap_err(),
            tokio::time::timeout(BOUND, writing)
                .await
                .unwrap()
                .unwrap()
                .unwrap_err(),
        ] {
            assert_eq!(error.to_string(), "the tunnel was paused");
        }
    }

    pub async fn pause_without_connections(mode: Mode) {
        let edge = TestEdge::start().await;
        edge.handle.pause(TUNNEL);
        assert!(edge.handle.is_paused(TUNNEL));
        let gateway = edge.gateway(mode).await;
        assert_eq!(
            edge.handle.open(TUNNEL, "echo.test", soon()).await.unwrap_err(),
            OpenError::Paused
        );
        assert_eq!(gateway.links.counters().iter().map(|c| c.admitted).sum::<u64>(), 0);
        // Another tunnel is not touched.
        edge.book.set("tnl_other", "other");
        let mut options = edge.link_options(mode);
        (options.tunnel_id, options.token) = ("tnl_other".into(), "other".to_owned().into());
        let other = TestGateway::start(options);
        other.connected().await;
        let opened = edge.handle.open("tnl_other", "echo.test", soon()).await;
        crate::rig::exchange(opened, b"passes").await.unwrap();
    }

    pub async fn resumed(mode: Mode) {
        let edge = TestEdge::start().await;
        let gateway = edge.gateway(mode).await;
        let mut stream = edge.open("echo.test").await;
        edge.handle.pause(TUNNEL);
        edge.handle.pause(TUNNEL);
        edge.handle.resume(TUNNEL);
        assert!(!edge.handle.is_paused(TUNNEL));
        assert!(stream.write(b"x").await.is_err(), "what was cut stays cut");
        edge.echo(b"new streams pass").await.unwrap();
        until_true("no stream is left", || {
            gateway.links.counters().iter().all(|c| c.in_flight == 0)
        })
        .await;
    }
}
