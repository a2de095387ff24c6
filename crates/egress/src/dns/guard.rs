//! Bounds on what questions for names can carry out.
//!
//! A name that is allowed exactly carries nothing: it is the same name each time. Behind a `*.` the client chooses
//! labels, and whoever owns the domain sees them. What may be chosen is bounded in bytes each second; labels that look
//! random cost more, so that ordinary names (regions, buckets, shards) are not hindered.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::DefaultDirectRateLimiter;

use crate::policy::{limiter_of, text::Rate};

/// Questions each second, and at once.
const QUESTIONS: (u32, u32) = (50, 400);
/// Bytes that chosen labels may carry each second, and at once.
const BYTES: (u32, u32) = (50, 1024);
/// The longest run of chosen labels.
const LONGEST: usize = 100;
/// Labels at least this long are looked at.
const LONG: usize = 16;
/// Bits of entropy for each character above which a long label looks random.
const RANDOM: f64 = 3.6;
/// What a label that looks random costs more.
const FACTOR: u32 = 4;

/// The bounds of one sandbox.
#[derive(Debug)]
pub(crate) struct Guard {
    questions: DefaultDirectRateLimiter,
    bytes: DefaultDirectRateLimiter,
}

impl Default for Guard {
    fn default() -> Guard {
        let limiter = |(count, burst): (u32, u32)| {
            limiter_of(Rate {
                count: NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN),
                per: Duration::from_secs(1),
                burst: NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN),
            })
        };
        Guard {
            questions: limiter(QUESTIONS),
            bytes: limiter(BYTES),
        }
    }
}

impl Guard {
    /// Takes one question.
    pub(crate) fn question(&self) -> Result<(), &'static str> {
        self.questions
            .check()
            .map_err(|_| "the sandbox asks too many questions")
    }

    /// Takes what chosen labels carry, before they go out.
    pub(crate) fn chosen(&self, labels: &str) -> Result<(), &'static str> {
        if labels.len() > LONGEST {
            return Err("the labels in place of `*` are too long");
        }
        let Some(cost) = NonZeroU32::new(cost(labels)) else {
            return Ok(());
        };
        match self.bytes.check_n(cost) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err("the names that the sandbox asks for carry too much"),
        }
    }
}

fn cost(labels: &str) -> u32 {
    labels
        .split('.')
        .map(|label| {
            let length = u32::try_from(label.len()).unwrap_or(u32::MAX);
            if label.len() >= LONG && entropy(label) > RANDOM {
                length * FACTOR
            } else {
                length
            }
        })
        .sum()
}

/// Shannon's entropy, in bits for each byte.
fn entropy(label: &str) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in label.bytes() {
        counts[usize::from(byte)] += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "a label has at most 63 bytes")]
    let length = label.len() as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / length;
            -share * share.log2()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_look_random_cost_more() {
        for plain in ["www", "us-east-1", "my-bucket.s3", "production-environment"] {
            assert_eq!(
                cost(plain) as usize,
                plain.len() - plain.matches('.').count(),
                "{plain}"
            );
        }
        for random in ["mfrggzdfmztwq2lknnwg23tpobyxe43u", "a8f5k2l9x0z3c7v1b4n6"] {
            assert_eq!(cost(random) as usize, random.len() * 4, "{random}");
        }
    }

    #[test]
    fn a_tunnel_runs_dry() {
        let guard = Guard::default();
        let mut passed = 0;
        for n in 0..200 {
            let label = format!("mfrggzdfmztwq2lknnwg23tpobyxe{n:03}");
            passed += usize::from(guard.chosen(&label).is_ok());
        }
        // The burst, and what refills while the loop runs.
        assert!(passed <= 12, "{passed}");
        assert!(guard.chosen(&"a".repeat(101)).is_err());
    }
}
