//! The way back.

use super::super::coding::{self, Decoder, Encoder};
use super::*;
use rand::SeedableRng;

fn response(status: u16, headers: &[(&str, &str)]) -> http::response::Parts {
    let mut response = http::Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(()).unwrap().into_parts().0
}

#[test]
fn headers_lose_their_secrets_in_every_encoding() {
    let set = set();
    for (name, encoded) in encodings(GITHUB.0) {
        let Ok(value) = http::HeaderValue::from_bytes(&encoded) else {
            continue;
        };
        let mut headers = http::HeaderMap::new();
        headers.insert("location", value);
        headers.insert("x-clean", http::HeaderValue::from_static("clean"));
        assert_eq!(set.scrub_headers(&mut headers), 1, "{name}");
        assert_eq!(leaks(headers["location"].as_bytes(), GITHUB.0), None, "{name}");
        assert_eq!(headers["x-clean"], "clean");
    }
    let mut headers = http::HeaderMap::new();
    let name: http::HeaderName = format!("x-{}", GITHUB.0).parse().unwrap();
    headers.insert(name, http::HeaderValue::from_static("1"));
    assert_eq!(set.scrub_headers(&mut headers), 1);
    assert!(headers.is_empty());
}

#[test]
fn coded_bodies_are_searched_flushed_and_coded_again() {
    let set = set();
    for coding in ["gzip", "deflate", "br", "zstd", "br, gzip"] {
        let codings = coding::parse(coding).unwrap();
        for (name, encoded) in encodings(GITHUB.0) {
            let mut text = b"data: ".repeat(100);
            text.extend(&encoded);
            text.extend(b"\n\n");
            let mut encoder = Encoder::new(&codings).unwrap();
            let mut coded = encoder.push(&text).unwrap();
            coded.extend(encoder.finish().unwrap());
            let headers = [
                ("content-encoding", coding),
                ("content-length", "9"),
                ("content-md5", "x"),
            ];
            let mut head = response(200, &headers);
            let (_, mut scrubber) = set.scrub_response(&mut head, &Limits::default()).unwrap();
            assert!(!head.headers.contains_key("content-length") && !head.headers.contains_key("content-md5"));
            let mut out = Vec::new();
            for chunk in coded.chunks(5) {
                out.extend(scrubber.push(chunk).unwrap());
            }
            out.extend(scrubber.finish().unwrap());
            let mut decoder = Decoder::new(&codings, &Limits::default()).unwrap();
            let mut plain = Vec::new();
            let mut keep = |piece: &[u8]| {
                plain.extend_from_slice(piece);
                Ok::<(), ScrubError>(())
            };
            decoder.push(&out, &mut keep).unwrap();
            decoder.finish(&mut keep).unwrap();
            assert_eq!(scrubber.hits(), 1, "{coding} {name}");
            assert_eq!(scrubber.names(), ["github"]);
            assert_eq!(leaks(&plain, GITHUB.0), None, "{coding} {name}");
        }
        // An event comes out as soon as it came in.
        let mut encoder = Encoder::new(&codings).unwrap();
        let mut scrubber = set.scrubber(coding, Fit::Exact, &Limits::default()).unwrap();
        let out = scrubber.push(&encoder.push(b"data: 1\n\n").unwrap()).unwrap();
        let mut decoder = Decoder::new(&codings, &Limits::default()).unwrap();
        let mut seen = Vec::new();
        decoder
            .push(&out, |piece| {
                seen.extend_from_slice(piece);
                Ok::<(), ScrubError>(())
            })
            .unwrap();
        assert_eq!(seen, b"data: 1\n\n", "{coding}");
    }
}

#[test]
fn what_cannot_be_searched_does_not_pass() {
    let set = set();
    let limits = Limits::default();
    let refused = |status, headers: &[(&str, &str)]| {
        set.scrub_response(&mut response(status, headers), &limits)
            .map(|_| ())
            .unwrap_err()
    };
    assert!(matches!(
        refused(200, &[("content-encoding", "dcb")]),
        ScrubError::Coding(_)
    ));
    assert!(matches!(
        refused(206, &[("content-encoding", "gzip")]),
        ScrubError::Coding(_)
    ));
    for coding in ["gzip", "br", "zstd", "deflate"] {
        let mut scrubber = set.scrubber(coding, Fit::Exact, &limits).unwrap();
        let pushed = scrubber.push(b"plain text all along, and nothing else at all");
        assert!(pushed.is_err() || scrubber.finish().is_err(), "{coding}");
        let mut encoder = Encoder::new(&coding::parse(coding).unwrap()).unwrap();
        let mut bomb = encoder.push(&vec![b'a'; 4 << 20]).unwrap();
        bomb.extend(encoder.finish().unwrap());
        let small = Limits {
            decoded: 1 << 20,
            ..limits
        };
        let mut scrubber = set.scrubber(coding, Fit::Exact, &small).unwrap();
        let first = bomb.chunks(100).find_map(|chunk| scrubber.push(chunk).err());
        assert_eq!(first, Some(ScrubError::Bomb), "{coding}");
        assert_eq!(scrubber.push(b"x"), Err(ScrubError::Bomb), "an error stays");
    }
}

#[test]
fn announced_lengths_hold() {
    let set = set();
    let text = format!("[{}]", serde_json::to_string(AWKWARD.0).unwrap());
    let length = text.len().to_string();
    let mut head = response(200, &[("content-length", &length)]);
    let (_, mut scrubber) = set.scrub_response(&mut head, &Limits::default()).unwrap();
    assert_eq!(head.headers["content-length"], length);
    let mut out = scrubber.push(text.as_bytes()).unwrap().to_vec();
    out.extend(scrubber.finish().unwrap());
    assert_eq!(out.len(), text.len());
    let back: Vec<String> = serde_json::from_slice(&out).unwrap();
    assert!(back[0].starts_with(AWKWARD.1));
}

#[test]
fn minted_tokens_are_caught() {
    let set = set();
    let rule = CaptureRule {
        name: "oauth".into(),
        fields: vec![
            "/access_token".into(),
            "/nested/refresh_token".into(),
            "/missing".into(),
        ],
        hosts: vec![HOST.into()],
        locations: Locations::from_injection(true, false),
        cleartext: false,
    };
    let mut random = rand::rngs::StdRng::seed_from_u64(3);
    let body =
        br#"{"access_token":"minted-token-value-1","nested":{"refresh_token":"minted-refresh-2"},"expires_in":3600}"#;
    let (out, caught) = set.capture(&rule, body, &mut random).unwrap();
    let text = String::from_utf8_lossy(&out).into_owned();
    assert!(
        !text.contains("minted-token-value-1") && !text.contains("minted-refresh-2"),
        "{text}"
    );
    assert_eq!(caught.len(), 2);
    let placeholder = caught[0].placeholder.clone();
    assert!(text.contains(&placeholder) && text.contains("3600"));
    let set = set.extended(caught).unwrap();
    let mut request = head("GET", "/", &[("authorization", &format!("Bearer {placeholder}"))]);
    set.rewrite_head(&destination(), &mut request, &Limits::default())
        .unwrap();
    assert_eq!(request.headers["authorization"], "Bearer minted-token-value-1");
    assert_eq!(set.scrub_text("minted-refresh-2").1, 1);
    let refused = |body: &[u8]| {
        set.capture(&rule, body, &mut rand::rngs::StdRng::seed_from_u64(1))
            .map(|_| ())
            .unwrap_err()
    };
    assert!(matches!(refused(b"access_token=abc"), CaptureError::Json(_)));
    assert!(matches!(
        refused(br#"{"access_token":"short"}"#),
        CaptureError::Field { .. }
    ));
}
