//! Event streams of private servers: however they are cut, the same is taken out.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outwork_gateway::fuzz::events(bytes));
