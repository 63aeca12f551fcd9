//! Admins: they drain nodes and resume them, and say other labels of them. And clocks are set, at times of the same kind.

use std::collections::BTreeMap;

use wharf_platform_api::cores::NodeSettings;

use super::{Event, World, node_id, say};
use crate::setup::Extras;

#[derive(Clone, Copy, Debug)]
enum Deed {
    Drain,
    Label,
    Clock,
}

/// Labels that nodes may have, with their values.
const LABELS: [(&str, &[&str]); 2] = [("zone", &["a", "b", "c"]), ("disk", &["ssd", "hdd"])];

impl World {
    pub(crate) fn admin(&mut self) {
        if self.is_calm() {
            return;
        }
        let Extras { clocks, labels, drains, every, .. } = self.setup.extras;
        let wait = self.extra_dice.millis(1..=2 * every.as_millis() as u64);
        self.after(wait, Event::Admin);
        let deeds = [(Deed::Drain, drains), (Deed::Label, labels), (Deed::Clock, clocks)];
        let deeds: Vec<Deed> =
            deeds.into_iter().filter(|(_, may_be)| *may_be).map(|(deed, _)| deed).collect();
        if deeds.is_empty() {
            return;
        }
        let worker = self.extra_dice.index(self.workers.len());
        match self.extra_dice.pick(&deeds) {
            Deed::Drain => self.drain_or_resume(worker),
            Deed::Label => self.label(worker),
            Deed::Clock => self.set_clock(),
        }
    }

    /// A node that is drained is resumed more readily than another is drained, so that something can run somewhere most of the time.
    fn drain_or_resume(&mut self, worker: usize) {
        let is_drained = self.store.is_drained(node_id(worker));
        if is_drained == self.extra_dice.percent(70) {
            let what = if is_drained { "resumes" } else { "drains" };
            self.set_node(worker, what, |settings| settings.draining = !is_drained);
        }
    }

    fn label(&mut self, worker: usize) {
        let (key, values) = self.extra_dice.pick(&LABELS);
        let value = self.extra_dice.percent(75).then(|| self.extra_dice.pick(values));
        let what = format!("says {key}={} of", value.unwrap_or("(as the worker does)"));
        self.set_node(worker, &what, |settings| match value {
            Some(value) => drop(settings.labels.insert(key.to_owned(), value.to_owned())),
            None => drop(settings.labels.remove(key)),
        });
    }

    /// What `PATCH /v1/nodes/{node}` does, at the server that leads.
    fn set_node(&mut self, worker: usize, what: &str, edit: impl FnOnce(&mut NodeSettings)) {
        let (node, leader) = (node_id(worker), self.leader());
        let control = &self.controls[leader];
        if !control.is_up || self.now < control.stalled_until || !self.store.nodes.contains_key(&node) {
            return;
        }
        let settings = self.store.settings.entry(node).or_default();
        edit(settings);
        let settings = settings.clone();
        say!(self, "an admin {what} node {worker}: {settings:?}");
        self.controls[leader].set_node(node, settings);
        self.nudge(leader);
    }

    /// A worker that starts says labels of its node.
    pub(super) fn label_worker(&mut self, worker: usize) {
        if !self.setup.extras.labels {
            return;
        }
        let mut labels = BTreeMap::new();
        for (key, values) in LABELS {
            if self.extra_dice.percent(80) {
                labels.insert(key.to_owned(), self.extra_dice.pick(values).to_owned());
            }
        }
        self.workers[worker].registration.labels = labels;
    }

    /// Most nodes that are drained are resumed in the end; the others have to become empty.
    pub(super) fn last_deeds(&mut self) {
        for worker in 0..self.workers.len() {
            if self.store.is_drained(node_id(worker)) && self.extra_dice.percent(60) {
                self.set_node(worker, "resumes", |settings| settings.draining = false);
            }
        }
    }

    /// A process that starts again may be started with others.
    pub(super) fn relabel_worker(&mut self, worker: usize) {
        if self.setup.extras.labels && self.extra_dice.percent(30) {
            self.label_worker(worker);
        }
    }
}
