//! The origin: a process of its own with an echo and a sink.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::Failure;
use crate::way::{Ports, Process};

/// The origin's process.
pub(crate) struct Origin {
    pub(crate) ports: Ports,
    _process: Process,
}

impl Origin {
    pub(crate) fn start() -> Result<Self, Failure> {
        let (process, line) = Process::role(&["origin".to_owned()])?;
        let (echo, sink) = line.split_once(' ').ok_or("the origin named no ports")?;
        Ok(Self {
            ports: Ports {
                echo: echo.parse()?,
                sink: sink.parse()?,
            },
            _process: process,
        })
    }
}

/// What that process does.
pub(crate) async fn run() -> Result<(), Failure> {
    let echo = listen(|stream| bounce(stream, 64 << 10)).await?;
    let sink = listen(|mut stream| async move {
        let mut buffer = vec![0; 256 << 10];
        while stream.read(&mut buffer).await.is_ok_and(|len| len > 0) {}
        // The load sees that it got no answer.
        let _ = stream.write_all(b"!").await;
    })
    .await?;
    println!("{echo} {sink}");
    // The parent ends this process.
    std::future::pending().await
}

/// Sends back what comes.
pub(crate) async fn bounce(mut stream: impl AsyncRead + AsyncWrite + Unpin, size: usize) {
    let mut buffer = vec![0; size];
    while let Ok(len) = stream.read(&mut buffer).await {
        if len == 0 || stream.write_all(&buffer[..len]).await.is_err() || stream.flush().await.is_err() {
            break;
        }
    }
}

async fn listen<F, W>(work: F) -> Result<SocketAddr, Failure>
where
    F: Fn(TcpStream) -> W + Send + Sync + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind("127.0.0.1:0".parse()?)?;
    let listener: TcpListener = socket.listen(4096)?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if stream.set_nodelay(true).is_ok() {
                tokio::spawn(work(stream));
            }
        }
    });
    Ok(address)
}
