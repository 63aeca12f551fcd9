//! How long answers took, by buckets, so that those of several ingresses can be added.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// An octave of times has eight buckets, so that a time is known to within an eighth.
const BITS: u32 = 3;
/// Up to two minutes. What took longer is in the last bucket.
const OCTAVES: usize = 24;

/// Answers by the time that they took. No more than [`Self::BUCKETS`] numbers, whatever was counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
#[schema(value_type = Vec<Vec<u64>>)]
pub struct AnswerTimes(BTreeMap<usize, u64>);

impl AnswerTimes {
    pub const BUCKETS: usize = (OCTAVES + 1) << BITS;

    /// That of an answer after so many microseconds.
    pub fn bucket(micros: u64) -> usize {
        let Some(octave) = micros.checked_ilog2().and_then(|log| log.checked_sub(BITS)) else {
            return micros as usize;
        };
        // The highest bit says which octave, the ones after it where in that.
        let place = (micros >> octave) as usize;
        (((octave as usize) << BITS) + place).min(Self::BUCKETS - 1)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn count(&self) -> u64 {
        self.0.values().fold(0, |sum, more| sum.saturating_add(*more))
    }

    /// Between which times, in microseconds, is the one that so many percent of the answers did not exceed. None: there were none.
    pub fn percentile(&self, percent: u64) -> Option<Range<u64>> {
        let rank = self.count().saturating_mul(percent).div_ceil(100).max(1);
        let mut seen = 0_u64;
        for (bucket, count) in &self.0 {
            seen = seen.saturating_add(*count);
            if seen >= rank {
                return Some(bounds(*bucket));
            }
        }
        None
    }

    /// What `both` makes of the numbers of each bucket.
    pub(super) fn with(&self, other: &Self, both: fn(u64, u64) -> u64) -> Self {
        let of = |times: &Self, bucket: usize| times.0.get(&bucket).copied().unwrap_or_default();
        let buckets: BTreeSet<usize> = self.0.keys().chain(other.0.keys()).copied().collect();
        buckets.iter().map(|bucket| (*bucket, both(of(self, *bucket), of(other, *bucket)))).collect()
    }
}

/// Numbers of one bucket are added. One that there is not is taken for the last.
impl FromIterator<(usize, u64)> for AnswerTimes {
    fn from_iter<I: IntoIterator<Item = (usize, u64)>>(counts: I) -> Self {
        let mut times = BTreeMap::new();
        for (bucket, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            let sum: &mut u64 = times.entry(bucket.min(Self::BUCKETS - 1)).or_default();
            *sum = sum.saturating_add(count);
        }
        Self(times)
    }
}

impl From<Vec<(u64, u64)>> for AnswerTimes {
    fn from(written: Vec<(u64, u64)>) -> Self {
        let bucket = |bucket: u64| usize::try_from(bucket).unwrap_or(usize::MAX);
        written.into_iter().map(|(at, count)| (bucket(at), count)).collect()
    }
}

impl From<AnswerTimes> for Vec<(u64, u64)> {
    fn from(times: AnswerTimes) -> Self {
        times.0.into_iter().map(|(bucket, count)| (bucket as u64, count)).collect()
    }
}

/// The times, in microseconds, that are in a bucket.
fn bounds(bucket: usize) -> Range<u64> {
    let (row, place) = (bucket >> BITS, (bucket % (1 << BITS)) as u64);
    match row.checked_sub(1) {
        None => place..place + 1,
        Some(octave) => {
            let place = place + (1 << BITS);
            place << octave..(place + 1) << octave
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn times(micros: impl IntoIterator<Item = u64>) -> AnswerTimes {
        micros.into_iter().map(|micros| (AnswerTimes::bucket(micros), 1)).collect()
    }

    #[test]
    fn a_percentile_is_where_so_many_answers_are() {
        assert_eq!(times([]).percentile(95), None);
        assert_eq!(times([5]).percentile(95), Some(5..6));
        // The 95th of a hundred is the last of the fast ones.
        let fast = times(std::iter::repeat_n(1000, 95).chain(std::iter::repeat_n(80_000, 5)));
        assert!(fast.percentile(95).unwrap().contains(&1000));
        assert!(fast.percentile(96).unwrap().contains(&80_000));
    }

    #[test]
    fn a_bucket_that_is_not_known_counts_as_the_last_and_one_without_answers_not_at_all() {
        let read: AnswerTimes = serde_json::from_str("[[8,0],[199,1],[7000,2]]").unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), "[[199,3]]");
    }

    proptest! {
        #[test]
        fn a_time_is_in_its_bucket_which_is_no_wider_than_an_eighth(micros in 0..120_000_000_u64) {
            let within = bounds(AnswerTimes::bucket(micros));
            prop_assert!(within.contains(&micros));
            prop_assert!((within.end - within.start - 1) * 8 <= micros, "{within:?}");
        }

        #[test]
        fn longer_times_are_in_no_earlier_bucket(a in any::<u64>(), b in any::<u64>()) {
            prop_assert!(AnswerTimes::bucket(a.min(b)) <= AnswerTimes::bucket(a.max(b)));
            prop_assert!(AnswerTimes::bucket(a) < AnswerTimes::BUCKETS);
        }

        #[test]
        fn what_was_added_is_told_from_what_was_there(
            a in prop::collection::vec(0..10_000_000_u64, 0..50), b in prop::collection::vec(0..10_000_000_u64, 0..50),
        ) {
            let (before, more) = (times(a.clone()), times(b.clone()));
            let sum = before.with(&more, u64::saturating_add);
            prop_assert_eq!(&sum, &times(a.into_iter().chain(b)));
            prop_assert_eq!(sum.with(&before, u64::saturating_sub), more);
        }
    }
}
