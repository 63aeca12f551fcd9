//! Every app as it was last read, and the nodes with what their instances take of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use wharf_types::{AppId, InstanceId, NodeId, Timestamp};

use super::rebalance::Rebalance;
use crate::nodes::NodeStatus;
use crate::plan::scheduler::Cluster;
use crate::plan::{self, AppView, Change, Changes, IdSource, InstanceView, ReleaseView, release_of};

#[derive(Default)]
pub struct Fleet {
    views: Vec<AppView>,
    /// Those that each view refers to: mostly a single one.
    releases: Vec<Box<[Arc<ReleaseView>]>>,
    index: HashMap<AppId, usize>,
    /// Follows the views and the nodes change by change, because with many of both nobody could look at all of them for a plan.
    cluster: Cluster,
    /// Apps whose views have changed, or are gone, since somebody asked.
    changed: BTreeSet<AppId>,
    /// Apps whose plans may be others because of any node, also one that has nothing of theirs.
    attentive: HashSet<AppId>,
    /// Apps that no node had room for all of when they were planned last.
    unplaced: HashSet<AppId>,
    /// Apps that open requests decide for.
    ranged: BTreeSet<AppId>,
    /// The nodes, and whether each may be given more, is to be emptied, and was given up; without those that were given up and have let go of everything.
    known: BTreeMap<NodeId, (bool, bool, bool)>,
    /// Nodes that are to be emptied.
    draining: HashSet<NodeId>,
    /// Nodes that may get instances, and whether each may get them now.
    places: BTreeMap<NodeId, bool>,
    pub(super) rebalance: Rebalance,
}

impl Fleet {
    pub fn put(&mut self, mut view: AppView, releases: impl IntoIterator<Item = Arc<ReleaseView>>) {
        if self.view(view.id) == Some(&view) {
            return;
        }
        // It was read one by one, and is kept.
        view.instances.shrink_to_fit();
        let releases: Box<[Arc<ReleaseView>]> = releases.into_iter().collect();
        let id = view.id;
        self.changed.insert(id);
        self.rebalance.app_changed(id);
        mark(&mut self.attentive, id, is_attentive(&view, &releases));
        match view.range() {
            Some(_) => self.ranged.insert(id),
            None => self.ranged.remove(&id),
        };
        let before = if let Some(at) = self.index.get(&id).copied() {
            self.releases[at] = releases;
            Some(std::mem::replace(&mut self.views[at], view))
        } else {
            self.index.insert(id, self.views.len());
            self.views.push(view);
            self.releases.push(releases);
            None
        };
        self.account(id, before);
    }

    pub fn remove(&mut self, id: AppId) {
        let Some(at) = self.index.remove(&id) else { return };
        self.changed.insert(id);
        self.rebalance.app_changed(id);
        self.attentive.remove(&id);
        self.unplaced.remove(&id);
        self.ranged.remove(&id);
        self.cluster.set_claims(id, Vec::new());
        self.releases.swap_remove(at);
        for instance in self.views.swap_remove(at).instances {
            self.cluster.remove(instance.id);
        }
        if let Some(moved) = self.views.get(at) {
            self.index.insert(moved.id, at);
        }
    }

    /// Takes in what is known of the nodes; one that was given up does not exist for the planner. Returns the apps that have to be planned
    /// again for that. None: the nodes are as they were.
    pub fn observe(&mut self, nodes: &[NodeStatus]) -> Option<BTreeSet<AppId>> {
        let mut gone: HashSet<NodeId> = self.cluster.node_ids().collect();
        let places = nodes.iter().filter(|node| !node.given_up && !node.draining);
        let places = places.map(|node| (node.id, node.takes_more)).collect();
        if self.places != places {
            self.places = places;
            self.rebalance.places_changed();
        }
        self.draining = nodes.iter().filter(|node| node.draining).map(|node| node.id).collect();
        self.cluster.set_draining(self.draining.clone());
        let mut others = self.take_known(nodes);
        for node in nodes.iter().filter(|node| !node.given_up) {
            gone.remove(&node.id);
            if self.cluster.set_node(node.id, &node.registration, node.takes_more && !node.draining) {
                others.insert(node.id);
            }
        }
        for node in gone {
            self.cluster.remove_node(node);
            others.insert(node);
        }
        let lingering = nodes.iter().filter(|node| node.given_up && !node.released);
        self.cluster.set_lingering(lingering.map(|node| node.id).collect());
        let silent = nodes.iter().filter(|node| !node.ready);
        self.cluster.set_silent(silent.map(|node| node.id).collect());
        // Whoever begins to lead has not seen them while they were there.
        for node in nodes.iter().filter(|node| node.given_up) {
            self.cluster.set_hostname(node.id, &node.registration.hostname);
        }
        let awaited = |node: &&NodeStatus| !node.given_up && !node.takes_more && (node.awaited || node.ready);
        self.cluster.set_awaited(nodes.iter().filter(awaited).map(|node| node.id).collect());
        (!others.is_empty()).then(|| self.concerned(&others))
    }

    /// Returns the nodes that came, went, or are in another state than before.
    fn take_known(&mut self, nodes: &[NodeStatus]) -> BTreeSet<NodeId> {
        let known: BTreeMap<NodeId, (bool, bool, bool)> = nodes
            .iter()
            // Until it is given up it is there for the planner, however long it has been silent.
            .filter(|node| !(node.given_up && node.released))
            .map(|node| (node.id, (node.takes_more, node.draining, node.given_up)))
            .collect();
        let before = std::mem::replace(&mut self.known, known);
        let gone = before.keys().filter(|node| !self.known.contains_key(*node));
        let others = self.known.iter().filter(|(node, state)| before.get(*node) != Some(*state));
        gone.chain(others.map(|(node, _)| node)).copied().collect()
    }

    /// The apps that have something on these nodes, wait for room on any, or look at all of them.
    fn concerned(&self, nodes: &BTreeSet<NodeId>) -> BTreeSet<AppId> {
        let there = nodes.iter().flat_map(|node| self.cluster.apps_on(*node));
        // What runs there may be a job's.
        let there = there.filter(|owner| self.index.contains_key(owner));
        there.chain(self.attentive.iter().copied()).chain(self.unplaced.iter().copied()).collect()
    }

    /// Fills in which instances are to go to other nodes. One with volumes stays where they are, and one of a global app is for its node
    /// alone.
    pub fn mark_moving(&self, view: &mut AppView, releases: &[Arc<ReleaseView>]) {
        for instance in &mut view.instances {
            let leaves = instance.node.is_some_and(|node| self.draining.contains(&node));
            let stays =
                |release: &Arc<ReleaseView>| !release.spec.volumes.is_empty() || release.spec.is_global();
            let is_bound = release_of(releases, instance.release).is_none_or(stays);
            instance.moves = (leaves && !is_bound) || self.rebalance.moves(instance.id);
        }
    }

    /// Plans an app. None: it is not known.
    pub fn plan(&mut self, now: Timestamp, id: AppId, ids: &mut dyn IdSource) -> Option<Changes> {
        let view = self.views.get(*self.index.get(&id)?)?;
        // What it was waiting for is its own to take.
        self.cluster.set_claims(id, Vec::new());
        let changes = plan::plan(now, view, &mut self.cluster, ids);
        self.cluster.set_claims(id, changes.claims.clone());
        mark(&mut self.unplaced, id, !changes.unplaced.is_empty() || !changes.claims.is_empty());
        Some(changes)
    }

    /// Takes in, of changes that were written, that instances of others are to go.
    pub fn tell_to_leave(&mut self, changes: &[Change]) {
        for change in changes {
            if let Change::Preempt { instance, .. } = change {
                self.cluster.leave(*instance);
            }
        }
    }

    /// An app, with the releases that it refers to.
    pub fn get(&self, id: AppId) -> Option<(&AppView, &[Arc<ReleaseView>])> {
        let at = *self.index.get(&id)?;
        Some((self.views.get(at)?, &**self.releases.get(at)?))
    }

    pub fn view(&self, id: AppId) -> Option<&AppView> {
        self.views.get(*self.index.get(&id)?)
    }

    /// Nodes that may get instances, and whether each may get them now.
    pub(super) fn places(&self) -> &BTreeMap<NodeId, bool> {
        &self.places
    }

    /// An app, and the nodes to place it on.
    pub(super) fn view_beside_cluster(&mut self, id: AppId) -> Option<(&AppView, &mut Cluster)> {
        let view = self.views.get(*self.index.get(&id)?)?;
        Some((view, &mut self.cluster))
    }

    /// The nodes with what everything takes of them, for what is placed beside the apps.
    pub fn cluster(&mut self) -> &mut Cluster {
        &mut self.cluster
    }

    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The apps that are another than when this was asked last, or gone.
    pub fn take_changed(&mut self) -> BTreeSet<AppId> {
        std::mem::take(&mut self.changed)
    }

    /// The apps that open requests decide for.
    pub(super) fn ranged(&self) -> impl Iterator<Item = &AppView> {
        self.ranged.iter().filter_map(|id| self.view(*id))
    }

    pub fn views(&self) -> &[AppView] {
        &self.views
    }

    /// Live instances with their app and release.
    pub fn instances(&self) -> impl Iterator<Item = (&AppView, &Arc<ReleaseView>, &InstanceView)> {
        self.views.iter().zip(&self.releases).flat_map(|(view, releases)| {
            let live = view.instances.iter().filter(|instance| !instance.state.is_final());
            live.filter_map(move |instance| Some((view, release_of(releases, instance.release)?, instance)))
        })
    }

    /// Tells the cluster what has changed of an app's instances.
    fn account(&mut self, id: AppId, before: Option<AppView>) {
        let at = self.index[&id];
        let (view, releases) = (&self.views[at], &self.releases[at]);
        let mut held: HashSet<InstanceId> = HashSet::new();
        for instance in &view.instances {
            let release = release_of(releases, instance.release);
            if let Some(taken) = release.and_then(|release| release.held(view, instance)) {
                held.insert(instance.id);
                self.cluster.put(instance.id, taken);
            }
        }
        let instances = before.into_iter().flat_map(|before| before.instances);
        for ended in instances.filter(|instance| !held.contains(&instance.id)) {
            self.cluster.remove(ended.id);
        }
    }
}

/// Whether what becomes of an app's instances depends on nodes that have none of them: it is to run on all, moves from one to another, or
/// has instances of which nothing is known but that they are there.
fn is_attentive(view: &AppView, releases: &[Arc<ReleaseView>]) -> bool {
    let mut known = [&view.target, &view.stable, &view.latest].into_iter().flatten();
    let is_global = known.any(|release| release.spec.is_global()) || !view.places.slots.is_empty();
    let is_unknown = |it: &InstanceView| !it.state.is_final() && release_of(releases, it.release).is_none();
    is_global
        || view.rollout_under_way().is_some()
        || view.instances.iter().any(|instance| instance.moves || is_unknown(instance))
}

fn mark(apps: &mut HashSet<AppId>, app: AppId, is_one: bool) {
    if is_one {
        apps.insert(app);
    } else {
        apps.remove(&app);
    }
}

#[cfg(test)]
mod tests;
