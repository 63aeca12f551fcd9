//! How many workers begin their session in a second, and when the others come again.
//!
//! After a change of leaders all workers come at once. Each registration is a write, and each session begins with everything that the
//! worker is to know, so that a thousand of them at once would keep the leader from everything else. [`Bucket`] is the decision.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Sessions that begin in a second.
const PER_SECOND: u32 = 100;
/// Sessions that begin at once where nobody came before.
const AT_ONCE: u32 = 100;
/// Nobody is told to wait for longer: by then things are different.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A bucket of tokens that fills at a steady pace. Whoever finds none gets a place in the line behind those who found none before.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    /// How long one token takes.
    each: Duration,
    at_once: u32,
    /// When the bucket would be full, at most as late as where it is empty.
    full_at: Instant,
    /// When the last one in line was told to come.
    line_until: Instant,
}

impl Bucket {
    pub(crate) fn new(now: Instant, per_second: u32, at_once: u32) -> Self {
        let each = Duration::from_secs(1) / per_second.max(1);
        Self { each, at_once: at_once.max(1), full_at: now, line_until: now }
    }

    /// Whether nobody has taken anything for so long that it is as it was at first.
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at.max(self.line_until) <= now
    }

    /// Takes a token. An error: there is none; how long to wait. `chance` is from 0 to 1: who was refused at the same time does not come at
    /// the same time.
    pub(crate) fn take(&mut self, now: Instant, chance: f64) -> Result<(), Duration> {
        let full_at = self.full_at.max(now) + self.each;
        if full_at <= now + self.each * self.at_once {
            self.full_at = full_at;
            return Ok(());
        }
        self.line_until = (self.line_until.max(now) + self.each).min(now + WAIT_MAX);
        let wait = self.line_until - now;
        Err(wait + wait.max(Duration::from_secs(1)).mul_f64(chance.clamp(0.0, 1.0) / 2.0))
    }
}

/// A number from 0 to 1, another one for each who asks.
pub(crate) fn chance() -> f64 {
    f64::from(getrandom::u32().expect("the kernel has random numbers")) / f64::from(u32::MAX)
}

/// The bucket of this control plane.
pub(crate) struct Admissions(Mutex<Bucket>);

impl Default for Admissions {
    fn default() -> Self {
        Self(Mutex::new(Bucket::new(Instant::now(), PER_SECOND, AT_ONCE)))
    }
}

impl Admissions {
    pub(crate) fn take(&self) -> Result<(), Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now(), chance())
    }

    /// Lets nobody in for a while.
    #[cfg(test)]
    pub(crate) fn exhaust(&self, span: Duration) {
        self.0.lock().unwrap().full_at = Instant::now() + span + Duration::from_secs(1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BinaryHeap;

    use super::*;

    #[test]
    fn so_many_pass_at_once_and_then_so_many_a_second() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start, 10, 5);
        let passed = |bucket: &mut Bucket, millis: u64| {
            let now = start + Duration::from_millis(millis);
            (0..100).filter(|_| bucket.take(now, 0.0).is_ok()).count()
        };
        assert_eq!(passed(&mut bucket, 0), 5);
        assert_eq!(passed(&mut bucket, 99), 0);
        assert_eq!(passed(&mut bucket, 100), 1);
        assert_eq!(passed(&mut bucket, 400), 3);
        assert_eq!(passed(&mut bucket, 60_000), 5, "no more gather than pass at once");
    }

    /// The seconds until all of so many are in, and how often the unluckiest was told to wait. All come at once, and again when they
    /// are told to, by whole seconds.
    fn all_in(count: u32, chance: impl Fn(u32) -> f64) -> (f64, u32) {
        let start = Instant::now();
        let mut bucket = Bucket::new(start, 100, 100);
        let mut due: BinaryHeap<_> = (0..count).map(|id| (std::cmp::Reverse(start), id, 0)).collect();
        let (mut last, mut most) = (start, 0);
        while let Some((std::cmp::Reverse(now), id, told)) = due.pop() {
            match bucket.take(now, chance(id ^ told)) {
                Ok(()) => (last, most) = (now, most.max(told)),
                Err(wait) => {
                    let at = now
                        + Duration::from_secs(wait.as_secs_f64().ceil() as u64)
                            .mul_f64(0.8 + 0.4 * chance(id));
                    due.push((std::cmp::Reverse(at), id, told + 1));
                }
            }
        }
        ((last - start).as_secs_f64(), most)
    }

    #[test]
    fn a_thousand_that_come_at_once_are_all_in_after_little_more_than_they_take() {
        let chance = |seed: u32| f64::from(seed.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24);
        let (seconds, told) = all_in(1000, chance);
        assert!((9.0..25.0).contains(&seconds), "{seconds} s");
        assert!(told <= 4, "told to wait {told} times");
    }

    #[test]
    fn nobody_waits_for_ever() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start, 1, 1);
        let longest = (0..10_000).filter_map(|_| bucket.take(start, 1.0).err()).max().unwrap();
        assert_eq!(longest, WAIT_MAX.mul_f64(1.5));
    }
}
