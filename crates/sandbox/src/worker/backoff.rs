//! How long to wait before trying again.
//!
//! Pure but for the jitter, which spreads out workers that failed at the same moment.

use std::time::Duration;

use rand::Rng;

/// `first · 2^(attempt-1)`, at most `cap`. The first attempt is 1.
pub(crate) fn doubling(first: Duration, attempt: u32, cap: Duration) -> Duration {
    first
        .saturating_mul(1_u32 << attempt.saturating_sub(1).min(20))
        .min(cap)
}

/// A random duration between both.
pub(crate) fn jitter(low: Duration, high: Duration) -> Duration {
    if low >= high {
        return low;
    }
    rand::rng().random_range(low..high)
}

/// Between half of the wait and all of it.
pub(crate) fn half_to_full(wait: Duration) -> Duration {
    jitter(wait / 2, wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap() {
        let wait = |n| doubling(Duration::from_secs(2), n, Duration::from_secs(60)).as_secs();
        assert_eq!([1, 2, 3, 5, 6, 40].map(wait), [2, 4, 8, 32, 60, 60]);
        let wait = Duration::from_secs(1);
        assert!((wait / 2..=wait).contains(&half_to_full(wait)));
    }
}
