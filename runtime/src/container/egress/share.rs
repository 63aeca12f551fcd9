//! How much of a namespace's quota its containers may send: all of it while nobody else sends, and half of it where somebody does.
//!
//! What they send is taken from the one budget, so others slow down for it; without a bound below the quota they could come to a stop. There are two
//! rates and no more, because the kernel begins anew with each, and lets a second's worth pass at once.

use std::time::Duration;

use tokio::time::Instant;

use crate::wasm::outbound::EgressLimit;

/// How long others must have sent little, and waited for nothing, until the containers may have everything.
const QUIET: Duration = Duration::from_secs(10);
/// Others that send less than this part of the quota send little.
const LITTLE: u64 = 8;

/// What was seen of a namespace.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// What had been counted in all, with what the containers had sent by then.
    counted: u64,
    /// Until when others are to have their half.
    shared_until: Option<Instant>,
}

impl Share {
    /// Octets a second for the containers, after a second in which they have sent `octets`, which are counted after this.
    pub(super) fn look(&mut self, now: Instant, limit: &EgressLimit, octets: u64) -> u64 {
        let by_others = limit.taken.saturating_sub(self.counted);
        self.counted = limit.taken.saturating_add(octets);
        if limit.has_waited || by_others > limit.bytes_per_second / LITTLE {
            self.shared_until = Some(now + QUIET);
        }
        match self.shared_until {
            Some(until) if now < until => limit.bytes_per_second / 2,
            _ => limit.bytes_per_second,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A namespace that may send 800 octets a second, in seconds.
    struct Course {
        share: Share,
        now: Instant,
        taken: u64,
    }

    impl Course {
        fn begin() -> Self {
            Self { share: Share::default(), now: Instant::now(), taken: 0 }
        }

        fn second(&mut self, containers: u64, others: u64, has_waited: bool) -> u64 {
            self.now += Duration::from_secs(1);
            self.taken += others;
            let limit = EgressLimit {
                namespace: "blue".parse().unwrap(),
                bytes_per_second: 800,
                taken: self.taken,
                has_waited,
            };
            self.taken += containers;
            self.share.look(self.now, &limit, containers)
        }
    }

    #[test]
    fn containers_have_everything_while_others_send_little() {
        let mut course = Course::begin();
        for _ in 0..20 {
            assert_eq!(course.second(800, 100, false), 800, "what they send is not taken for that of others");
        }
    }

    #[test]
    fn containers_have_half_where_others_send_or_wait_and_for_a_while_after() {
        for (others, has_waited) in [(101, false), (0, true)] {
            let mut course = Course::begin();
            assert_eq!(course.second(800, others, has_waited), 400);
            for second in 1..10 {
                assert_eq!(course.second(400, 0, false), 400, "after {second} s");
            }
            assert_eq!(course.second(400, 0, false), 800);
            assert_eq!(course.second(800, 0, false), 800);
        }
    }

    #[test]
    fn a_quota_of_nothing_is_nothing() {
        let limit = EgressLimit {
            namespace: "blue".parse().unwrap(),
            bytes_per_second: 0,
            taken: 0,
            has_waited: false,
        };
        assert_eq!(Share::default().look(Instant::now(), &limit, 0), 0);
    }
}
