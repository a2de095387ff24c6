//! Page cursors: what a client sends back is either one that was given out or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outwork_store::cursor::Cursor;

fuzz_target!(|text: &str| {
    if let Ok(cursor) = Cursor::decode(text) {
        assert_eq!(cursor.encode(), text);
    }
});
