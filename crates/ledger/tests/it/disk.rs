//! A full disk: nothing is acknowledged that is not kept, and the ledger goes on by itself once there is room.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use outwork_ledger::{Error, Expect, Filter, Ledger, Options, scan, verify};

use crate::support::{record, unsigned};

/// A small file system of its own.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(kilobytes: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={kilobytes}k");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(dir.path())
            .output();
        done.is_ok_and(|output| output.status.success()).then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}

#[test]
fn a_full_disk_stops_the_ledger_and_room_lets_it_go_on() {
    let Some(disk) = Small::mount(256) else {
        eprintln!("SKIPPED: a small file system cannot be mounted here (not root); src/stall_tests.rs covers the rest");
        return;
    };
    let dir = disk.path().join("ledger");
    let options = Options {
        retry_interval: Duration::from_millis(5),
        ..unsigned()
    };
    let ledger = Ledger::open(&dir, options).unwrap();
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![0; 100 << 10]).unwrap();

    let (mut kept, mut later) = (Vec::new(), 0);
    let error = loop {
        let n = kept.len() as u64;
        if n.is_multiple_of(3) && ledger.append_later(record("later", n)).wait().is_ok() {
            later += 1;
        }
        match ledger.append(record("waited", n)).wait() {
            Ok(receipt) => kept.push(receipt),
            Err(error) => break error,
        }
        assert!(n < 10_000, "the disk does not get full");
    };
    assert!(matches!(&error, Error::Stalled { .. }), "{error}");
    assert!(error.to_string().contains("make room"), "{error}");
    assert!(kept.len() > 20);
    assert!(matches!(
        ledger.append_later(record("refused", 0)).wait(),
        Err(Error::Stalled { .. })
    ));
    assert!(matches!(ledger.flush().wait(), Err(Error::Stalled { .. })));
    assert!(matches!(
        ledger.redact(&Filter::everything(), "x", "x"),
        Err(Error::Stalled { .. })
    ));
    // What is there verifies, although there is no room.
    assert!(ledger.status().stalled.is_some());
    verify(&dir, &Expect::any_key()).unwrap().sound().unwrap();

    fs::remove_file(&ballast).unwrap();
    while ledger.status().stalled.is_some() {
        thread::yield_now();
    }
    kept.push(ledger.append(record("waited", 0)).wait().unwrap());
    ledger.close().unwrap();
    let mut expect = Expect::keys([ledger.public_key()]);
    for receipt in &kept {
        expect = expect.witness(*receipt);
    }
    let report = verify(&dir, &expect).unwrap().sound().unwrap();
    assert_eq!(report.interrupted, 1);
    assert_eq!(
        scan(&dir, &Filter::session("waited"), |_, _| {}).unwrap(),
        kept.len() as u64
    );
    assert_eq!(scan(&dir, &Filter::session("later"), |_, _| {}).unwrap(), later);
    assert_eq!(scan(&dir, &Filter::session("refused"), |_, _| {}).unwrap(), 0);
}
