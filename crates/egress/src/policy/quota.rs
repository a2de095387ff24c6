//! What rules may use up, and how much of it a sandbox has used.
//!
//! Limits belong to the policy; what was used belongs to the sandbox and stays when the policy is replaced, by the
//! rule's name.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use governor::{DefaultDirectRateLimiter, RateLimiter};

use super::document::QuotaText;
use super::text::Rate;

/// The limits of one rule, or of a whole policy.
#[derive(Debug, PartialEq, Eq)]
pub struct Quota {
    /// The rule's name.
    pub id: Arc<str>,
    /// Bytes from the sandbox.
    pub bytes_out: Option<u64>,
    /// Bytes to the sandbox.
    pub bytes_in: Option<u64>,
    /// Connections and requests.
    pub requests: Option<Rate>,
}

impl Quota {
    pub(super) fn of(id: &str, text: &QuotaText) -> Option<Arc<Quota>> {
        (!text.is_empty()).then(|| {
            Arc::new(Quota {
                id: id.into(),
                bytes_out: text.bytes_out.map(|size| size.0),
                bytes_in: text.bytes_in.map(|size| size.0),
                requests: text.requests,
            })
        })
    }
}

/// What a sandbox used of one quota.
#[derive(Debug, Default)]
struct Used {
    bytes_out: AtomicU64,
    bytes_in: AtomicU64,
    limiter: Mutex<Option<(Rate, Arc<DefaultDirectRateLimiter>)>>,
}

/// What a sandbox used of every quota.
#[derive(Debug, Default)]
pub struct Usage(Mutex<HashMap<Arc<str>, Arc<Used>>>);

/// A quota that is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exhausted {
    /// The rule's name.
    pub rule: Arc<str>,
    /// What is used up.
    pub what: &'static str,
}

impl std::fmt::Display for Exhausted {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "the quota of {} is used up", self.what)
    }
}

/// The direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the sandbox.
    Out,
    /// To the sandbox.
    In,
}

impl Usage {
    fn used(&self, id: &Arc<str>) -> Arc<Used> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(id.clone()).or_default().clone()
    }

    /// A meter over the quotas of a decision.
    pub fn meter(&self, quotas: &[Arc<Quota>]) -> Meter {
        Meter(
            quotas
                .iter()
                .map(|quota| (quota.clone(), self.used(&quota.id)))
                .collect(),
        )
    }
}

/// Counts what one connection or request uses.
#[derive(Debug, Clone, Default)]
pub struct Meter(Vec<(Arc<Quota>, Arc<Used>)>);

impl Meter {
    /// Whether nothing is limited.
    pub fn is_free(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes one connection or request, if there are bytes left in both directions.
    ///
    /// # Errors
    /// What is used up.
    pub fn begin(&self) -> Result<(), Exhausted> {
        for (quota, used) in &self.0 {
            let gone = |limit: Option<u64>, used: &AtomicU64| limit.is_some_and(|limit| used.load(Relaxed) >= limit);
            let what = if gone(quota.bytes_out, &used.bytes_out) {
                Some("bytes sent")
            } else if gone(quota.bytes_in, &used.bytes_in) {
                Some("bytes received")
            } else if quota.requests.is_some_and(|rate| used.limiter(rate).check().is_err()) {
                Some("requests")
            } else {
                None
            };
            if let Some(what) = what {
                return Err(Exhausted {
                    rule: quota.id.clone(),
                    what,
                });
            }
        }
        Ok(())
    }

    /// Counts bytes, before they are passed on.
    ///
    /// # Errors
    /// What is used up: these bytes must not be passed on.
    pub fn count(&self, way: Way, bytes: u64) -> Result<(), Exhausted> {
        for (quota, used) in &self.0 {
            let (limit, counter, what) = match way {
                Way::Out => (quota.bytes_out, &used.bytes_out, "bytes sent"),
                Way::In => (quota.bytes_in, &used.bytes_in, "bytes received"),
            };
            let before = counter.fetch_add(bytes, Relaxed);
            if limit.is_some_and(|limit| before.saturating_add(bytes) > limit) {
                return Err(Exhausted {
                    rule: quota.id.clone(),
                    what,
                });
            }
        }
        Ok(())
    }
}

impl Used {
    fn limiter(&self, rate: Rate) -> Arc<DefaultDirectRateLimiter> {
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        match &*limiter {
            Some((known, limiter)) if *known == rate => limiter.clone(),
            _ => {
                let new = Arc::new(limiter_of(rate));
                *limiter = Some((rate, new.clone()));
                new
            }
        }
    }
}

/// A limiter for a rate.
pub(crate) fn limiter_of(rate: Rate) -> DefaultDirectRateLimiter {
    let period = rate.per / rate.count.get();
    let quota = governor::Quota::with_period(period.max(std::time::Duration::from_nanos(1)))
        .expect("the period is at least a nanosecond")
        .allow_burst(rate.burst);
    RateLimiter::direct(quota)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_requests_run_out_and_stay_out() {
        let quota = Quota {
            id: "r".into(),
            bytes_out: Some(10),
            bytes_in: None,
            requests: Some("2/h".parse().unwrap()),
        };
        let usage = Usage::default();
        let meter = usage.meter(&[Arc::new(quota)]);
        meter.begin().unwrap();
        meter.count(Way::In, 1 << 40).unwrap();
        meter.count(Way::Out, 10).unwrap();
        assert_eq!(meter.count(Way::Out, 1).unwrap_err().what, "bytes sent");
        // A new policy with the same rule does not give the bytes back.
        let more = Quota {
            id: "r".into(),
            bytes_out: Some(11),
            bytes_in: None,
            requests: None,
        };
        assert_eq!(usage.meter(&[Arc::new(more)]).begin().unwrap_err().what, "bytes sent");
        let rate = Quota {
            id: "s".into(),
            bytes_out: None,
            bytes_in: None,
            requests: Some("2/h".parse().unwrap()),
        };
        let meter = usage.meter(&[Arc::new(rate)]);
        assert!(meter.begin().is_ok() && meter.begin().is_ok());
        assert_eq!(meter.begin().unwrap_err().what, "requests");
    }
}
