//! The gateway's end of the inner TLS: what the edge relays and cannot read.
//!
//! TLS 1.3 only, no early data (it could be replayed), tickets for resumption that end with the certificate. The name
//! that the caller asks for in TLS must be the one for which the stream was opened; another is turned away with an
//! alert before any byte of HTTP.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{Acceptor, ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::TlsFiles;
use crate::error::Error;
use crate::upstream::tls::certificates;

/// Ends the inner TLS.
pub struct Inner {
    http: Arc<ServerConfig>,
    raw: Arc<ServerConfig>,
    /// Has no certificate for anybody: what is turned away gets its alert from it.
    none: Arc<ServerConfig>,
    certificate: Arc<CertifiedKey>,
}

/// What a stream carries once its TLS has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// HTTP/1.1.
    Http,
    /// Bytes.
    Raw,
}

/// Why a stream got no further.
#[derive(Debug, thiserror::Error)]
pub enum InnerError {
    /// It took too long.
    #[error("no TLS handshake within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The handshake failed.
    #[error("tls handshake failed: {0}")]
    Handshake(std::io::Error),
    /// The caller wanted another name than the stream was opened for.
    #[error("tls handshake refused: the caller asks for another name than the stream was opened for")]
    Name,
}

#[derive(Debug)]
struct One(Arc<CertifiedKey>);

impl ResolvesServerCert for One {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

#[derive(Debug)]
struct Nobody;

impl ResolvesServerCert for Nobody {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

impl Inner {
    /// Reads certificate and key.
    pub fn load(files: &TlsFiles) -> Result<Inner, Error> {
        let chain = certificates(&files.cert)?;
        let key = private_key(&files.key)?;
        let refuse = |path: &Path, message: String| Error::Certificate {
            path: path.to_owned(),
            message,
        };
        let provider = aws_lc_rs::default_provider();
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| refuse(&files.key, format!("the key cannot be used: {error}")))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| {
            refuse(
                &files.key,
                "it is not the key of the certificate in tls.cert_file".to_owned(),
            )
        })?;
        ParsedCertificate::try_from(&certified.cert[0])
            .map_err(|error| refuse(&files.cert, format!("the certificate cannot be used: {error}")))?;
        let certified = Arc::new(certified);
        let one = Arc::new(One(certified.clone()));
        Ok(Inner {
            http: config(one.clone(), vec![b"http/1.1".to_vec()])?,
            raw: config(one, Vec::new())?,
            none: config(Arc::new(Nobody), Vec::new())?,
            certificate: certified,
        })
    }

    /// Whether the certificate is for a host name, so that callers will take it.
    pub fn covers(&self, host: &str) -> bool {
        let (Ok(parsed), Ok(name)) = (
            ParsedCertificate::try_from(&self.certificate.cert[0]),
            ServerName::try_from(host),
        ) else {
            return false;
        };
        rustls::client::verify_server_name(&parsed, &name).is_ok()
    }

    /// Ends the TLS of a stream that was opened for `host`.
    pub async fn accept<S>(
        &self,
        stream: S,
        host: &str,
        carries: Carries,
        limit: Duration,
    ) -> Result<TlsStream<S>, InnerError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let handshake = async {
            let start = LazyConfigAcceptor::new(Acceptor::default(), stream)
                .await
                .map_err(InnerError::Handshake)?;
            let named = start
                .client_hello()
                .server_name()
                .is_some_and(|name| name.eq_ignore_ascii_case(host));
            if !named {
                // Fails by construction; the caller gets the alert.
                let _ = start.into_stream(self.none.clone()).await;
                return Err(InnerError::Name);
            }
            let config = match carries {
                Carries::Http => &self.http,
                Carries::Raw => &self.raw,
            };
            start.into_stream(config.clone()).await.map_err(InnerError::Handshake)
        };
        tokio::time::timeout(limit, handshake)
            .await
            .map_err(|_| InnerError::Timeout(limit))?
    }
}

fn config(resolver: Arc<dyn ResolvesServerCert>, protocols: Vec<Vec<u8>>) -> Result<Arc<ServerConfig>, Error> {
    let setup = |error: rustls::Error| Error::Links(format!("the inner TLS cannot be set up: {error}"));
    let mut config = outwork_tunnel::inner::server_config(resolver).map_err(setup)?;
    config.alpn_protocols = protocols;
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let bytes = zeroize::Zeroizing::new(bytes);
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| Error::Certificate {
        path: path.to_owned(),
        message: "it holds no private key in PEM: -----BEGIN PRIVATE KEY----- is missing or damaged".to_owned(),
    })
}
