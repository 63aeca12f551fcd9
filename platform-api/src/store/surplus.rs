//! What goes of events, of the audit log and of `Idempotency-Key`s because it is too much: of each namespace or token its own, so that nobody
//! pushes out what others have.

use super::audit::RecordsSurplus;
use super::event::EventsSurplus;
use super::once::KeysSurplus;
use super::{Conn, Result, audit, event, once};

/// Of a namespace, what is kept of events, and of the audit log. What belongs to no namespace counts as one.
pub(super) const OF_NAMESPACE_MAX: u64 = 100_000;
/// Of all namespaces together. Where they have more, those go that are of the largest ones.
pub(super) const KEPT_MAX: u64 = 5_000_000;
/// The most that one look gives up: the writer must not be held for long.
pub(super) const BATCH: i64 = 5_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Surplus {
    Records(RecordsSurplus),
    Events(EventsSurplus),
    Keys(KeysSurplus),
}

/// Looks for it. Everything is counted, so this is not for a transaction that others wait for.
pub(crate) async fn find(conn: &mut Conn) -> Result<Vec<Surplus>> {
    let records = audit::surplus(conn, OF_NAMESPACE_MAX, KEPT_MAX).await?;
    let events = event::surplus(conn, OF_NAMESPACE_MAX, KEPT_MAX).await?;
    let keys = once::surplus(conn, once::OF_TOKEN_MAX).await?;
    let mut found: Vec<Surplus> = records.into_iter().map(Surplus::Records).collect();
    found.extend(events.into_iter().map(Surplus::Events));
    found.extend(keys.into_iter().map(Surplus::Keys));
    Ok(found)
}

impl Surplus {
    /// Gives up some of it. Returns whether all of it is gone: to look in vain once more would take as long as everything that is kept.
    pub(crate) async fn give_up(&self, conn: &mut Conn) -> Result<bool> {
        let given_up = match self {
            Self::Records(surplus) => audit::give_up(conn, surplus).await?,
            Self::Events(surplus) => event::give_up(conn, surplus).await?,
            Self::Keys(surplus) => once::give_up(conn, surplus).await?,
        };
        Ok(given_up < BATCH.unsigned_abs())
    }
}

/// The most that each may have so that all together have no more than `most`: whoever has less keeps everything, and what is left by them is
/// for the others.
pub(super) fn level(counts: &[u64], most: u64) -> u64 {
    let mut counts = counts.to_vec();
    counts.sort_unstable();
    let (mut left, mut others) = (most, counts.len() as u64);
    for count in counts {
        let share = left / others;
        if count > share {
            return share;
        }
        left -= count;
        others -= 1;
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_largest_give_way_first() {
        assert_eq!(level(&[], 10), u64::MAX);
        assert_eq!(level(&[3, 7], 10), u64::MAX);
        assert_eq!(level(&[3, 8], 10), 7);
        assert_eq!(level(&[1000, 2, 1000], 10), 4);
        assert_eq!(level(&[5], 0), 0);
    }

    proptest! {
        #[test]
        fn all_that_is_kept_fits_and_whoever_has_no_more_than_an_equal_share_loses_nothing(
            counts in prop::collection::vec(0..1000_u64, 1..20), most in 0..5000_u64,
        ) {
            let level = level(&counts, most);
            let kept: u64 = counts.iter().map(|count| *count.min(&level)).sum();
            prop_assert!(kept <= most);
            let equal = most / counts.len() as u64;
            prop_assert!(level >= equal);
            // No more could be kept by one each.
            let more: u64 = counts.iter().map(|count| *count.min(&level.saturating_add(1))).sum();
            prop_assert!(level == u64::MAX || more > most);
        }
    }
}
