//! What goes in is there, in order, signed, over restarts, rotations and many callers.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use outwork_ledger::{Error, Expect, FaultKind, Filter, Kind, Ledger, Options, Payload, Record, scan, verify};
use outwork_wire::Time;

use crate::support::{block_on, name, record, sample, segment_files, unsigned};

#[test]
fn what_was_acknowledged_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut receipts = Vec::new();
    let mut key = None;
    for round in 0..3 {
        let ledger = Ledger::open(dir.path(), Options::default()).unwrap();
        assert_eq!(*key.get_or_insert(ledger.public_key()), ledger.public_key());
        for n in 0..10 {
            receipts.push(ledger.append(record("a", round * 10 + n)).wait().unwrap());
        }
        if round == 1 {
            drop(ledger); // as good as closing
        } else {
            ledger.close().unwrap();
            assert!(matches!(ledger.append(record("a", 0)).wait(), Err(Error::Closed)));
            assert!(matches!(ledger.close(), Err(Error::Closed)));
        }
    }
    let mut expect = Expect::keys(key);
    for receipt in &receipts {
        expect = expect.witness(*receipt);
    }
    let report = verify(dir.path(), &expect).unwrap().sound().unwrap();
    assert_eq!(report.records, 30);
    assert_eq!(report.unsigned, 0, "a closed ledger is signed to its end");
    assert_eq!(report.recovered + report.interrupted + report.redacted, 0);
    let mut found = Vec::new();
    let matched = scan(dir.path(), &Filter::session("a"), |receipt, record| {
        assert_eq!(*record, self::record("a", found.len() as u64));
        found.push(receipt);
    });
    assert_eq!(matched.unwrap(), 30);
    assert_eq!(found, receipts);
}

#[test]
fn one_writer_for_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let first = Ledger::open(dir.path(), Options::default()).unwrap();
    let second = Ledger::open(dir.path(), Options::default()).err().unwrap();
    assert!(matches!(second, Error::Locked { .. }), "{second}");
    assert!(second.to_string().contains(dir.path().to_str().unwrap()));
    first.close().unwrap();
    Ledger::open(dir.path(), Options::default()).unwrap();
}

#[test]
fn nobody_else_reads_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("made/by/opening");
    Ledger::open(&dir, Options::default()).unwrap().close().unwrap();
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{:?}",
            entry.path()
        );
    }
    fs::set_permissions(dir.join("signing.key"), fs::Permissions::from_mode(0o604)).unwrap();
    assert!(matches!(Ledger::open(&dir, Options::default()), Err(Error::Key { .. })));
}

#[test]
fn many_callers_share_flushes_and_get_one_sequence_each() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        checkpoint_records: 50,
        segment_bytes: 60_000,
        queue_records: 16,
        ..Options::default()
    };
    let ledger = Ledger::open(dir.path(), options).unwrap();
    let sequences: Vec<BTreeSet<u64>> = thread::scope(|scope| {
        let tasks: Vec<_> = (0..8)
            .map(|task| {
                let ledger = ledger.clone();
                scope.spawn(move || {
                    let session = format!("s{task}");
                    let mut sequences = BTreeSet::new();
                    let mut last = 0;
                    // Some await several at once, some wait on their thread; the queue is far smaller than what comes.
                    for n in (0..120).step_by(4) {
                        let batch: Vec<_> = (n..n + 4).map(|n| ledger.append(record(&session, n))).collect();
                        for append in batch {
                            let receipt = if task % 2 == 0 { block_on(append) } else { append.wait() };
                            sequences.insert(receipt.unwrap().sequence);
                        }
                        assert!(*sequences.last().unwrap() > last);
                        last = *sequences.last().unwrap();
                    }
                    sequences
                })
            })
            .collect();
        tasks.into_iter().map(|task| task.join().unwrap()).collect()
    });
    let all: BTreeSet<u64> = sequences.iter().flatten().copied().collect();
    assert_eq!(all.len(), 8 * 120);
    ledger.close().unwrap();
    let report = verify(dir.path(), &Expect::any_key()).unwrap().sound().unwrap();
    assert_eq!(report.records, 8 * 120);
    assert!(report.checkpoints >= 8 * 120 / 50);
    assert!(report.segments > 3, "{}", report.segments);
}

#[test]
fn records_that_nobody_waits_for_are_kept_although_the_queue_is_small() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(
        dir.path(),
        Options {
            queue_records: 4,
            queue_bytes: 1000,
            ..unsigned()
        },
    )
    .unwrap();
    for n in 0..1000 {
        if n % 2 == 0 {
            ledger.append_later(record("a", n)).wait().unwrap();
        } else {
            block_on(ledger.append_later(record("a", n))).unwrap();
        }
    }
    ledger.flush().wait().unwrap();
    let mut next = 0;
    scan(dir.path(), &Filter::everything(), |_, found| {
        assert_eq!(*found, record("a", next));
        next += 1;
    })
    .unwrap();
    assert_eq!(next, 1000);
}

#[test]
fn time_and_number_make_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        checkpoint_interval: Duration::from_millis(5),
        ..unsigned()
    };
    let ledger = Ledger::open(dir.path(), options).unwrap();
    let receipt = ledger.append(record("a", 0)).wait().unwrap();
    while ledger.status().signed_up_to < receipt.sequence {
        thread::yield_now();
    }
    ledger.close().unwrap();
    let ledger = Ledger::open(
        dir.path(),
        Options {
            checkpoint_records: 3,
            ..unsigned()
        },
    )
    .unwrap();
    let before = ledger.status().last.sequence;
    for n in 0..7 {
        ledger.append(record("a", n)).wait().unwrap();
    }
    // r r r c r r r c r
    assert_eq!(ledger.status().signed_up_to, before + 8);
    assert_eq!(ledger.status().last.sequence, before + 9);
    assert_eq!(ledger.checkpoint().wait().unwrap().sequence, before + 10);
    assert_eq!(
        ledger.checkpoint().wait().unwrap().sequence,
        before + 10,
        "nothing new to sign"
    );
}

#[test]
fn what_is_not_taken_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), Options::default()).unwrap();
    let with_payload = record("a", 0).input(Payload::of(b"hello"));
    assert!(!ledger.keeps_payloads());
    assert!(matches!(
        ledger.append(with_payload.clone()).wait(),
        Err(Error::PayloadsOff)
    ));
    assert!(matches!(
        block_on(ledger.append_later(with_payload.clone())),
        Err(Error::PayloadsOff)
    ));
    let large = record("a", 0).reason("x".repeat(1 << 20));
    assert!(matches!(ledger.append(large).wait(), Err(Error::TooLarge { .. })));
    ledger
        .append(record("a", 0).reason("x".repeat((1 << 20) - 1000)))
        .wait()
        .unwrap();
    ledger.close().unwrap();
    assert!(matches!(
        Ledger::open(
            dir.path(),
            Options {
                queue_records: 0,
                ..Options::default()
            }
        ),
        Err(Error::Options("queue_records"))
    ));
    let ledger = Ledger::open(
        dir.path(),
        Options {
            payloads: true,
            ..Options::default()
        },
    )
    .unwrap();
    ledger.append(with_payload.clone()).wait().unwrap();
    let mut last = None;
    scan(dir.path(), &Filter::everything(), |_, record| {
        last = Some(record.clone())
    })
    .unwrap();
    assert_eq!(last, Some(with_payload));
}

#[test]
fn a_ledger_that_wants_complete_records_names_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        complete: true,
        ..unsigned()
    };
    let ledger = Ledger::open(dir.path(), options).unwrap();
    let error = ledger.append(record("a", 0)).wait().unwrap_err();
    assert!(matches!(error, Error::Incomplete { .. }), "{error}");
    assert!(
        error.to_string().contains("`tool_call` needs input_hash as well"),
        "{error}"
    );
    let whole = record("a", 0).input_hash(outwork_ledger::Hash::of(b"{}"));
    ledger.append(whole).wait().unwrap();
}

#[test]
fn segments_are_named_after_their_first_line() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path());
    let files = segment_files(dir.path());
    assert!(files.len() >= 4);
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        let first: u64 = text["{\"seq\":".len()..].split(',').next().unwrap().parse().unwrap();
        assert_eq!(name(file), format!("ledger-{first:020}.jsonl"));
    }
    // A segment that is not followed yet may be empty.
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    ledger.rotate_segment().wait().unwrap();
    drop(ledger);
    assert_eq!(
        fs::metadata(segment_files(dir.path()).last().unwrap()).unwrap().len(),
        0
    );
    Ledger::open(dir.path(), unsigned())
        .unwrap()
        .append(record("a", 99))
        .wait()
        .unwrap();
    verify(dir.path(), &Expect::any_key()).unwrap().sound().unwrap();
}

#[test]
fn a_new_key_is_trusted_through_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let keys = sample(dir.path());
    assert_eq!(keys.len(), 2);
    for trusted in [vec![keys[0]], vec![keys[1]], keys.clone()] {
        let report = verify(dir.path(), &Expect::keys(trusted)).unwrap().sound().unwrap();
        assert_eq!(report.keys, keys);
        assert_eq!(report.unsigned, 0);
    }
    let other = tempfile::tempdir().unwrap();
    let stranger = sample(other.path())[0];
    for trusted in [vec![stranger], vec![]] {
        let report = verify(dir.path(), &Expect::keys(trusted)).unwrap();
        assert_eq!(report.fault.unwrap().kind, FaultKind::Untrusted);
    }
    assert_eq!(Ledger::open(dir.path(), unsigned()).unwrap().public_key(), keys[1]);
    assert_eq!(keys[0].to_string().parse(), Ok(keys[0]));
}

#[test]
fn a_foreign_or_missing_key_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    sample(dir.path());
    sample(other.path());
    fs::copy(other.path().join("signing.key"), dir.path().join("signing.key")).unwrap();
    let error = Ledger::open(dir.path(), unsigned()).err().unwrap();
    assert!(
        error.to_string().contains("is not the one that the ledger names"),
        "{error}"
    );
    fs::remove_file(dir.path().join("signing.key")).unwrap();
    let error = Ledger::open(dir.path(), unsigned()).err().unwrap();
    assert!(error.to_string().contains("is missing"), "{error}");
    fs::write(dir.path().join("signing.key"), "not a key").unwrap();
    fs::set_permissions(dir.path().join("signing.key"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(Ledger::open(dir.path(), unsigned()), Err(Error::Key { .. })));
    verify(dir.path(), &Expect::any_key()).unwrap().sound().unwrap();
}

#[test]
fn a_ledger_that_is_being_written_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        checkpoint_records: 20,
        segment_bytes: 5_000,
        ..Options::default()
    };
    let ledger = Ledger::open(dir.path(), options).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..1500 {
                ledger.append_later(record("a", n)).wait().unwrap();
                if n % 25 == 0 {
                    ledger.flush().wait().unwrap();
                }
                if n % 500 == 250 {
                    ledger.redact(&Filter::everything(), "owner", "test").unwrap();
                }
            }
            ledger.flush().wait().unwrap();
            done.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) {
            verify(dir.path(), &Expect::any_key()).unwrap().sound().unwrap();
        }
    });
    let report = verify(dir.path(), &Expect::any_key()).unwrap().sound().unwrap();
    assert_eq!(report.records + report.redacted, 1500);
}

#[test]
fn filters_choose() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), Options::default()).unwrap();
    let at = |n: i64| Time::from_micros(1_700_000_000_000_000 + n);
    let mut receipts = Vec::new();
    for (n, kind) in [Kind::McpCall, Kind::Stop, Kind::McpCall, Kind::Connection]
        .into_iter()
        .enumerate()
    {
        let record = Record::new(kind, at(n as i64))
            .workspace("w")
            .tunnel(format!("t{}", n % 2));
        receipts.push(ledger.append(record).wait().unwrap().sequence);
    }
    let count = |filter: Filter| scan(dir.path(), &filter, |_, _| {}).unwrap();
    assert_eq!(count(Filter::everything()), 4);
    assert_eq!(count(Filter::tunnel("t1")), 2);
    assert_eq!(count(Filter::tunnel("t1").of_kind(Kind::Stop)), 1);
    assert_eq!(count(Filter::everything().since(at(1)).before(at(3))), 2);
    assert_eq!(count(Filter::everything().range(receipts[1], receipts[3])), 3);
    assert_eq!(count(Filter::everything().in_workspace("x")), 0);
    assert_eq!(count(Filter::session("a")), 0);
}
