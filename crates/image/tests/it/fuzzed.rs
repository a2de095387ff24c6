//! The fuzz entries on archives and documents that are almost right: what a fuzzer would soon find is found here.

use outwork_image::fuzz;
use proptest::prelude::*;

use crate::make::{Layer, Made, Tar, gzip};

fn archive() -> Vec<u8> {
    Tar::default()
        .dir("d")
        .file("d/f", b"content")
        .link("l", "/d")
        .file("l/g", b"through")
        .hard("h", "d/f")
        .pax(&[("path", "long/name"), ("mtime", "1.5")])
        .file("x", b"pax")
        .long("very/long/name")
        .file("x", b"gnu")
        .sparse("s", &[(512, b"data")], 2048)
        .file("d/.wh.f", b"")
        .end()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn layers_with_changed_bytes(changes in prop::collection::vec((0usize..12_000, any::<u8>()), 1..6), fix in any::<bool>()) {
        let mut bytes = archive();
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
            if fix {
                // A header whose checksum fits again gets further.
                let start = at / 512 * 512;
                let mut header = tar::Header::new_old();
                header.as_mut_bytes().copy_from_slice(&bytes[start..start + 512]);
                header.set_cksum();
                bytes[start..start + 512].copy_from_slice(header.as_bytes());
            }
        }
        fuzz::layer(&bytes);
    }

    #[test]
    fn packed_layers_with_changed_bytes(changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4)) {
        let mut bytes = gzip(&archive());
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        fuzz::layer(&bytes);
    }

    #[test]
    fn documents_with_changed_bytes(changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4), which in 0usize..3) {
        let made = Made::of(vec![Layer::plain(archive())]);
        let mut bytes = match which {
            0 => made.manifest_bytes().to_vec(),
            1 => made.blobs[&made.config].clone(),
            _ => Made::index(&[(&made, Some(("linux", "amd64")))]),
        };
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        fuzz::manifest(&bytes);
    }

    #[test]
    fn references(text in ".{0,80}") {
        fuzz::reference(&text);
    }
}
