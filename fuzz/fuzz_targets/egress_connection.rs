//! What a sandbox sends first on a connection, and requests before they are parsed: nothing is let through that is read in two ways.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    outwork_egress::fuzz::greeting(bytes);
    outwork_egress::fuzz::http1(bytes);
});
