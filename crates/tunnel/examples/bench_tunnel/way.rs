//! The ways from the load to the origin, and the processes that make them.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::Failure;
use crate::ours::{HOST, Ours, SINK};
use crate::rathole::Rathole;

/// A stream both ways.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// A figure.
pub(crate) struct Line<'a> {
    pub(crate) what: &'a str,
    pub(crate) whose: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) values: &'a [f64],
}

/// Where the origin's two services are.
#[derive(Clone, Copy)]
pub(crate) struct Ports {
    /// Sends back what it gets.
    pub(crate) echo: SocketAddr,
    /// Reads everything and answers with one byte.
    pub(crate) sink: SocketAddr,
}

/// A way to the origin.
pub(crate) enum Way {
    Direct(Ports),
    Ours(Ours),
    Rathole(Rathole),
}

/// Which service.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum To {
    Echo,
    Sink,
}

impl Way {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Direct(_) => "direct".to_owned(),
            Self::Ours(ours) => format!("ours {}", ours.mode),
            Self::Rathole(_) => "rathole".to_owned(),
        }
    }

    /// A new stream to the origin.
    pub(crate) async fn open(&self, to: To) -> Result<Box<dyn Duplex>, Failure> {
        let ports = match self {
            Self::Ours(ours) => return ours.open(if to == To::Echo { HOST } else { SINK }).await,
            Self::Direct(ports) => ports,
            Self::Rathole(rathole) => &rathole.ports,
        };
        dial(if to == To::Echo { ports.echo } else { ports.sink }).await
    }
}

/// A TCP connection. It ends with a reset: the ports of those that wait for their peer's end for a minute would be missing
/// to whatever is measured next.
pub(crate) async fn dial(address: SocketAddr) -> Result<Box<dyn Duplex>, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    stream.set_zero_linger()?;
    Ok(Box::new(stream))
}

/// A process that ends with its owner.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program.
    pub(crate) fn start(command: &mut Command) -> Result<Self, Failure> {
        Ok(Self(command.stdin(Stdio::null()).spawn()?))
    }

    /// Starts this program in another role, and waits for its first line.
    pub(crate) fn role(arguments: &[String]) -> Result<(Self, String), Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process = Self::start(command.args(arguments).stdout(Stdio::piped()))?;
        let line = process.line()?;
        Ok((process, line))
    }

    fn line(&mut self) -> Result<String, Failure> {
        let output = self.0.stdout.as_mut().ok_or("a process without output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.is_empty() {
            return Err("a process of the benchmark ended before it was ready".into());
        }
        Ok(line.trim().to_owned())
    }

    /// Resident megabytes.
    pub(crate) fn resident(&self) -> f64 {
        resident(&self.0.id().to_string())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Resident megabytes of a process.
pub(crate) fn resident(process: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kilobytes = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<f64>()
            .ok()
    });
    kilobytes.unwrap_or(f64::NAN) / 1024.0
}
