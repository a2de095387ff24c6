//! Layers of images, unpacked: nothing comes to lie outside of their folder.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| outwork_image::fuzz::layer(bytes));
