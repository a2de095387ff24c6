//! Results of private servers: what is rewritten stays JSON.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outwork_gateway::fuzz::rewrite(bytes));
