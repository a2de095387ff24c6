//! Entry points for fuzzing: every parser of bytes that come from somebody else.

use tokio_util::sync::CancellationToken;

use crate::archive::Archive;
use crate::build::Builder;
use crate::digest::{Digest, Measured};
use crate::limits::Limits;
use crate::manifest::{self, Document, Platform};
use crate::tree::Tree;
use crate::{Reference, unpack};

/// The text of `--image`. What parses must write back to itself.
pub fn reference(text: &str) {
    if let Ok(reference) = Reference::parse(text) {
        let again =
            Reference::parse(&reference.to_string()).expect("what was parsed is written in the form that is parsed");
        assert_eq!(again, reference);
    }
}

/// A manifest, an index, a configuration or the manifest of a saved archive.
pub fn manifest(bytes: &[u8]) {
    let limits = Limits::default();
    if let Ok(Document::Index(manifests)) = manifest::document(bytes, "fuzzed", &limits) {
        // Whether one fits does not matter here; that choosing ends does.
        let _ = manifest::select(&manifests, &Platform::here(), "fuzzed");
    }
    let _ = manifest::config(bytes, 1, &Platform::here(), "fuzzed");
    let _ = manifest::saved(bytes, "fuzzed", &limits);
}

/// A layer, unpacked into a folder beside another one that must stay empty.
pub fn layer(bytes: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let limits = Limits {
        layer_bytes: 1 << 20,
        file_bytes: 1 << 19,
        entries: 200,
        ..Limits::default()
    };
    let (root, outside) = (folder.path().join("root"), folder.path().join("outside"));
    if std::fs::create_dir(&root).is_err() || std::fs::create_dir(&outside).is_err() {
        return;
    }
    if let Ok(mut builder) = Builder::new(&root, Tree::new(), &[], &limits, "fuzzed") {
        let mut archive = Archive::new(Measured::new(bytes, limits.layer_bytes), "fuzzed");
        if unpack::entries(&mut archive, &mut builder).is_ok()
            && let Ok(built) = builder.finish()
        {
            let lines = crate::index::write(&built.entries);
            let mut again = Tree::new();
            let entries = crate::index::read(&lines).expect("an index reads as it was written");
            assert!(
                crate::index::stack(&mut again, &entries, 0),
                "an index fits the tree it was made from"
            );
            assert_eq!(again, built.tree);
        }
    }
    if let Ok(builder) = Builder::new(&outside, Tree::new(), &[], &limits, "fuzzed") {
        // A digest that nothing has: everything is read, nothing may be kept.
        let result = unpack::layer(
            bytes,
            builder,
            &Digest::of(b"no layer"),
            "fuzzed",
            &limits,
            &CancellationToken::new(),
        );
        assert!(result.is_err());
    }
    let names = std::fs::read_dir(folder.path()).into_iter().flatten().flatten().count();
    assert_eq!(names, 2, "something was written beside the root");
}
