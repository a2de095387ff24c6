//! Bodies go, hashes stay, the chain verifies, and the ledger says what went.

use std::fs;

use outwork_ledger::line::Line;
use outwork_ledger::{Error, Expect, FaultKind, Filter, Ledger, Options, verify, verify_bundle};
use outwork_wire::Time;

use crate::support::{START, copy, record, sample, segment_files, unsigned};

fn text(dir: &std::path::Path) -> String {
    segment_files(dir)
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

#[test]
fn a_session_is_redacted_and_the_chain_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let keys = sample(dir.path());
    let before = verify(dir.path(), &Expect::keys([keys[0]])).unwrap().sound().unwrap();
    let ledger = Ledger::open(
        dir.path(),
        Options {
            segment_bytes: 4000,
            ..unsigned()
        },
    )
    .unwrap();
    let kept = ledger.append(record("a", 50)).wait().unwrap();
    assert_eq!(
        ledger
            .redact(&Filter::session("a"), "owner", "asked by the person")
            .unwrap()
            .records,
        13
    );
    let later = ledger.append(record("a", 51)).wait().unwrap();
    let left = text(dir.path());
    assert!(!left.contains("call-a-0\"") && !left.contains("call-a-50\"") && left.contains("call-a-51\""));
    assert_eq!(left.matches("call-b-").count(), 12);
    assert!(left.contains("asked by the person"));
    // All that anybody knew of the ledger still holds.
    let expect = Expect::keys([keys[0]])
        .witness(before.last.unwrap())
        .witness(kept)
        .witness(later);
    let report = verify(dir.path(), &expect).unwrap().sound().unwrap();
    assert_eq!(
        (report.records, report.redacted, report.redaction_unfinished),
        (13, 13, 0)
    );
    // Nothing is left to redact, and what is there can be exported.
    assert_eq!(
        ledger
            .redact(&Filter::session("a").before(Time::from_micros(START)), "o", "")
            .unwrap()
            .records,
        0
    );
    let mut bundle = Vec::new();
    ledger.export(&Filter::session("b"), &mut bundle).unwrap();
    assert_eq!(
        verify_bundle(&*bundle, "b", &expect, |_, _| {})
            .unwrap()
            .sound()
            .unwrap()
            .records,
        12
    );
    ledger.close().unwrap();
    Ledger::open(dir.path(), unsigned()).unwrap();
}

#[test]
fn retention_drops_what_is_old() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    let old = Filter::everything().before(Time::from_micros(START + 20));
    assert_eq!(
        ledger.redact(&old, "retention", "older than a month").unwrap().records,
        20
    );
    let report = verify(dir.path(), &Expect::any_key()).unwrap().sound().unwrap();
    assert_eq!((report.records, report.redacted), (4, 20));
}

#[test]
fn a_body_that_went_without_a_word_is_named() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    for file in segment_files(dir.path()) {
        let content = fs::read_to_string(&file).unwrap();
        for (i, text) in content.lines().enumerate() {
            let line = Line::parse(text.as_bytes()).unwrap();
            let mut bare = Vec::new();
            line.without_body().write_to(&mut bare);
            let mut lines: Vec<Vec<u8>> = content.lines().map(|line| format!("{line}\n").into_bytes()).collect();
            lines[i] = bare;
            let changed = copy(dir.path());
            fs::write(changed.path().join(file.file_name().unwrap()), lines.concat()).unwrap();
            let found = verify(changed.path(), &Expect::any_key()).unwrap().fault.unwrap();
            assert_eq!(
                (found.line, found.sequence),
                (i as u64 + 1, Some(line.sequence)),
                "{found}"
            );
            assert_eq!(found.file, file.file_name().unwrap().to_str().unwrap());
            if text.contains("\"type\":\"record\"") {
                assert_eq!(found.kind, FaultKind::BodyMissing);
            } else {
                assert!(matches!(found.kind, FaultKind::Entry(_)), "{found}");
            }
            assert!(matches!(
                Ledger::open(changed.path(), unsigned()),
                Err(Error::Damaged(_))
            ));
        }
    }
}

#[test]
fn a_redaction_that_a_crash_interrupted_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let before = copy(dir.path());
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    ledger.redact(&Filter::session("a"), "owner", "test").unwrap();
    ledger.close().unwrap();
    // Of the segments that were replaced, the old ones are still there.
    for kept in segment_files(before.path()) {
        let crashed = copy(dir.path());
        // The last one went on after the copy was made: its end is the same.
        let old = fs::read(&kept).unwrap();
        let path = crashed.path().join(kept.file_name().unwrap());
        if fs::read_to_string(&path).unwrap().lines().count() != old.iter().filter(|&&b| b == b'\n').count() {
            continue;
        }
        fs::write(&path, &old).unwrap();
        fs::write(path.with_extension("tmp"), "half").unwrap();
        let report = verify(crashed.path(), &Expect::any_key()).unwrap().sound().unwrap();
        let bodies = String::from_utf8(old).unwrap().matches("call-a-").count() as u64;
        assert_eq!(report.redaction_unfinished, bodies);
        drop(Ledger::open(crashed.path(), unsigned()).unwrap());
        let report = verify(crashed.path(), &Expect::any_key()).unwrap().sound().unwrap();
        assert_eq!((report.redacted, report.redaction_unfinished), (12, 0));
        assert!(!text(crashed.path()).contains("call-a-"));
        assert!(!path.with_extension("tmp").exists());
    }
}
