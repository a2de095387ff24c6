//! Hosts that callers ask for: a route is found by its own name only.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outwork_gateway::fuzz::routing(bytes));
