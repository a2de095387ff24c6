//! Event bodies: what is accepted from a client reads back from the log as it was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use outwork_wire::id::EventId;
use outwork_wire::{Event, EventParams};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(params) = serde_json::from_slice::<EventParams>(bytes) {
        let event = Event { id: EventId::fresh(), processed_at: None, body: params.into_body() };
        let text = serde_json::to_string(&event).expect("an event is plain JSON");
        assert_eq!(serde_json::from_str::<Event>(&text).expect("what was written is read"), event);
    }
    if let Ok(event) = serde_json::from_slice::<Event>(bytes) {
        let text = serde_json::to_string(&event).expect("an event is plain JSON");
        assert_eq!(serde_json::from_str::<Event>(&text).expect("what was written is read"), event);
    }
});
