//! The revisions at which nothing was left to do for an app: what a full pass need not look at again.

use std::collections::{HashMap, HashSet};

use wharf_types::AppId;

#[derive(Debug, Default)]
pub struct Settled {
    revisions: HashMap<AppId, i64>,
}

impl Settled {
    /// An app of this revision was planned, and nothing was to be changed. Whatever it waits for nudges, or has a time.
    pub fn settle(&mut self, app: AppId, revision: i64) {
        self.revisions.insert(app, revision);
    }

    /// An app is gone, or is to be looked at with every full pass.
    pub fn forget(&mut self, app: AppId) {
        self.revisions.remove(&app);
    }

    /// The apps to look at where these are all that there are: those that have another revision, and those that are gone.
    pub fn others(&self, stored: &[(AppId, i64)]) -> Vec<AppId> {
        let mut known = 0;
        let mut others = Vec::new();
        for (app, revision) in stored {
            let settled = self.revisions.get(app);
            known += usize::from(settled.is_some());
            if settled != Some(revision) {
                others.push(*app);
            }
        }
        if known < self.revisions.len() {
            let stored: HashSet<AppId> = stored.iter().map(|(app, _)| *app).collect();
            others.extend(self.revisions.keys().filter(|app| !stored.contains(app)));
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_another_revision_is_looked_at() {
        let [first, second, third, fourth] = [(); 4].map(|()| AppId::new());
        let mut settled = Settled::default();
        assert_eq!(settled.others(&[(first, 1), (second, 1)]), [first, second], "nothing was planned yet");
        settled.settle(first, 1);
        settled.settle(second, 1);
        settled.settle(third, 1);
        assert_eq!(settled.others(&[(first, 1), (second, 1), (third, 1)]), []);
        assert_eq!(settled.others(&[(first, 1), (second, 2), (third, 1), (fourth, 0)]), [second, fourth]);
        assert_eq!(settled.others(&[(first, 1), (second, 1)]), [third], "it is gone");
        settled.forget(third);
        assert_eq!(settled.others(&[(first, 1), (second, 1)]), []);
    }
}
