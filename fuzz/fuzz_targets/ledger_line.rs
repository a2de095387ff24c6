//! Lines of a ledger: each has one form, and dropping a body keeps it intact.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outwork_ledger::line::check_round_trip(bytes));
