//! The certificate authority of one session.
//!
//! Its certificate is put into the sandbox's trust store and trusted nowhere else; its key lives in this process's
//! memory and ends with the session. Certificates for opened hosts are signed when they are first needed, all for one
//! key, and kept for the next connection.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::error::Error;

/// How long the authority is good for; a session that lives longer gets a new one.
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Clocks of sandboxes that run behind.
const EARLY: Duration = Duration::from_secs(24 * 3600);
/// Certificates that are kept.
const KEPT: u64 = 256;

/// A session's certificate authority.
pub struct SessionAuthority {
    inner: Arc<Inner>,
    config: Arc<ServerConfig>,
}

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    leaf_key: KeyPair,
    signing_key: Arc<dyn rustls::sign::SigningKey>,
    leaves: moka::sync::Cache<String, Arc<CertifiedKey>>,
    from: SystemTime,
}

impl std::fmt::Debug for SessionAuthority {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("SessionAuthority").finish_non_exhaustive()
    }
}

fn failed(action: &'static str) -> impl Fn(rcgen::Error) -> Error {
    move |error| Error::Certificate {
        action,
        reason: error.to_string(),
    }
}

impl SessionAuthority {
    /// A new authority with new keys.
    ///
    /// # Errors
    /// [`Error::Certificate`] or [`Error::Tls`] if the cryptographic library fails.
    pub fn make() -> Result<SessionAuthority, Error> {
        SessionAuthority::make_at(SystemTime::now())
    }

    /// A new authority whose certificates are good from a day before `now`.
    ///
    /// # Errors
    /// As [`make`](SessionAuthority::make).
    pub fn make_at(now: SystemTime) -> Result<SessionAuthority, Error> {
        let action = "make the session's certificate authority";
        let key = KeyPair::generate().map_err(failed(action))?;
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "Outwork");
        // The name is part of what a client searches issuers by: two sessions' authorities must not look alike.
        let serial = serial()?;
        name.push(DnType::CommonName, format!("Outwork session {}", hex(&serial[..6])));
        params.distinguished_name = name;
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let from = now.checked_sub(EARLY).unwrap_or(UNIX_EPOCH);
        (params.not_before, params.not_after) = validity(from);
        let certificate = params.self_signed(&key).map_err(failed(action))?;
        let leaf_key = KeyPair::generate().map_err(failed(action))?;
        let provider = provider();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialized_der().to_vec()));
        let signing_key = provider.key_provider.load_private_key(private)?;
        let inner = Arc::new(Inner {
            pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            leaf_key,
            signing_key,
            leaves: moka::sync::Cache::new(KEPT),
            from,
        });
        let config = inner.config(Arc::new(ByName(inner.clone())))?;
        Ok(SessionAuthority { inner, config })
    }

    /// The certificate, for the sandbox's trust store.
    pub fn certificate_pem(&self) -> &str {
        &self.inner.pem
    }

    /// The certificate in DER.
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.inner.certificate
    }

    /// How a connection of the sandbox is terminated; `address` is for one that says no name.
    pub(crate) fn server_config(&self, name: Option<&str>, address: IpAddr) -> Result<Arc<ServerConfig>, Error> {
        match name {
            // Signed now, so that a failure is an error and not a silent alert.
            Some(name) => self.inner.leaf(name).map(|_| self.config.clone()),
            None => {
                let leaf = self.inner.leaf(&address.to_string())?;
                self.inner.config(Arc::new(Fixed(leaf)))
            }
        }
    }
}

impl Inner {
    fn config(&self, certificates: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>, Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Resumption by tickets: nothing is kept for a client that does not come back.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        Ok(Arc::new(config))
    }

    fn leaf(&self, name: &str) -> Result<Arc<CertifiedKey>, Error> {
        if let Some(leaf) = self.leaves.get(name) {
            return Ok(leaf);
        }
        let leaf = Arc::new(self.sign(name)?);
        self.leaves.insert(name.to_owned(), leaf.clone());
        Ok(leaf)
    }

    fn sign(&self, name: &str) -> Result<CertifiedKey, Error> {
        let action = "sign a certificate of the session";
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.try_into().map_err(failed(action))?),
        }];
        let mut subject = DistinguishedName::new();
        // A common name holds at most 64 characters; clients look at the alternative names.
        if name.len() <= 64 {
            subject.push(DnType::CommonName, name);
        }
        params.distinguished_name = subject;
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&serial()?));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(self.from);
        let certificate = params.signed_by(&self.leaf_key, &self.issuer).map_err(failed(action))?;
        Ok(CertifiedKey::new(
            vec![certificate.der().clone(), self.certificate.clone()],
            self.signing_key.clone(),
        ))
    }
}

/// From when and until when a certificate is good.
fn validity<T: From<SystemTime>>(from: SystemTime) -> (T, T) {
    (T::from(from), T::from(from + LIFE))
}

fn serial() -> Result<[u8; 16], Error> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| Error::Certificate {
        action: "make a random number",
        reason: "the cryptographic library failed".to_owned(),
    })?;
    // Positive, and not zero.
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The one cryptographic provider.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> =
        std::sync::LazyLock::new(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    PROVIDER.clone()
}

/// Certificates by the name that the client says.
struct ByName(Arc<Inner>);

impl std::fmt::Debug for ByName {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("ByName")
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.trim_end_matches('.').to_ascii_lowercase();
        self.0.leaf(&name).ok()
    }
}

#[derive(Debug)]
struct Fixed(Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
