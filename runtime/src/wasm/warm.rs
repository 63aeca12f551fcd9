//! Stores that wait for their next request.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crossbeam_queue::ArrayQueue;

/// Warm stores of one app, kept apart by the threads that ran them last: most of a short request in a store that another core has in
/// its cache is waiting for that memory.
pub(super) struct WarmStores<T> {
    shards: Box<[ArrayQueue<T>]>,
}

/// A number of this thread, counted from 0 in the order in which threads ask.
fn thread_number() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = THREADS.fetch_add(1, Relaxed);
    }
    NUMBER.with(|number| *number)
}

impl<T> WarmStores<T> {
    /// Room for about `max` stores.
    pub(super) fn new(max: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let shards = cores.min(max).max(1);
        let shard = || ArrayQueue::new(max.div_ceil(shards).max(1));
        Self { shards: std::iter::repeat_with(shard).take(shards).collect() }
    }

    /// A store of this thread, or else of another.
    pub(super) fn take(&self) -> Option<T> {
        let own = thread_number() % self.shards.len();
        let (before, after) = self.shards.split_at(own);
        after.iter().chain(before).find_map(ArrayQueue::pop)
    }

    /// Drops stores for which `is_wanted` says no; how many are left.
    pub(super) fn retain(&self, is_wanted: impl Fn(&T) -> bool) -> usize {
        let mut left = 0;
        for shard in &self.shards {
            // Those that are used meanwhile are wanted, and come back behind the others.
            for _ in 0..shard.len() {
                let Some(store) = shard.pop() else { break };
                if is_wanted(&store) && shard.push(store).is_ok() {
                    left += 1;
                }
            }
        }
        left
    }

    /// Drops the store where there are more of them than the app has had use for.
    pub(super) fn keep(&self, store: T) {
        let own = thread_number() % self.shards.len();
        if let Err(store) = self.shards[own].push(store) {
            drop(store);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_found_from_any_thread() {
        let stores = WarmStores::new(64);
        std::thread::scope(|scope| {
            for store in 0..4 {
                let stores = &stores;
                scope.spawn(move || stores.keep(store));
            }
        });
        let mut found: Vec<i32> = std::iter::from_fn(|| stores.take()).collect();
        found.sort_unstable();
        assert_eq!(found, [0, 1, 2, 3]);
    }

    #[test]
    fn a_thread_gets_its_own_store_first() {
        let stores = WarmStores::new(64);
        std::thread::scope(|scope| {
            scope.spawn(|| stores.keep("another's"));
        });
        stores.keep("own");
        if stores.shards.len() > 1 && stores.shards.iter().all(|shard| shard.len() < 2) {
            assert_eq!(stores.take(), Some("own"));
        }
    }

    #[test]
    fn stores_that_are_not_wanted_are_dropped() {
        let stores = WarmStores::new(64);
        (0..8).for_each(|store| stores.keep(store));
        assert_eq!(stores.retain(|store| store % 2 == 0), 4);
        let mut left: Vec<i32> = std::iter::from_fn(|| stores.take()).collect();
        left.sort_unstable();
        assert_eq!(left, [0, 2, 4, 6]);
    }

    #[test]
    fn more_than_there_is_room_for_are_dropped() {
        let stores = WarmStores::new(1);
        let alive = std::sync::Arc::new(());
        for _ in 0..3 {
            stores.keep(alive.clone());
        }
        assert_eq!(std::sync::Arc::strong_count(&alive), 2);
    }
}
