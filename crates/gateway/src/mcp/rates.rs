//! How often: by tool, session and route.
//!
//! Keys come from callers, so each table is bounded: when it is large, what has recovered is forgotten, and when that
//! does not help, new keys share one bucket.

use std::time::Duration;

use globset::GlobMatcher;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::config::text::Rate;
use crate::rules::Limits;

/// The keys of one table, at most.
const KEYS: usize = 16 * 1024;

/// The counters of one route.
pub struct Rates {
    per_tool: Vec<(GlobMatcher, DefaultKeyedRateLimiter<String>)>,
    per_session: Option<DefaultKeyedRateLimiter<String>>,
    per_route: Option<DefaultDirectRateLimiter>,
    clock: DefaultClock,
}

/// A limit was reached: which, and how long until there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// `limits.per_tool`, `limits.per_session` or `limits.per_route`.
    pub rule: &'static str,
    /// How long.
    pub wait: Duration,
}

fn quota(rate: Rate) -> Quota {
    let one = rate.per / rate.count.get();
    Quota::with_period(one.max(Duration::from_nanos(1)))
        .expect("a period of at least a nanosecond is not zero")
        .allow_burst(rate.burst)
}

impl Rates {
    pub(crate) fn new(limits: &Limits) -> Rates {
        Rates {
            per_tool: limits
                .per_tool
                .iter()
                .map(|(tool, rate)| (tool.clone(), RateLimiter::dashmap(quota(*rate))))
                .collect(),
            per_session: limits.per_session.map(|rate| RateLimiter::dashmap(quota(rate))),
            per_route: limits.per_route.map(|rate| RateLimiter::direct(quota(rate))),
            clock: DefaultClock::default(),
        }
    }

    /// Counts one call. A call without a session shares one bucket with all others that have none.
    pub fn count(&self, tool: Option<&str>, session: Option<&str>) -> Result<(), Exceeded> {
        let refuse = |rule, until: governor::NotUntil<_>| Exceeded { rule, wait: until.wait_time_from(self.clock.now()) };
        if let Some(route) = &self.per_route {
            route.check().map_err(|until| refuse("limits.per_route", until))?;
        }
        if let Some(sessions) = &self.per_session {
            keyed(sessions, session.unwrap_or_default()).map_err(|until| refuse("limits.per_session", until))?;
        }
        if let Some(tool) = tool
            && let Some((_, tools)) = self.per_tool.iter().find(|(pattern, _)| pattern.is_match(tool))
        {
            keyed(tools, tool).map_err(|until| refuse("limits.per_tool", until))?;
        }
        Ok(())
    }
}

type Until = governor::NotUntil<<DefaultClock as Clock>::Instant>;

fn keyed(limiter: &DefaultKeyedRateLimiter<String>, key: &str) -> Result<(), Until> {
    if limiter.len() >= KEYS {
        limiter.retain_recent();
        if limiter.len() >= KEYS {
            return limiter.check_key(&String::new());
        }
    }
    limiter.check_key(&key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::pattern;

    fn limits(per_tool: &[(&str, &str)], per_session: Option<&str>, per_route: Option<&str>) -> Rates {
        Rates::new(&Limits {
            per_tool: per_tool
                .iter()
                .map(|(tool, rate)| (pattern("", tool).unwrap(), rate.parse().unwrap()))
                .collect(),
            per_session: per_session.map(|rate| rate.parse().unwrap()),
            per_route: per_route.map(|rate| rate.parse().unwrap()),
        })
    }

    #[test]
    fn each_by_its_key() {
        let rates = limits(&[("slow*", "1/h"), ("*", "2/h")], None, None);
        assert!(rates.count(Some("slow"), None).is_ok());
        let exceeded = rates.count(Some("slow"), None).unwrap_err();
        assert_eq!(exceeded.rule, "limits.per_tool");
        assert!(exceeded.wait > Duration::from_secs(3500));
        assert!(rates.count(Some("slower"), None).is_ok());
        assert!(rates.count(Some("other"), None).is_ok() && rates.count(Some("other"), None).is_ok());
        assert!(rates.count(Some("other"), None).is_err());
        assert!(rates.count(None, None).is_ok());

        let rates = limits(&[], Some("1/h"), None);
        assert!(rates.count(None, Some("a")).is_ok() && rates.count(None, Some("b")).is_ok());
        assert_eq!(rates.count(None, Some("a")).unwrap_err().rule, "limits.per_session");
        assert!(rates.count(None, None).is_ok() && rates.count(None, None).is_err());

        let rates = limits(&[], None, Some("1/h burst 2"));
        assert!(rates.count(None, Some("a")).is_ok() && rates.count(Some("t"), None).is_ok());
        assert_eq!(rates.count(None, None).unwrap_err().rule, "limits.per_route");
    }

    #[test]
    fn keys_are_bounded() {
        let rates = limits(&[], Some("1/h"), None);
        for key in 0..KEYS + 100 {
            let _ = rates.count(None, Some(&key.to_string()));
        }
        assert!(rates.per_session.as_ref().unwrap().len() <= KEYS + 1);
        assert!(rates.count(None, Some("one more")).is_err(), "new keys share a bucket that is used up");
    }
}
