//! The plane's side of the inner TLS: from the plane to the gateway, inside a stream, so that the edge between them sees
//! ciphertext.
//!
//! The gateway's certificate must be signed directly by an authority that the tunnel's owner registered, name that
//! authority's key if it names one, and have the host among its names; there is no other way in, and without authorities
//! nothing is sent. TLS 1.3 only, with resumption: a
//! session is resumed only under the same set of authorities and the same host, never with early data, and the whole
//! check is made anew at least every hour.
//!
//! [`server_config`] is the other side, for gateways.

mod early;
mod sessions;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use outwork_wire::Time;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::server::ResolvesServerCert;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, version,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
pub use tokio_rustls::client::TlsStream;

pub use self::early::Early;
use self::sessions::Sessions;
use crate::certificate::{authority_key_id, not_after, subject_key_id};
use crate::edge::{Handle, OpenError};

const ALPN: &[u8] = b"http/1.1";
/// After how long a configuration, and with it every session to resume, is forgotten.
const LIFETIME: Duration = Duration::from_secs(3600);
/// Authority sets that are kept.
const CAPACITY: usize = 1024;

/// Why the gateway is not trusted, by the rule that failed.
#[derive(Debug, thiserror::Error)]
pub enum InnerError {
    /// No authority is registered.
    #[error(
        "the tunnel has no active certificate authority; register the authority that signs the gateway's certificate"
    )]
    NoAuthority,
    /// A registered authority is not a certificate.
    #[error("a registered authority can not be used: {0}")]
    Authority(String),
    /// The host can not stand in a certificate.
    #[error("`{0}` is not a name that a certificate can have")]
    Host(String),
    /// The certificate is signed by somebody else.
    #[error("the gateway's certificate is not signed by an authority that is registered for this tunnel")]
    UnknownAuthority,
    /// The certificate is for other names.
    #[error("the gateway's certificate is not valid for `{host}`; it names {}", names(.presented))]
    WrongName {
        /// The host that was wanted.
        host: String,
        /// The names that the certificate has.
        presented: Vec<String>,
    },
    /// The certificate is out of date.
    #[error("the gateway's certificate, or its authority's, has expired; renew it")]
    Expired,
    /// The certificate is for later.
    #[error("the gateway's certificate, or its authority's, is not valid yet; check the clocks")]
    NotYetValid,
    /// The certificate is for another purpose.
    #[error("the gateway's certificate is not for servers: its extended key usage lacks serverAuth")]
    WrongPurpose,
    /// The certificate names another key as its issuer's.
    #[error(
        "the gateway's certificate names another key as its authority's: its authority key identifier matches none that is registered"
    )]
    OtherAuthorityKey,
    /// Another rule of the certificate failed.
    #[error("the gateway's certificate is not valid: {0}")]
    Certificate(String),
    /// TLS failed otherwise.
    #[error("TLS with the gateway failed: {0}")]
    Tls(rustls::Error),
    /// The stream failed.
    #[error("the stream to the gateway failed during TLS: {0}")]
    Stream(io::Error),
}

/// Why a gateway's server was not reached.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// There is no stream.
    #[error(transparent)]
    Open(OpenError),
    /// There is a stream, and the gateway is not trusted, or TLS failed.
    #[error(transparent)]
    Inner(InnerError),
    /// The gateway did not finish TLS in time.
    #[error("the gateway did not finish the TLS handshake in time")]
    TimedOut,
}

fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        "nothing".to_owned()
    } else {
        presented.join(", ")
    }
}

/// Opens inner TLS and keeps what makes it cheap: one configuration per set of authorities, with its sessions.
#[derive(Debug)]
pub struct Connector {
    provider: Arc<CryptoProvider>,
    configs: Mutex<HashMap<[u8; 32], Made>>,
    lifetime: Duration,
}

/// A configuration and when it was made.
type Made = (Instant, Arc<ClientConfig>);

impl Default for Connector {
    fn default() -> Self {
        Self::new()
    }
}

impl Connector {
    /// A connector that remembers nothing yet.
    pub fn new() -> Self {
        Self {
            provider: provider(),
            configs: Mutex::default(),
            lifetime: LIFETIME,
        }
    }

    /// Opens TLS to the gateway inside a stream. `authorities` are those that are active for the stream's tunnel; expired
    /// ones do not count. The caller bounds the time.
    pub async fn connect<S>(
        &self,
        stream: S,
        host: &str,
        authorities: &[CertificateDer<'_>],
    ) -> Result<TlsStream<S>, InnerError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let config = self.config(authorities)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| InnerError::Host(host.to_owned()))?;
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|error| sort(error, host))
    }

    /// Opens a stream of a tunnel and TLS in it at once: the first flight of TLS goes along with the question for the
    /// stream, one round trip earlier than by [`Connector::connect`]. The deadline is for both.
    pub async fn open(
        &self,
        edge: &Handle,
        tunnel_id: &str,
        host: &str,
        authorities: &[CertificateDer<'_>],
        deadline: tokio::time::Instant,
    ) -> Result<TlsStream<Early>, ReachError> {
        let early = Early::new(edge.clone(), tunnel_id, host, deadline);
        match tokio::time::timeout_at(deadline, self.connect(early, host, authorities)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(InnerError::Stream(error))) => Err(match error.downcast::<OpenError>() {
                Ok(error) => ReachError::Open(error),
                Err(error) => ReachError::Inner(InnerError::Stream(error)),
            }),
            Ok(Err(error)) => Err(ReachError::Inner(error)),
            Err(_) => Err(ReachError::TimedOut),
        }
    }

    fn config(&self, authorities: &[CertificateDer<'_>]) -> Result<Arc<ClientConfig>, InnerError> {
        if authorities.is_empty() {
            return Err(InnerError::NoAuthority);
        }
        let key = key(authorities);
        // A map is whole whatever panicked beside it.
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made, config)) = configs.get(&key)
            && made.elapsed() < self.lifetime
        {
            return Ok(config.clone());
        }
        let config = Arc::new(self.make(authorities)?);
        if configs.len() >= CAPACITY {
            configs.retain(|_, (made, _)| made.elapsed() < self.lifetime);
        }
        if configs.len() >= CAPACITY
            && let Some(oldest) = configs.iter().min_by_key(|(_, (made, _))| *made).map(|(key, _)| *key)
        {
            configs.remove(&oldest);
        }
        configs.insert(key, (Instant::now(), config.clone()));
        Ok(config)
    }

    fn make(&self, authorities: &[CertificateDer<'_>]) -> Result<ClientConfig, InnerError> {
        let verifier = Arc::new(direct(&self.provider, authorities, Time::now())?);
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(InnerError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::store(Arc::new(Sessions::default()));
        Ok(config)
    }
}

/// The check of a gateway's certificate, alone.
pub(crate) fn verify(
    leaf: &CertificateDer<'_>,
    host: &str,
    authorities: &[CertificateDer<'_>],
    now: Time,
) -> Result<(), InnerError> {
    let name = ServerName::try_from(host).map_err(|_| InnerError::Host(host.to_owned()))?;
    let seconds = u64::try_from(now.as_micros() / 1_000_000).unwrap_or(0);
    let now_unix = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let verified = direct(&provider(), authorities, now)?.verify_server_cert(leaf, &[], &name, &[], now_unix);
    match verified {
        Ok(_) => Ok(()),
        Err(error) => Err(sort(io::Error::other(error), host)),
    }
}

/// The verifier for a set of authorities; those that have expired do not count.
fn direct(provider: &Arc<CryptoProvider>, authorities: &[CertificateDer<'_>], now: Time) -> Result<Direct, InnerError> {
    let mut roots = RootCertStore::empty();
    let mut key_ids = Vec::new();
    for authority in authorities {
        // The library does not look at the dates of an authority.
        if not_after(authority).is_some_and(|until| until > now) {
            roots
                .add(authority.clone().into_owned())
                .map_err(|error| InnerError::Authority(error.to_string()))?;
            key_ids.extend(subject_key_id(authority));
        }
    }
    if roots.is_empty() {
        return Err(InnerError::Expired);
    }
    let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| InnerError::Authority(error.to_string()))?;
    Ok(Direct { webpki, key_ids })
}

/// Takes certificates that an authority signed itself: intermediates are not looked at.
#[derive(Debug)]
struct Direct {
    webpki: Arc<WebPkiServerVerifier>,
    key_ids: Vec<Vec<u8>>,
}

impl ServerCertVerifier for Direct {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.webpki.verify_server_cert(leaf, &[], name, ocsp, now)?;
        match authority_key_id(leaf) {
            Some(id) if !self.key_ids.contains(&id) => Err(CertificateError::ApplicationVerificationFailure.into()),
            _ => Ok(verified),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// The gateway's side: TLS 1.3, ALPN http/1.1, stateless tickets. The resolver gives the certificate, so that it can be
/// exchanged while connections live.
pub fn server_config(resolver: Arc<dyn ResolvesServerCert>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    crate::tls::provider(vec![kx_group::X25519, kx_group::SECP256R1])
}

/// The same set of authorities has the same key, in whatever order it comes.
fn key(authorities: &[CertificateDer<'_>]) -> [u8; 32] {
    let mut digests: Vec<[u8; 32]> = authorities.iter().map(|der| Sha256::digest(der).into()).collect();
    digests.sort_unstable();
    digests
        .iter()
        .fold(Sha256::new(), |hash, digest| hash.chain_update(digest))
        .finalize()
        .into()
}

fn sort(error: io::Error, host: &str) -> InnerError {
    let tls = match error.downcast::<rustls::Error>() {
        Ok(tls) => tls,
        Err(error) => return InnerError::Stream(error),
    };
    let rustls::Error::InvalidCertificate(rule) = tls else {
        return InnerError::Tls(tls);
    };
    match rule {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => InnerError::UnknownAuthority,
        CertificateError::NotValidForName => InnerError::WrongName {
            host: host.to_owned(),
            presented: Vec::new(),
        },
        CertificateError::NotValidForNameContext { presented, .. } => InnerError::WrongName {
            host: host.to_owned(),
            presented,
        },
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => InnerError::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => InnerError::NotYetValid,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => InnerError::WrongPurpose,
        CertificateError::ApplicationVerificationFailure => InnerError::OtherAuthorityKey,
        other => InnerError::Certificate(format!("{other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_authorities_has_one_configuration_until_its_time_is_over() {
        let one = crate::certificate::make_authority("one", outwork_wire::Time::now()).unwrap();
        let two = crate::certificate::make_authority("two", outwork_wire::Time::now()).unwrap();
        let (one, two) = (one.authority().der.clone(), two.authority().der.clone());
        let mut connector = Connector::new();
        let first = connector.config(&[one.clone(), two.clone()]).unwrap();
        assert!(Arc::ptr_eq(
            &first,
            &connector.config(&[two.clone(), one.clone()]).unwrap()
        ));
        assert!(!Arc::ptr_eq(
            &first,
            &connector.config(std::slice::from_ref(&one)).unwrap()
        ));
        connector.lifetime = Duration::ZERO;
        assert!(!Arc::ptr_eq(&first, &connector.config(&[one, two]).unwrap()));
        assert!(matches!(connector.config(&[]), Err(InnerError::NoAuthority)));
    }
}
