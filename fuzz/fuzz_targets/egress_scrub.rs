//! Secrets on their way in: whatever the coding and the borders of its chunks, none is left.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outwork_egress::secret::fuzz::scrub(bytes));
