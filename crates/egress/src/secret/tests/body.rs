//! Bodies of requests.

use super::super::coding::{self, Decoder, Encoder};
use super::*;
use http::StatusCode;

/// Head, body and uses of a request that went out.
type Sent = (Parts, Vec<u8>, Vec<Use>);

/// Sends a body in chunks; gives the head and body that went out, or why nothing more did, and what went before.
fn send(
    set: &SecretSet,
    headers: &[(&str, &str)],
    body: &[u8],
    size: usize,
    limits: &Limits,
) -> Result<Sent, (Blocked, usize)> {
    let mut parts = head("POST", "/", headers);
    let outcome = set
        .rewrite_head(&destination(), &mut parts, limits)
        .map_err(|b| (b, 0))?;
    let mut rewriter = outcome.rewriter;
    let mut out = Vec::new();
    for chunk in body.chunks(size.max(1)) {
        let bytes = rewriter.push(chunk).map_err(|b| (b, out.len()))?;
        assert!(bytes.is_empty() || !rewriter.holds_head());
        out.extend(bytes);
    }
    let rest = rewriter.finish(&mut parts).map_err(|b| (b, out.len()))?;
    out.extend(rest);
    Ok((parts, out, rewriter.uses().to_vec()))
}

fn sent(set: &SecretSet, headers: &[(&str, &str)], body: &[u8], size: usize) -> (Parts, Vec<u8>) {
    let (parts, out, uses) = send(set, headers, body, size, &Limits::default()).unwrap_or_else(|e| panic!("{e:?}"));
    assert!(uses.iter().all(|u| u.location == Location::Body && u.substituted));
    (parts, out)
}

fn code(coding: &str, text: &[u8]) -> Vec<u8> {
    let mut encoder = Encoder::new(&coding::parse(coding).unwrap()).unwrap();
    let mut out = encoder.push(text).unwrap();
    out.extend(encoder.finish().unwrap());
    out
}

fn decode(coding: &str, coded: &[u8]) -> Vec<u8> {
    let mut decoder = Decoder::new(&coding::parse(coding).unwrap(), &Limits::default()).unwrap();
    let mut out = Vec::new();
    let mut keep = |piece: &[u8]| {
        out.extend_from_slice(piece);
        Ok::<(), ScrubError>(())
    };
    decoder.push(coded, &mut keep).unwrap();
    decoder.finish(&mut keep).unwrap();
    out
}

#[test]
fn values_are_escaped_for_the_body_they_stand_in() {
    let set = set();
    let multipart = "multipart/form-data; boundary=xx";
    let part = |v: &str| format!("--xx\r\nContent-Disposition: form-data; name=\"t\"\r\n\r\n{v}\r\n--xx--\r\n");
    for (kind, inside, outside) in [
        ("text/plain", format!("a {} b", AWKWARD.1), format!("a {} b", AWKWARD.0)),
        (
            "application/json",
            format!("{{\"t\":\"{}\"}}", AWKWARD.1),
            format!("{{\"t\":{}}}", serde_json::to_string(AWKWARD.0).unwrap()),
        ),
        (
            "application/x-www-form-urlencoded",
            format!("a=b&t={}", AWKWARD.1),
            "a=b&t=p%22ss%5Cw%2Frd%2B%26%3C%3D%25%3E".to_owned(),
        ),
        (
            "application/xml",
            format!("<t>{}</t>", AWKWARD.1),
            "<t>p&#34;ss\\w/rd+&amp;&lt;=%&gt;</t>".to_owned(),
        ),
        (multipart, part(AWKWARD.1), part(AWKWARD.0)),
    ] {
        let length = inside.len().to_string();
        for size in [1, 7, 10_000] {
            for headers in [
                vec![("content-type", kind), ("content-length", length.as_str())],
                vec![("content-type", kind)],
            ] {
                let (parts, out) = sent(&set, &headers, inside.as_bytes(), size);
                assert_eq!(String::from_utf8_lossy(&out), outside, "{kind}");
                if let Some(length) = parts.headers.get("content-length") {
                    assert_eq!(length.to_str().unwrap(), outside.len().to_string());
                }
            }
        }
    }
    let json: serde_json::Value = serde_json::from_slice(
        &sent(
            &set,
            &[("content-type", "application/json")],
            format!("\"{}\"", AWKWARD.1).as_bytes(),
            3,
        )
        .1,
    )
    .unwrap();
    assert_eq!(json, AWKWARD.0);
}

#[test]
fn compressed_bodies_are_rewritten_and_clean_ones_left_alone() {
    let set = set();
    for coding in ["gzip", "deflate", "br", "zstd", "gzip, zstd"] {
        let text = format!("{{\"key\":\"{}\",\"n\":[{}1]}}", GITHUB.1, "0,".repeat(5000));
        let coded = code(coding, text.as_bytes());
        let length = coded.len().to_string();
        let headers = [
            ("content-encoding", coding),
            ("content-type", "application/json"),
            ("content-length", length.as_str()),
        ];
        let (parts, out) = sent(&set, &headers, &coded, 11);
        assert_eq!(
            decode(coding, &out),
            text.replace(GITHUB.1, GITHUB.0).into_bytes(),
            "{coding}"
        );
        assert_eq!(parts.headers["content-length"], out.len().to_string());
        let clean = code(coding, b"nothing to see");
        assert_eq!(sent(&set, &headers[..1], &clean, 5).1, clean, "{coding}");
        // Too long to be held: searched while it flows, and refused if something would have to be put in.
        let limits = Limits {
            hold: 16,
            ..Limits::default()
        };
        let (_, out, _) = send(&set, &headers[..1], &clean, 5, &limits).unwrap();
        assert_eq!(out, clean);
        let (blocked, _) = send(&set, &headers, &coded, 5, &limits).unwrap_err();
        assert_eq!(blocked.status, StatusCode::PAYLOAD_TOO_LARGE, "{coding}");
        let (blocked, before) =
            send(&set, &headers[..1], b"this is not compressed", 5, &Limits::default()).unwrap_err();
        assert_eq!((blocked.status, before), (StatusCode::BAD_REQUEST, 0), "{coding}");
    }
    let (blocked, _) = send(&set, &[("content-encoding", "snappy")], b"x", 1, &Limits::default()).unwrap_err();
    assert_eq!(blocked.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[test]
fn a_short_foreign_body_is_refused_before_a_byte_is_sent() {
    let set = set();
    for (name, encoded) in encodings(FOREIGN.1) {
        let mut body = b"start ".to_vec();
        body.extend(&encoded);
        body.extend(b" end");
        let (blocked, before) = send(&set, &[], &body, 3, &Limits::default()).unwrap_err();
        assert!(matches!(blocked.reason, Reason::Foreign { .. }), "{name}");
        assert_eq!((blocked.name.as_str(), before), ("foreign", 0), "{name}");
    }
    for coding in ["gzip", "br", "zstd", "deflate"] {
        let body = code(coding, format!("x {} y", FOREIGN.1).as_bytes());
        let (blocked, before) = send(&set, &[("content-encoding", coding)], &body, 3, &Limits::default()).unwrap_err();
        assert!(
            matches!(blocked.reason, Reason::Foreign { .. }) && before == 0,
            "{coding}"
        );
    }
}

#[test]
fn a_long_body_flows_and_is_cut_before_what_must_not_go_out() {
    let set = set();
    let limits = Limits {
        hold: 1000,
        ..Limits::default()
    };
    let mut body = vec![b'.'; 5000];
    body.extend(GITHUB.1.bytes());
    body.extend(vec![b'.'; 5000]);
    let length = body.len().to_string();
    for headers in [vec![], vec![("content-length", length.as_str())]] {
        for size in [1, 13, 4096, 100_000] {
            let (_, out, _) = send(&set, &headers, &body, size, &limits).unwrap();
            assert_eq!(out.len(), body.len());
            assert!(String::from_utf8_lossy(&out).contains(GITHUB.0));
        }
    }
    body.extend(FOREIGN.1.bytes());
    let (blocked, before) = send(&set, &[], &body, 100, &limits).unwrap_err();
    assert!(matches!(blocked.reason, Reason::Foreign { .. }));
    assert!(before > 0 && before <= body.len() - FOREIGN.1.len());
    // An escaped value would not fit the announced length.
    let mut body = vec![b' '; 5000];
    body.extend(format!("\"{}\"", AWKWARD.1).bytes());
    let length = body.len().to_string();
    let headers = [
        ("content-type", "application/json"),
        ("content-length", length.as_str()),
    ];
    let (blocked, before) = send(&set, &headers, &body, 100, &limits).unwrap_err();
    assert!(matches!(blocked.reason, Reason::Length { .. }) && before <= 5001);
    assert!(
        send(&set, &headers[..1], &body, 100, &limits).is_ok(),
        "chunked, its length may change"
    );
}

#[test]
fn hashes_in_headers_and_frames_keep_bodies_as_they_are() {
    let set = set();
    let body = format!("\"{}\"", GITHUB.1);
    let (blocked, before) = send(&set, &[("content-md5", "x")], body.as_bytes(), 9, &Limits::default()).unwrap_err();
    assert_eq!((blocked.status, before), (StatusCode::PAYLOAD_TOO_LARGE, 0));
    assert!(send(&set, &[("content-md5", "x")], b"clean", 9, &Limits::default()).is_ok());
    let mut parts = head("POST", "/", &[("content-type", "application/grpc")]);
    let outcome = set
        .rewrite_head(&destination(), &mut parts, &Limits::default())
        .unwrap();
    assert_eq!(
        outcome.body,
        BodyPlan::Stream,
        "the other side may wait for the first message"
    );
    assert_eq!(
        sent(&set, &[("content-type", "application/grpc")], body.as_bytes(), 2).1,
        format!("\"{}\"", GITHUB.0).into_bytes()
    );
}

#[test]
fn a_held_body_can_be_let_go() {
    let set = set();
    let mut parts = head("POST", "/", &[]);
    let mut rewriter = set
        .rewrite_head(&destination(), &mut parts, &Limits::default())
        .unwrap()
        .rewriter;
    assert_eq!(rewriter.push(b"first line\n").unwrap(), "");
    assert!(rewriter.holds_head());
    assert_eq!(rewriter.release().unwrap(), "first line\n");
    assert!(!rewriter.holds_head());
    assert_eq!(rewriter.push(GITHUB.1.as_bytes()).unwrap(), GITHUB.0);
    assert_eq!(rewriter.push(&FOREIGN.1.as_bytes()[..9]).unwrap(), "");
    let blocked = rewriter.push(&FOREIGN.1.as_bytes()[9..]).unwrap_err();
    assert_eq!(rewriter.push(b"more").unwrap_err(), blocked, "an error stays");
    assert_eq!(rewriter.finish(&mut parts).unwrap_err(), blocked);
}

#[test]
fn bombs_in_requests_are_refused() {
    let limits = Limits {
        decoded: 1 << 20,
        ..Limits::default()
    };
    let body = code("zstd", &vec![0; 8 << 20]);
    let (blocked, before) = send(&set(), &[("content-encoding", "zstd")], &body, 100, &limits).unwrap_err();
    assert_eq!((blocked.status, before), (StatusCode::PAYLOAD_TOO_LARGE, 0));
}
