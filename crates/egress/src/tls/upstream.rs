//! TLS towards servers: always verified, against the system's roots or those that the owner names.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::authority::provider;
use crate::error::Error;

/// How servers are spoken to. One for a whole worker: sandboxes share it.
pub struct UpstreamTls {
    /// For a client that speaks HTTP/1.1.
    http1: TlsConnector,
    /// For a client that speaks HTTP/2.
    http2: TlsConnector,
}

impl std::fmt::Debug for UpstreamTls {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("UpstreamTls").finish_non_exhaustive()
    }
}

impl UpstreamTls {
    /// Verification against `roots`.
    ///
    /// # Errors
    /// [`Error::NoRoots`] if there are none.
    pub fn new(roots: RootCertStore) -> Result<UpstreamTls, Error> {
        if roots.is_empty() {
            return Err(Error::NoRoots);
        }
        let roots = Arc::new(roots);
        let connector = |alpn: &[&[u8]]| -> Result<TlsConnector, Error> {
            let mut config = ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            Ok(TlsConnector::from(Arc::new(config)))
        };
        Ok(UpstreamTls {
            http1: connector(&[b"http/1.1"])?,
            http2: connector(&[b"h2", b"http/1.1"])?,
        })
    }

    /// The handshake with a server of this name. Whether HTTP/2 was agreed is in the result.
    pub(crate) async fn handshake(
        &self,
        name: ServerName<'static>,
        stream: TcpStream,
        http2: bool,
    ) -> std::io::Result<(TlsStream<TcpStream>, bool)> {
        let connector = if http2 { &self.http2 } else { &self.http1 };
        let stream = connector.connect(name, stream).await?;
        let agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((stream, agreed))
    }
}

/// The system's roots, or Mozilla's where the system has none.
pub fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}
