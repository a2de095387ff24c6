//! The rules for a certificate authority that is registered with a tunnel.

use outwork_wire::Time;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::asn1_rs::{Any, Oid, oid};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;
use x509_parser::signature_algorithm::RsaSsaPssParams;

use super::{fingerprint, subject_key_id, time};

/// The longest PEM text, in bytes.
pub const MAX_PEM: usize = 8192;

const MIN_RSA_BITS: usize = 2048;
const MAX_RSA_BITS: usize = 8192;

/// A certificate that keeps every rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// Its SHA-256 in lower-case hexadecimal.
    pub fingerprint: String,
    /// When it expires.
    pub expires_at: Time,
}

/// The rule that a certificate breaks, and what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The text is too long.
    #[error("the PEM text is {0} bytes long and may have {MAX_PEM}; send the authority's certificate alone")]
    TooLong(usize),
    /// The text holds a private key.
    #[error("the PEM text holds a private key; send the certificate alone and treat that key as exposed")]
    PrivateKey,
    /// The text holds no certificate.
    #[error("the text holds no certificate in PEM; it must begin with `-----BEGIN CERTIFICATE-----`")]
    NoCertificate,
    /// The text holds more than one object.
    #[error("the PEM text holds {0} objects; send exactly one certificate, that of the authority itself")]
    Several(usize),
    /// The certificate can not be read.
    #[error("the certificate can not be read; export it again as X.509 version 3 in PEM")]
    Malformed,
    /// The certificate is no authority's.
    #[error(
        "the certificate is not an authority's: basic constraints must say CA:TRUE; send the authority's certificate and not the server's"
    )]
    NotAuthority,
    /// Basic constraints are not critical.
    #[error("basic constraints must be marked critical; make the certificate with `basicConstraints=critical,CA:TRUE`")]
    NotCritical,
    /// There is no subject key identifier.
    #[error("the subject key identifier is missing; make the certificate with `subjectKeyIdentifier=hash`")]
    NoSubjectKeyId,
    /// The key may not sign certificates.
    #[error("key usage must include keyCertSign; make the certificate with `keyUsage=critical,keyCertSign,cRLSign`")]
    NoKeyCertSign,
    /// The certificate is for later.
    #[error("the certificate is valid from {0} only; register it then, or check the clock of the machine that made it")]
    NotYetValid(Time),
    /// The certificate has expired.
    #[error("the certificate expired on {0}; make a new authority and register that")]
    Expired(Time),
    /// The RSA key is too short or too long.
    #[error("the RSA key has {0} bits; use {MIN_RSA_BITS} to {MAX_RSA_BITS}, or ECDSA P-256")]
    RsaSize(usize),
    /// The key is of another kind.
    #[error(
        "the key is of a kind that is not accepted; use ECDSA on P-256, P-384 or P-521, or RSA with at least {MIN_RSA_BITS} bits"
    )]
    KeyKind,
    /// The signature is too weak.
    #[error("the certificate's signature must use SHA-256 or better; make it again with `-sha256`")]
    WeakSignature,
}

impl AuthorityError {
    /// The name of the rule that is broken, for programs.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "size",
            Self::PrivateKey => "no_private_key",
            Self::NoCertificate | Self::Several(_) => "one_certificate",
            Self::Malformed => "pem",
            Self::NotAuthority | Self::NotCritical => "ca_true_critical",
            Self::NoSubjectKeyId => "subject_key_identifier",
            Self::NoKeyCertSign => "key_cert_sign",
            Self::NotYetValid(_) | Self::Expired(_) => "valid_now",
            Self::RsaSize(_) | Self::KeyKind => "key",
            Self::WeakSignature => "signature_hash",
        }
    }
}

impl Authority {
    /// The authority of a PEM text, if it keeps every rule at the time `now`.
    pub fn parse(pem: &str, now: Time) -> Result<Self, AuthorityError> {
        if pem.len() > MAX_PEM {
            return Err(AuthorityError::TooLong(pem.len()));
        }
        // The label is looked for in the text, since kinds of keys that the parser does not know would be skipped.
        if pem.contains("PRIVATE KEY-----") {
            return Err(AuthorityError::PrivateKey);
        }
        match pem.matches("-----BEGIN ").count() {
            0 => return Err(AuthorityError::NoCertificate),
            1 => {}
            several => return Err(AuthorityError::Several(several)),
        }
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| AuthorityError::NoCertificate)?;
        let (rest, certificate) = X509Certificate::from_der(&der).map_err(|_| AuthorityError::Malformed)?;
        if !rest.is_empty() {
            return Err(AuthorityError::Malformed);
        }
        check(&certificate, now)?;
        if subject_key_id(&der).is_none_or(|id| id.is_empty()) {
            return Err(AuthorityError::NoSubjectKeyId);
        }
        // What the verifier can not use would only fail later.
        RootCertStore::empty()
            .add(der.clone())
            .map_err(|_| AuthorityError::Malformed)?;
        let expires_at = time(certificate.validity().not_after);
        let fingerprint = fingerprint(&der);
        Ok(Self {
            der,
            fingerprint,
            expires_at,
        })
    }
}

fn check(certificate: &X509Certificate<'_>, now: Time) -> Result<(), AuthorityError> {
    // An extension that occurs twice is an error of each of these.
    let constraints = certificate.basic_constraints().map_err(|_| AuthorityError::Malformed)?;
    let constraints = constraints
        .filter(|found| found.value.ca)
        .ok_or(AuthorityError::NotAuthority)?;
    if !constraints.critical {
        return Err(AuthorityError::NotCritical);
    }
    let usage = certificate.key_usage().map_err(|_| AuthorityError::Malformed)?;
    if !usage.is_some_and(|found| found.value.key_cert_sign()) {
        return Err(AuthorityError::NoKeyCertSign);
    }
    let (from, until) = (
        time(certificate.validity().not_before),
        time(certificate.validity().not_after),
    );
    if now < from {
        return Err(AuthorityError::NotYetValid(from));
    }
    if now > until {
        return Err(AuthorityError::Expired(until));
    }
    check_key(certificate)?;
    check_signature(certificate)
}

fn check_key(certificate: &X509Certificate<'_>) -> Result<(), AuthorityError> {
    const CURVES: [Oid<'static>; 3] = [oid!(1.2.840.10045.3.1.7), oid!(1.3.132.0.34), oid!(1.3.132.0.35)];
    let key = certificate.public_key();
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => {
            let bits = bits(rsa.modulus);
            if (MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
                Ok(())
            } else {
                Err(AuthorityError::RsaSize(bits))
            }
        }
        Ok(PublicKey::EC(_)) => {
            let curve = key
                .algorithm
                .parameters
                .as_ref()
                .and_then(|parameters| parameters.as_oid().ok());
            if curve.is_some_and(|curve| CURVES.contains(&curve)) {
                Ok(())
            } else {
                Err(AuthorityError::KeyKind)
            }
        }
        Ok(_) | Err(_) => Err(AuthorityError::KeyKind),
    }
}

fn check_signature(certificate: &X509Certificate<'_>) -> Result<(), AuthorityError> {
    const STRONG: [Oid<'static>; 6] = [
        oid!(1.2.840.113549.1.1.11),
        oid!(1.2.840.113549.1.1.12),
        oid!(1.2.840.113549.1.1.13),
        oid!(1.2.840.10045.4.3.2),
        oid!(1.2.840.10045.4.3.3),
        oid!(1.2.840.10045.4.3.4),
    ];
    const PSS: Oid<'static> = oid!(1.2.840.113549.1.1.10);
    const HASHES: [Oid<'static>; 3] = [
        oid!(2.16.840.1.101.3.4.2.1),
        oid!(2.16.840.1.101.3.4.2.2),
        oid!(2.16.840.1.101.3.4.2.3),
    ];
    let algorithm = &certificate.signature_algorithm;
    let strong = if algorithm.algorithm == PSS {
        // Without a hash it is SHA-1.
        let parameters: Option<&Any<'_>> = algorithm.parameters.as_ref();
        parameters
            .and_then(|any| RsaSsaPssParams::try_from(any).ok())
            .and_then(|pss| pss.hash_algorithm().map(|hash| HASHES.contains(&hash.algorithm)))
            .unwrap_or(false)
    } else {
        STRONG.contains(&algorithm.algorithm)
    };
    if strong {
        Ok(())
    } else {
        Err(AuthorityError::WeakSignature)
    }
}

/// The bits of a number in big-endian bytes.
fn bits(number: &[u8]) -> usize {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    match number[zeros..] {
        [] => 0,
        [first, ..] => (number.len() - zeros) * 8 - first.leading_zeros() as usize,
    }
}
