//! Policies of workers, and paths of requests against their rules.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    outwork_egress::fuzz::policy(text);
    outwork_egress::fuzz::path(text);
});
