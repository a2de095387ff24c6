//! Old segments go whole, a signed stub stays, the rest verifies from it, and nothing goes without a word.

use std::fs;
use std::path::Path;
use std::thread;

use outwork_ledger::{
    Error, Expect, FaultKind, Filter, Ledger, Options, PublicKey, Receipt, Retention, scan, verify, verify_bundle,
};
use outwork_wire::Time;

use crate::support::{copy, name, record, sample, segment_files, unsigned};

fn by_size(keep: u64) -> Retention {
    Retention {
        keep_bytes: Some(keep),
        ..Retention::default()
    }
}

fn later(seconds: i64) -> Time {
    Time::now().plus_seconds(seconds)
}

/// A closed ledger of which about half is pruned: its keys, the pruned end, and what verified before.
fn pruned(dir: &Path) -> (Vec<PublicKey>, Receipt, Receipt) {
    let keys = sample(dir);
    let before = verify(dir, &Expect::keys([keys[0]])).unwrap().sound().unwrap();
    let total: u64 = segment_files(dir).iter().map(|f| fs::metadata(f).unwrap().len()).sum();
    let ledger = Ledger::open(dir, unsigned()).unwrap();
    let done = ledger.prune(&by_size(total / 2), "retention", "30 days").unwrap();
    assert!(done.segments >= 1 && done.bytes > 0);
    ledger.close().unwrap();
    (keys, done.through.unwrap(), before.last.unwrap())
}

#[test]
fn old_segments_go_and_the_rest_verifies_from_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, through, last) = pruned(dir.path());
    // The key rotated in the middle: whoever knows only the first, or only the second, verifies.
    for key in &keys {
        let report = verify(dir.path(), &Expect::keys([*key]).witness(last).witness(through)).unwrap();
        let report = report.sound().unwrap();
        let stub = report.pruned.unwrap();
        assert_eq!(stub.through, through);
        assert_eq!(stub.checkpoint.sequence, through.sequence - 1);
        assert_eq!(stub.records + report.records, 24);
        assert!(report.records > 0 && stub.records > 0 && report.unconfirmed == 0);
    }
    let old = Receipt {
        sequence: 3,
        hash: outwork_ledger::Hash::ZERO,
    };
    assert_eq!(
        verify(dir.path(), &Expect::any_key().witness(old))
            .unwrap()
            .sound()
            .unwrap()
            .unconfirmed,
        1
    );
    let other = Receipt {
        hash: outwork_ledger::Hash::ZERO,
        ..through
    };
    let found = verify(dir.path(), &Expect::any_key().witness(other))
        .unwrap()
        .fault
        .unwrap();
    assert_eq!(found.kind, FaultKind::Witness);

    // It goes on: records, another pruning, bundles, redaction, restarts.
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    assert_eq!(ledger.public_key(), keys[1]);
    let receipt = ledger.append(record("a", 100)).wait().unwrap();
    let mut bundle = Vec::new();
    ledger.export(&Filter::session("a"), &mut bundle).unwrap();
    let expect = Expect::keys([keys[0]]);
    verify_bundle(&*bundle, "b", &expect, |_, _| {})
        .unwrap()
        .sound()
        .unwrap();
    ledger.redact(&Filter::session("b"), "owner", "asked").unwrap();
    ledger.rotate_segment().wait().unwrap();
    let again = ledger.prune(&by_size(0), "retention", "all of it").unwrap();
    assert!(again.through.unwrap().sequence > through.sequence);
    assert_eq!(
        ledger.prune(&by_size(0), "retention", "again").unwrap().segments,
        0,
        "only the open one is left"
    );
    ledger.close().unwrap();
    let report = verify(dir.path(), &expect).unwrap().sound().unwrap();
    let stub = report.pruned.unwrap();
    assert!(stub.through.sequence >= receipt.sequence);
    assert_eq!((report.records, stub.records, report.redaction_unfinished), (0, 25, 0));
    drop(Ledger::open(dir.path(), unsigned()).unwrap());
    assert_eq!(scan(dir.path(), &Filter::everything(), |_, _| {}).unwrap(), 0);
}

#[test]
fn age_is_that_of_the_last_signature_of_a_segment() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    for n in 0..5 {
        ledger.append(record("a", n)).wait().unwrap();
    }
    let before = |time| Retention {
        before: Some(time),
        ..Retention::default()
    };
    assert_eq!(ledger.prune(&before(later(-3600)), "r", "r").unwrap().segments, 0);
    // All of it is older than that; the segment that is being written is closed for it.
    let done = ledger.prune(&before(later(3600)), "r", "r").unwrap();
    assert_eq!(done.segments, 1);
    ledger.close().unwrap();
    let report = verify(dir.path(), &Expect::any_key()).unwrap().sound().unwrap();
    assert_eq!((report.records, report.pruned.unwrap().records), (0, 5));
}

#[test]
fn any_change_of_the_stub_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, through, _) = pruned(dir.path());
    let stub = fs::read(dir.path().join("pruned")).unwrap();
    let fault = |content: Option<&[u8]>| {
        match content {
            Some(bytes) => fs::write(dir.path().join("pruned"), bytes).unwrap(),
            None => fs::remove_file(dir.path().join("pruned")).unwrap(),
        }
        let found = verify(dir.path(), &Expect::keys([keys[0]]))
            .unwrap()
            .fault
            .expect("a change was not found");
        assert!(matches!(Ledger::open(dir.path(), unsigned()), Err(Error::Damaged(_))));
        found
    };
    for at in 0..stub.len() {
        let mut changed = stub.clone();
        changed[at] ^= 1;
        let found = fault(Some(&changed));
        assert_eq!((found.file.as_str(), found.line), ("pruned", 1), "{found}");
    }
    for cut in [0, 1, stub.len() / 2, stub.len() - 1] {
        assert_eq!(fault(Some(&stub[..cut])).file, "pruned");
    }
    assert_eq!(fault(None).kind, FaultKind::Segment);
    // The stub of another ledger.
    let other = tempfile::tempdir().unwrap();
    pruned(other.path());
    let foreign = fs::read(other.path().join("pruned")).unwrap();
    fault(Some(&foreign));
    fs::write(dir.path().join("pruned"), &stub).unwrap();
    let report = verify(dir.path(), &Expect::keys([keys[0]])).unwrap().sound().unwrap();
    assert_eq!(report.pruned.unwrap().through, through);
    // A segment that is gone without a word, behind the stub.
    fs::remove_file(segment_files(dir.path()).first().unwrap()).unwrap();
    let found = verify(dir.path(), &Expect::any_key()).unwrap().fault.unwrap();
    assert!(
        matches!(found.kind, FaultKind::Segment | FaultKind::Truncated { .. }),
        "{found}"
    );
}

#[test]
fn a_stub_of_which_the_ledger_does_not_tell_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let before = copy(dir.path());
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    let done = ledger.prune(&by_size(0), "retention", "x").unwrap();
    ledger.close().unwrap();
    let through = done.through.unwrap().sequence;
    // Its key holder signed the stub; the ledger before does not tell of a pruning.
    fs::copy(dir.path().join("pruned"), before.path().join("pruned")).unwrap();
    let found = verify(before.path(), &Expect::any_key()).unwrap().fault.unwrap();
    assert_eq!((found.file.as_str(), found.sequence), ("pruned", Some(through)));
    assert!(matches!(found.kind, FaultKind::Pruned(_)), "{found}");
}

#[test]
fn a_pruning_that_a_crash_interrupted_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let before = copy(dir.path());
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    let done = ledger.prune(&by_size(2000), "retention", "x").unwrap();
    ledger.close().unwrap();
    let through = done.through.unwrap();
    let old: Vec<_> = segment_files(before.path())
        .into_iter()
        .filter(|file| !dir.path().join(name(file)).exists())
        .collect();
    assert_eq!(old.len() as u64, done.segments);
    // The stub is there or not yet; of the segments the last so many are still there.
    for with_stub in [true, false] {
        for kept in 0..=old.len() {
            if !with_stub && kept < old.len() {
                continue; // nothing goes before the stub is there
            }
            let crashed = copy(dir.path());
            for file in &old[old.len() - kept..] {
                fs::copy(file, crashed.path().join(name(file))).unwrap();
            }
            if !with_stub {
                fs::remove_file(crashed.path().join("pruned")).unwrap();
                fs::write(crashed.path().join("pruned.tmp"), "half").unwrap();
            }
            let report = verify(crashed.path(), &Expect::any_key()).unwrap().sound().unwrap();
            assert_eq!(report.pruned.is_some(), with_stub);
            drop(Ledger::open(crashed.path(), unsigned()).unwrap());
            assert!(!crashed.path().join("pruned.tmp").exists());
            let report = verify(crashed.path(), &Expect::any_key()).unwrap().sound().unwrap();
            let stub = report.pruned.unwrap();
            assert_eq!((stub.through, stub.records + report.records), (through, 24));
            assert!(old.iter().all(|file| !crashed.path().join(name(file)).exists()));
        }
    }
}

#[test]
fn a_ledger_that_is_being_pruned_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        checkpoint_records: 10,
        segment_bytes: 3_000,
        ..Options::default()
    };
    let ledger = Ledger::open(dir.path(), options).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..600 {
                ledger.append_later(record("a", n)).wait().unwrap();
                if n % 60 == 59 {
                    ledger.prune(&by_size(6_000), "retention", "x").unwrap();
                }
            }
        });
        while !writer.is_finished() {
            verify(dir.path(), &Expect::any_key()).unwrap().sound().unwrap();
        }
    });
    ledger.close().unwrap();
    let report = verify(dir.path(), &Expect::any_key()).unwrap().sound().unwrap();
    assert_eq!(report.records + report.pruned.unwrap().records, 600);
}
