//! Heads of requests.

use super::*;
use http::StatusCode;

fn rewrite(set: &SecretSet, parts: &mut Parts) -> Result<Vec<Use>, Blocked> {
    set.rewrite_head(&destination(), parts, &Limits::default())
        .map(|o| o.uses)
}

fn used(name: &str, location: Location) -> Use {
    Use {
        name: name.into(),
        location,
        substituted: true,
    }
}

#[test]
fn values_go_into_headers() {
    let set = set();
    let basic = |user: &str, pass: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{pass}")));
    for (name, inside, outside, location) in [
        (
            "authorization",
            format!("Bearer {}", GITHUB.1),
            format!("Bearer {}", GITHUB.0),
            Location::Header,
        ),
        (
            "x-api-key",
            AWKWARD.1.to_owned(),
            AWKWARD.0.to_owned(),
            Location::Header,
        ),
        (
            "cookie",
            format!("a=b; token={}; c=d", GITHUB.1),
            format!("a=b; token={}; c=d", GITHUB.0),
            Location::Header,
        ),
        (
            "authorization",
            basic(GITHUB.1, "x-oauth-basic"),
            basic(GITHUB.0, "x-oauth-basic"),
            Location::Basic,
        ),
        (
            "authorization",
            basic("me", AWKWARD.1),
            basic("me", AWKWARD.0),
            Location::Basic,
        ),
        (
            "x-registry-auth",
            URL_SAFE.encode(format!("{{\"password\":\"{}\"}}", GITHUB.1)),
            URL_SAFE.encode(format!("{{\"password\":\"{}\"}}", GITHUB.0)),
            Location::Header,
        ),
    ] {
        let mut parts = head("GET", "/user", &[(name, &inside)]);
        let uses = rewrite(&set, &mut parts).unwrap();
        assert_eq!(parts.headers[name], outside);
        assert!(parts.headers[name].is_sensitive(), "{name}");
        assert_eq!(uses.len(), 1);
        assert_eq!(uses[0].location, location);
    }
    let mut parts = head("GET", "/", &[("authorization", &basic(GITHUB.1, AWKWARD.1))]);
    let uses = rewrite(&set, &mut parts).unwrap();
    assert_eq!(
        uses,
        [used("github", Location::Basic), used("awkward", Location::Basic)]
    );
    assert_eq!(parts.headers["authorization"], basic(GITHUB.0, AWKWARD.0));
}

#[test]
fn the_query_is_substituted_where_it_is_named_and_encoded() {
    let mut specs = vec![spec("awkward", AWKWARD, &[HOST], false)];
    specs[0].locations.query = true;
    let asked = SecretSet::new(specs).unwrap();
    let mut parts = head("GET", &format!("https://{HOST}/v1?key={}&x=1", AWKWARD.1), &[]);
    rewrite(&asked, &mut parts).unwrap();
    assert_eq!(
        parts.uri.to_string(),
        "https://api.example.com/v1?key=p%22ss%5Cw%2Frd%2B%26%3C%3D%25%3E&x=1"
    );
    let escaped: String = AWKWARD.1.bytes().map(|b| format!("%{b:02X}")).collect();
    let mut parts = head("GET", &format!("/v1?key={escaped}"), &[]);
    rewrite(&asked, &mut parts).unwrap();
    let expected: String = AWKWARD.0.bytes().map(|b| format!("%{b:02X}")).collect();
    // Characters that happen to be the same stay as they were written.
    assert_eq!(parts.uri.query().unwrap(), format!("key={expected}"));
    let blocked = rewrite(&set(), &mut head("GET", &format!("/?k={}", GITHUB.1), &[])).unwrap_err();
    assert_eq!(
        blocked.reason,
        Reason::Misplaced {
            location: Location::Query
        }
    );
}

#[test]
fn a_placeholder_for_another_host_is_blocked_in_every_encoding() {
    let set = set();
    for (name, encoded) in encodings(FOREIGN.1) {
        let Ok(text) = String::from_utf8(encoded) else { continue };
        if http::HeaderValue::from_str(&text).is_err() {
            continue;
        }
        let blocked = rewrite(&set, &mut head("GET", "/", &[("x-note", &format!("a {text} b"))])).unwrap_err();
        assert_eq!(blocked.status, StatusCode::FORBIDDEN, "{name}");
        assert_eq!(blocked.name, "foreign", "{name}");
        assert!(matches!(blocked.reason, Reason::Foreign { .. }), "{name}");
        assert!(!blocked.to_string().contains(FOREIGN.0) && !blocked.to_string().contains(FOREIGN.1));
    }
    let basic = format!("Basic {}", STANDARD.encode(format!("me:{}", FOREIGN.1)));
    for (uri, headers) in [
        (format!("/{}", FOREIGN.1), vec![]),
        (format!("/?a={}", FOREIGN.1), vec![]),
        (format!("https://{}.example.com/", FOREIGN.1.to_uppercase()), vec![]),
        ("/".to_owned(), vec![("authorization", basic.as_str())]),
        ("/".to_owned(), vec![(FOREIGN.1, "name")]),
    ] {
        let blocked = rewrite(&set, &mut head("GET", &uri, &headers)).unwrap_err();
        assert_eq!(
            (blocked.name.as_str(), blocked.status),
            ("foreign", StatusCode::FORBIDDEN),
            "{uri}"
        );
    }
}

#[test]
fn nothing_goes_into_paths_clear_connections_or_wrong_locations() {
    let set = set();
    let blocked = rewrite(&set, &mut head("GET", &format!("/bot{}/send", GITHUB.1), &[])).unwrap_err();
    assert_eq!(
        blocked.reason,
        Reason::Misplaced {
            location: Location::Path
        }
    );
    let bearer = format!("Bearer {}", GITHUB.1);
    let clear = Destination::http(HOST, 80);
    let mut parts = head("GET", "/", &[("authorization", &bearer)]);
    let blocked = set
        .rewrite_head(&clear, &mut parts, &Limits::default())
        .map(|_| ())
        .unwrap_err();
    assert_eq!(blocked.reason, Reason::Cleartext);
    assert_eq!(parts.headers["authorization"], bearer);
    let mut allowed = spec("github", GITHUB, &[HOST], false);
    allowed.cleartext = true;
    let allowed = SecretSet::new(vec![allowed]).unwrap();
    let mut parts = head("GET", "/", &[("authorization", &bearer)]);
    allowed.rewrite_head(&clear, &mut parts, &Limits::default()).unwrap();
    assert_eq!(parts.headers["authorization"], format!("Bearer {}", GITHUB.0));
    let mut body_only = spec("github", GITHUB, &[HOST], true);
    body_only.locations = Locations::from_injection(false, true);
    let body_only = SecretSet::new(vec![body_only]).unwrap();
    for value in [bearer, format!("Basic {}", STANDARD.encode(format!("a:{}", GITHUB.1)))] {
        let blocked = rewrite(&body_only, &mut head("GET", "/", &[("authorization", &value)])).unwrap_err();
        assert!(matches!(blocked.reason, Reason::Misplaced { .. }));
    }
    let reversed: String = GITHUB.1.chars().rev().collect();
    let blocked = rewrite(&set, &mut head("GET", "/", &[("x-a", &reversed)])).unwrap_err();
    assert!(matches!(blocked.reason, Reason::Encoded { .. }));
    let line = SecretSet::new(vec![spec(
        "line",
        ("two\r\nlines-of-it", "two-xlines-of-xx"),
        &[HOST],
        true,
    )])
    .unwrap();
    let blocked = rewrite(&line, &mut head("GET", "/", &[("x-a", "two-xlines-of-xx")])).unwrap_err();
    assert!(matches!(blocked.reason, Reason::Unfit { .. }));
}

#[test]
fn rules_may_let_placeholders_pass_as_they_are() {
    let rules = Rules {
        foreign: Handling::Pass,
        misplaced: Handling::Pass,
    };
    let specs = vec![spec("foreign", FOREIGN, &["other.example.net"], true)];
    let set = SecretSet::with_rules(specs, rules).unwrap();
    let mut parts = head("GET", &format!("/{}", FOREIGN.1), &[("x-a", FOREIGN.1)]);
    let uses = rewrite(&set, &mut parts).unwrap();
    assert_eq!(parts.headers["x-a"], FOREIGN.1);
    assert!(uses.iter().all(|u| !u.substituted) && uses.len() == 2, "{uses:?}");
}

#[test]
fn offers_that_cannot_be_searched_are_taken_out() {
    let set = set();
    let headers = [
        ("accept-encoding", "gzip, dcb, br;q=0.5, *"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("grpc-accept-encoding", "gzip,identity"),
        ("range", "bytes=0-3"),
    ];
    let mut parts = head("GET", "/", &headers);
    rewrite(&set, &mut parts).unwrap();
    assert_eq!(parts.headers["accept-encoding"], "gzip, br;q=0.5");
    assert!(!parts.headers.contains_key("sec-websocket-extensions"));
    assert_eq!(parts.headers["grpc-accept-encoding"], "identity");
    assert!(parts.headers.contains_key("range"), "no secret in the request");
    let mut parts = head("GET", "/", &[("range", "bytes=0-3"), ("x-api-key", GITHUB.1)]);
    rewrite(&set, &mut parts).unwrap();
    assert!(!parts.headers.contains_key("range"));
}
