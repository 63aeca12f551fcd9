//! Whether a peer is given requests: a pure core. It is told what happened and when, and says what follows.
//!
//! A peer is ejected by the first failure of a connection, because what else it would be given would be lost or late. It comes back with
//! the first answer, which is that of a probe as long as there are others to ask.

use std::time::{Duration, Instant};

/// The wait before the first probe, which doubles with each that fails.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What is known of one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Health {
    ejected: Option<Ejected>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ejected {
    probes_failed: u32,
    probe_at: Instant,
}

impl Health {
    pub(super) fn is_ejected(&self) -> bool {
        self.ejected.is_some()
    }

    /// When the next probe is due. None: there is no need of one.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        self.ejected.as_ref().map(|ejected| ejected.probe_at)
    }

    /// A connection could not be made, was lost, or has gone silent. True: the peer is ejected by this. Of one that is ejected already it
    /// says nothing new: many requests may have gone the same way.
    pub(super) fn failed(&mut self, now: Instant, jitter: f64) -> bool {
        if self.is_ejected() {
            return false;
        }
        self.ejected = Some(Ejected { probes_failed: 0, probe_at: now + wait(0, jitter) });
        true
    }

    /// The probe that was due has failed, too.
    pub(super) fn probe_failed(&mut self, now: Instant, jitter: f64) {
        // An answer to somebody else may have come meanwhile.
        if let Some(ejected) = &mut self.ejected {
            ejected.probes_failed = ejected.probes_failed.saturating_add(1);
            ejected.probe_at = now + wait(ejected.probes_failed, jitter);
        }
    }

    /// The peer has answered, whomever. True: it was ejected until now.
    pub(super) fn answered(&mut self) -> bool {
        self.ejected.take().is_some()
    }
}

/// Doubles up to a limit, and is then three quarters to five quarters of it: `jitter` is a number from 0 to 1.
fn wait(probes_failed: u32, jitter: f64) -> Duration {
    let full = RETRY_FIRST.saturating_mul(1 << probes_failed.min(16)).min(RETRY_MAX);
    full.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_failure_ejects_and_the_first_answer_brings_back() {
        let (mut health, now) = (Health::default(), Instant::now());
        assert_eq!((health.is_ejected(), health.probe_at()), (false, None));
        assert!(health.failed(now, 0.5));
        assert_eq!(health.probe_at(), Some(now + RETRY_FIRST));
        assert!(health.answered());
        assert_eq!((health.answered(), health.probe_at()), (false, None));
    }

    #[test]
    fn failures_of_those_who_were_under_way_put_off_no_probe() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.failed(now, 0.5);
        let due = health.probe_at();
        assert!(!health.failed(now + Duration::from_millis(90), 0.5));
        assert_eq!(health.probe_at(), due);
    }

    #[test]
    fn a_probe_that_fails_after_an_answer_ejects_nobody() {
        let mut health = Health::default();
        health.failed(Instant::now(), 0.0);
        health.answered();
        health.probe_failed(Instant::now(), 0.0);
        assert!(!health.is_ejected());
    }

    #[test]
    fn after_an_answer_the_waits_begin_anew() {
        let (mut health, now) = (Health::default(), Instant::now());
        health.failed(now, 0.5);
        (0..9).for_each(|_| health.probe_failed(now, 0.5));
        assert_eq!(health.probe_at(), Some(now + RETRY_MAX));
        health.answered();
        health.failed(now, 0.5);
        assert_eq!(health.probe_at(), Some(now + RETRY_FIRST));
    }

    proptest! {
        #[test]
        fn waits_grow_and_stay_within_their_limits(failed in 0_u32..100, jitter in 0.0_f64..=1.0) {
            let (this, next) = (wait(failed, jitter), wait(failed + 1, jitter));
            prop_assert!(this >= RETRY_FIRST.mul_f64(0.75) && this <= RETRY_MAX.mul_f64(1.25));
            prop_assert!(next >= this);
        }

        #[test]
        fn whatever_happens_a_peer_that_is_ejected_has_a_probe_ahead_and_another_has_none(
            events in prop::collection::vec((0_u8..3, 0_u64..3000, 0.0_f64..=1.0), 0..60)
        ) {
            let (mut health, mut now) = (Health::default(), Instant::now());
            for (event, later, jitter) in events {
                now += Duration::from_millis(later);
                match event {
                    0 => { health.failed(now, jitter); }
                    1 => health.probe_failed(now, jitter),
                    _ => { health.answered(); }
                }
                prop_assert_eq!(health.is_ejected(), health.probe_at().is_some());
                prop_assert!(event != 2 || !health.is_ejected());
                prop_assert!(event != 0 || health.is_ejected());
                // Never so far away that a peer which is well again would be left alone for long.
                prop_assert!(health.probe_at().is_none_or(|at| at <= now + RETRY_MAX.mul_f64(1.25)));
            }
        }
    }
}
