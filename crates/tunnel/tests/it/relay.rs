//! A network between gateway and edge that can go silent: it then forwards nothing and closes nothing.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

pub struct Relay {
    pub address: SocketAddr,
    silent: Arc<AtomicBool>,
    /// Bytes and datagrams that were forwarded.
    pub passed: Arc<AtomicU64>,
    cut: CancellationToken,
    ended: CancellationToken,
}

impl Relay {
    /// Forwards TCP and UDP to `target`. Without `udp` datagrams vanish.
    pub async fn start(target: SocketAddr, udp: bool) -> Self {
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()).await {
                break (listener, socket);
            }
        };
        let relay = Self {
            address: listener.local_addr().unwrap(),
            silent: Arc::default(),
            passed: Arc::default(),
            cut: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        let ended = relay.ended.clone();
        tokio::spawn(ended.clone().run_until_cancelled_owned(tcp(
            listener,
            target,
            relay.silent.clone(),
            relay.passed.clone(),
            relay.cut.clone(),
            ended.clone(),
        )));
        if udp {
            let socket = Arc::new(socket);
            tokio::spawn(ended.run_until_cancelled_owned(udp_loop(
                socket,
                target,
                relay.silent.clone(),
                relay.passed.clone(),
                relay.ended.clone(),
            )));
        } else {
            // Bound and unread, so that nothing answers, not even the kernel.
            tokio::spawn(async move {
                ended.cancelled().await;
                drop(socket);
            });
        }
        relay
    }

    pub fn silence(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    /// Closes the TCP connections that are open now.
    pub fn cut(&self) {
        self.cut.cancel();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

async fn tcp(
    listener: TcpListener,
    target: SocketAddr,
    silent: Arc<AtomicBool>,
    passed: Arc<AtomicU64>,
    cut: CancellationToken,
    ended: CancellationToken,
) {
    while let Ok((client, _)) = listener.accept().await {
        let (silent, passed) = (silent.clone(), passed.clone());
        let stop = cut.clone();
        let ended = ended.clone();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else {
                return;
            };
            let (client_reader, client_writer) = client.into_split();
            let (server_reader, server_writer) = server.into_split();
            tokio::select! {
                () = forward(client_reader, server_writer, &silent, &passed) => {}
                () = forward(server_reader, client_writer, &silent, &passed) => {}
                () = stop.cancelled() => {}
                () = ended.cancelled() => {}
            }
        });
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    silent: &AtomicBool,
    passed: &AtomicU64,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(len) = from.read(&mut buffer).await {
        if silent.load(Ordering::SeqCst) {
            // Neither end hears of it, even if the other one closes.
            std::future::pending::<()>().await;
        }
        if len == 0 || to.write_all(&buffer[..len]).await.is_err() {
            return;
        }
        passed.fetch_add(len as u64, Ordering::SeqCst);
    }
}

async fn udp_loop(
    socket: Arc<UdpSocket>,
    target: SocketAddr,
    silent: Arc<AtomicBool>,
    passed: Arc<AtomicU64>,
    ended: CancellationToken,
) {
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
        if silent.load(Ordering::SeqCst) {
            continue;
        }
        let upstream = match clients.get(&from) {
            Some(upstream) => upstream.clone(),
            None => {
                let upstream = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                upstream.connect(target).await.unwrap();
                clients.insert(from, upstream.clone());
                let (socket, silent, back) = (socket.clone(), silent.clone(), upstream.clone());
                tokio::spawn(ended.clone().run_until_cancelled_owned(async move {
                    let mut buffer = vec![0; 65_536];
                    loop {
                        // An edge that is gone answers with an error, which is not forwarded either.
                        let Ok(len) = back.recv(&mut buffer).await else {
                            continue;
                        };
                        if !silent.load(Ordering::SeqCst) {
                            let _ = socket.send_to(&buffer[..len], from).await;
                        }
                    }
                }));
                upstream
            }
        };
        passed.fetch_add(1, Ordering::SeqCst);
        let _ = upstream.send(&buffer[..len]).await;
    }
}
