//! The clock by which leases are measured. It goes on while the machine sleeps, which that of [`Instant`] does not.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// The time, to be compared with other times of this clock only. Timers stand still in sleep, so one that was set for a time of this clock
/// may come late.
pub(crate) fn now() -> Instant {
    static START: LazyLock<(Instant, Duration)> = LazyLock::new(|| (Instant::now(), since_boot()));
    let (start, at_start) = *START;
    // One clock alone is read: between two readings this process may stand still.
    start + since_boot().saturating_sub(at_start)
}

fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).expect("every Linux has this clock").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_on() {
        let began = now();
        std::thread::sleep(Duration::from_millis(20));
        let spent = now() - began;
        assert!(spent >= Duration::from_millis(20), "{spent:?}");
    }
}
