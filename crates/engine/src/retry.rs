//! When a failed model request is tried again.

use std::time::Duration;

use outwork_wire::Time;
use outwork_wire::event::SessionErrorKind;
use outwork_wire::model::{FailureKind, ModelFailure};

/// The longest wait that a provider may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// How often and how fast failed model requests are repeated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// The number of attempts after which a transient failure is final.
    pub max_attempts: u32,
    /// The same for answers that are no valid answers.
    pub max_nonsense: u32,
    /// The wait after the first failure; it doubles with each further one.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 8,
            max_nonsense: 3,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(60),
        }
    }
}

/// What is to be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Try again at this time.
    RetryAt(Time),
    /// It was tried often enough.
    Exhausted,
    /// Trying again cannot help.
    Terminal,
}

impl RetryPolicy {
    /// Decides after the failure number `attempt` in a row, from 1. `jitter` is from 0 to 1.
    pub(crate) fn decide(&self, failure: &ModelFailure, attempt: u32, now: Time, jitter: f64) -> Verdict {
        let limit = match failure.kind {
            FailureKind::Overloaded
            | FailureKind::RateLimited
            | FailureKind::Server
            | FailureKind::Connection
            | FailureKind::Timeout
            | FailureKind::Cut => self.max_attempts,
            FailureKind::Nonsense => self.max_nonsense,
            FailureKind::Authentication
            | FailureKind::Billing
            | FailureKind::Rejected
            | FailureKind::TooLong
            | FailureKind::NotConfigured => return Verdict::Terminal,
        };
        if attempt >= limit {
            return Verdict::Exhausted;
        }
        let doubled = self.base.saturating_mul(1u32 << (attempt - 1).min(16)).min(self.cap);
        let spread = doubled.mul_f64(0.75 + 0.5 * jitter.clamp(0.0, 1.0));
        let wait = match failure.retry_after {
            Some(asked) => asked.min(MAX_RETRY_AFTER).max(spread),
            None => spread,
        };
        Verdict::RetryAt(now.plus_micros(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// The kind of session error that a failure becomes.
pub(crate) fn error_kind(kind: FailureKind) -> SessionErrorKind {
    match kind {
        FailureKind::Overloaded => SessionErrorKind::ModelOverloadedError,
        FailureKind::RateLimited => SessionErrorKind::ModelRateLimitedError,
        FailureKind::Billing => SessionErrorKind::BillingError,
        FailureKind::Server
        | FailureKind::Connection
        | FailureKind::Timeout
        | FailureKind::Cut
        | FailureKind::Nonsense
        | FailureKind::Authentication
        | FailureKind::Rejected
        | FailureKind::TooLong
        | FailureKind::NotConfigured => SessionErrorKind::ModelRequestFailedError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: FailureKind, retry_after: Option<u64>) -> ModelFailure {
        ModelFailure {
            kind,
            message: String::new(),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn waits_double_are_capped_and_respect_the_provider() {
        let policy = RetryPolicy::default();
        let now = Time::from_micros(0);
        let wait = |attempt, after| match policy.decide(&failure(FailureKind::Overloaded, after), attempt, now, 0.5) {
            Verdict::RetryAt(at) => at.as_micros(),
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(1, None), 500_000);
        assert_eq!(wait(2, None), 1_000_000);
        assert_eq!(wait(1, Some(7)), 7_000_000);
        assert_eq!(wait(1, Some(1_000_000)), 600_000_000);
        assert_eq!(
            policy.decide(&failure(FailureKind::Overloaded, None), 8, now, 0.5),
            Verdict::Exhausted
        );
        assert_eq!(
            policy.decide(&failure(FailureKind::Nonsense, None), 3, now, 0.5),
            Verdict::Exhausted
        );
        assert_eq!(
            policy.decide(&failure(FailureKind::Rejected, None), 1, now, 0.5),
            Verdict::Terminal
        );
    }
}
