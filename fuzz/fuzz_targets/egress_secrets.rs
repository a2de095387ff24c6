//! Placeholders on their way out, in heads, bodies and messages of WebSockets.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| match bytes.split_first() {
    Some((0..=84, rest)) => outwork_egress::secret::fuzz::head(rest),
    Some((85..=169, rest)) => outwork_egress::secret::fuzz::body(rest),
    Some((170.., rest)) => outwork_egress::secret::fuzz::websocket(rest),
    None => {}
});
