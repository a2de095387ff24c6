//! Any byte or line that is changed, removed, doubled or moved is found, and named by file, line and sequence.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use outwork_ledger::line::{Line, check_round_trip};
use outwork_ledger::{Error, Expect, Fault, FaultKind, Ledger, PublicKey, verify, verify_reader};
use proptest::prelude::*;

use crate::support::{copy, name, sample, segment_files, unsigned};

struct Sample {
    dir: tempfile::TempDir,
    keys: Vec<PublicKey>,
    files: Vec<(PathBuf, Vec<u8>)>,
}

static SAMPLE: LazyLock<Sample> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let keys = sample(dir.path());
    let files = segment_files(dir.path())
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    Sample { dir, keys, files }
});

fn expect() -> Expect {
    Expect::keys([SAMPLE.keys[0]])
}

fn sequence_of(line: &[u8]) -> u64 {
    Line::parse(line.strip_suffix(b"\n").unwrap()).unwrap().sequence
}

/// The fault of the sample with another content of one file, which opening must name as well.
fn fault(file: usize, content: &[u8]) -> Fault {
    let dir = copy(SAMPLE.dir.path());
    fs::write(dir.path().join(name(&SAMPLE.files[file].0)), content).unwrap();
    let found = verify(dir.path(), &expect())
        .unwrap()
        .fault
        .expect("a change was not found");
    match Ledger::open(dir.path(), unsigned()) {
        Err(Error::Damaged(named)) => assert_eq!(*named, found),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it opened in spite of {found}"),
    }
    found
}

fn assert_named(found: &Fault, file: usize, line: usize) {
    let (path, bytes) = &SAMPLE.files[file];
    let lines: Vec<&[u8]> = bytes.split_inclusive(|&b| b == b'\n').collect();
    assert_eq!(
        (found.file.as_str(), found.line),
        (name(path).as_str(), line as u64 + 1),
        "{found}"
    );
    let due = lines
        .get(line)
        .map_or_else(|| sequence_of(lines[line - 1]) + 1, |line| sequence_of(line));
    assert_eq!(found.sequence, Some(due), "{found}");
}

/// File and offset of the `at`th byte of the whole ledger.
fn locate(at: prop::sample::Index) -> (usize, usize) {
    let total: usize = SAMPLE.files.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut at = at.index(total);
    for (file, (_, bytes)) in SAMPLE.files.iter().enumerate() {
        if at < bytes.len() {
            return (file, at);
        }
        at -= bytes.len();
    }
    unreachable!("the index is below the sum")
}

fn line_of(file: usize, at: usize) -> usize {
    SAMPLE.files[file].1[..at].iter().filter(|&&b| b == b'\n').count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_byte_is_named(at: prop::sample::Index, flip in 1u8..) {
        let (file, at) = locate(at);
        let mut bytes = SAMPLE.files[file].1.clone();
        bytes[at] ^= flip;
        assert_named(&fault(file, &bytes), file, line_of(file, at));
    }

    #[test]
    fn a_removed_byte_is_named(at: prop::sample::Index) {
        let (file, at) = locate(at);
        let mut bytes = SAMPLE.files[file].1.clone();
        bytes.remove(at);
        assert_named(&fault(file, &bytes), file, line_of(file, at));
    }

    #[test]
    fn an_added_byte_is_named(at: prop::sample::Index, byte: u8) {
        let (file, at) = locate(at);
        let mut bytes = SAMPLE.files[file].1.clone();
        bytes.insert(at, byte);
        let found = fault(file, &bytes);
        // A byte that is doubled is the same change one place on.
        let next = line_of(file, at + 1);
        let line = if byte == SAMPLE.files[file].1[at] { next } else { line_of(file, at) };
        prop_assert_eq!(found.file.as_str(), name(&SAMPLE.files[file].0));
        prop_assert!(found.line == line as u64 + 1 || found.line == next as u64 + 1, "{}", found);
    }

    #[test]
    fn moved_removed_and_doubled_lines_are_named(a: prop::sample::Index, b: prop::sample::Index, what in 0..3) {
        let (file, _) = locate(a);
        let bytes = &SAMPLE.files[file].1;
        let mut lines: Vec<&[u8]> = bytes.split_inclusive(|&b| b == b'\n').collect();
        let (i, j) = (a.index(lines.len()), b.index(lines.len()));
        let (i, j) = (i.min(j), i.max(j));
        let first = match what {
            0 if i == j => return Ok(()),
            0 => { lines.swap(i, j); i }
            1 => { lines.remove(i); i }
            _ => { lines.insert(j + 1, lines[i]); j + 1 }
        };
        let found = fault(file, &lines.concat());
        // The end of a segment that is followed by another is missed where the next one begins.
        let is_last = file + 1 == SAMPLE.files.len();
        if first + 1 >= SAMPLE.files[file].1.iter().filter(|&&b| b == b'\n').count() && what == 1 && !is_last {
            prop_assert_eq!(found.file.as_str(), name(&SAMPLE.files[file + 1].0));
            prop_assert_eq!(found.kind, FaultKind::Segment);
        } else if what == 2 && first == bytes.iter().filter(|&&b| b == b'\n').count() {
            prop_assert_eq!((found.file, found.line), (name(&SAMPLE.files[file].0), first as u64 + 1));
        } else {
            assert_named(&found, file, first);
        }
    }

    #[test]
    fn what_the_line_reader_takes_has_one_form(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check_round_trip(&bytes);
    }

    #[test]
    fn what_the_line_reader_takes_of_changed_lines_has_one_form(
        line: prop::sample::Index,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..4),
    ) {
        let lines: Vec<&[u8]> = SAMPLE.files[0].1.split(|&b| b == b'\n').filter(|line| !line.is_empty()).collect();
        let mut bytes = line.get(&lines).to_vec();
        for (at, byte, what) in edits {
            let at = at.index(bytes.len());
            match what {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        check_round_trip(&bytes);
    }
}

#[test]
fn every_byte_counts() {
    // All bytes of the last file, in a stream without a head.
    let (_, bytes) = SAMPLE.files.last().unwrap();
    let before: Vec<u8> = SAMPLE.files[..SAMPLE.files.len() - 1]
        .iter()
        .flat_map(|(_, bytes)| bytes.clone())
        .collect();
    let line_before = before.iter().filter(|&&b| b == b'\n').count();
    let whole = verify_reader(&*[&before[..], bytes].concat(), "stream", &expect())
        .unwrap()
        .sound()
        .unwrap();
    for at in 0..bytes.len() {
        for flip in [1, 0x80] {
            let mut changed = [&before[..], bytes].concat();
            changed[before.len() + at] ^= flip;
            let found = verify_reader(&*changed, "stream", &expect())
                .unwrap()
                .fault
                .expect("a change was not found");
            let line = line_before + line_of(SAMPLE.files.len() - 1, at);
            assert_eq!(
                (found.file.as_str(), found.line),
                ("stream", line as u64 + 1),
                "{found}"
            );
        }
    }
    // Without a head, only somebody's receipt shows that the end is gone.
    let end = before.len() + bytes.iter().position(|&b| b == b'\n').unwrap() + 1;
    let cut = [&before[..], bytes].concat()[..end].to_vec();
    assert!(verify_reader(&*cut, "stream", &expect()).unwrap().is_sound());
    let expect = expect().witness(whole.last.unwrap());
    let found = verify_reader(&*cut, "stream", &expect).unwrap().fault.unwrap();
    assert_eq!(
        found.kind,
        FaultKind::Truncated {
            expected: whole.last.unwrap().sequence
        }
    );
}

#[test]
fn missing_renamed_and_foreign_segments_are_named() {
    for file in 0..SAMPLE.files.len() {
        let dir = copy(SAMPLE.dir.path());
        fs::remove_file(dir.path().join(name(&SAMPLE.files[file].0))).unwrap();
        let found = verify(dir.path(), &expect()).unwrap().fault.unwrap();
        let is_last = file + 1 == SAMPLE.files.len();
        assert_eq!(matches!(found.kind, FaultKind::Truncated { .. }), is_last, "{found}");
        assert_eq!(found.kind == FaultKind::Segment, !is_last, "{found}");
        assert!(matches!(Ledger::open(dir.path(), unsigned()), Err(Error::Damaged(_))));
    }
    let dir = copy(SAMPLE.dir.path());
    fs::write(dir.path().join("ledger-1.jsonl"), "").unwrap();
    assert!(matches!(Ledger::open(dir.path(), unsigned()), Err(Error::Stray { .. })));
    fs::remove_file(dir.path().join("ledger-1.jsonl")).unwrap();
    fs::write(dir.path().join("head"), "{}").unwrap();
    let found = verify(dir.path(), &expect()).unwrap().fault.unwrap();
    assert_eq!((found.file.as_str(), found.kind), ("head", FaultKind::Head));
    // Everything gone but the head.
    let dir = copy(SAMPLE.dir.path());
    for (path, _) in &SAMPLE.files {
        fs::remove_file(dir.path().join(name(path))).unwrap();
    }
    assert!(matches!(Ledger::open(dir.path(), unsigned()), Err(Error::Damaged(_))));
}

#[test]
fn a_ledger_that_was_written_anew_is_found() {
    // The same records under another key: consistent in itself, and not what was there.
    let other = tempfile::tempdir().unwrap();
    let keys = sample(other.path());
    assert!(verify(other.path(), &Expect::any_key()).unwrap().is_sound());
    assert_eq!(
        verify(other.path(), &expect()).unwrap().fault.unwrap().kind,
        FaultKind::Untrusted
    );
    let receipt = verify(SAMPLE.dir.path(), &expect())
        .unwrap()
        .sound()
        .unwrap()
        .last
        .unwrap();
    let found = verify(other.path(), &Expect::keys(keys).witness(receipt))
        .unwrap()
        .fault
        .unwrap();
    assert_eq!(
        (found.kind, found.sequence),
        (FaultKind::Witness, Some(receipt.sequence))
    );
    // The other head does not fit either.
    let dir = copy(SAMPLE.dir.path());
    fs::copy(other.path().join("head"), dir.path().join("head")).unwrap();
    assert_eq!(
        verify(dir.path(), &expect()).unwrap().fault.unwrap().kind,
        FaultKind::Witness
    );
    assert!(Path::new(other.path()).exists());
}
