//! Whether an app's requests usually compute for long, so that its next one can start where such requests end up.
//!
//! Without this, each request of an app that always loops would first take an epoch or two of a thread that serves others.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A share of 1, as a fixed-point number.
const ALL: u32 = 1 << 10;
/// Weight of one request is one part in this many.
const MEMORY: u32 = 8;

/// Which share of the last requests went down to each of the lanes.
#[derive(Debug, Default)]
pub(super) struct Habit {
    shares: [AtomicU32; super::lane::COUNT],
}

impl Habit {
    /// The lane, 0 for none, to which most of the last requests went.
    pub(super) fn lane(&self) -> usize {
        self.shares.iter().rposition(|share| share.load(Relaxed) > ALL / 2).map_or(0, |lane| lane + 1)
    }

    /// A request went down to `lane`.
    pub(super) fn learn(&self, lane: usize) {
        for (share, below) in self.shares.iter().zip(0..) {
            let old = share.load(Relaxed);
            let new = if lane > below { old + (ALL - old) / MEMORY } else { old - old.div_ceil(MEMORY) };
            // Requests that run at the same time may overwrite each other's word, which is no harm. Apps that never compute
            // for long, which are nearly all, write nothing.
            if new != old {
                share.store(new, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lanes: impl IntoIterator<Item = usize>) -> usize {
        let habit = Habit::default();
        lanes.into_iter().for_each(|lane| habit.learn(lane));
        habit.lane()
    }

    #[test]
    fn an_app_that_always_computes_for_long_starts_where_it_ends_up() {
        assert_eq!(after([2; 5]), 0, "a few may be chance");
        assert_eq!(after([2; 6]), 2);
        assert_eq!(after([1; 1000]), 1);
    }

    #[test]
    fn an_app_that_does_so_seldom_keeps_its_place() {
        assert_eq!(after((0..1000).map(|n| if n % 4 == 0 { 2 } else { 0 })), 0);
        assert_eq!(after((0..1000).map(|n| if n % 4 == 0 { 2 } else { 1 })), 1);
    }

    #[test]
    fn an_app_that_has_been_mended_is_back_after_a_few_requests() {
        assert_eq!(after([[2; 1000].as_slice(), [0; 6].as_slice()].concat()), 0);
        assert_eq!(after([[2; 1000].as_slice(), [1; 6].as_slice()].concat()), 1);
    }
}
