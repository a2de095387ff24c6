//! The rules of a tunnel's certificate authority, each with a name that its refusal carries.
//!
//! The one door is [`check`]. Source: the hosted service's reference of tunnel certificates.

use outwork_wire::Time;
use sha2::{Digest, Sha256};
use x509_parser::der_parser::asn1_rs::Oid;
use x509_parser::der_parser::oid;
use x509_parser::pem::Pem;
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate, X509Version};
use x509_parser::public_key::PublicKey;
use x509_parser::signature_algorithm::SignatureAlgorithm;

/// The largest PEM text, in bytes.
const MAX_PEM: usize = 8 * 1024;
const MIN_RSA_BITS: usize = 2048;
/// The end of time in certificates: RFC 5280, 4.1.2.5, gives it to those that do not expire.
const NEVER: i64 = 253_402_300_799;

/// P-256, P-384, P-521.
const CURVES: [Oid<'static>; 3] = [oid!(1.2.840.10045.3.1.7), oid!(1.3.132.0.34), oid!(1.3.132.0.35)];
/// SHA-256, SHA-384, SHA-512, with RSA and with ECDSA.
const SIGNATURES: [Oid<'static>; 6] = [
    oid!(1.2.840.113549.1.1.11),
    oid!(1.2.840.113549.1.1.12),
    oid!(1.2.840.113549.1.1.13),
    oid!(1.2.840.10045.4.3.2),
    oid!(1.2.840.10045.4.3.3),
    oid!(1.2.840.10045.4.3.4),
];
/// The same hashes alone, as RSASSA-PSS names them.
const HASHES: [Oid<'static>; 3] = [
    oid!(2.16.840.1.101.3.4.2.1),
    oid!(2.16.840.1.101.3.4.2.2),
    oid!(2.16.840.1.101.3.4.2.3),
];

/// A certificate that keeps every rule.
#[derive(Debug)]
pub(crate) struct Authority {
    /// Its DER.
    pub(crate) der: Vec<u8>,
    /// SHA-256 of the DER, in lowercase hexadecimal.
    pub(crate) fingerprint: String,
    /// When it expires; absent if never.
    pub(crate) expires_at: Option<Time>,
}

/// A rule that a certificate breaks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// The rule's name, for programs.
    pub(crate) rule: &'static str,
    /// What is wrong and what to do, for people.
    pub(crate) message: String,
}

fn broken<T>(rule: &'static str, message: impl Into<String>) -> Result<T, Broken> {
    Err(Broken {
        rule,
        message: message.into(),
    })
}

/// Reads the PEM text of a certificate authority and checks every rule.
pub(crate) fn check(pem: &str, now: Time) -> Result<Authority, Broken> {
    let der = one_certificate(pem)?;
    let certificate = match X509Certificate::from_der(&der) {
        Ok(([], certificate)) => certificate,
        Ok(_) => return broken("pem", "there is something behind the certificate in its PEM block"),
        Err(_) => return broken("pem", "the PEM block does not hold an X.509 certificate"),
    };
    check_extensions(&certificate)?;
    check_validity(&certificate, now)?;
    check_key(&certificate)?;
    check_signature(&certificate)?;
    let not_after = certificate.validity().not_after.timestamp();
    let expires_at = (not_after < NEVER).then(|| Time::from_micros(not_after.saturating_mul(1_000_000)));
    let fingerprint = Sha256::digest(&der).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Authority {
        fingerprint,
        expires_at,
        der,
    })
}

fn one_certificate(pem: &str) -> Result<Vec<u8>, Broken> {
    if pem.len() > MAX_PEM {
        return broken(
            "size",
            format!("it has {} bytes; at most {MAX_PEM} are taken", pem.len()),
        );
    }
    if pem.contains("PRIVATE KEY") {
        return broken(
            "no_private_key",
            "it holds a private key, which must not leave its owner: send the certificate alone, and make a new key, \
             as this one has been sent",
        );
    }
    let mut blocks = Vec::new();
    for block in Pem::iter_from_buffer(pem.as_bytes()) {
        match block {
            Ok(block) => blocks.push(block),
            Err(_) => return broken("pem", "it is not PEM: a BEGIN line, base64, an END line"),
        }
    }
    match <[Pem; 1]>::try_from(blocks) {
        Ok([block]) if block.label == "CERTIFICATE" => Ok(block.contents),
        Ok([block]) => broken(
            "one_certificate",
            format!(
                "it holds a block `{}`, not a CERTIFICATE",
                block.label.chars().take(40).collect::<String>()
            ),
        ),
        Err(blocks) => broken(
            "one_certificate",
            format!("it must hold exactly one certificate, not {}", blocks.len()),
        ),
    }
}

fn check_extensions(certificate: &X509Certificate<'_>) -> Result<(), Broken> {
    if certificate.version() != X509Version::V3 {
        return broken("version", "it is not a certificate of version 3");
    }
    match certificate.basic_constraints() {
        Ok(Some(found)) if found.value.ca && found.critical => {}
        Ok(Some(found)) if found.value.ca => {
            return broken("ca_true_critical", "its basicConstraints are not marked critical");
        }
        _ => {
            return broken(
                "ca_true_critical",
                "it is not that of an authority: its basicConstraints must say CA:TRUE and be critical",
            );
        }
    }
    let key_id = certificate
        .iter_extensions()
        .any(|extension| matches!(extension.parsed_extension(), ParsedExtension::SubjectKeyIdentifier(_)));
    if !key_id {
        return broken("subject_key_identifier", "it has no subjectKeyIdentifier");
    }
    match certificate.key_usage() {
        Ok(Some(usage)) if usage.value.key_cert_sign() => Ok(()),
        _ => broken("key_cert_sign", "its keyUsage does not have keyCertSign"),
    }
}

fn check_validity(certificate: &X509Certificate<'_>, now: Time) -> Result<(), Broken> {
    let seconds = now.as_micros().div_euclid(1_000_000);
    let validity = certificate.validity();
    if seconds < validity.not_before.timestamp() {
        return broken("valid_now", format!("it is not valid before {}", validity.not_before));
    }
    if seconds > validity.not_after.timestamp() {
        return broken("valid_now", format!("it expired on {}", validity.not_after));
    }
    Ok(())
}

fn check_key(certificate: &X509Certificate<'_>) -> Result<(), Broken> {
    let key = certificate.public_key();
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= MIN_RSA_BITS => Ok(()),
        Ok(PublicKey::RSA(rsa)) => broken(
            "key",
            format!(
                "its RSA key has {} bits; at least {MIN_RSA_BITS} are needed",
                rsa.key_size()
            ),
        ),
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
            match curve {
                Some(curve) if CURVES.contains(&curve) => Ok(()),
                _ => broken("key", "its elliptic curve is not P-256, P-384 or P-521"),
            }
        }
        _ => broken("key", "its key is neither RSA nor ECDSA"),
    }
}

fn check_signature(certificate: &X509Certificate<'_>) -> Result<(), Broken> {
    let algorithm = &certificate.signature_algorithm;
    let strong = match SignatureAlgorithm::try_from(algorithm) {
        Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) => HASHES.contains(parameters.hash_algorithm_oid()),
        _ => SIGNATURES.contains(&algorithm.algorithm),
    };
    if strong {
        return Ok(());
    }
    broken(
        "signature_hash",
        "it is signed with a hash weaker than SHA-256, or with another algorithm than RSA and ECDSA",
    )
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, KeyPair, KeyUsagePurpose,
        SignatureAlgorithm,
    };

    use super::*;

    fn params() -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        params
    }

    fn pem_of(params: CertificateParams, algorithm: &'static SignatureAlgorithm) -> String {
        params
            .self_signed(&KeyPair::generate_for(algorithm).unwrap())
            .unwrap()
            .pem()
    }

    fn now() -> Time {
        "2027-06-01T00:00:00Z".parse().unwrap()
    }

    fn rule(pem: &str) -> &'static str {
        match check(pem, now()) {
            Ok(_) => "none",
            Err(broken) => {
                assert!(broken.message.len() > 20, "{}", broken.message);
                broken.rule
            }
        }
    }

    #[test]
    fn authorities_of_every_strength_that_is_enough_are_taken() {
        for algorithm in [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_ECDSA_P521_SHA512,
            &rcgen::PKCS_RSA_SHA256,
            &rcgen::PKCS_RSA_SHA512,
        ] {
            let pem = pem_of(params(), algorithm);
            let authority = check(&pem, now()).unwrap();
            assert_eq!(authority.expires_at, Some("2030-01-01T00:00:00Z".parse().unwrap()));
            assert_eq!(authority.fingerprint.len(), 64);
            // Text around the block is usual, and says nothing.
            let around = format!("subject=CN = x\r\n{}\n\n", pem.replace('\n', "\r\n"));
            assert_eq!(check(&around, now()).unwrap().fingerprint, authority.fingerprint);
        }
        let mut eternal = params();
        eternal.not_after = rcgen::date_time_ymd(9999, 12, 31) + std::time::Duration::from_secs(24 * 3600 - 1);
        let authority = check(&pem_of(eternal, &rcgen::PKCS_ECDSA_P256_SHA256), now()).unwrap();
        assert_eq!(authority.expires_at, None);
    }

    #[test]
    fn every_rule_refuses_by_its_name() {
        let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
        let with = |change: fn(&mut CertificateParams)| {
            let mut changed = params();
            change(&mut changed);
            pem_of(changed, p256)
        };
        let good = with(|_| {});
        assert_eq!(rule(&good), "none");
        let key = KeyPair::generate_for(p256).unwrap().serialize_pem();
        let twice = format!("{good}{}", with(|_| {}));
        let request = good.replace(" CERTIFICATE", " CERTIFICATE REQUEST");
        for (pem, broken) in [
            (String::new(), "one_certificate"),
            ("a certificate".into(), "one_certificate"),
            (
                "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n".into(),
                "pem",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
                "pem",
            ),
            (good[..good.len() / 2].to_owned(), "pem"),
            (twice, "one_certificate"),
            (request, "one_certificate"),
            (format!("{good}{key}"), "no_private_key"),
            (key, "no_private_key"),
            (format!("{good}{}", "x".repeat(MAX_PEM)), "size"),
            (with(|p| p.is_ca = IsCa::NoCa), "ca_true_critical"),
            (with(|p| p.is_ca = IsCa::ExplicitNoCa), "ca_true_critical"),
            (
                with(|p| {
                    // basicConstraints CA:TRUE that are not critical, which rcgen does not make by itself.
                    p.is_ca = IsCa::NoCa;
                    p.custom_extensions.push(CustomExtension::from_oid_content(
                        &[2, 5, 29, 19],
                        vec![0x30, 0x03, 0x01, 0x01, 0xff],
                    ));
                }),
                "ca_true_critical",
            ),
            (
                with(|p| {
                    p.is_ca = IsCa::NoCa;
                    let mut constraints =
                        CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0x03, 0x01, 0x01, 0xff]);
                    constraints.set_criticality(true);
                    p.custom_extensions.push(constraints);
                }),
                "subject_key_identifier",
            ),
            (with(|p| p.key_usages = vec![KeyUsagePurpose::CrlSign]), "key_cert_sign"),
            (with(|p| p.key_usages = Vec::new()), "key_cert_sign"),
            (with(|p| p.not_after = rcgen::date_time_ymd(2027, 5, 31)), "valid_now"),
            (with(|p| p.not_before = rcgen::date_time_ymd(2027, 6, 2)), "valid_now"),
            (pem_of(params(), &rcgen::PKCS_ED25519), "key"),
            (WEAK_RSA.into(), "key"),
            (OTHER_CURVE.into(), "key"),
            (SHA1.into(), "signature_hash"),
        ] {
            assert_eq!(rule(&pem), broken, "{pem}");
        }
    }

    /// A key of 1024 bits; no library here makes one.
    const WEAK_RSA: &str = "\
-----BEGIN CERTIFICATE-----
MIIB+zCCAWSgAwIBAgIUL9AwW+4NVO9m7ldBgx50czD2DJUwDQYJKoZIhvcNAQEL
BQAwFzEVMBMGA1UEAwwMYW4gYXV0aG9yaXR5MCAXDTI2MTEyMTA0MDMyNVoYDzIx
MjYxMDI4MDQwMzI1WjAXMRUwEwYDVQQDDAxhbiBhdXRob3JpdHkwgZ8wDQYJKoZI
hvcNAQEBBQADgY0AMIGJAoGBAKoqpHwMX9cGTAxmkhWxQisYYM8OZzBvTMQe4fE3
ffX2NUKQxvWbBtrojYq7lVOw61vt1xZXs6qvowDL2C/t68ItqlkMKGmHWTzIZrUd
dz278nDe1Nd9IJjQuFyPajTSx/hu2vkhhVtSen68gQLhwO8EcDNDhe5b7leNlJXh
v2UPAgMBAAGjQjBAMA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgIEMB0G
A1UdDgQWBBRUd57NctRkKJT2LgerdlBAlZTONzANBgkqhkiG9w0BAQsFAAOBgQAN
0f8XlfjyiV0hXruxcSkJtVP69vbvm6JuJc8omR/l11KGAKMSKjsAuFDW7B6mYVOZ
4HcxjzrG76UJzjhNTYXs/ueW3lhdHwmvXARL8s4X2Y93aIFS118TiPasKwwlRXMz
jVSoyOu652Xs+DKTmF/ppTDitdYui1/kuYRbyelfQA==
-----END CERTIFICATE-----
";

    /// The curve secp256k1.
    const OTHER_CURVE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBcDCCARegAwIBAgIUYAeFFtek1gDu6J3rI5sVuITd5IcwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMYW4gYXV0aG9yaXR5MCAXDTI2MTEyMTA0MDMyNVoYDzIxMjYx
MDI4MDQwMzI1WjAXMRUwEwYDVQQDDAxhbiBhdXRob3JpdHkwVjAQBgcqhkjOPQIB
BgUrgQQACgNCAAQATODTjXEl6ONwX0Vl4QLZDH3v2E4fQTxnd17gxM6IGWmdPe2M
pSjEzG8O98KM8kL7XGbS1sMv3s0DPPjouYeto0IwQDAPBgNVHRMBAf8EBTADAQH/
MA4GA1UdDwEB/wQEAwICBDAdBgNVHQ4EFgQUIHaME3KzHUOgk6bRapPISs8iwrQw
CgYIKoZIzj0EAwIDRwAwRAIgVGmNAZSezl77FxvPXUtSrkF5fyh7UTB9svQ4/Ll+
2y0CICIiNZLKNnq0qGmJYKV/jLtNMjt40J/PeHkxsAVHS7zq
-----END CERTIFICATE-----
";

    /// ECDSA with SHA-1.
    const SHA1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBcTCCARmgAwIBAgIUYFK4l8BirN/5yHp79P2/tKkPWuEwCQYHKoZIzj0EATAX
MRUwEwYDVQQDDAxhbiBhdXRob3JpdHkwIBcNMjYxMTIxMDQwMzI1WhgPMjEyNjEw
MjgwNDAzMjVaMBcxFTATBgNVBAMMDGFuIGF1dGhvcml0eTBZMBMGByqGSM49AgEG
CCqGSM49AwEHA0IABKyp6Ij4+vCZZFEtwYmvrkxaI2QqJzoYud5rscoLRqmrt6v8
3hvOxqFsvAStgZ25A44r6c0xj0TQN6WJUqfZHwmjQjBAMA8GA1UdEwEB/wQFMAMB
Af8wDgYDVR0PAQH/BAQDAgIEMB0GA1UdDgQWBBQD4iL5TrQs3zG8crXUeyxPb5xg
kTAJBgcqhkjOPQQBA0cAMEQCIHxNuRk3ngUBZYPar47XJxnwzmr2oIVX4h89UyQe
63UnAiBVNEs1NXylTzZrpNXGDofNzh9rXypl5PMhAICvnyA8nw==
-----END CERTIFICATE-----
";
}
