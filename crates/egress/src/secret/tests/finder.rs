//! The search: every encoding is found, however it is cut, and nothing else is.

use super::*;

fn scrub(set: &SecretSet, chunks: &[&[u8]], fit: Fit) -> (Vec<u8>, usize) {
    let mut scrubber = set.scrubber("", fit, &Limits::default()).unwrap();
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend(scrubber.push(chunk).unwrap());
    }
    out.extend(scrubber.finish().unwrap());
    (out, scrubber.hits())
}

#[test]
fn every_encoding_is_replaced_wherever_it_is_cut() {
    let set = set().extended(vec![spec("bare", BARE, &[HOST], true)]).unwrap();
    for (value, placeholder) in [GITHUB, AWKWARD, BARE] {
        for (name, encoded) in encodings(value) {
            let mut text = b"{\"before\": \"".to_vec();
            text.extend_from_slice(&encoded);
            text.extend_from_slice(b"\"}\n");
            let (whole, hits) = scrub(&set, &[&text], Fit::Exact);
            assert_eq!(hits, 1, "{name}: {}", String::from_utf8_lossy(&whole));
            assert_eq!(
                leaks(&whole, value),
                None,
                "{name}: {}",
                String::from_utf8_lossy(&whole)
            );
            for cut in 0..text.len() {
                let (cut_out, _) = scrub(&set, &[&text[..cut], &text[cut..]], Fit::Exact);
                assert_eq!(cut_out, whole, "{name} cut at {cut}");
            }
            let bytes: Vec<&[u8]> = text.chunks(1).collect();
            assert_eq!(scrub(&set, &bytes, Fit::Exact).0, whole, "{name} byte by byte");
            assert_eq!(scrub(&set, &[&text], Fit::SameLength).0.len(), text.len(), "{name}");
            if name.starts_with("base64") && name.contains('+') && !name.contains("url") {
                let run = &whole[12..whole.len() - 3];
                let text = String::from_utf8_lossy(run).replace('=', "");
                let decoded = STANDARD_NO_PAD.decode(&text).unwrap();
                let found = decoded.windows(placeholder.len()).any(|w| w == placeholder.as_bytes());
                assert!(found, "{name}: {text} does not decode to the placeholder");
            }
        }
    }
}

#[test]
fn replacements_keep_their_spelling() {
    let set = set();
    for (text, expected) in [
        (GITHUB.0.to_owned(), GITHUB.1.to_owned()),
        (
            GITHUB.0.bytes().map(|b| format!("%{b:02x}")).collect(),
            GITHUB.1.bytes().map(|b| format!("%{b:02x}")).collect(),
        ),
        (
            GITHUB.0.bytes().map(|b| format!("\\u{b:04X}")).collect(),
            GITHUB.1.bytes().map(|b| format!("\\u{b:04X}")).collect(),
        ),
        (
            GITHUB.0.bytes().map(|b| format!("&#x{b:02x};")).collect(),
            GITHUB.1.bytes().map(|b| format!("&#x{b:02x};")).collect(),
        ),
        (
            serde_json::to_string(AWKWARD.0).unwrap(),
            serde_json::to_string(AWKWARD.1).unwrap(),
        ),
        (
            GITHUB.0.chars().rev().collect(),
            GITHUB.1.chars().rev().collect::<String>(),
        ),
    ] {
        assert_eq!(set.scrub_text(&text).0, expected);
    }
}

#[test]
fn neighbours_repetitions_and_beginnings_are_told_apart() {
    let set = set();
    let (value, placeholder) = GITHUB;
    let text = format!("{value}{value}ghp_R3al{value}ghp_R3alS3cretValue");
    let expected = format!("{placeholder}{placeholder}ghp_R3al{placeholder}ghp_R3alS3cretValue");
    for size in 1..text.len() {
        let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
        assert_eq!(
            scrub(&set, &chunks, Fit::Exact),
            (expected.clone().into_bytes(), 3),
            "chunks of {size}"
        );
    }
}

#[test]
fn secrets_that_overlap_are_all_taken_out() {
    // What placeholders keep of their values (known beginnings, signs) may be shared by two occurrences.
    let pair = ("sk-R3al/S3cret-sk", "sk-F4ke.P1aceh-sk");
    let set = SecretSet::new(vec![spec("a", pair, &[HOST], true)]).unwrap();
    let reversed: String = pair.0.chars().rev().collect();
    for text in [
        format!("{}{}", pair.0, &pair.0[2..]),
        format!("{}{}{}", pair.0, &pair.0[2..], &pair.0[2..]),
        format!("{reversed}{}", &pair.0[1..]),
        format!("{}{}", pair.0, &reversed[1..]),
    ] {
        let text = format!("<{text}>");
        let (whole, _) = scrub(&set, &[text.as_bytes()], Fit::Exact);
        assert_eq!(whole.len(), text.len());
        assert_eq!(leaks(&whole, pair.0), None, "{text}");
        for size in 1..text.len() {
            let chunks: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
            assert_eq!(scrub(&set, &chunks, Fit::Exact).0, whole, "{text} in chunks of {size}");
        }
    }
}

#[test]
fn nothing_is_held_that_cannot_become_a_secret() {
    let set = set();
    let mut scrubber = set.scrubber("", Fit::Exact, &Limits::default()).unwrap();
    for event in ["data: {\"text\": \"hello\"}\n\n", ": ping\n\n", "data: [1, 2]\n\n"] {
        assert_eq!(scrubber.push(event.as_bytes()).unwrap(), event);
    }
    assert_eq!(scrubber.push(b"token: ghp_R3al").unwrap(), "token: ");
    assert_eq!(scrubber.push(b"ity\n").unwrap(), "ghp_R3ality\n");
}

#[test]
fn the_longer_of_two_values_wins() {
    let password = ("inner-password-1", "xxxxx-yyyyyyyy-1");
    let address = ("db://me:inner-password-1@host", "db://ab:qqqqq-wwwwwwww-1@zxcv");
    let set = SecretSet::new(vec![
        spec("password", password, &[HOST], true),
        spec("address", address, &[HOST], true),
    ])
    .unwrap();
    let (text, hits) = set.scrub_text("db://me:inner-password-1@host and me:inner-password-1@host");
    assert_eq!(text, "db://ab:qqqqq-wwwwwwww-1@zxcv and me:xxxxx-yyyyyyyy-1@host");
    assert_eq!(hits, 2);
}

#[test]
fn an_empty_set_changes_nothing() {
    let set = SecretSet::empty();
    assert!(set.is_empty() && !set.bound_to(HOST));
    assert_eq!(set.scrub_text(GITHUB.0), (GITHUB.0.into(), 0));
    let mut request = head(
        "GET",
        "/?a=b",
        &[("authorization", "Bearer x"), ("accept-encoding", "dcb")],
    );
    let outcome = set
        .rewrite_head(&destination(), &mut request, &Limits::default())
        .unwrap();
    assert_eq!(outcome.body, BodyPlan::Pass);
    assert_eq!(request.headers["accept-encoding"], "dcb");
}
