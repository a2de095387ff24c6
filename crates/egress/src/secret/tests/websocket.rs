//! WebSocket streams.

use super::*;

/// A frame, masked if a mask is given.
fn frame(last: bool, opcode: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![u8::from(last) << 7 | opcode];
    let flag = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        n @ 0..126 => out.push(flag | n as u8),
        n @ 126..65536 => {
            out.push(flag | 126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(flag | 127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    let mask_bytes = mask.unwrap_or_default();
    out.extend(mask.into_iter().flatten());
    out.extend(payload.iter().enumerate().map(|(i, b)| b ^ mask_bytes[i % 4]));
    out
}

/// A conversation with the texts `(a, b)` in it: whole, long, in fragments with a ping between, in a control frame.
fn stream(mask: Option<[u8; 4]>, secret: &str) -> Vec<u8> {
    let long = format!("{}{secret}{}", "x".repeat(70_000), "y".repeat(200));
    [
        frame(true, 1, mask, format!("{{\"token\":\"{secret}\"}}").as_bytes()),
        frame(true, 2, mask, long.as_bytes()),
        frame(false, 1, mask, format!("in fragments {}", &secret[..7]).as_bytes()),
        frame(true, 9, mask, b"ping"),
        frame(false, 0, mask, &secret.as_bytes()[7..12]),
        frame(false, 0, mask, b""),
        frame(
            true,
            0,
            mask,
            format!("{} end {}", &secret[12..], &secret[..4]).as_bytes(),
        ),
        frame(true, 1, mask, b""),
        frame(true, 10, mask, secret.as_bytes()),
        frame(true, 8, mask, b"\x03\xe8bye"),
    ]
    .concat()
}

#[test]
fn placeholders_become_values_towards_the_server() {
    let set = set();
    let mask = Some([0x11, 0x22, 0x99, 0xf0]);
    let (inside, outside) = (stream(mask, GITHUB.1), stream(mask, GITHUB.0));
    for size in [1, 2, 3, 7, 100, 65_536, inside.len()] {
        let (mut client, _) = set.web_socket(&destination(), &Limits::default());
        let mut out = Vec::new();
        for chunk in inside.chunks(size) {
            out.extend(client.push(chunk).unwrap());
        }
        out.extend(client.finish().unwrap());
        let differs = out.iter().zip(&outside).position(|(a, b)| a != b);
        assert!(
            out == outside,
            "chunks of {size}: {differs:?}, {} {}",
            out.len(),
            outside.len()
        );
        assert_eq!(client.uses().len(), 1);
    }
}

#[test]
fn values_become_placeholders_on_the_way_back() {
    let set = set();
    let (outside, inside) = (stream(None, GITHUB.0), stream(None, GITHUB.1));
    for size in [1, 2, 3, 7, 100, 65_536, inside.len()] {
        let (_, mut server) = set.web_socket(&destination(), &Limits::default());
        let mut out = Vec::new();
        for chunk in outside.chunks(size) {
            out.extend(server.push(chunk).unwrap());
        }
        out.extend(server.finish().unwrap());
        let differs = out.iter().zip(&inside).position(|(a, b)| a != b);
        assert!(
            out == inside,
            "chunks of {size}: {differs:?}, {} {}",
            out.len(),
            inside.len()
        );
        assert_eq!(server.hits(), 4);
    }
    for (name, encoded) in encodings(AWKWARD.0) {
        let (_, mut server) = set.web_socket(&destination(), &Limits::default());
        let text = frame(true, 2, None, &encoded);
        let out = server.push(&text).unwrap();
        assert_eq!(out.len(), text.len(), "{name}");
        assert_eq!(leaks(&out, AWKWARD.0), None, "{name}");
    }
}

#[test]
fn a_message_is_not_held_after_its_end() {
    let set = set();
    let (mut client, mut server) = set.web_socket(&destination(), &Limits::default());
    let mask = Some([1, 2, 3, 4]);
    let half = &GITHUB.1[..9];
    assert_eq!(
        client.push(&frame(true, 1, mask, half.as_bytes())).unwrap(),
        frame(true, 1, mask, half.as_bytes())
    );
    let half = &GITHUB.0[..9];
    assert_eq!(
        server.push(&frame(true, 1, None, half.as_bytes())).unwrap(),
        frame(true, 1, None, half.as_bytes())
    );
}

#[test]
fn what_breaks_the_rules_ends_the_stream() {
    let set = set();
    let mask = Some([9, 8, 7, 6]);
    let mut compressed = frame(true, 1, mask, b"x");
    compressed[0] |= 0x40;
    for (what, bytes) in [
        ("foreign", frame(true, 1, mask, format!("a {} b", FOREIGN.1).as_bytes())),
        ("foreign in a ping", frame(true, 9, mask, FOREIGN.1.as_bytes())),
        (
            "needs escaping in JSON",
            frame(true, 1, mask, format!("[\"{}\"]", AWKWARD.1).as_bytes()),
        ),
        ("compressed", compressed),
        ("not masked", frame(true, 1, None, b"x")),
        ("continues nothing", frame(true, 0, mask, b"x")),
        (
            "begun twice",
            [frame(false, 1, mask, b"x"), frame(true, 1, mask, b"x")].concat(),
        ),
        ("unknown kind", frame(true, 5, mask, b"x")),
        ("control in fragments", frame(false, 9, mask, b"x")),
        ("control too long", frame(true, 9, mask, &[0; 126])),
    ] {
        let (mut client, _) = set.web_socket(&destination(), &Limits::default());
        let blocked = client.push(&bytes).unwrap_err();
        assert_eq!(client.push(b"").unwrap_err(), blocked, "{what}");
    }
    let (mut client, mut server) = set.web_socket(&destination(), &Limits::default());
    assert!(
        server.push(&frame(true, 1, mask, b"x")).is_err(),
        "masked by the server"
    );
    client.push(&frame(true, 1, mask, b"hello")[..5]).unwrap();
    assert!(client.finish().is_err(), "cut short");
}
