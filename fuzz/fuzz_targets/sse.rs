//! The reader of event streams: whatever comes in whatever pieces, it gives the same events or the same refusal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outwork_wire::sse::{SseDecoder, SseEvent};

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<SseEvent>, bool) {
    let mut decoder = SseDecoder::new(1 << 16);
    let mut failed = false;
    for piece in pieces {
        if decoder.push(piece).is_err() {
            failed = true;
            break;
        }
    }
    (std::iter::from_fn(|| decoder.next_event()).collect(), failed)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, bytes) = input;
    let whole = decode(std::iter::once(bytes));
    let pieces = decode(bytes.chunks(usize::from(size).max(1)));
    assert_eq!(whole.1, pieces.1);
    if !whole.1 {
        assert_eq!(whole.0, pieces.0);
    }
});
