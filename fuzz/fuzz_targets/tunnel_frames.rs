//! The frames between edge and gateway: what decodes encodes to the same bytes again.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outwork_tunnel::frame::fuzz(bytes));
