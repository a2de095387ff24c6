//! Ledgers to test with.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use outwork_ledger::{Decision, Kind, Ledger, Options, Record};
use outwork_wire::Time;

pub const START: i64 = 1_790_000_000_000_000;

/// The `n`th record of `session`.
pub fn record(session: &str, n: u64) -> Record {
    Record::new(Kind::ToolCall, Time::from_micros(START + n as i64))
        .session(session)
        .agent("agent_1", Some(1))
        .tool("bash")
        .call(format!("call-{session}-{n}"))
        .decided(Decision::Allowed, "default")
}

/// No signatures but those that are asked for, and those of opening and closing.
pub fn unsigned() -> Options {
    Options {
        checkpoint_records: u64::MAX,
        checkpoint_interval: Duration::from_secs(86_400),
        ..Options::default()
    }
}

/// A closed ledger with records of the sessions `a` and `b` in turn, a rotated key and several segments.
pub fn sample(dir: &Path) -> Vec<outwork_ledger::PublicKey> {
    let ledger = Ledger::open(
        dir,
        Options {
            checkpoint_records: 5,
            segment_bytes: 4000,
            ..unsigned()
        },
    )
    .unwrap();
    let mut keys = vec![ledger.public_key()];
    for n in 0..24 {
        ledger
            .append(record(if n % 2 == 0 { "a" } else { "b" }, n))
            .wait()
            .unwrap();
        if n == 11 {
            keys.push(ledger.rotate_key().wait().unwrap());
        }
    }
    ledger.close().unwrap();
    keys
}

/// The segment files, in order.
pub fn segment_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        .collect();
    files.sort();
    files
}

pub fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// A copy of a ledger's folder, as a crash at this moment would leave it.
pub fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap();
    }
    to
}

/// Waits for a future on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}
