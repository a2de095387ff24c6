//! Versions: a program refuses what is newer than it knows, and raises what is older.

use std::fs;

use outwork_wire::Time;

use crate::batch::Batch;
use crate::entry::{Format, KeyEntry, Receipt};
use crate::folder::Segment;
use crate::key::{Signer, key_file, store_key};
use crate::ledger::prepare;
use crate::line::EntryType;
use crate::{Error, Expect, FORMAT, FaultKind, Kind, Ledger, Options, Record, verify};

/// A ledger as a program would write it that writes `formats`.
fn written(formats: &[u32]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = Time::from_micros(1_790_000_000_000_000);
    let signer = Signer::generate().unwrap();
    store_key(&signer, &key_file(dir.path())).unwrap();
    let mut batch = Batch::after(Receipt::NONE, 0);
    let key = KeyEntry::first(&signer, at).unwrap();
    batch.add(EntryType::Key, &prepare(&key).unwrap());
    for &format in formats {
        batch.add(EntryType::Format, &prepare(&Format { at, format }).unwrap());
    }
    let record = Record::new(Kind::Stop, at).session("a");
    batch.add(EntryType::Record, &prepare(&record).unwrap());
    batch.sign(&signer, at).unwrap();
    fs::write(Segment::new(dir.path(), 1).path, &batch.bytes).unwrap();
    dir
}

#[test]
fn an_older_ledger_is_read_and_raised_once() {
    let dir = written(&[]);
    assert_eq!(
        verify(dir.path(), &Expect::any_key()).unwrap().sound().unwrap().format,
        1
    );
    for _ in 0..2 {
        let ledger = Ledger::open(dir.path(), Options::default()).unwrap();
        ledger.close().unwrap();
        let report = verify(dir.path(), &Expect::any_key()).unwrap().sound().unwrap();
        assert_eq!((report.format, report.records), (FORMAT, 1));
        // The key, the record and its checkpoint; the format and its checkpoint.
        assert_eq!(report.last.unwrap().sequence, 5);
    }
}

#[test]
fn a_newer_ledger_is_refused_where_it_becomes_newer() {
    let dir = written(&[FORMAT, FORMAT + 1]);
    let kind = FaultKind::Format {
        found: FORMAT + 1,
        known: FORMAT,
    };
    let fault = verify(dir.path(), &Expect::any_key()).unwrap().fault.unwrap();
    assert_eq!((fault.line, &fault.kind), (4, &kind));
    assert!(fault.to_string().contains("use a newer one"));
    match Ledger::open(dir.path(), Options::default()) {
        Err(Error::Damaged(found)) => assert_eq!(*found, fault),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it opened"),
    }
    let fault = verify(written(&[FORMAT, FORMAT]).path(), &Expect::any_key())
        .unwrap()
        .fault;
    assert!(matches!(fault.unwrap().kind, FaultKind::Entry(_)));
}
