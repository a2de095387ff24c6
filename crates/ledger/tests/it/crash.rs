//! Crashes: whatever a process leaves, the next one goes on without a gap, and what was acknowledged is there.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use outwork_ledger::{Error, Expect, FaultKind, Filter, Ledger, Options, Receipt, scan, verify};

use crate::support::{copy, record, segment_files, unsigned};

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_the_cut_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    let key = ledger.public_key();
    let signed = ledger
        .append(record("a", 0))
        .wait()
        .and_then(|_| ledger.checkpoint().wait())
        .unwrap();
    // The head is behind by up to a second; a new segment brings it up to date.
    ledger.rotate_segment().wait().unwrap();
    for n in 1..4 {
        ledger.append(record("a", n)).wait().unwrap();
    }
    let crashed = copy(dir.path());
    drop(ledger);
    let tail = segment_files(crashed.path()).pop().unwrap();
    let bytes = fs::read(&tail).unwrap();
    assert_eq!(bytes.iter().filter(|&&b| b == b'\n').count(), 3);
    for len in 0..=bytes.len() {
        let torn = copy(crashed.path());
        let tail = torn.path().join(tail.file_name().unwrap());
        OpenOptions::new()
            .write(true)
            .open(&tail)
            .unwrap()
            .set_len(len as u64)
            .unwrap();
        let whole = bytes[..len].iter().filter(|&&b| b == b'\n').count() as u64;
        let is_torn = len > 0 && bytes[len - 1] != b'\n';

        let before = verify(torn.path(), &Expect::keys([key])).unwrap().sound().unwrap();
        assert_eq!(
            (before.records, before.unfinished_bytes > 0),
            (1 + whole, is_torn),
            "at {len}"
        );

        let ledger = Ledger::open(torn.path(), unsigned()).unwrap();
        let receipt = ledger.append(record("a", 9)).wait().unwrap();
        // The cut, if there was one, and a checkpoint, if there was something to sign.
        let own = u64::from(is_torn) + u64::from(is_torn || whole > 0);
        assert_eq!(receipt.sequence, signed.sequence + whole + own + 1, "at {len}");
        ledger.close().unwrap();
        let after = verify(torn.path(), &Expect::keys([key]).witness(receipt).witness(signed)).unwrap();
        let after = after.sound().unwrap();
        assert_eq!(
            (after.records, after.recovered, after.unsigned),
            (2 + whole, u64::from(is_torn), 0),
            "at {len}"
        );
    }
}

#[test]
fn a_crash_in_the_first_moments_leaves_a_ledger_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    drop(Ledger::open(dir.path(), unsigned()).unwrap());
    fs::remove_file(dir.path().join("head")).unwrap();
    let file = segment_files(dir.path()).pop().unwrap();
    let bytes = fs::read(&file).unwrap();
    for len in 0..=bytes.len() {
        let torn = copy(dir.path());
        let file = torn.path().join(file.file_name().unwrap());
        fs::write(&file, &bytes[..len]).unwrap();
        let ledger = Ledger::open(torn.path(), unsigned()).unwrap();
        ledger.append(record("a", 0)).wait().unwrap();
        ledger.close().unwrap();
        let report = verify(torn.path(), &Expect::keys([ledger.public_key()]))
            .unwrap()
            .sound()
            .unwrap();
        assert_eq!(
            report.recovered,
            u64::from(len > 0 && bytes[len - 1] != b'\n'),
            "at {len}"
        );
    }
}

#[test]
fn a_crash_while_mending_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    ledger.append(record("a", 0)).wait().unwrap();
    let crashed = copy(dir.path());
    drop(ledger);
    let file = segment_files(crashed.path()).pop().unwrap();
    let long_tear = [fs::read(&file).unwrap(), vec![b'{'; 5000]].concat();
    fs::write(&file, &long_tear).unwrap();
    let mended = copy(crashed.path());
    drop(Ledger::open(mended.path(), unsigned()).unwrap());
    let new = fs::read(mended.path().join(file.file_name().unwrap())).unwrap();
    // The entry of the cut lies over the torn bytes, in part or whole, and the rest was not removed yet.
    for written in (long_tear.len() - 5000..new.len()).step_by(7).chain([new.len()]) {
        let half = copy(crashed.path());
        let bytes = [&new[..written], &long_tear[written..]].concat();
        fs::write(half.path().join(file.file_name().unwrap()), bytes).unwrap();
        drop(Ledger::open(half.path(), unsigned()).unwrap());
        let report = verify(half.path(), &Expect::any_key()).unwrap().sound().unwrap();
        assert!(report.recovered >= 1, "at {written}");
        assert_eq!(report.records, 1);
    }
}

#[test]
fn a_tear_anywhere_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    crate::support::sample(dir.path());
    let files = segment_files(dir.path());
    let first = fs::read(&files[0]).unwrap();
    fs::write(&files[0], &first[..first.len() - 3]).unwrap();
    let Err(Error::Damaged(fault)) = Ledger::open(dir.path(), unsigned()) else {
        panic!("it opened")
    };
    assert_eq!(fault.kind, FaultKind::Unterminated);
    fs::write(&files[0], &first).unwrap();
    // A whole tail that was signed and is gone.
    let last = files.last().unwrap();
    let text = fs::read_to_string(last).unwrap();
    let cut = text.trim_end().rfind('\n').map_or(0, |at| at + 1);
    for keep in [cut, cut + 10] {
        fs::write(last, &text[..keep]).unwrap();
        let Err(Error::Damaged(fault)) = Ledger::open(dir.path(), unsigned()) else {
            panic!("it opened")
        };
        assert!(matches!(fault.kind, FaultKind::Truncated { .. }), "{fault}");
    }
}

#[test]
fn a_rotation_of_the_key_that_a_crash_interrupted_is_finished_or_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    let before = copy(dir.path());
    let new = ledger.rotate_key().wait().unwrap();
    ledger.close().unwrap();
    // The chain names the new key; the files were not moved yet.
    let crashed = copy(dir.path());
    fs::rename(
        crashed.path().join("signing.key"),
        crashed.path().join("signing.key.next"),
    )
    .unwrap();
    fs::copy(before.path().join("signing.key"), crashed.path().join("signing.key")).unwrap();
    assert_eq!(Ledger::open(crashed.path(), unsigned()).unwrap().public_key(), new);
    assert!(!crashed.path().join("signing.key.next").exists());
    // The key was made, and the chain does not name it.
    fs::copy(dir.path().join("signing.key"), before.path().join("signing.key.next")).unwrap();
    assert_ne!(Ledger::open(before.path(), unsigned()).unwrap().public_key(), new);
    assert!(!before.path().join("signing.key.next").exists());
}

/// The process that the next tests kill.
#[test]
#[ignore = "run by the tests that kill it"]
fn child() {
    let Some(dir) = std::env::var_os("LEDGER_TEST_DIR") else {
        return;
    };
    let options = Options {
        segment_bytes: 20_000,
        checkpoint_records: 10,
        ..Options::default()
    };
    let ledger = Ledger::open(dir, options).unwrap();
    // Bounded, should nobody kill it.
    for n in 0..200_000 {
        let receipt = ledger.append(record("a", n)).wait().unwrap();
        println!("receipt {}", serde_json::to_string(&receipt).unwrap());
        ledger.append_later(record("b", n)).wait().unwrap();
    }
}

#[test]
fn a_process_that_is_killed_a_hundred_times_loses_nothing_that_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut receipts: Vec<Receipt> = Vec::new();
    for round in 0..100 {
        let mut child = start_child(dir.path());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Each round is killed a little later than the one before, in the middle of work.
        let goal = receipts.len() + 1 + round % 17;
        for line in lines.by_ref() {
            let line = line.unwrap();
            let Some((_, receipt)) = line.split_once("receipt ") else {
                continue;
            };
            receipts.push(serde_json::from_str(receipt).unwrap());
            if receipts.len() >= goal {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        receipts.extend(
            lines
                .map_while(Result::ok)
                .filter_map(|line| serde_json::from_str::<Receipt>(line.split_once("receipt ")?.1).ok()),
        );
        assert!(receipts.len() >= goal);
    }
    let ledger = Ledger::open(dir.path(), Options::default()).unwrap();
    ledger.close().unwrap();
    let mut expect = Expect::keys([ledger.public_key()]);
    for receipt in &receipts {
        expect = expect.witness(*receipt);
    }
    let report = verify(dir.path(), &expect).unwrap().sound().unwrap();
    assert!(report.segments > 3);
    assert!(scan(dir.path(), &Filter::session("a"), |_, _| {}).unwrap() >= receipts.len() as u64);
}

fn start_child(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["crash::child", "--exact", "--ignored", "--nocapture"])
        .env("LEDGER_TEST_DIR", dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn another_process_is_refused_until_the_first_one_ends() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = start_child(dir.path());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("receipt ")));
    let refused = Ledger::open(dir.path(), Options::default()).err().unwrap();
    assert!(matches!(refused, Error::Locked { .. }), "{refused}");
    // Reading is not writing.
    verify(dir.path(), &Expect::any_key()).unwrap().sound().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let ledger = Ledger::open(dir.path(), Options::default()).unwrap();
    ledger.append(record("a", 0)).wait().unwrap();
}
