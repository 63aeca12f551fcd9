//! The clocks of processes: the one on the wall, which is put forward and back, and the one that measures spans, which is fast or slow.
//!
//! Where [`crate::setup::Extras`] have no clocks, all of them are right, but for what happens to all at once.

use std::time::Duration;

use jiff::SignedDuration;
use wharf_types::Timestamp;

use super::{World, say};

/// So far the clock of one process may be from the others'.
const AHEAD_MAX: SignedDuration = SignedDuration::from_mins(3);
/// Of a million, so much more or less than it should is measured by a clock that is fast or slow. Those of real machines are better.
const FAST_MAX: u32 = 10_000;
const MILLION: u128 = 1_000_000;

/// The clocks of one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clock {
    /// How far the one on the wall is before everybody's.
    pub(crate) ahead: SignedDuration,
    /// How much more than it should the other one measures, of a million.
    fast: i32,
}

impl Clock {
    /// What it makes of a span.
    pub(crate) fn measures(self, span: Duration) -> Duration {
        self.scale(span, |nanos, rate| nanos * rate / MILLION)
    }

    /// How long it takes until it has measured a span.
    pub(crate) fn takes(self, span: Duration) -> Duration {
        self.scale(span, |nanos, rate| nanos * MILLION / rate)
    }

    fn scale(self, span: Duration, scaled: impl Fn(u128, u128) -> u128) -> Duration {
        if self.fast == 0 {
            return span;
        }
        let rate = u128::try_from(1_000_000 + i64::from(self.fast))
            .expect("it is a little more or less than a million");
        Duration::from_nanos(u64::try_from(scaled(span.as_nanos(), rate)).expect("it is short"))
    }
}

impl World {
    /// The clocks of a process that starts on some host.
    pub(super) fn throw_clock(&mut self) -> Clock {
        if !self.setup.extras.clocks {
            return Clock::default();
        }
        let dice = &mut self.extra_dice;
        let millis = dice.pick(&[0, 0, -3, 3, -300, 300, -2_000, 2_000, -20_000, 20_000]);
        let fast = if dice.percent(50) { dice.number(0..=2 * FAST_MAX) } else { FAST_MAX };
        Clock {
            ahead: SignedDuration::from_millis(millis),
            fast: fast.cast_signed() - FAST_MAX.cast_signed(),
        }
    }

    /// The wall's clock of one process is put forward or back.
    pub(super) fn set_clock(&mut self) {
        let dice = &mut self.extra_dice;
        let millis = dice.pick(&[20, 2_000, 20_000, 60_000, 180_000]);
        let by = SignedDuration::from_millis(if dice.percent(50) { -millis } else { millis });
        let (whose, clock) = match dice.number(0..=9) {
            0 | 1 => ("a server that does not lead".to_owned(), &mut self.other_server),
            2..=4 => {
                let worker = dice.index(self.workers.len());
                (format!("worker {worker}"), &mut self.workers[worker].clock)
            }
            _ => {
                let leader = self.controls.last_mut().expect("one was started at the beginning");
                (format!("control plane {}", leader.epoch), &mut leader.clock)
            }
        };
        clock.ahead = clock.ahead.saturating_add(by).clamp(-AHEAD_MAX, AHEAD_MAX);
        let ahead = clock.ahead;
        say!(self, "the clock of {whose} is set by {by}, and is {ahead} ahead");
    }

    /// What time it is for the server that takes a wish.
    pub(super) fn wish_time(&mut self) -> Timestamp {
        let is_other = self.setup.extras.clocks && self.extra_dice.percent(50);
        let clock = if is_other { self.other_server } else { self.controls[self.leader()].clock };
        self.wall(clock)
    }
}
