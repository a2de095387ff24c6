//! Writes that fail on demand: half a write, a failed flush, and what becomes of those who wait.

use std::thread;
use std::time::Duration;

use outwork_wire::Time;

use crate::batch::Faults;
use crate::chain::Depth;
use crate::entry::Entry;
use crate::verify::examine;
use crate::{Error, Expect, Filter, Kind, Ledger, Options, Record, scan, verify};

fn record(session: &str) -> Record {
    Record::new(Kind::Connection, Time::from_micros(1_790_000_000_000_000)).session(session)
}

fn options(faults: &Faults) -> Options {
    Options {
        checkpoint_records: u64::MAX,
        checkpoint_interval: Duration::from_secs(86_400),
        retry_interval: Duration::from_millis(2),
        faults: faults.clone(),
        ..Options::default()
    }
}

fn count(ledger: &Ledger, session: &str) -> u64 {
    scan(ledger.dir(), &Filter::session(session), |_, _| {}).unwrap()
}

#[test]
fn those_who_wait_are_told_and_the_rest_is_kept() {
    for fault in [Faults::HALF, Faults::FLUSH] {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::default();
        let ledger = Ledger::open(dir.path(), options(&faults)).unwrap();
        let before = ledger.append(record("before")).wait().unwrap();
        faults.set(fault);
        let mut later = 0;
        for _ in 0..10 {
            later += u64::from(ledger.append_later(record("later")).wait().is_ok());
        }
        assert!(later > 0);
        assert!(matches!(
            ledger.append(record("failed")).wait(),
            Err(Error::Stalled { .. })
        ));
        assert!(matches!(ledger.rotate_key().wait(), Err(Error::Stalled { .. })));
        assert!(matches!(ledger.checkpoint().wait(), Err(Error::Stalled { .. })));
        assert_eq!(ledger.status().last, before);
        faults.set(Faults::NONE);
        while ledger.status().stalled.is_some() {
            thread::yield_now();
        }
        let after = ledger.append(record("after")).wait().unwrap();
        // The later ones, the entry of the interruption, its checkpoint, and this one.
        assert_eq!(after.sequence, before.sequence + later + 3);
        assert_eq!((count(&ledger, "later"), count(&ledger, "failed")), (later, 0));
        let mut refused = None;
        let expect = Expect::any_key();
        let found = examine(ledger.dir(), &expect, Depth::Records, &mut |_, entry| {
            if let Some(Entry::Interrupted(entry)) = entry {
                refused = Some(entry.refused);
            }
        });
        assert_eq!(found.unwrap().fault, None);
        assert_eq!(refused, Some(1 + 10 - later));
        ledger.close().unwrap();
        let report = verify(dir.path(), &Expect::any_key().witness(before).witness(after)).unwrap();
        assert_eq!(report.sound().unwrap().interrupted, 1);
    }
}

#[test]
fn a_flush_that_fails_tells_whoever_asked() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let ledger = Ledger::open(dir.path(), options(&faults)).unwrap();
    faults.set(Faults::HALF);
    // Whichever of the two meets the failure first.
    let queued = ledger.append_later(record("later")).wait();
    assert!(matches!(ledger.flush().wait(), Err(Error::Stalled { .. })));
    assert!(queued.is_ok());
    faults.set(Faults::NONE);
    while ledger.status().stalled.is_some() {
        thread::yield_now();
    }
    ledger.flush().wait().unwrap();
    assert_eq!(count(&ledger, "later"), 1);
}

#[test]
fn closing_without_room_says_how_many_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let ledger = Ledger::open(dir.path(), options(&faults)).unwrap();
    let kept = ledger.append(record("kept")).wait().unwrap();
    faults.set(Faults::FLUSH);
    ledger.append_later(record("lost")).wait().unwrap();
    match ledger.close() {
        Err(Error::Unwritten { records: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
    let ledger = Ledger::open(dir.path(), options(&Faults::default())).unwrap();
    assert_eq!((count(&ledger, "kept"), count(&ledger, "lost")), (1, 0));
    ledger.close().unwrap();
    verify(dir.path(), &Expect::any_key().witness(kept))
        .unwrap()
        .sound()
        .unwrap();
}

#[test]
fn a_key_that_could_not_be_named_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::default();
    let ledger = Ledger::open(dir.path(), options(&faults)).unwrap();
    let key = ledger.public_key();
    faults.set(Faults::HALF);
    assert!(matches!(ledger.rotate_key().wait(), Err(Error::Stalled { .. })));
    assert_eq!(ledger.public_key(), key);
    faults.set(Faults::NONE);
    while ledger.status().stalled.is_some() {
        thread::yield_now();
    }
    let next = ledger.rotate_key().wait().unwrap();
    assert_ne!(next, key);
    ledger.close().unwrap();
    assert_eq!(
        verify(dir.path(), &Expect::keys([key])).unwrap().sound().unwrap().keys,
        [key, next]
    );
}
