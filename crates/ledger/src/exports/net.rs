//! Connections to receivers: TCP and TLS with a deadline on every step, and how a receiver is made to confirm.
//!
//! A byte that the kernel has taken may never arrive. So the end of a connection is what confirms it: our side is
//! closed, and a receiver that then closes its own has read everything before.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// How to check a receiver, and who to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificate authorities in PEM to trust instead of the system's.
    pub ca: Option<PathBuf>,
    /// A certificate chain and its private key, both in PEM, for a receiver that asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Certificates of a client and the key that goes with them.
pub(crate) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Tls {
    /// The authorities to trust.
    pub(crate) fn roots(&self) -> Result<Vec<CertificateDer<'static>>, String> {
        match &self.ca {
            Some(path) => certificates(path),
            None => {
                let found = rustls_native_certs::load_native_certs();
                match found.errors.first() {
                    Some(error) if found.certs.is_empty() => Err(format!(
                        "the system's certificate authorities could not be read: {error}"
                    )),
                    _ => Ok(found.certs),
                }
            }
        }
    }

    pub(crate) fn identity(&self) -> Result<Option<Identity>, String> {
        let Some((chain, key)) = &self.identity else {
            return Ok(None);
        };
        let key = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| format!("the private key `{}` could not be read: {error}", key.display()))?;
        Ok(Some((certificates(chain)?, key)))
    }

    pub(crate) fn config(&self) -> Result<ClientConfig, String> {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(self.roots()?);
        if added == 0 {
            return Err("there is no certificate authority to trust: name one".into());
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots);
        match self.identity()? {
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("the client certificate does not suit: {error}")),
            None => Ok(builder.with_no_client_auth()),
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong =
        |error: &dyn std::fmt::Display| format!("the certificates in `{}` cannot be read: {error}", path.display());
    let found = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
    let found: Vec<_> = found.collect::<Result<_, _>>().map_err(|error| wrong(&error))?;
    if found.is_empty() {
        return Err(wrong(&"there is none"));
    }
    Ok(found)
}

/// Reads on from a connection whose sending side is closed.
type Reading = Box<dyn FnMut(&mut [u8]) -> io::Result<usize>>;

/// An open connection.
pub(crate) enum Connection {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// The host of `host:port`, without the brackets of an IPv6 address.
pub(crate) fn host_of(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    (!host.is_empty()).then_some(host)
}

impl Connection {
    pub(crate) fn open(address: &str, tls: Option<Arc<ClientConfig>>, timeout: Duration) -> Result<Self, String> {
        let problem = |what: &str, error: &dyn std::fmt::Display| format!("`{address}` {what}: {error}");
        let found = address
            .to_socket_addrs()
            .map_err(|error| problem("has no address", &error))?;
        let mut last = None;
        let mut socket = None;
        for address in found {
            match TcpStream::connect_timeout(&address, timeout) {
                Ok(open) => {
                    socket = Some(open);
                    break;
                }
                Err(error) => last = Some(error),
            }
        }
        let Some(socket) = socket else {
            let error = last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
            return Err(problem("cannot be reached", &error));
        };
        socket
            .set_read_timeout(Some(timeout))
            .and_then(|()| socket.set_write_timeout(Some(timeout)))
            .and_then(|()| socket.set_nodelay(true))
            .map_err(|error| problem("cannot be used", &error))?;
        let Some(config) = tls else {
            return Ok(Self::Plain(socket));
        };
        let name = host_of(address).unwrap_or_default().to_owned();
        let name = ServerName::try_from(name).map_err(|error| problem("has no name to check", &error))?;
        let session = ClientConnection::new(config, name).map_err(|error| problem("cannot be used", &error))?;
        let mut stream = StreamOwned::new(session, socket);
        while stream.conn.is_handshaking() {
            stream
                .conn
                .complete_io(&mut stream.sock)
                .map_err(|error| problem("failed in the TLS handshake", &error))?;
        }
        Ok(Self::Tls(Box::new(stream)))
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Closes our side and waits until the receiver has closed its own.
    pub(crate) fn confirm(self, timeout: Duration) -> io::Result<()> {
        let end = Instant::now() + timeout;
        let mut buffer = [0; 4096];
        let mut read: Reading = match self {
            Self::Plain(socket) => {
                socket.shutdown(Shutdown::Write)?;
                Box::new(move |buffer| (&socket).read(buffer))
            }
            Self::Tls(mut stream) => {
                stream.conn.send_close_notify();
                stream.flush()?;
                stream.sock.shutdown(Shutdown::Write)?;
                // Whether the receiver says goodbye in TLS as well does not matter: it has read ours.
                Box::new(move |buffer| match stream.read(buffer) {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                    other => other,
                })
            }
        };
        loop {
            if read(&mut buffer)? == 0 {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_found() {
        for (address, host) in [
            ("log.example:6514", Some("log.example")),
            ("[::1]:514", Some("::1")),
            ("log.example", None),
            (":514", None),
            ("log.example:x", None),
        ] {
            assert_eq!(host_of(address), host);
        }
    }
}
