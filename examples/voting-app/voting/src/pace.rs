//! How often a step that failed is tried again.

use std::time::{Duration, Instant};

use crate::error::{Result, chain};

/// The waits between tries: they double, up to a limit.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(3);

    /// How long to wait now.
    pub fn step(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(Self::MAX);
        now
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: Self::FIRST }
    }
}

/// Tries a step until it succeeds, or until the patience is used up; what is under way then may still finish.
///
/// # Errors
/// The last one.
pub async fn retry<T>(patience: Duration, mut step: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let mut backoff = Backoff::default();
    loop {
        let error = match step().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let wait = backoff.step();
        if started.elapsed() + wait > patience {
            return Err(error);
        }
        eprintln!("trying again in {} ms: {}", wait.as_millis(), chain(&error));
        wstd::task::sleep(wait.into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit() {
        let mut backoff = Backoff::default();
        let waits: Vec<u128> = (0..7).map(|_| backoff.step().as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3000, 3000]);
    }
}
