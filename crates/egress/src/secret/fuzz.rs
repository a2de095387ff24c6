//! Entries for fuzzing: no input may panic, no output may hold a secret where it must not, and no result may depend on
//! how the input was cut.

use std::sync::OnceLock;

use http::{HeaderName, HeaderValue, Request};

use super::{BodyPlan, Destination, Fit, Kind, Limits, Locations, SecretSet, SecretSpec};

const VALUE: &str = "sk-R3al/S3cret+Value=01";
const PLACEHOLDER: &str = "sk-F4kexP1aceh-Older-98";
const FOREIGN: (&str, &str) = ("foreign-value-xyz", "foreign-plaxe-abc");

fn set() -> &'static SecretSet {
    static SET: OnceLock<SecretSet> = OnceLock::new();
    SET.get_or_init(|| {
        let hosts = vec!["api.example.com".to_owned()];
        let mut named = SecretSpec::new("named", VALUE.into(), PLACEHOLDER.into(), hosts.clone());
        named.locations = Locations {
            header: true,
            basic: true,
            query: true,
            body: true,
        };
        let other = vec!["other.example.com".to_owned()];
        let mut foreign = SecretSpec::new("foreign", FOREIGN.0.into(), FOREIGN.1.into(), other);
        foreign.kind = Kind::AwsSecretKey {
            key_id: super::AwsKeyId::Public("AKIAFUZZ".into()),
        };
        SecretSet::new(vec![named, foreign]).expect("the specs of the fuzzing set are fixed and were checked")
    })
}

fn to() -> Destination {
    Destination::https("api.example.com", 443)
}

fn small() -> Limits {
    Limits {
        hold: 512,
        decoded: 1 << 22,
        ..Limits::default()
    }
}

fn holds(text: &[u8], what: &str) -> bool {
    text.windows(what.len()).any(|w| w == what.as_bytes())
}

/// Lines: the address, then headers as `name: value`.
pub fn head(data: &[u8]) {
    let mut lines = data.split(|b| *b == b'\n');
    let Ok(mut request) = Request::builder().uri(lines.next().unwrap_or_default()).body(()) else {
        return;
    };
    for line in lines {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            continue;
        };
        let (name, value) = (
            HeaderName::from_bytes(&line[..colon]),
            HeaderValue::from_bytes(&line[colon + 1..]),
        );
        if let (Ok(name), Ok(value)) = (name, value) {
            request.headers_mut().append(name, value);
        }
    }
    let (mut parts, ()) = request.into_parts();
    let before = parts.headers.values().any(|v| holds(v.as_bytes(), FOREIGN.0));
    if set().rewrite_head(&to(), &mut parts, &small()).is_ok() {
        let after = parts.headers.values().any(|v| holds(v.as_bytes(), FOREIGN.0));
        assert!(before || !after, "a foreign secret was put into a header");
    }
}

/// The first byte chooses the headers, the second the size of the chunks; the rest is the body.
pub fn body(data: &[u8]) {
    let [choice, size, body @ ..] = data else { return };
    let kinds = [
        "application/json",
        "application/x-www-form-urlencoded",
        "text/xml",
        "application/grpc",
        "text/plain",
    ];
    let codings = ["", "gzip", "br", "zstd", "deflate"];
    let mut request = Request::builder()
        .header("content-type", kinds[usize::from(*choice) % kinds.len()])
        .header(
            "content-encoding",
            codings[usize::from(*choice) / kinds.len() % codings.len()],
        );
    if choice & 0x80 != 0 {
        request = request.header("content-length", body.len());
    }
    let Ok(request) = request.body(()) else { return };
    let (mut parts, ()) = request.into_parts();
    let Ok(outcome) = set().rewrite_head(&to(), &mut parts, &small()) else {
        return;
    };
    let mut rewriter = outcome.rewriter;
    let mut out = Vec::new();
    for chunk in body.chunks(usize::from(*size).max(1)) {
        match rewriter.push(chunk) {
            Ok(bytes) => out.extend(bytes),
            Err(_) => return,
        }
    }
    if let Ok(rest) = rewriter.finish(&mut parts) {
        out.extend(rest);
        assert!(
            holds(body, FOREIGN.0) || !holds(&out, FOREIGN.0),
            "a foreign secret was put into a body"
        );
        if outcome.body == BodyPlan::Pass {
            assert_eq!(out, body, "a body that passes is not changed");
        }
    }
}

/// The first byte chooses the coding, the second the size of the chunks; the rest is the body.
pub fn scrub(data: &[u8]) {
    let [choice, size, body @ ..] = data else { return };
    let coding = ["", "", "gzip", "br", "zstd", "deflate"][usize::from(*choice) % 6];
    let run = |size: usize, fit: Fit| {
        let mut scrubber = set().scrubber(coding, fit, &small()).ok()?;
        let mut out = Vec::new();
        for chunk in body.chunks(size.max(1)) {
            out.extend(scrubber.push(chunk).ok()?);
        }
        out.extend(scrubber.finish().ok()?);
        Some(out)
    };
    let cut = run(usize::from(*size), Fit::Exact);
    if coding.is_empty() {
        assert_eq!(cut, run(body.len(), Fit::Exact), "the result depends on the chunks");
        let same = run(usize::from(*size), Fit::SameLength);
        assert_eq!(same.map(|out| out.len()), Some(body.len()), "the length changed");
        let out = cut.unwrap_or_default();
        assert!(!holds(&out, VALUE) && !holds(&out, FOREIGN.0), "a secret passed");
    }
}

/// The first byte is the size of the chunks; the rest goes through both directions.
pub fn websocket(data: &[u8]) {
    let [size, stream @ ..] = data else { return };
    let (mut client, mut server) = set().web_socket(&to(), &small());
    let mut out = Vec::new();
    for chunk in stream.chunks(usize::from(*size).max(1)) {
        match client.push(chunk) {
            Ok(bytes) => out.extend(bytes),
            Err(_) => break,
        }
    }
    assert!(out.len() <= stream.len(), "frames grew");
    let mut out = Vec::new();
    for chunk in stream.chunks(usize::from(*size).max(1)) {
        match server.push(chunk) {
            Ok(bytes) => out.extend(bytes),
            Err(_) => break,
        }
    }
    assert!(out.len() <= stream.len(), "frames grew");
}
