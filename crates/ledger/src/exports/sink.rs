//! Where a batch goes: each target takes it in its form and says what became of it.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::{ToSocketAddrs as _, UdpSocket};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outwork_wire::Time;
use rustls::ClientConfig;

use super::http::Poster;
use super::net::{Connection, host_of};
use super::tail::Item;
use super::{Content, Form, Origin, Syslog, Target, Transport, ocsf, otlp, syslog};

/// So much fits into a datagram over IPv4.
const MAX_DATAGRAM: usize = 65_507;
/// A connection is confirmed after so many bytes, so that a failure does not send much again.
const CONFIRM_BYTES: usize = 4 << 20;

/// What became of a batch that was not taken.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// It will not be taken in this form, however often it is sent.
    pub(crate) refused: bool,
    /// What went wrong, without what was sent.
    pub(crate) what: String,
}

impl Failure {
    pub(crate) fn away(what: String) -> Self {
        Self { refused: false, what }
    }

    pub(crate) fn refused(what: String) -> Self {
        Self { refused: true, what }
    }
}

/// A target at work.
pub(crate) struct Sink {
    ledger: String,
    kind: SinkKind,
    timeout: Duration,
}

enum SinkKind {
    File {
        path: PathBuf,
        form: Form,
    },
    Datagrams {
        syslog: Syslog,
        socket: Option<UdpSocket>,
    },
    Stream {
        syslog: Syslog,
        tls: Option<Arc<ClientConfig>>,
        connection: Option<Connection>,
        /// Bytes that were sent and are not confirmed.
        open: usize,
    },
    Otlp(Poster),
    Http {
        poster: Poster,
        form: Form,
    },
}

impl Sink {
    /// Refuses what cannot work before anything is sent.
    pub(crate) fn new(target: &Target, ledger: String, timeout: Duration) -> Result<Self, String> {
        let kind = match target {
            Target::File { path, form } => SinkKind::File {
                path: path.clone(),
                form: *form,
            },
            Target::Otlp(endpoint) => SinkKind::Otlp(Poster::new(endpoint, timeout)?),
            Target::Http { endpoint, form } => SinkKind::Http {
                poster: Poster::new(endpoint, timeout)?,
                form: *form,
            },
            Target::Syslog(syslog) => {
                if host_of(&syslog.address).is_none() {
                    return Err("the address of a syslog receiver has the form `host:port`".into());
                }
                let syslog = syslog.clone();
                match &syslog.transport {
                    Transport::Udp => SinkKind::Datagrams { syslog, socket: None },
                    transport => {
                        let tls = match transport {
                            Transport::Tls(tls) => Some(Arc::new(tls.config()?)),
                            Transport::Tcp | Transport::Udp => None,
                        };
                        SinkKind::Stream {
                            syslog,
                            tls,
                            connection: None,
                            open: 0,
                        }
                    }
                }
            }
        };
        Ok(Self { ledger, kind, timeout })
    }

    /// Sends a batch. It counts as taken once this or [`confirm`](Sink::confirm) succeeded, as [`send`](Sink::send)
    /// says: `true` if it is confirmed by now.
    pub(crate) fn send(&mut self, items: &[Item]) -> Result<bool, Failure> {
        let (ledger, timeout) = (&self.ledger, self.timeout);
        match &mut self.kind {
            SinkKind::File { path, form } => append(path, &lines(ledger, *form, items)).map(|()| true),
            SinkKind::Http { poster, form } => {
                let body = lines(ledger, *form, items);
                if !body.is_empty() {
                    poster.post("application/x-ndjson", &body)?;
                }
                Ok(true)
            }
            SinkKind::Otlp(poster) => {
                let now = Time::now().as_micros();
                let logs: Vec<_> = contents(ledger, items)
                    .map(|(origin, content, _)| otlp::log(&origin, &content, now))
                    .collect();
                if logs.is_empty() {
                    return Ok(true);
                }
                let body = otlp::request(logs, ledger).to_string();
                let answer = poster.post("application/json", body.as_bytes())?;
                match otlp::rejected(&answer) {
                    Ok(None) => Ok(true),
                    Ok(Some((count, why))) => Err(Failure::refused(format!("it did not take {count} of them: {why}"))),
                    Err(what) => Err(Failure::away(what)),
                }
            }
            SinkKind::Datagrams { syslog, socket } => {
                let socket = match socket {
                    Some(socket) => socket,
                    None => socket.insert(datagrams(&syslog.address, timeout)?),
                };
                for message in messages(ledger, syslog, items) {
                    if message.len() > MAX_DATAGRAM {
                        let what = format!("a message of {} bytes does not fit into a datagram", message.len());
                        return Err(Failure::refused(what));
                    }
                    socket
                        .send(&message)
                        .map_err(|error| Failure::away(format!("`{}`: {error}", syslog.address)))?;
                }
                Ok(true)
            }
            SinkKind::Stream {
                syslog,
                tls,
                connection,
                open,
            } => {
                let mut bytes = Vec::new();
                for message in messages(ledger, syslog, items) {
                    syslog::frame(&message, &mut bytes);
                }
                if bytes.is_empty() {
                    return Ok(*open == 0);
                }
                if connection.is_none() {
                    let made = Connection::open(&syslog.address, tls.clone(), timeout).map_err(Failure::away)?;
                    *connection = Some(made);
                }
                let Some(stream) = connection else { return Ok(false) };
                stream
                    .write(&bytes)
                    .map_err(|error| Failure::away(format!("`{}` broke off: {error}", syslog.address)))?;
                *open += bytes.len();
                if *open >= CONFIRM_BYTES {
                    self.confirm().map(|()| true)
                } else {
                    Ok(false)
                }
            }
        }
    }

    /// Makes sure of everything that was sent.
    pub(crate) fn confirm(&mut self) -> Result<(), Failure> {
        if let SinkKind::Stream {
            syslog,
            connection,
            open,
            ..
        } = &mut self.kind
            && let Some(stream) = connection.take()
        {
            *open = 0;
            stream.confirm(self.timeout).map_err(|error| {
                let address = &syslog.address;
                Failure::away(format!(
                    "`{address}` did not read to the end and close the connection: {error}"
                ))
            })?;
        }
        Ok(())
    }

    /// Forgets what is open: everything that was not confirmed is sent again.
    pub(crate) fn reset(&mut self) {
        match &mut self.kind {
            SinkKind::Stream { connection, open, .. } => {
                *connection = None;
                *open = 0;
            }
            SinkKind::Datagrams { socket, .. } => *socket = None,
            SinkKind::File { .. } | SinkKind::Otlp(_) | SinkKind::Http { .. } => {}
        }
    }
}

fn contents<'a>(ledger: &'a str, items: &'a [Item]) -> impl Iterator<Item = (Origin<'a>, Content<'a>, &'a Item)> {
    items.iter().filter_map(move |item| {
        let origin = Origin {
            ledger,
            receipt: item.receipt,
        };
        Content::of(item.entry.as_ref()).map(|content| (origin, content, item))
    })
}

fn lines(ledger: &str, form: Form, items: &[Item]) -> Vec<u8> {
    let mut out = Vec::new();
    match form {
        Form::Lines => {
            for item in items {
                out.extend_from_slice(&item.line);
                out.push(b'\n');
            }
        }
        Form::Ocsf => {
            for (origin, content, _) in contents(ledger, items) {
                out.extend_from_slice(ocsf::event(&origin, &content).to_string().as_bytes());
                out.push(b'\n');
            }
        }
    }
    out
}

fn messages<'a>(ledger: &'a str, target: &'a Syslog, items: &'a [Item]) -> impl Iterator<Item = Vec<u8>> + 'a {
    contents(ledger, items).map(move |(origin, content, item)| {
        let json = match target.form {
            Form::Lines => String::from_utf8_lossy(&item.line).into_owned(),
            Form::Ocsf => ocsf::event(&origin, &content).to_string(),
        };
        syslog::message(&target.header, &origin, &content, &json)
    })
}

fn append(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let write = || {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        let before = file.metadata()?.len();
        let written = file.write_all(bytes).and_then(|()| file.sync_data());
        if written.is_err() {
            // Half a line would not be a line of anything. If this fails as well, the next attempt says so again.
            file.set_len(before)?;
        }
        written
    };
    write().map_err(|error: std::io::Error| Failure::away(format!("`{}` cannot be written: {error}", path.display())))
}

fn datagrams(address: &str, timeout: Duration) -> Result<UdpSocket, Failure> {
    let open = || {
        let to = address
            .to_socket_addrs()?
            .next()
            .ok_or(std::io::ErrorKind::AddrNotAvailable)?;
        let from = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(from)?;
        socket.set_write_timeout(Some(timeout))?;
        socket.connect(to)?;
        Ok(socket)
    };
    open().map_err(|error: std::io::Error| Failure::away(format!("`{address}` cannot be used: {error}")))
}
