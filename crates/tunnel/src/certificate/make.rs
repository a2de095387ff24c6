//! Making authorities and the server certificates that they sign.

use std::time::Duration;

use outwork_wire::Time;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{Authority, AuthorityError, valid_for};
use crate::frame::is_host;

/// How long an authority lives: five years.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(5 * 365 * 86_400);
/// How long a server certificate lives unless told otherwise: 90 days.
pub const SERVER_LIFETIME: Duration = Duration::from_secs(90 * 86_400);

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The domain is not a name.
    #[error("`{0}` is not a domain that a certificate can have: a lower-case name is expected")]
    Domain(String),
    /// The library refused.
    #[error("the certificate could not be made: {0}")]
    Library(#[from] rcgen::Error),
    /// The authority can not sign.
    #[error("the authority can not be used: {0}")]
    Authority(#[from] AuthorityError),
    /// The key belongs to another certificate.
    #[error("the private key is not that of the authority's certificate")]
    OtherKey,
}

/// An authority and its key.
pub struct MadeAuthority {
    /// The certificate in PEM.
    pub certificate_pem: String,
    /// The key in PEM.
    pub key_pem: SecretString,
    authority: Authority,
}

impl std::fmt::Debug for MadeAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadeAuthority")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

impl MadeAuthority {
    /// An authority that was made earlier, or by other means.
    pub fn from_pem(certificate_pem: String, key_pem: SecretString, now: Time) -> Result<Self, MakeError> {
        let authority = Authority::parse(&certificate_pem, now)?;
        let key = KeyPair::from_pem(key_pem.expose_secret())?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&authority.der).map_err(|_| AuthorityError::Malformed)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(MakeError::OtherKey);
        }
        Ok(Self {
            certificate_pem,
            key_pem,
            authority,
        })
    }

    /// What is registered with the tunnel.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

/// A server certificate and its key.
pub struct ServerCertificate {
    /// The certificate in PEM.
    pub certificate_pem: String,
    /// The key in PEM.
    pub key_pem: SecretString,
    /// When it expires.
    pub expires_at: Time,
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerCertificate")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// Makes an authority: ECDSA P-256, five years.
pub fn make_authority(name: &str, now: Time) -> Result<MadeAuthority, MakeError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    // It signs servers and no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, now, AUTHORITY_LIFETIME);
    let certificate = params.self_signed(&key)?;
    let certificate_pem = certificate.pem();
    let authority = Authority::parse(&certificate_pem, now)?;
    Ok(MadeAuthority {
        certificate_pem,
        key_pem: secret(&key),
        authority,
    })
}

/// Makes a certificate for `domain` and every name one level under it: ECDSA P-256, signed by `authority`, valid for
/// `lifetime` but no longer than the authority.
pub fn make_server_certificate(
    authority: &MadeAuthority,
    domain: &str,
    lifetime: Duration,
    now: Time,
) -> Result<ServerCertificate, MakeError> {
    if !is_host(domain) {
        return Err(MakeError::Domain(domain.chars().take(64).collect()));
    }
    let issuer = Issuer::from_ca_cert_der(
        &authority.authority.der,
        KeyPair::from_pem(authority.key_pem.expose_secret())?,
    )?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![format!("*.{domain}"), domain.to_owned()])?;
    params.distinguished_name = named(domain);
    // The extension must be there: an end entity, with its own key id.
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let left = authority
        .authority
        .expires_at
        .as_micros()
        .saturating_sub(now.as_micros());
    let left = Duration::from_micros(u64::try_from(left).unwrap_or(0));
    valid_for(&mut params, now, lifetime.min(left));
    let certificate = params.signed_by(&key, &issuer)?;
    let expires_at = super::not_after(certificate.der()).ok_or(AuthorityError::Malformed)?;
    Ok(ServerCertificate {
        certificate_pem: certificate.pem(),
        key_pem: secret(&key),
        expires_at,
    })
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    // 64 characters are the bound of a common name; a longer domain still stands among the alternative names.
    distinguished.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    distinguished
}

fn secret(key: &KeyPair) -> SecretString {
    let pem = Zeroizing::new(key.serialize_pem());
    SecretString::from(pem.as_str())
}
