//! Which engine profile suits an app of WASI 0.2, by what its requests use.
//!
//! A new instance is dearer with guard pages, by some 30 to 60 µs and system calls that stop the other threads of the process for a
//! moment, which its neighbours feel; a loop that lives in memory takes half as long again without them. So guard pages are for apps
//! whose requests compute for so long that there cannot be many of them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use wharf_types::spec::EngineProfile;

use super::engine::Profile;

/// Requests that compute for as long on average are long.
const LONG_FROM: Duration = Duration::from_millis(10);
/// Requests that compute for less on average are short. In between the app keeps what it has.
const SHORT_BELOW: Duration = Duration::from_millis(2);
/// Requests that tell nothing by being few.
const REQUESTS_MIN: u64 = 32;

/// What an app has used since it was there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) requests: u64,
    pub(super) cpu: Duration,
}

/// The profile to begin with. A command has one instance for all its life.
pub(super) fn first(wish: EngineProfile, is_http: bool) -> Profile {
    match wish {
        EngineProfile::Auto if is_http => Profile::Short,
        EngineProfile::Short => Profile::Short,
        EngineProfile::Auto | EngineProfile::Long => Profile::Long,
    }
}

/// What the app had used at the last review that told something, and what that review was for.
#[derive(Debug)]
pub(super) struct Tuning {
    wish: EngineProfile,
    seen: Mutex<(Used, Option<Profile>)>,
}

impl Tuning {
    pub(super) fn new(wish: EngineProfile) -> Self {
        Self { wish, seen: Mutex::default() }
    }

    /// The profile for an app that has `now` and has used so much, if two reviews in a row were for it: a few requests that compute
    /// for long among many others are no reason to compile. None: there is nothing new to judge by, or it is not ours to judge.
    pub(super) fn review(&self, now: Profile, used: Used) -> Option<Profile> {
        if self.wish != EngineProfile::Auto || now == Profile::Concurrent {
            return None;
        }
        let mut last = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (seen, before) = *last;
        let requests = used.requests.saturating_sub(seen.requests);
        if requests < REQUESTS_MIN {
            return None;
        }
        let each = used.cpu.saturating_sub(seen.cpu).div_f64(requests as f64);
        let better = match each {
            each if each >= LONG_FROM => Profile::Long,
            each if each < SHORT_BELOW => Profile::Short,
            _ => now,
        };
        *last = (used, Some(better));
        (before == Some(better)).then_some(better)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(requests: u64, millis: u64) -> Used {
        Used { requests, cpu: Duration::from_millis(millis) }
    }

    #[test]
    fn what_requests_compute_on_average_decides() {
        let tuning = Tuning::new(EngineProfile::Auto);
        assert_eq!(tuning.review(Profile::Short, used(31, 3100)), None, "too few");
        assert_eq!(tuning.review(Profile::Short, used(100, 1000)), None, "once may be chance");
        assert_eq!(tuning.review(Profile::Short, used(200, 2000)), Some(Profile::Long));
        assert_eq!(tuning.review(Profile::Long, used(300, 2500)), Some(Profile::Long), "between the two");
        assert_eq!(tuning.review(Profile::Long, used(1300, 4400)), None);
        assert_eq!(tuning.review(Profile::Long, used(2300, 5000)), Some(Profile::Short));
        assert_eq!(tuning.review(Profile::Short, used(2310, 9000)), None, "too few since the last time");
    }

    #[test]
    fn a_burst_among_short_requests_changes_nothing() {
        let tuning = Tuning::new(EngineProfile::Auto);
        for (requests, millis) in [(100, 5000), (200, 5010), (300, 9000), (400, 9010)] {
            assert_eq!(tuning.review(Profile::Short, used(requests, millis)), None);
        }
    }

    #[test]
    fn a_command_computes_for_long_as_far_as_we_know() {
        assert_eq!(first(EngineProfile::Auto, true), Profile::Short);
        assert_eq!(first(EngineProfile::Auto, false), Profile::Long);
    }

    #[test]
    fn a_wish_is_not_second_guessed() {
        for (wish, profile) in [(EngineProfile::Long, Profile::Long), (EngineProfile::Short, Profile::Short)]
        {
            assert_eq!((first(wish, true), first(wish, false)), (profile, profile));
            assert_eq!(Tuning::new(wish).review(profile, used(1000, 100_000)), None);
        }
        assert_eq!(Tuning::new(EngineProfile::Auto).review(Profile::Concurrent, used(1000, 100_000)), None);
    }
}
