//! How long to wait before trying again.
//!
//! The waits themselves are plain functions of how often it was tried; only [`Jitter`] holds a random number generator, so
//! that many workers or slots which failed together do not come back together.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use wharf_types::spec::RestartSpec;

/// A wait is moved by at most this share of itself, either way.
const JITTER: f64 = 0.2;

/// `first`, doubled `attempt` times, at most `max`.
pub fn doubling(first: Duration, max: Duration, attempt: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(attempt)).min(max)
}

/// The wait before the next instance of a slot, without jitter, after `restarts` replacements. It never shrinks from one
/// replacement to the next.
pub fn restart_wait(spec: &RestartSpec, restarts: u32) -> Duration {
    let delay = spec.delay.as_duration();
    match restarts.checked_sub(1) {
        None => delay,
        Some(doubled) => {
            delay.max(doubling(spec.backoff.as_duration(), spec.backoff_max.as_duration(), doubled))
        }
    }
}

/// Moves waits a little, at random.
#[derive(Clone, Debug)]
pub struct Jitter(Option<SmallRng>);

impl Jitter {
    pub fn seeded(seed: u64) -> Self {
        Self(Some(SmallRng::seed_from_u64(seed)))
    }

    /// Leaves every wait as it is, for tests.
    pub fn none() -> Self {
        Self(None)
    }

    pub fn apply(&mut self, wait: Duration) -> Duration {
        match &mut self.0 {
            Some(rng) => wait.mul_f64(1.0 + rng.random_range(-JITTER..=JITTER)),
            None => wait,
        }
    }
}

/// The waits of a client that lost its peer: doubling from `first` to `max`, until [`Reconnect::reset`].
#[derive(Clone, Debug)]
pub struct Reconnect {
    first: Duration,
    max: Duration,
    attempt: u32,
    jitter: Jitter,
}

impl Reconnect {
    /// From 50 ms to 2 s.
    pub fn new(jitter: Jitter) -> Self {
        Self { first: Duration::from_millis(50), max: Duration::from_secs(2), attempt: 0, jitter }
    }

    pub fn next_wait(&mut self) -> Duration {
        let wait = doubling(self.first, self.max, self.attempt);
        self.attempt = self.attempt.saturating_add(1);
        self.jitter.apply(wait)
    }

    /// A wait that the peer asks for: others were asked for the same.
    pub fn around(&mut self, told: Duration) -> Duration {
        self.attempt = self.attempt.max(1);
        self.jitter.apply(told)
    }

    /// Whether nothing has failed since the last success.
    pub fn is_reset(&self) -> bool {
        self.attempt == 0
    }

    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wharf_types::quantity::Span;

    #[test]
    fn the_default_waits_are_none_then_100_ms_doubling_to_30_s() {
        let spec = RestartSpec::default();
        let waits: Vec<u128> = (0..12).map(|restarts| restart_wait(&spec, restarts).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
    }

    #[test]
    fn reconnecting_doubles_until_it_is_reset() {
        let mut reconnect = Reconnect::new(Jitter::none());
        let waits: Vec<u128> = (0..8).map(|_| reconnect.next_wait().as_millis()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        reconnect.reset();
        assert_eq!(reconnect.next_wait().as_millis(), 50);
    }

    proptest! {
        #[test]
        fn a_wait_never_shrinks_and_never_passes_its_limit(
            delay in 0..100_000_u64,
            backoff in 1..100_000_u64,
            most in 0..u64::MAX / 2,
            restarts in 0..u32::MAX - 1,
        ) {
            let spec = RestartSpec {
                delay: Span::from_millis(delay),
                backoff: Span::from_millis(backoff),
                backoff_max: Span::from_millis(most),
                ..RestartSpec::default()
            };
            let (this, next) = (restart_wait(&spec, restarts), restart_wait(&spec, restarts + 1));
            prop_assert!(this <= next);
            prop_assert!(next <= Duration::from_millis(delay.max(most)));
        }

        #[test]
        fn jitter_stays_within_a_fifth(seed in any::<u64>(), millis in 0..10_000_000_u64) {
            let wait = Duration::from_millis(millis);
            let moved = Jitter::seeded(seed).apply(wait);
            prop_assert!(moved >= wait.mul_f64(0.799) && moved <= wait.mul_f64(1.201));
        }
    }
}
