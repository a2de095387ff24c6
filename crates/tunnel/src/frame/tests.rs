use proptest::prelude::*;

use super::*;

fn text(max: usize) -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::char::range('\u{20}', '\u{2fff}'), 0..max / 3).prop_map(|c| c.into_iter().collect())
}

fn host() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        proptest::collection::vec(prop_oneof![proptest::char::range('a', 'z'), proptest::char::range('0', '9')], 1..20)
            .prop_map(|label| label.into_iter().collect::<String>()),
        1..8,
    )
    .prop_map(|labels| labels.join("."))
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        (any::<u16>(), text(MAX_ID), text(MAX_TOKEN), text(MAX_ID), any::<u16>(), text(MAX_SOFTWARE)).prop_map(
            |(protocol, tunnel_id, token, instance, index, software)| Frame::Hello(Hello {
                protocol,
                tunnel_id,
                token: token.into(),
                instance,
                index,
                software
            })
        ),
        (text(MAX_ID), any::<u32>())
            .prop_map(|(connection_id, heartbeat_ms)| Frame::Welcome(Welcome { connection_id, heartbeat_ms })),
        (0..RefusedCode::ALL.len(), text(MAX_MESSAGE))
            .prop_map(|(at, message)| Frame::Refused(Refused { code: RefusedCode::ALL[at].1, message })),
        any::<u64>().prop_map(Frame::Ping),
        any::<u64>().prop_map(Frame::Pong),
        Just(Frame::Drain),
        (host(), any::<bool>()).prop_map(|(host, probe)| Frame::Open(Open {
            host,
            kind: if probe { StreamKind::Probe } else { StreamKind::Request }
        })),
        Just(Frame::Accepted),
        (0..RejectionCode::ALL.len(), text(MAX_MESSAGE))
            .prop_map(|(at, message)| Frame::Rejected(Rejection::new(RejectionCode::ALL[at].1, message))),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_itself_whatever_follows(frame in frame(), tail in proptest::collection::vec(any::<u8>(), 0..32)) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).unwrap();
        prop_assert!(bytes.len() <= MAX_FRAME_LEN);
        let len = bytes.len();
        bytes.extend(tail);
        prop_assert_eq!(decode(&bytes).unwrap(), Some((frame, len)));
    }

    #[test]
    fn a_part_of_a_frame_is_incomplete_and_never_another_frame(frame in frame(), cut in any::<proptest::sample::Index>()) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).unwrap();
        let cut = cut.index(bytes.len());
        prop_assert_eq!(decode(&bytes[..cut]), Ok(None));
    }

    #[test]
    fn any_bytes_are_refused_or_encode_again(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz(&bytes);
    }

    #[test]
    fn a_frame_with_one_changed_byte_is_refused_or_encodes_again(
        frame in frame(), at in any::<proptest::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        fuzz(&bytes);
    }
}

#[test]
fn headers_are_refused_before_their_payload_arrives() {
    assert_eq!(decode(&[9]), Err(FrameError::Layout(9)));
    assert_eq!(decode(&[LAYOUT, 99]), Err(FrameError::Kind(99)));
    assert_eq!(
        decode(&[LAYOUT, 1, 0xff, 0xff]),
        Err(FrameError::TooLong { kind: "hello", len: 0xffff, max: MAX_HELLO })
    );
    assert_eq!(decode(&[LAYOUT, 4, 0x03, 0x00]), Err(FrameError::TooLong { kind: "ping", len: 768, max: MAX_OTHER }));
    assert_eq!(decode(&[LAYOUT, 4, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 7]), Err(FrameError::Trailing(1)));
    assert_eq!(decode(&[LAYOUT, 4, 0, 2, 0, 0]), Err(FrameError::Short("nonce")));
}

#[test]
fn hosts_are_lower_case_names() {
    for good in ["a", "wiki.x1.tunnel.example", "xn--bcher-kva.example", "10.0.0.1"] {
        assert!(is_host(good), "{good}");
    }
    let long = "a".repeat(64);
    let far = "abc.".repeat(64) + "a";
    for bad in ["", ".", "a.", ".a", "a..b", "A.example", "a b", "a:443", "ä.example", "-a", "a-", "a/b", &long, &far] {
        assert!(!is_host(bad), "{bad}");
        let mut out = vec![7];
        let open = Frame::Open(Open { host: bad.to_owned(), kind: StreamKind::Probe });
        assert_eq!(open.encode(&mut out), Err(FrameError::Field("host")));
        assert_eq!(out, [7], "nothing is written of a frame that breaks a rule");
    }
}

#[test]
fn a_hello_shows_no_token() {
    let hello = Hello {
        protocol: PROTOCOL,
        tunnel_id: "tnl_1".into(),
        token: "very-secret".to_owned().into(),
        instance: "i".into(),
        index: 0,
        software: "s".into(),
    };
    assert!(!format!("{hello:?}").contains("very-secret"));
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let rejection = Rejection::new(RejectionCode::Refused, "ä".repeat(400));
    assert_eq!(rejection.message.len(), MAX_MESSAGE);
    assert!(Frame::Rejected(rejection).encode(&mut Vec::new()).is_ok());
}
