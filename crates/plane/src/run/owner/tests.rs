//! Owners over a real store: sessions that are ended from outside, and stores that cannot work.

use std::time::Duration;

use outwork_engine::{Session, Submitter};
use outwork_ledger::Scope;
use outwork_store::{SessionStatus, StoreError};
use outwork_wire::{ContentBlock, EventBody, Time};

use crate::error::ErrorKind;
use crate::run::registry::{Command, Halt};
use crate::run::test_bed::{TestBed, message, silent_model, until};

/// Asks within a time that no answer should take.
async fn ask<T>(
    bed: &TestBed,
    session: &outwork_wire::id::SessionId,
    command: impl FnOnce(super::Reply<T>) -> Command,
) -> Result<T, ErrorKind> {
    let answer = bed.sessions.ask(&bed.workspace, session, command);
    let answer = tokio::time::timeout(Duration::from_secs(20), answer).await;
    answer.expect("an answer at once").map_err(|error| error.kind)
}

fn by_force() -> Halt {
    Halt {
        actor: "a test".into(),
        reason: "it is over".into(),
        scope: Scope::Session,
        call: None,
        forced: true,
    }
}

#[tokio::test]
async fn a_session_at_work_is_terminated_in_one_commit_and_so_is_its_work() {
    let (model, client) = silent_model().await;
    let bed = TestBed::new(Some(client), None).await;
    let session = bed.session_with_message().await;
    bed.sessions.wake(&bed.workspace, &session);
    let (request, _) = model.accept().await.unwrap();
    until("a work item", async || {
        let live = bed.store.live_work_of_session(&bed.workspace, &session).await;
        live.unwrap().is_some()
    })
    .await;
    // A message that waits until the model has answered.
    ask(&bed, &session, |reply| Command::Submit {
        events: vec![message("and then?")],
        by: Submitter::Client,
        who: "a test".into(),
        reply,
    })
    .await
    .unwrap();
    assert_eq!(bed.status(&session).await, SessionStatus::Running);

    ask(&bed, &session, |reply| Command::Halt {
        halt: by_force(),
        reply,
    })
    .await
    .unwrap();
    let row = bed.row(&session).await;
    assert_eq!(row.status, SessionStatus::Terminated);
    assert!(row.archived_at.is_some() && !row.needs_owner);
    let live = bed.store.live_work_of_session(&bed.workspace, &session).await.unwrap();
    assert!(live.is_none(), "its work goes on");
    let kinds = bed.kinds(&session).await;
    assert!(kinds.contains(&"user.interrupt"));
    assert_eq!(
        kinds[kinds.len() - 2..],
        ["session.thread_status_terminated", "session.status_terminated"]
    );
    let count = |kind| kinds.iter().filter(|k| **k == kind).count();
    assert_eq!(count("user.message"), 2);
    assert_eq!(count("span.model_request_start"), count("span.model_request_end"));
    let log = bed.store.load(&bed.workspace, &session).await.unwrap();
    let folded = Session::fold(log.genesis, log.entries.iter().map(|(_, entry)| entry)).unwrap();
    assert!(!folded.needs_worker() && folded.queued_ids().is_empty());
    drop(request);

    // Twice is as good as once, and an idle session ends as well.
    ask(&bed, &session, |reply| Command::Halt {
        halt: by_force(),
        reply,
    })
    .await
    .unwrap();
    assert_eq!(bed.kinds(&session).await.len(), kinds.len());
    let idle = bed.session(Vec::new()).await;
    ask(&bed, &idle, |reply| Command::Halt {
        halt: by_force(),
        reply,
    })
    .await
    .unwrap();
    assert_eq!(bed.status(&idle).await, SessionStatus::Terminated);
}

#[tokio::test]
async fn while_the_disk_is_full_who_asks_is_refused_at_once_and_nothing_is_lost() {
    let (model, client) = silent_model().await;
    let bed = TestBed::new(Some(client), Some(2 << 20)).await;
    let session = bed.session_with_message().await;
    let ballast = bed.session(Vec::new()).await;
    bed.sessions.wake(&bed.workspace, &session);
    let (request, _) = model.accept().await.unwrap();
    for size in [20_000, 2000, 200, 1] {
        let text = "x".repeat(size);
        let error = loop {
            let content = vec![ContentBlock::text(text.clone())];
            if let Err(error) = bed.append(&ballast, EventBody::UserMessage { content }).await {
                break error;
            }
        };
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    }
    let before = bed.store.counters().failed_commits;
    // The model fails, which nobody waits for: the owner tries to write that until it can.
    drop((model, request));
    until("a commit failed", async || bed.store.counters().failed_commits > before).await;
    for _ in 0..3 {
        let refused = ask(&bed, &session, |reply| Command::Submit {
            events: vec![message("more")],
            by: Submitter::Client,
            who: "a test".into(),
            reply,
        })
        .await;
        assert_eq!(refused.map(drop), Err(ErrorKind::Unavailable));
    }
    assert!(!bed.kinds(&session).await.contains(&"span.model_request_end"));
    bed.store.delete_session(&bed.workspace, &ballast).await.unwrap();
    until("the failure was written", async || {
        bed.kinds(&session).await.contains(&"span.model_request_end")
    })
    .await;
}

#[tokio::test]
async fn an_owner_that_cannot_load_its_session_now_stays_until_it_can_or_must_leave() {
    let bed = TestBed::new(None, None).await;
    let session = bed.session_with_message().await;
    bed.store.close().await;
    for _ in 0..3 {
        let refused = ask(&bed, &session, |reply| Command::Archive { reply }).await;
        assert_eq!(refused, Err(ErrorKind::Unavailable));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(bed.sessions.owned(), 1, "nobody would come back to the session");
    }
    bed.sessions.drain(Duration::from_secs(20)).await;
    assert_eq!(bed.sessions.owned(), 0);
}

#[tokio::test]
async fn a_lease_is_given_back_when_the_session_cannot_be_loaded() {
    let bed = TestBed::new(None, None).await;
    let session = bed.session_with_broken_log().await;
    let refused = ask(&bed, &session, |reply| Command::Archive { reply }).await;
    assert_eq!(refused, Err(ErrorKind::Internal));
    assert!(bed.row(&session).await.lease.is_none());
    bed.store
        .acquire_lease(&bed.workspace, &session, "another", 30, Time::now())
        .await
        .unwrap();
}
