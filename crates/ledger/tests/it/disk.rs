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

/// The process of the next test: files may not grow beyond a limit, which it lifts after a while.
#[test]
#[ignore = "run by a_limit_on_the_size_of_files_stops_the_ledger_until_it_is_lifted"]
fn limited() {
    let Some(dir) = std::env::var_os("LEDGER_TEST_DIR") else {
        return;
    };
    let options = Options {
        retry_interval: Duration::from_millis(5),
        ..unsigned()
    };
    let ledger = Ledger::open(&dir, options).unwrap();
    let mut kept = Vec::new();
    let error = loop {
        match ledger.append(record("waited", kept.len() as u64)).wait() {
            Ok(receipt) => kept.push(receipt),
            Err(error) => break error,
        }
        assert!(kept.len() < 10_000, "there is no limit");
    };
    assert!(matches!(&error, Error::Stalled { .. }), "{error}");
    assert!(kept.len() > 20);
    for _ in 0..3 {
        assert!(matches!(
            ledger.append(record("refused", 0)).wait(),
            Err(Error::Stalled { .. })
        ));
    }
    verify(ledger.dir(), &Expect::any_key()).unwrap().sound().unwrap();
    let resource = rustix::process::Resource::Fsize;
    let mut limit = rustix::process::getrlimit(resource);
    limit.current = limit.maximum;
    rustix::process::setrlimit(resource, limit).unwrap();
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
    assert_eq!((report.interrupted, report.records), (1, kept.len() as u64));
    println!("all is well");
}

#[test]
fn a_limit_on_the_size_of_files_stops_the_ledger_until_it_is_lifted() {
    let dir = tempfile::tempdir().unwrap();
    // The signal that comes with the limit is ignored, as it is in a service; the shell counts in blocks of 512 bytes.
    let output = Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -S -f 100; exec \"$0\" disk::limited --exact --ignored --nocapture",
        ])
        .arg(std::env::current_exe().unwrap())
        .env("LEDGER_TEST_DIR", dir.path().join("ledger"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("all is well"),
        "{text}{errors}"
    );
}
