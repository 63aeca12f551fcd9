//! The cursors of `list-keys`: guests get a number, and the store goes on behind a key.
//!
//! A cursor holds the number of its page, and a hash of where that begins. A node knows the newest ones of each app again, also in another request. Elsewhere the
//! pages before are counted off, as long as they are few.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Cursors of an app that a node knows.
const KEPT: usize = 256;
/// Pages that are counted off for a cursor that is not known here.
pub(super) const PAGES_AGAIN: u64 = 20;
/// Both numbers together are exact in a JSON number.
const HASH_BITS: u32 = 32;

/// The newest last.
#[derive(Debug, Default)]
pub(super) struct Cursors(Mutex<VecDeque<Known>>);

#[derive(Debug)]
struct Known {
    cursor: u64,
    bucket: String,
    /// The last key before its page.
    end: String,
}

impl Cursors {
    /// Makes a cursor for the page of this number, counted from 0, which begins behind a key.
    pub(super) fn put(&self, bucket: &str, page: u64, end: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (bucket, end).hash(&mut hasher);
        let cursor = (page << HASH_BITS) | (hasher.finish() >> HASH_BITS);
        let mut known = self.known();
        take(&mut known, bucket, cursor);
        known.push_back(Known { cursor, bucket: bucket.to_owned(), end: end.to_owned() });
        if known.len() > KEPT {
            known.pop_front();
        }
        cursor
    }

    /// The key behind which the page of a cursor begins. None: it is not known here.
    pub(super) fn find(&self, bucket: &str, cursor: u64) -> Option<String> {
        let mut known = self.known();
        let found = take(&mut known, bucket, cursor)?;
        let end = found.end.clone();
        known.push_back(found);
        Some(end)
    }

    fn known(&self) -> MutexGuard<'_, VecDeque<Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take(known: &mut VecDeque<Known>, bucket: &str, cursor: u64) -> Option<Known> {
    let at = known.iter().position(|known| known.cursor == cursor && known.bucket == bucket)?;
    known.remove(at)
}

/// The number of a cursor's page.
pub(super) fn page(cursor: u64) -> u64 {
    cursor >> HASH_BITS
}

/// The same of one that is not known here. None: no such cursor was ever given out, or there are too many pages before it to count them off.
pub(super) fn page_again(cursor: u64) -> Option<u64> {
    match page(cursor) {
        // The first page has none.
        0 if cursor > 0 => None,
        page => (page <= PAGES_AGAIN).then_some(page),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_cursors_are_known_each_in_its_bucket() {
        let cursors = Cursors::default();
        let first = cursors.put("a", 1, "key");
        assert_eq!(cursors.put("a", 1, "key"), first, "the same place has the same cursor");
        assert_ne!(cursors.put("a", 2, "key"), first);
        assert_ne!(cursors.put("a", 1, "other"), first);
        for at in 0..KEPT as u64 {
            assert_eq!(cursors.find("a", first).as_deref(), Some("key"), "one that is used stays");
            cursors.put("b", at, "key");
        }
        assert_eq!(cursors.find("b", first), None);
        assert_eq!(cursors.find("a", cursors.put("a", 3, "x")).as_deref(), Some("x"));
        assert_eq!(cursors.known().len(), KEPT);
    }

    #[test]
    fn few_pages_are_counted_off_for_a_cursor_that_is_not_known() {
        let of = |page| Cursors::default().put("a", page, "key");
        assert_eq!(page_again(0), Some(0));
        assert_eq!(page_again(of(1)), Some(1));
        assert_eq!(page_again(of(PAGES_AGAIN)), Some(PAGES_AGAIN));
        for cursor in [1, u64::from(u32::MAX), of(PAGES_AGAIN + 1), u64::MAX] {
            assert_eq!(page_again(cursor), None, "{cursor}");
        }
        assert!(of(1_000_000) < 1 << 53);
    }
}
