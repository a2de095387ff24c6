//! References, manifests, indexes and configurations of images.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    outwork_image::fuzz::manifest(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        outwork_image::fuzz::reference(text);
    }
});
