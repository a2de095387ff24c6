//! What every test of this room shares: a set of awkward secrets, and spellings made by other means than the room's own.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use http::request::Parts;

use super::*;

mod body;
mod coding;
mod finder;
mod head;
mod properties;
mod scrub;
mod sigv4;
mod websocket;

pub(super) const HOST: &str = "api.example.com";
pub(super) const GITHUB: (&str, &str) = (
    "ghp_R3alS3cretValue0123456789abcdefABCDE",
    "ghp_F4keP1aceHolder9876543210zyxwvuZYXWV",
);
pub(super) const AWKWARD: (&str, &str) = ("p\"ss\\w/rd+&<=%>", "pxssxwxrdxyxzxq");
/// A value that shares no beginning with its placeholder.
pub(super) const BARE: (&str, &str) = ("Zq7R3alS3cretValue!x", "aK2F4kexP1aceHolder9");
pub(super) const FOREIGN: (&str, &str) = ("foreign-secret-value-1234", "foreign-puaceh-vucdx-9876");

pub(super) fn spec(name: &str, (value, placeholder): (&str, &str), hosts: &[&str], body: bool) -> SecretSpec {
    let mut spec = SecretSpec::new(
        name,
        value.into(),
        placeholder.into(),
        hosts.iter().map(|h| (*h).to_owned()).collect(),
    );
    spec.locations = Locations::from_injection(true, body);
    spec
}

/// `GITHUB` and `AWKWARD` for [`HOST`] in headers and bodies; `FOREIGN` for another host.
pub(super) fn set() -> SecretSet {
    SecretSet::new(vec![
        spec("github", GITHUB, &[HOST], true),
        spec("awkward", AWKWARD, &[HOST], true),
        spec("foreign", FOREIGN, &["other.example.net"], true),
    ])
    .unwrap()
}

pub(super) fn destination() -> Destination {
    Destination::https(HOST, 443)
}

pub(super) fn head(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// A text in the encodings that a server may echo it in, each with its name.
pub(super) fn encodings(text: &str) -> Vec<(String, Vec<u8>)> {
    let bytes = text.as_bytes();
    let mut all: Vec<(String, Vec<u8>)> = vec![("raw".into(), bytes.to_vec())];
    for before in 0..3 {
        for after in 0..3 {
            let mut padded = b"\x01\xfe\x55"[..before].to_vec();
            padded.extend_from_slice(bytes);
            padded.extend_from_slice(&b"\xaa\x01\xfe"[..after]);
            for (name, engine) in [
                ("base64", &STANDARD),
                ("base64 unpadded", &STANDARD_NO_PAD),
                ("base64url", &URL_SAFE),
                ("base64url unpadded", &URL_SAFE_NO_PAD),
            ] {
                all.push((format!("{name} +{before}+{after}"), engine.encode(&padded).into_bytes()));
            }
        }
    }
    let each = |write: &dyn Fn(u8) -> String| bytes.iter().map(|b| write(*b)).collect::<String>().into_bytes();
    all.push(("hex lower".into(), each(&|b| format!("{b:02x}"))));
    all.push(("hex upper".into(), each(&|b| format!("{b:02X}"))));
    all.push(("percent all".into(), each(&|b| format!("%{b:02X}"))));
    all.push(("percent all lower".into(), each(&|b| format!("%{b:02x}"))));
    all.push(("percent twice".into(), each(&|b| format!("%25{b:02X}"))));
    let form: String = url_form(bytes);
    all.push(("form".into(), form.into_bytes()));
    all.push(("json".into(), serde_json::to_string(text).unwrap().into_bytes()));
    let twice = serde_json::to_string(&serde_json::to_string(text).unwrap()).unwrap();
    all.push(("json twice".into(), twice.into_bytes()));
    let slashes = serde_json::to_string(text).unwrap().replace('/', "\\/");
    all.push(("json slashes".into(), slashes.into_bytes()));
    all.push(("json \\u".into(), each(&|b| format!("\\u{b:04x}"))));
    all.push(("\\x".into(), each(&|b| format!("\\x{b:02x}"))));
    all.push(("octal".into(), each(&|b| format!("\\{b:03o}"))));
    all.push(("entities decimal".into(), each(&|b| format!("&#{b};"))));
    all.push(("entities hex".into(), each(&|b| format!("&#x{b:02X};"))));
    let html = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;");
    all.push(("html".into(), html.into_bytes()));
    all.push(("reversed".into(), text.chars().rev().collect::<String>().into_bytes()));
    all.push((
        "utf-16 le".into(),
        text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
    ));
    all.push((
        "utf-16 be".into(),
        text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
    ));
    let mixed: String = text
        .bytes()
        .enumerate()
        .map(|(i, b)| match i % 4 {
            0 => format!("%{b:02x}"),
            1 => format!("\\u{b:04X}"),
            2 => format!("&#{b};"),
            _ if b.is_ascii_alphanumeric() => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect();
    all.push(("mixed".into(), mixed.into_bytes()));
    let quoted: String = text
        .bytes()
        .map(|b| format!("={b:02X}"))
        .collect::<Vec<_>>()
        .join("=\r\n");
    all.push(("quoted-printable".into(), quoted.into_bytes()));
    for width in [7, 20] {
        let lines: Vec<String> = STANDARD
            .encode(text)
            .as_bytes()
            .chunks(width)
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect();
        all.push((format!("base64 lines of {width}"), lines.join("\r\n").into_bytes()));
        all.push((
            format!("base64 lines of {width} in json"),
            lines.join("\\n").into_bytes(),
        ));
    }
    let slashes = STANDARD.encode(text).replace('/', "\\/");
    all.push(("base64 json slashes".into(), slashes.into_bytes()));
    all.push((
        "base64 in a form".into(),
        url_form(STANDARD.encode(text).as_bytes()).into_bytes(),
    ));
    all
}

fn url_form(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|b| match b {
            b' ' => "+".into(),
            b if b.is_ascii_alphanumeric() || b"-_.*".contains(b) => char::from(*b).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}

/// Whether some piece of the secret, of a length that says something, stands in the text in some encoding.
pub(super) fn leaks(text: &[u8], secret: &str) -> Option<String> {
    encodings(secret).into_iter().find_map(|(name, encoded)| {
        // The ends of base64 depend on their neighbours; the middle must not be there either.
        let trimmed = if name.starts_with("base64") && !name.contains("lines") {
            &encoded[4..encoded.len() - 4]
        } else {
            &encoded[..]
        };
        text.windows(trimmed.len()).any(|w| w == trimmed).then_some(name)
    })
}
