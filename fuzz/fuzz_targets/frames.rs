//! The frames between worker and hand: bytes from a sandbox are hostile; what decodes encodes to the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outwork_sandbox::hand::frame::{FromHand, ToHand};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some((frame, used))) = FromHand::decode(bytes) {
        assert!(used <= bytes.len());
        let again = frame.encode();
        let (_, length) = FromHand::decode(&again).expect("an encoded frame decodes").expect("it is whole");
        assert_eq!(length, again.len());
    }
    if let Ok(Some((frame, used))) = ToHand::decode(bytes) {
        assert!(used <= bytes.len());
        let again = frame.encode();
        let (_, length) = ToHand::decode(&again).expect("an encoded frame decodes").expect("it is whole");
        assert_eq!(length, again.len());
    }
});
