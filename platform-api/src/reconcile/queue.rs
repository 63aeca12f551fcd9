//! Which apps are planned next.
//!
//! Nodes are told what to do between two batches, so a user's change must not wait until thousands of apps have been looked at
//! that only the slow full pass asks for.

use std::collections::{HashSet, VecDeque};

use wharf_types::AppId;

/// Apps that are planned before the nodes are told.
const BATCH: usize = 64;
/// Places of a batch that changed apps leave to the others, so that these are looked at one day however busy it is.
const BACKGROUND: usize = 16;

#[derive(Default)]
pub(super) struct Queue {
    /// Apps of which something changed, or which are due.
    changed: Line,
    /// Apps that are only looked at to be sure.
    background: Line,
}

/// In the order of arrival, each once.
#[derive(Default)]
struct Line {
    order: VecDeque<AppId>,
    waiting: HashSet<AppId>,
}

impl Queue {
    pub(super) fn add_changed(&mut self, apps: impl IntoIterator<Item = AppId>) {
        self.changed.add(apps);
    }

    pub(super) fn add_background(&mut self, apps: impl IntoIterator<Item = AppId>) {
        self.background.add(apps);
    }

    /// Takes the next batch out. An app that waits in both lines is in it once.
    pub(super) fn take_batch(&mut self) -> Vec<AppId> {
        let mut batch = Vec::new();
        self.changed.take_into(&mut batch, BATCH - BACKGROUND);
        self.background.take_into(&mut batch, BATCH);
        self.changed.take_into(&mut batch, BATCH);
        let mut seen = HashSet::new();
        batch.retain(|app| seen.insert(*app));
        batch
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changed.order.is_empty() && self.background.order.is_empty()
    }
}

impl Line {
    fn add(&mut self, apps: impl IntoIterator<Item = AppId>) {
        for app in apps {
            if self.waiting.insert(app) {
                self.order.push_back(app);
            }
        }
    }

    /// Takes apps until the batch has so many.
    fn take_into(&mut self, batch: &mut Vec<AppId>, most: usize) {
        while batch.len() < most
            && let Some(app) = self.order.pop_front()
        {
            self.waiting.remove(&app);
            batch.push(app);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apps(count: usize) -> Vec<AppId> {
        (0..count).map(|_| AppId::new()).collect()
    }

    #[test]
    fn what_changed_goes_before_what_is_only_looked_at() {
        let mut queue = Queue::default();
        let (background, changed) = (apps(1000), apps(3));
        queue.add_background(background.clone());
        queue.add_changed(changed.clone());
        let batch = queue.take_batch();
        assert_eq!(batch.len(), BATCH);
        assert_eq!((&batch[..3], &batch[3..]), (&changed[..], &background[..BATCH - 3]));
    }

    #[test]
    fn however_much_changes_the_others_are_looked_at_too() {
        let mut queue = Queue::default();
        let (background, changed) = (apps(BACKGROUND), apps(1000));
        queue.add_background(background.clone());
        queue.add_changed(changed);
        let batch = queue.take_batch();
        assert_eq!(batch.len(), BATCH);
        assert!(background.iter().all(|app| batch.contains(app)));
    }

    #[test]
    fn every_app_comes_once_in_the_order_of_arrival() {
        let mut queue = Queue::default();
        let all = apps(200);
        queue.add_changed(all.clone());
        queue.add_changed(all.clone());
        let mut taken = Vec::new();
        while !queue.is_empty() {
            taken.extend(queue.take_batch());
        }
        assert_eq!(taken, all);
        queue.add_background(all[..1].iter().copied());
        queue.add_changed(all[..1].iter().copied());
        assert_eq!(queue.take_batch(), all[..1]);
        assert!(queue.is_empty());
    }
}
