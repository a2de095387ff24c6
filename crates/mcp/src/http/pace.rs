//! How often streams are opened that a server may end as often as it likes.
//!
//! A server says how long to wait before a stream is taken up again; it may say zero, and it may end every stream at
//! once. Pure: the time is given.

use std::time::Duration;

use tokio::time::Instant;

/// Openings of one kind.
#[derive(Debug)]
pub(super) struct Pace {
    next: Option<Instant>,
    gap: Duration,
    least: Duration,
    most: Duration,
}

impl Pace {
    /// For streams that a call waits for: a steady least gap.
    pub(super) fn of_calls() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_millis(100))
    }

    /// For streams that nobody waits for: the gap doubles while they do not last.
    pub(super) fn of_idle_streams() -> Self {
        Self::new(Duration::from_secs(1), Duration::from_secs(60))
    }

    fn new(least: Duration, most: Duration) -> Self {
        Self {
            next: None,
            gap: least,
            least,
            most,
        }
    }

    /// When the next stream may be opened; called once for each.
    pub(super) fn take(&mut self, now: Instant) -> Instant {
        let at = match self.next {
            None => now,
            // What has been quiet for longer than the longest gap starts afresh.
            Some(next) if now >= next + self.most => {
                self.gap = self.least;
                now
            }
            Some(next) => next.max(now),
        };
        self.next = Some(at + self.gap);
        self.gap = (self.gap * 2).min(self.most);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_do_not_last_are_opened_ever_more_rarely() {
        let start = Instant::now();
        let mut pace = Pace::of_idle_streams();
        let mut now = start;
        let mut opened = Vec::new();
        for _ in 0..9 {
            now = pace.take(now);
            opened.push((now - start).as_secs());
        }
        assert_eq!(opened, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
        // One that lasted for an hour is opened again at once, and the next soon after.
        now += Duration::from_secs(3600);
        assert_eq!(pace.take(now), now);
        assert_eq!(pace.take(now), now + Duration::from_secs(1));
    }

    #[test]
    fn calls_keep_a_steady_gap() {
        let now = Instant::now();
        let mut pace = Pace::of_calls();
        let at: Vec<u128> = (0..4).map(|_| (pace.take(now) - now).as_millis()).collect();
        assert_eq!(at, [0, 100, 200, 300]);
    }
}
