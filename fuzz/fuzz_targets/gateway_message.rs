//! Messages of callers: the gateway judges what a plain JSON parser would read.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outwork_gateway::fuzz::message(bytes));
