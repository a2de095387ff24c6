//! Whom the gateway takes for an upstream: the owner's authorities, the system's, or both.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::error::Error;

/// A client configuration. With a file of authorities only those count, unless the system's are asked for too; without
/// one, the system's.
pub fn client_config(ca_file: Option<&Path>, system_too: bool) -> Result<Arc<ClientConfig>, Error> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let refuse = |message: String| Error::Certificate {
            path: path.to_owned(),
            message,
        };
        for certificate in certificates(path)? {
            roots
                .add(certificate)
                .map_err(|error| refuse(format!("an authority cannot be used: {error}")))?;
        }
    }
    if ca_file.is_none() || system_too {
        let found = rustls_native_certs::load_native_certs();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 && system_too {
            tracing::warn!("the system has no certificate authorities that can be used");
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .expect("the provider has cipher suites for both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The certificates of a PEM file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::File {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    let refuse = |message: String| Error::Certificate {
        path: path.to_owned(),
        message,
    };
    let found = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| refuse(format!("it is not PEM: {error}")))?;
    if found.is_empty() {
        return Err(refuse(
            "it holds no certificate: -----BEGIN CERTIFICATE----- is missing".to_owned(),
        ));
    }
    Ok(found)
}
