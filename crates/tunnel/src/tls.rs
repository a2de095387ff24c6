//! The outer TLS, which hides the tunnel from the network between: the edge's identity, and whom a gateway trusts.
//!
//! TLS 1.3 only. A gateway trusts the public authorities, or a file's authorities and nothing else, or one certificate
//! by its fingerprint and nothing else. The post-quantum key exchange is offered first.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ResolvesServerCert;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme, version,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::certificate::{fingerprint, parse_fingerprint};

const CERTIFICATE_FILE: &str = "edge.crt";
const KEY_FILE: &str = "edge.key";

/// What could not be made of certificates and keys.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// A file with a private key can be read by others.
    #[error("{0}: others may read this private key; set its mode to 0600")]
    Mode(PathBuf),
    /// A file does not hold what it should.
    #[error("{path}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What was expected.
        reason: String,
    },
    /// A certificate and key can not be used.
    #[error("the certificate and key of the edge can not be used: {0}")]
    Identity(rustls::Error),
    /// Authorities can not be used.
    #[error("the authorities to trust can not be used: {0}")]
    Authorities(String),
    /// A fingerprint has another form.
    #[error("`{0}` is not a SHA-256 fingerprint: 64 hexadecimal digits, with or without colons")]
    Fingerprint(String),
    /// A certificate could not be made.
    #[error("a certificate could not be made for these names: {0}")]
    Make(#[from] rcgen::Error),
}

/// Who an edge is: what it shows to gateways.
#[derive(Clone)]
pub struct Identity {
    pub(crate) resolver: Arc<dyn ResolvesServerCert>,
    /// Derived from the key, so that an edge that was restarted can tell gateways that it forgot their connections.
    pub(crate) reset_key: Option<Arc<Zeroizing<[u8; 64]>>>,
    fingerprint: Option<String>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl Identity {
    /// The identity of a certificate chain, the server's own first, and its key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        let mut reset_key = Zeroizing::new([0u8; 64]);
        reset_key[..32].copy_from_slice(&derive(b"outwork tunnel reset key 1", key.secret_der()));
        reset_key[32..].copy_from_slice(&derive(b"outwork tunnel reset key 2", key.secret_der()));
        let fingerprint = chain.first().map(|leaf| fingerprint(leaf));
        let config = ServerConfig::builder_with_provider(outer_provider())
            .with_protocol_versions(&[&version::TLS13])
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(TlsError::Identity)?;
        Ok(Self { resolver: config.cert_resolver, reset_key: Some(Arc::new(reset_key)), fingerprint })
    }

    /// The identity that a server's configuration shows; its other settings are not used. A gateway notices an edge
    /// with such an identity that was restarted only by its silence.
    pub fn from_config(config: &ServerConfig) -> Self {
        Self { resolver: config.cert_resolver.clone(), reset_key: None, fingerprint: None }
    }

    /// The identity of two PEM files.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let chain = read_certificates(certificate)?;
        let pem = Zeroizing::new(read(key)?);
        let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| TlsError::Content {
            path: key.to_owned(),
            reason: format!("a private key in PEM is expected ({error})"),
        })?;
        Self::new(chain, key)
    }

    /// The self-signed identity that a folder keeps, made for `hosts` if it holds none; valid for ten years, since
    /// gateways pin it. The key's file has mode 0600; one that others may read is refused.
    pub fn self_signed(folder: &Path, hosts: &[String]) -> Result<Self, TlsError> {
        let (certificate_path, key_path) = (folder.join(CERTIFICATE_FILE), folder.join(KEY_FILE));
        if !key_path.exists() {
            let (certificate, key) = make_self_signed(hosts)?;
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(|source| TlsError::File { path: folder.to_owned(), source })?;
            // The key goes last: its presence says that both are there.
            write(&certificate_path, certificate.as_bytes(), 0o644)?;
            write(&key_path, key.as_bytes(), 0o600)?;
        }
        let mode = fs::metadata(&key_path)
            .map_err(|source| TlsError::File { path: key_path.clone(), source })?
            .permissions()
            .mode();
        if mode & 0o077 != 0 {
            return Err(TlsError::Mode(key_path));
        }
        Self::from_files(&certificate_path, &key_path)
    }

    /// The SHA-256 of the certificate in lower-case hexadecimal, for gateways that pin it; unknown for an identity from
    /// a server's configuration.
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    pub(crate) fn server_config(&self, alpn: &[u8]) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(outer_provider())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(TlsError::Identity)?
            .with_no_client_auth()
            .with_cert_resolver(self.resolver.clone());
        config.alpn_protocols = vec![alpn.to_vec()];
        // Connections live for days; tickets would only tie them together.
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// Whom a gateway takes for the edge.
#[derive(Debug, Clone)]
pub enum Trust {
    /// The public authorities.
    Public,
    /// These authorities only.
    Authorities(Vec<CertificateDer<'static>>),
    /// The certificate with this SHA-256 only, whatever its names and dates.
    Fingerprint([u8; 32]),
}

impl Trust {
    /// The authorities of a PEM file.
    pub fn from_file(path: &Path) -> Result<Self, TlsError> {
        Ok(Self::Authorities(read_certificates(path)?))
    }

    /// The fingerprint of a certificate, in hexadecimal with or without colons.
    pub fn from_fingerprint(text: &str) -> Result<Self, TlsError> {
        parse_fingerprint(text).map(Self::Fingerprint).ok_or_else(|| TlsError::Fingerprint(text.to_owned()))
    }

    pub(crate) fn client_config(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>, TlsError> {
        let provider = outer_provider();
        let verifier: Arc<dyn ServerCertVerifier> = match self {
            Self::Public => {
                let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
                webpki(roots, &provider)?
            }
            Self::Authorities(authorities) => {
                let mut roots = RootCertStore::empty();
                for authority in authorities {
                    roots.add(authority.clone()).map_err(|error| TlsError::Authorities(error.to_string()))?;
                }
                webpki(roots, &provider)?
            }
            Self::Fingerprint(pinned) => Arc::new(Pinned { pinned: *pinned, provider: provider.clone() }),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| TlsError::Authorities(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }
}

fn webpki(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| TlsError::Authorities(error.to_string()))
}

/// Accepts one certificate, if the server proves that it has its key.
#[derive(Debug)]
struct Pinned {
    pinned: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Sha256::digest(leaf).as_slice() == self.pinned {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// AES-128 first: of equal worth here and the cheapest where the processor has AES.
pub(crate) fn provider(groups: Vec<&'static dyn rustls::crypto::SupportedKxGroup>) -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: groups,
        ..aws_lc_rs::default_provider()
    })
}

fn outer_provider() -> Arc<CryptoProvider> {
    provider(vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1])
}

fn derive(label: &[u8], key: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update(label).chain_update(key).finalize().into()
}

fn make_self_signed(hosts: &[String]) -> Result<(String, Zeroizing<String>), TlsError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(hosts.to_vec())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "outwork tunnel edge");
    crate::certificate::valid_for(&mut params, outwork_wire::Time::now(), std::time::Duration::from_secs(3650 * 86_400));
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), Zeroizing::new(key.serialize_pem())))
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let chain = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(TlsError::Content { path: path.to_owned(), reason: "it holds no certificate in PEM".into() }),
        Err(error) => Err(TlsError::Content {
            path: path.to_owned(),
            reason: format!("certificates in PEM are expected ({error})"),
        }),
    }
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let failed = |source| TlsError::File { path: path.to_owned(), source };
    let aside = path.with_extension("new");
    // A file that a crash left has the mode of its time: it is made anew.
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&aside, path).map_err(failed)
}
