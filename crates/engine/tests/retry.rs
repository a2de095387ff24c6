//! Failures of the model: what is tried again and when, and how a turn dies without losing what waits.

mod world;

use std::time::Duration;

use outwork_engine::{Effect, RetryPolicy, Status};
use outwork_wire::EventBody;
use outwork_wire::event::IdleReason;
use outwork_wire::model::FailureKind;
use world::build::{failure, failure_after, interrupt, message, says};
use world::{World, rests};

const TRANSIENT: [(FailureKind, &str); 7] = [
    (FailureKind::Overloaded, "model_overloaded_error"),
    (FailureKind::RateLimited, "model_rate_limited_error"),
    (FailureKind::Server, "model_request_failed_error"),
    (FailureKind::Connection, "model_request_failed_error"),
    (FailureKind::Timeout, "model_request_failed_error"),
    (FailureKind::Cut, "model_request_failed_error"),
    (FailureKind::Nonsense, "model_request_failed_error"),
];

const TERMINAL: [(FailureKind, &str); 5] = [
    (FailureKind::Authentication, "model_request_failed_error"),
    (FailureKind::Billing, "billing_error"),
    (FailureKind::Rejected, "model_request_failed_error"),
    (FailureKind::TooLong, "model_request_failed_error"),
    (FailureKind::NotConfigured, "model_request_failed_error"),
];

/// A world whose model has just been asked.
fn asked() -> World {
    let mut world = World::self_hosted();
    world.send(vec![message("one")]);
    world.skip();
    world
}

#[test]
fn a_transient_failure_reschedules_and_tries_again() {
    for (kind, word) in TRANSIENT {
        let mut world = asked();
        world.fail(&failure(kind));
        world.expect(&[
            "span.model_request_end error",
            &format!("session.error {word} retrying"),
            "session.thread_status_rescheduled",
            "session.status_rescheduled",
        ]);
        let due = world.now.plus_micros(500_000);
        assert_eq!(world.effect, Effect::WaitUntil(due));
        assert_eq!(world.session.view().retry_at, Some(due));
        assert!(world.session.view().needs_owner);
        world.pass_millis(499);
        assert_eq!(world.go(), Effect::WaitUntil(due));
        world.expect(&[]);
        world.pass_millis(1);
        world.go();
        world.expect(&[
            "session.status_running",
            "session.thread_status_running",
            "span.model_request_start",
        ]);
        world.answer(says("done"));
        assert_eq!(rests(&world), (Status::Idle, Some(IdleReason::EndTurn {})));
    }
}

#[test]
fn waits_double_to_a_cap_and_begin_anew_after_an_answer() {
    let mut world = asked();
    world.policy = RetryPolicy {
        max_attempts: 100,
        base: Duration::from_secs(1),
        cap: Duration::from_secs(10),
        ..RetryPolicy::default()
    };
    for wait in [1, 2, 4, 8, 10, 10] {
        world.fail(&failure(FailureKind::Server));
        let due = world.now.plus_seconds(wait);
        assert_eq!(world.effect, Effect::WaitUntil(due));
        world.crash();
        assert_eq!(world.go(), Effect::WaitUntil(due), "a new owner keeps the appointment");
        world.now = due;
        world.go();
    }
    world.answer(says("done"));
    world.send(vec![message("two")]);
    world.fail(&failure(FailureKind::Server));
    assert_eq!(world.effect, Effect::WaitUntil(world.now.plus_seconds(1)));
}

#[test]
fn the_provider_may_ask_for_a_longer_wait_up_to_ten_minutes() {
    for (asked_for, waited) in [(7, 7), (100_000, 600)] {
        let mut world = asked();
        world.fail(&failure_after(FailureKind::RateLimited, asked_for));
        assert_eq!(world.effect, Effect::WaitUntil(world.now.plus_seconds(waited)));
    }
    let mut world = asked();
    world.fail(&failure_after(FailureKind::RateLimited, 0));
    assert_eq!(
        world.effect,
        Effect::WaitUntil(world.now.plus_micros(500_000)),
        "never shorter than our own"
    );
}

#[test]
fn a_lost_request_is_no_failure_of_the_provider() {
    let mut world = asked();
    world.policy.max_attempts = 2;
    world.fail(&failure(FailureKind::Server));
    world.pass_millis(60_000);
    world.go();
    for _ in 0..5 {
        world.crash();
        world.go();
        assert!(matches!(world.effect, Effect::AskModel(_)));
    }
    world.fail(&failure(FailureKind::Server));
    assert_eq!(rests(&world), (Status::Idle, Some(IdleReason::RetriesExhausted {})));
}

#[test]
fn retries_are_exhausted_after_the_last_attempt() {
    for (kind, word, attempts) in [
        (FailureKind::Overloaded, "model_overloaded_error", 8),
        (FailureKind::Nonsense, "model_request_failed_error", 3),
    ] {
        let mut world = asked();
        for _ in 1..attempts {
            world.fail(&failure(kind));
            assert_eq!(world.session.status(), Status::Rescheduling);
            world.pass_millis(600_000);
            world.go();
        }
        world.skip();
        world.fail(&failure(kind));
        world.expect(&[
            "span.model_request_end error",
            &format!("session.error {word} exhausted"),
            "session.usage",
            "session.thread_status_idle retries_exhausted",
            "session.status_idle retries_exhausted",
        ]);
        assert_eq!(world.effect, Effect::Rest);
        world.send(vec![message("two")]);
        assert_eq!(world.conversation(), [r#"user: "one", "two""#]);
        world.fail(&failure(kind));
        assert_eq!(
            world.session.status(),
            Status::Rescheduling,
            "a new turn has all its attempts"
        );
    }
}

#[test]
fn a_terminal_failure_is_not_tried_again() {
    for (kind, word) in TERMINAL {
        let mut world = asked();
        world.fail(&failure(kind));
        world.expect(&[
            "span.model_request_end error",
            &format!("session.error {word} terminal"),
            "session.usage",
            "session.thread_status_idle retries_exhausted",
            "session.status_idle retries_exhausted",
        ]);
        assert_eq!(world.effect, Effect::Rest);
        let told = world.log.iter().find_map(|e| match &e.event.body {
            EventBody::SessionError { error } => Some(error.message.clone()),
            _ => None,
        });
        assert_eq!(told.as_deref(), Some("the provider said no"));
    }
}

#[test]
fn a_dead_turn_takes_up_what_waits_without_running_it() {
    let mut world = asked();
    world.send(vec![message("two"), world::build::system("be kind")]);
    world.send(vec![message("three")]);
    world.skip();
    world.fail(&failure(FailureKind::Rejected));
    world.expect(&[
        "span.model_request_end error",
        "user.message two",
        "system.message",
        "user.message three",
        "session.error model_request_failed_error terminal",
        "session.usage",
        "session.thread_status_idle retries_exhausted",
        "session.status_idle retries_exhausted",
    ]);
    assert_eq!(world.effect, Effect::Rest, "it does not run by itself");
    assert!(world.session.queued_ids().is_empty());
    world.crash();
    assert_eq!(world.go(), Effect::Rest);
    world.send(vec![message("four")]);
    assert_eq!(
        world.conversation(),
        [r#"user: "one", "two", "three", "four""#],
        "nothing is lost"
    );
}

#[test]
fn an_interrupt_that_waits_at_a_terminal_failure_is_taken_up_once() {
    let mut world = asked();
    world.send(vec![interrupt(), message("two")]);
    world.skip();
    world.fail(&failure(FailureKind::Billing));
    world.expect(&[
        "span.model_request_end error",
        "user.interrupt",
        "user.message two",
        "session.error billing_error terminal",
        "session.usage",
        "session.thread_status_idle retries_exhausted",
        "session.status_idle retries_exhausted",
    ]);
    assert_eq!(world.effect, Effect::Rest);
}

#[test]
fn a_message_during_the_wait_joins_the_next_attempt() {
    let mut world = asked();
    world.fail(&failure(FailureKind::Overloaded));
    let due = world.session.view().retry_at.unwrap();
    world.send(vec![message("two")]);
    assert_eq!(
        world.effect,
        Effect::WaitUntil(due),
        "a message does not shorten the wait"
    );
    world.skip();
    world.now = due;
    world.go();
    world.expect(&[
        "session.status_running",
        "session.thread_status_running",
        "user.message two",
        "span.model_request_start",
    ]);
    assert_eq!(world.conversation(), [r#"user: "one", "two""#]);
}

#[test]
fn a_failure_that_nobody_waits_for_is_ignored() {
    let mut world = asked();
    world.answer(says("done"));
    let before = world.session.clone();
    world.requesting = true;
    world.fail(&failure(FailureKind::Overloaded));
    assert_eq!(world.session, before);
}

#[test]
fn waiting_is_no_time_at_work() {
    let mut world = asked();
    world.fail(&failure_after(FailureKind::RateLimited, 60));
    world.pass_millis(60_000);
    world.go();
    world.pass_millis(1000);
    world.answer(says("done"));
    let seconds = world.session.view().usage.active_seconds;
    assert!((1.0..1.1).contains(&seconds), "{seconds}");
}
