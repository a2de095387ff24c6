//! Orderly ends: no answer is lost when a gateway or the edge goes.

use crate::rig::on_both;

on_both!(
    a_gateway_drains,
    the_deadline_cuts,
    another_gateway_takes_over,
    the_edge_drains
);

mod bodies {
    use std::time::Duration;

    use outwork_tunnel::edge::{Event, LostReason, OpenError};
    use outwork_tunnel::link::{LinkState, Mode};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use crate::rig::{BOUND, TUNNEL, TestEdge, exchange, soon, until_true};

    pub async fn a_gateway_drains(mode: Mode) {
        let edge = TestEdge::start().await;
        let gateway = edge.gateway(mode).await;
        let mut events = edge.handle.events();
        let mut stream = edge.open("echo.test").await;
        stream.write_all(&[3; 300_000]).await.unwrap();
        let draining = tokio::spawn(gateway.links.drain(BOUND));
        until_true("the edge knows", || {
            edge.handle
                .connections(TUNNEL)
                .iter()
                .all(|connection| connection.draining)
        })
        .await;
        let error = edge.handle.open(TUNNEL, "echo.test", soon()).await.unwrap_err();
        assert_eq!(error, OpenError::NotConnected, "no connection takes streams");
        // What is open goes on to its end.
        stream.write_all(&[4; 300_000]).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back.len(), 600_000);
        drop(stream);
        assert_eq!(
            tokio::time::timeout(BOUND, draining).await.unwrap().unwrap(),
            0,
            "nothing was cut"
        );
        for _ in 0..2 {
            let lost = tokio::time::timeout(BOUND, events.recv()).await.unwrap().unwrap();
            assert!(
                matches!(
                    lost,
                    Event::Lost {
                        reason: LostReason::Drained,
                        ..
                    }
                ),
                "{lost:?}"
            );
        }
    }

    pub async fn the_deadline_cuts(mode: Mode) {
        let edge = TestEdge::start().await;
        let gateway = edge.gateway(mode).await;
        let mut stream = edge.open("echo.test").await;
        stream.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        let cut = tokio::time::timeout(BOUND, gateway.links.drain(Duration::from_millis(200)))
            .await
            .unwrap();
        assert_eq!(cut, 1);
        assert!(tokio::time::timeout(BOUND, stream.read_u8()).await.unwrap().is_err());
        until_true("the edge forgets them", || edge.handle.connections(TUNNEL).is_empty()).await;
    }

    pub async fn another_gateway_takes_over(mode: Mode) {
        let edge = TestEdge::start().await;
        let first = edge.gateway(mode).await;
        let second = edge.gateway(mode).await;
        let traffic = {
            let handle = edge.handle.clone();
            tokio::spawn(async move {
                let mut done = 0;
                let end = tokio::time::Instant::now() + Duration::from_secs(1);
                while tokio::time::Instant::now() < end {
                    exchange(handle.open(TUNNEL, "echo.test", soon()).await, &[5; 2000]).await?;
                    done += 1;
                }
                Ok::<_, String>(done)
            })
        };
        assert_eq!(first.links.drain(BOUND).await, 0);
        let done = traffic.await.unwrap().expect("no call fails while a gateway goes");
        assert!(done > 10);
        assert_eq!(edge.handle.connections(TUNNEL).len(), 2);
        drop(second);
    }

    pub async fn the_edge_drains(mode: Mode) {
        let edge = TestEdge::start().await;
        let gateway = edge.gateway(mode).await;
        let mut stream = edge.open("echo.test").await;
        stream.write_all(&[3; 1000]).await.unwrap();
        edge.shutdown.cancel();
        until_true("opens are refused", || {
            edge.handle.connections(TUNNEL).iter().all(|c| c.draining)
        })
        .await;
        assert_eq!(
            edge.handle.open(TUNNEL, "echo.test", soon()).await.unwrap_err(),
            OpenError::Stopping
        );
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back.len(), 1000);
        drop(stream);
        tokio::time::timeout(BOUND, edge.task).await.unwrap().unwrap();
        gateway
            .state("the links look for another edge", |all| {
                all.iter()
                    .all(|link| matches!(link.state, LinkState::Connecting | LinkState::Backoff))
            })
            .await;
    }
}
