//! Authorities that tunnels are given: what is accepted is one certificate that is valid at the time, and says so of itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outwork_tunnel::certificate::{Authority, expires_at, fingerprint, parse_fingerprint};
use outwork_wire::Time;

fuzz_target!(|text: &str| {
    // A time within the life of the seeds, and the same one in every run.
    let now: Time = "2027-01-01T00:00:00Z".parse().expect("a time");
    if let Ok(authority) = Authority::parse(text, now) {
        assert!(authority.expires_at > now);
        assert_eq!(expires_at(text), Some(authority.expires_at));
        assert_eq!(authority.fingerprint, fingerprint(&authority.der));
        assert!(parse_fingerprint(&authority.fingerprint).is_some());
    }
    if let Some(bytes) = parse_fingerprint(text) {
        let again: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(parse_fingerprint(&again), Some(bytes));
    }
});
