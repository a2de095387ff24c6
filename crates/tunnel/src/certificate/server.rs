//! Whether a server certificate will be taken: the same check that the plane makes, before a gateway shows it.

use outwork_wire::Time;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::{Authority, not_after};
use crate::inner::{InnerError, verify};

/// Why a server certificate would not be taken.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no certificate in the text.
    #[error("it holds no certificate in PEM")]
    NoCertificate,
    /// There is no private key in the text.
    #[error("it holds no private key in PEM")]
    NoKey,
    /// The key belongs to another certificate.
    #[error("the private key is not that of the certificate")]
    OtherKey,
    /// The plane would not trust it.
    #[error(transparent)]
    Refused(#[from] InnerError),
}

/// Checks the first certificate of a PEM text and its key for `domain` and the names under it, as signed by `authority`.
/// Gives when the certificate expires.
pub fn check_server(
    certificate_pem: &str,
    key_pem: &str,
    authority: &Authority,
    domain: &str,
    now: Time,
) -> Result<Time, ServerError> {
    let leaf = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|_| ServerError::NoCertificate)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| ServerError::NoKey)?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|_| ServerError::NoKey)?;
    rustls::sign::CertifiedKey::new(vec![leaf.clone()], key)
        .keys_match()
        .map_err(|_| ServerError::OtherKey)?;
    // A label that stands for all of them: the certificate has a wildcard.
    for host in [domain.to_owned(), format!("any.{domain}")] {
        verify(&leaf, &host, std::slice::from_ref(&authority.der), now)?;
    }
    not_after(&leaf).ok_or(ServerError::NoCertificate)
}
