//! Certificates of the inner TLS: the rules for an authority that a tunnel's owner registers, and the making of
//! authorities and server certificates for a gateway.
//!
//! [`Authority::parse`] refuses whatever breaks a rule and says what to change; it never keeps a private key that
//! somebody sent by mistake. Private keys have no `Debug` here.

mod authority;
mod make;
mod server;

use std::time::Duration;

use outwork_wire::Time;
use rcgen::CertificateParams;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

pub use self::authority::{Authority, AuthorityError, MAX_PEM};
pub use self::make::{
    AUTHORITY_LIFETIME, MadeAuthority, MakeError, SERVER_LIFETIME, ServerCertificate, make_authority,
    make_server_certificate,
};

pub use self::server::{ServerError, check_server};

/// The SHA-256 of a certificate in lower-case hexadecimal.
pub fn fingerprint(der: &[u8]) -> String {
    Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first certificate of a PEM text; `None` if it holds none.
pub fn der(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).ok()
}

/// The bytes of a fingerprint in hexadecimal, with or without colons, in either case.
pub fn parse_fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.trim().bytes().filter(|byte| *byte != b':').collect();
    if digits.len() != 64 {
        return None;
    }
    let mut out = [0u8; 32];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(value(pair[0])? * 16 + value(pair[1])?).ok()?;
    }
    Some(out)
}

/// When the first certificate of a PEM text expires; `None` if it holds none that can be read.
pub fn expires_at(pem: &str) -> Option<Time> {
    not_after(&der(pem)?)
}

/// When a certificate expires.
pub(crate) fn not_after(der: &[u8]) -> Option<Time> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(time(certificate.validity().not_after))
}

/// The id of the key that a certificate names as its issuer's.
pub(crate) fn authority_key_id(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
            _ => None,
        })
}

/// The id of a certificate's own key.
pub(crate) fn subject_key_id(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
}

fn time(at: x509_parser::time::ASN1Time) -> Time {
    Time::from_micros(at.timestamp().saturating_mul(1_000_000))
}

/// Valid from an hour before `now`, since clocks differ, for `lifetime` after it.
pub(crate) fn valid_for(params: &mut CertificateParams, now: Time, lifetime: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_micros(u64::try_from(now.as_micros()).unwrap_or(0));
    params.not_before = epoch + now.saturating_sub(Duration::from_secs(3600));
    params.not_after = epoch + now.saturating_add(lifetime);
}

#[cfg(test)]
mod tests;
