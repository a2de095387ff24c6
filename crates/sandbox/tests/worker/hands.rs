//! Sandboxes that only play: what a call does is in its input.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outwork_sandbox::worker::{Furnishing, Hand, HandFuture, Provider};
use outwork_sandbox::{ContentBlock, SandboxError, ToolCall, ToolOutput};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

#[derive(Default)]
pub struct Record {
    pub launched: Mutex<Vec<PathBuf>>,
    pub began: Mutex<Vec<String>>,
    pub cancelled: Mutex<Vec<String>>,
    pub ended: AtomicUsize,
    pub fail_launches: AtomicUsize,
    /// Lets one hanging call go on.
    pub go: Notify,
    changed: watch::Sender<u64>,
}

#[derive(Clone, Default)]
pub struct Hands(pub Arc<Record>);

impl Hands {
    pub fn began(&self) -> Vec<String> {
        self.0.began.lock().unwrap().clone()
    }

    pub fn cancelled(&self) -> Vec<String> {
        self.0.cancelled.lock().unwrap().clone()
    }

    pub fn ended(&self) -> usize {
        self.0.ended.load(Ordering::SeqCst)
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&Record) -> bool) {
        let mut changed = self.0.changed.subscribe();
        let wait = async {
            while !holds(&self.0) {
                changed.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .unwrap_or_else(|_| panic!("never happened: {what}; began {:?}", self.began()));
    }
}

impl Record {
    fn note(&self, list: &Mutex<Vec<String>>, what: &str) {
        list.lock().unwrap().push(what.to_owned());
        self.changed.send_modify(|n| *n += 1);
    }
}

struct Played(Arc<Record>);

impl Provider for Hands {
    fn launch<'a>(
        &'a self,
        workspace: &'a Path,
        _: &'a Furnishing,
    ) -> HandFuture<'a, Result<Arc<dyn Hand>, SandboxError>> {
        Box::pin(async move {
            assert!(workspace.is_dir(), "the workspace exists before the sandbox");
            self.0.launched.lock().unwrap().push(workspace.to_owned());
            self.0.changed.send_modify(|n| *n += 1);
            let failing = self
                .0
                .fail_launches
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if failing.is_ok() {
                return Err(SandboxError::Ended("no sandbox today".into()));
            }
            Ok(Arc::new(Played(Arc::clone(&self.0))) as Arc<dyn Hand>)
        })
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
        self.0.changed.send_modify(|n| *n += 1);
    }
}

impl Hand for Played {
    fn call<'a>(
        &'a self,
        call: ToolCall,
        cancel: &'a CancellationToken,
    ) -> HandFuture<'a, Result<ToolOutput, SandboxError>> {
        Box::pin(async move {
            let tag = call.input["tag"].as_str().unwrap().to_owned();
            self.0.note(&self.0.began, &tag);
            let output = |text: &str, is_error| {
                Ok(ToolOutput {
                    content: vec![ContentBlock::Text { text: text.to_owned() }],
                    is_error,
                    exit_code: None,
                    duration: Duration::ZERO,
                })
            };
            match call.input["does"].as_str().unwrap_or("answer") {
                "answer" => output(&format!("{} {tag}", call.name), false),
                "empty" => output("", false),
                "fail" => output("failed", true),
                "die" => Err(SandboxError::Ended("killed".into())),
                "hang" => tokio::select! {
                    () = cancel.cancelled() => {
                        self.0.note(&self.0.cancelled, &tag);
                        output("interrupted", true)
                    }
                    () = self.0.go.notified() => output(&format!("went on {tag}"), false),
                },
                other => panic!("{other}"),
            }
        })
    }

    fn has_ended(&self) -> bool {
        false
    }

    fn end(&self) -> HandFuture<'_, ()> {
        Box::pin(async {})
    }
}
