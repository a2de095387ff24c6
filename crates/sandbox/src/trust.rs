//! Certificates in the forms that programs read: PEM for most, a key store for Java.

use base64::Engine;
use sha1::{Digest, Sha1};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The password that Java's own list of authorities has. It guards nothing: the list is public.
const STORE_PASSWORD: &str = "changeit";

/// Whether a text is one or more certificates in PEM, each of them a DER sequence of the length that it says.
pub(crate) fn is_pem(text: &str) -> bool {
    let begun = text.matches(BEGIN).count();
    begun > 0 && certificates(text.as_bytes()).len() == begun
}

/// The certificates in a PEM bundle, as DER. What is not one is left out.
pub(crate) fn certificates(pem: &[u8]) -> Vec<Vec<u8>> {
    let text = String::from_utf8_lossy(pem);
    text.split(BEGIN)
        .skip(1)
        .filter_map(|part| part.split_once(END))
        .filter_map(|(body, _)| {
            let body: String = body.split_ascii_whitespace().collect();
            base64::engine::general_purpose::STANDARD.decode(body).ok()
        })
        .filter(|der| is_sequence(der))
        .collect()
}

fn is_sequence(der: &[u8]) -> bool {
    match der {
        [0x30, length, rest @ ..] if *length < 0x80 => rest.len() == usize::from(*length),
        [0x30, length, rest @ ..] => {
            let size = usize::from(length & 0x7f);
            (1..=4).contains(&size)
                && rest.len() > size
                && rest
                    .iter()
                    .take(size)
                    .fold(0, |value, byte| value << 8 | usize::from(*byte))
                    == rest.len() - size
        }
        _ => false,
    }
}

/// A Java key store (JKS, version 2) of trusted certificates.
///
/// The format is that of `sun.security.provider.JavaKeyStore`; every Java since 1.2 reads it, whatever type it is told.
pub(crate) fn keystore(certificates: &[Vec<u8>]) -> Vec<u8> {
    const MAGIC: u32 = 0xfeed_feed;
    const VERSION: u32 = 2;
    const TRUSTED: u32 = 2;
    let mut store = Vec::new();
    for word in [MAGIC, VERSION, certificates.len() as u32] {
        store.extend_from_slice(&word.to_be_bytes());
    }
    let text = |store: &mut Vec<u8>, text: &str| {
        store.extend_from_slice(&(text.len() as u16).to_be_bytes());
        store.extend_from_slice(text.as_bytes());
    };
    for (number, certificate) in certificates.iter().enumerate() {
        store.extend_from_slice(&TRUSTED.to_be_bytes());
        text(&mut store, &format!("authority-{number}"));
        store.extend_from_slice(&0_u64.to_be_bytes());
        text(&mut store, "X.509");
        store.extend_from_slice(&(certificate.len() as u32).to_be_bytes());
        store.extend_from_slice(certificate);
    }
    let password: Vec<u8> = STORE_PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let digest = Sha1::new()
        .chain_update(&password)
        .chain_update("Mighty Aphrodite")
        .chain_update(&store)
        .finalize();
    store.extend_from_slice(&digest);
    store
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_certificates_are_taken() {
        let good = format!("{BEGIN}\nMAMC\nAQE=\n{END}\n");
        assert_eq!(certificates(good.as_bytes()), [[0x30, 3, 2, 1, 1]]);
        assert!(is_pem(&good) && is_pem(&format!("# a comment\n{good}{good}")));
        for bad in [
            "",
            "x",
            "-----BEGIN CERTIFICATE-----",
            &format!("{BEGIN}\nMAMC\n{END}"),
            &format!("{BEGIN}!{END}"),
        ] {
            assert!(!is_pem(bad), "{bad}");
        }
        assert!(!is_pem(&format!("{good}{BEGIN}\nMAMC\n{END}")));
    }
}
