//! The gateway's configuration: errors, never a panic.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outwork_gateway::fuzz::config(bytes));
