//! A stranger who has a bundle and a key sees that the records stand in the ledger, and nothing of the others.

use std::fs;

use outwork_ledger::{Error, Expect, FaultKind, Filter, Ledger, PublicKey, export, verify_bundle};
use outwork_wire::Time;

use crate::support::{record, sample, segment_files, unsigned};

fn sound(bytes: &[u8], key: PublicKey) -> outwork_ledger::BundleReport {
    verify_bundle(bytes, "bundle", &Expect::keys([key]), |_, _| {})
        .unwrap()
        .sound()
        .unwrap()
}

#[test]
fn a_session_is_disclosed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let keys = sample(dir.path());
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    ledger.append(record("a", 100)).wait().unwrap();
    let mut bytes = Vec::new();
    let made = ledger.export(&Filter::session("a"), &mut bytes).unwrap();
    assert_eq!((made.records, made.unsigned), (13, 0));
    let text = String::from_utf8(bytes.clone()).unwrap();
    assert!(!text.contains("call-b-") && text.contains("call-a-100"));
    // Nothing of what is withheld can be guessed: a body's salt is withheld with it.
    let all: String = segment_files(dir.path())
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    for line in all.lines().filter(|line| line.contains("\"session\":\"b\"")) {
        let salt = &line[line.find("\"salt\":\"").unwrap() + 8..][..32];
        assert!(!text.contains(salt));
    }
    for key in keys.iter().copied() {
        let mut seen = Vec::new();
        let report = verify_bundle(&*bytes, "bundle", &Expect::keys([key]), |_, record| {
            seen.push(record.call.clone().unwrap());
        });
        let report = report.unwrap().sound().unwrap();
        assert_eq!(report.records, 13);
        assert_eq!(report.keys, keys);
        assert_eq!(report.filter, Some(Filter::session("a")));
        let wanted: Vec<String> = (0..24).step_by(2).chain([100]).map(|n| format!("call-a-{n}")).collect();
        assert_eq!(seen, wanted);
    }
    let stranger = sample(tempfile::tempdir().unwrap().path())[0];
    let report = verify_bundle(&*bytes, "bundle", &Expect::keys([stranger]), |_, _| {}).unwrap();
    assert_eq!(report.fault.unwrap().kind, FaultKind::Untrusted);
}

#[test]
fn any_change_of_a_bundle_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let keys = sample(dir.path());
    let mut bytes = Vec::new();
    let filter = Filter::session("a").range(1, 14);
    export(
        dir.path(),
        &filter,
        Time::from_micros(1_790_000_000_000_000),
        &mut bytes,
    )
    .unwrap();
    sound(&bytes, keys[0]);
    let expect = Expect::keys([keys[0]]);
    let is_sound = |bytes: &[u8]| verify_bundle(bytes, "bundle", &expect, |_, _| {}).unwrap().is_sound();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let report = verify_bundle(&*changed, "bundle", &expect, |_, _| {}).unwrap();
        let found = report.fault.expect("a change was not found");
        assert_eq!(found.file, "bundle");
        assert!(!is_sound(&bytes[..at]), "cut at {at}");
    }
    let lines: Vec<&[u8]> = bytes.split_inclusive(|&b| b == b'\n').collect();
    for i in 0..lines.len() {
        let mut fewer = lines.clone();
        fewer.remove(i);
        assert!(!is_sound(&fewer.concat()), "without line {i}");
        let mut doubled = lines.clone();
        doubled.insert(i, lines[i]);
        assert!(!is_sound(&doubled.concat()), "line {i} twice");
        for j in 0..i {
            let mut moved = lines.clone();
            moved.swap(i, j);
            assert!(!is_sound(&moved.concat()), "lines {i} and {j} in turn");
        }
    }
}

#[test]
fn a_bundle_leaves_out_stretches_that_hold_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(
        dir.path(),
        outwork_ledger::Options {
            checkpoint_records: 10,
            ..unsigned()
        },
    )
    .unwrap();
    for n in 0..300 {
        let session = if n == 5 || n == 250 { "rare" } else { "common" };
        ledger.append_later(record(session, n)).wait().unwrap();
    }
    let (mut rare, mut all) = (Vec::new(), Vec::new());
    let made = ledger.export(&Filter::session("rare"), &mut rare).unwrap();
    assert_eq!(made.records, 2);
    assert!(made.lines < 25, "{}", made.lines);
    assert_eq!(sound(&rare, ledger.public_key()).records, 2);
    assert_eq!(ledger.export(&Filter::everything(), &mut all).unwrap().records, 300);
    let report = sound(&all, ledger.public_key());
    assert_eq!((report.records, report.withheld), (300, 0));
    // A stretch that is taken out whole breaks no chain, and is found by the last line.
    let lines: Vec<&str> = std::str::from_utf8(&rare).unwrap().split_inclusive('\n').collect();
    let end = lines
        .iter()
        .position(|line| line.contains("\"type\":\"checkpoint\""))
        .unwrap();
    let without = [&lines[..1], &lines[end + 1..]].concat().concat();
    let report = verify_bundle(without.as_bytes(), "bundle", &Expect::any_key(), |_, _| {}).unwrap();
    assert!(matches!(report.fault.unwrap().kind, FaultKind::Bundle(_)));
}

#[test]
fn a_ledger_in_use_is_exported_up_to_its_last_signature() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), unsigned()).unwrap();
    ledger.append(record("a", 0)).wait().unwrap();
    let now = Time::from_micros(1_790_000_000_000_000);
    assert!(matches!(
        export(dir.path(), &Filter::session("a"), now, Vec::new()),
        Err(Error::NoMatch)
    ));
    ledger.checkpoint().wait().unwrap();
    ledger.append(record("a", 1)).wait().unwrap();
    let mut bytes = Vec::new();
    let made = export(dir.path(), &Filter::session("a"), now, &mut bytes).unwrap();
    assert_eq!((made.records, made.unsigned), (1, 1));
    assert_eq!(sound(&bytes, ledger.public_key()).records, 1);
    assert!(matches!(
        ledger.export(&Filter::session("nobody"), Vec::new()),
        Err(Error::NoMatch)
    ));
}
