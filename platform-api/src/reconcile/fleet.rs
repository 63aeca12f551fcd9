//! Every app as it was last read, and the nodes with what their instances take of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use wharf_types::{AppId, InstanceId, NodeId, ReleaseId, Timestamp};

use super::rebalance::Rebalance;
use crate::nodes::NodeStatus;
use crate::plan::scheduler::Cluster;
use crate::plan::{self, AppView, Change, Changes, IdSource, InstanceView, ReleaseView};

#[derive(Default)]
pub struct Fleet {
    /// In one piece, as the route table is built from them.
    views: Vec<AppView>,
    releases: Vec<HashMap<ReleaseId, Arc<ReleaseView>>>,
    index: HashMap<AppId, usize>,
    /// Follows the views and the nodes change by change, because with many of both nobody could look at all of them for a plan.
    cluster: Cluster,
    /// Whether a view differs from what was published last.
    changed: bool,
    /// Nodes that are to be emptied.
    draining: HashSet<NodeId>,
    /// Nodes that may get instances, and whether each may get them now.
    places: BTreeMap<NodeId, bool>,
    pub(super) rebalance: Rebalance,
}

impl Fleet {
    pub fn put(&mut self, view: AppView, releases: HashMap<ReleaseId, Arc<ReleaseView>>) {
        if self.view(view.id) == Some(&view) {
            return;
        }
        let id = view.id;
        self.changed = true;
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
        self.changed = true;
        self.cluster.set_claims(id, Vec::new());
        self.releases.swap_remove(at);
        for instance in self.views.swap_remove(at).instances {
            self.cluster.remove(instance.id);
        }
        if let Some(moved) = self.views.get(at) {
            self.index.insert(moved.id, at);
        }
    }

    /// Takes in what is known of the nodes; one that was given up does not exist for the planner. Returns whether one of them is another
    /// than before in what constraints ask for.
    pub fn observe(&mut self, nodes: &[NodeStatus]) -> bool {
        let mut gone: HashSet<NodeId> = self.cluster.node_ids().collect();
        let places = nodes.iter().filter(|node| !node.given_up && !node.draining);
        let places = places.map(|node| (node.id, node.takes_more)).collect();
        if self.places != places {
            self.places = places;
            self.rebalance.places_changed();
        }
        self.draining = nodes.iter().filter(|node| node.draining).map(|node| node.id).collect();
        self.cluster.set_draining(self.draining.clone());
        let mut differs = false;
        for node in nodes.iter().filter(|node| !node.given_up) {
            gone.remove(&node.id);
            differs |= self.cluster.set_node(node.id, &node.registration, node.takes_more && !node.draining);
        }
        for node in gone {
            self.cluster.remove_node(node);
        }
        let lingering = nodes.iter().filter(|node| node.given_up && !node.released);
        self.cluster.set_lingering(lingering.map(|node| node.id).collect());
        let awaited = |node: &&NodeStatus| !node.given_up && !node.takes_more && (node.awaited || node.ready);
        self.cluster.set_awaited(nodes.iter().filter(awaited).map(|node| node.id).collect());
        differs
    }

    /// Fills in which instances are to go to other nodes. One with volumes stays where they are, and one of a global app is for its node
    /// alone.
    pub fn mark_moving(&self, view: &mut AppView, releases: &HashMap<ReleaseId, Arc<ReleaseView>>) {
        for instance in &mut view.instances {
            let leaves = instance.node.is_some_and(|node| self.draining.contains(&node));
            let stays =
                |release: &Arc<ReleaseView>| !release.spec.volumes.is_empty() || release.spec.is_global();
            let is_bound = releases.get(&instance.release).is_none_or(stays);
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
        self.changed
    }

    /// Call when the nodes are told of all this.
    pub fn published(&mut self) {
        self.changed = false;
    }

    pub fn views(&self) -> &[AppView] {
        &self.views
    }

    pub fn apps(&self) -> Vec<AppId> {
        self.views.iter().map(|view| view.id).collect()
    }

    /// Live instances with their app and release.
    pub fn instances(&self) -> impl Iterator<Item = (&AppView, &Arc<ReleaseView>, &InstanceView)> {
        self.views.iter().zip(&self.releases).flat_map(|(view, releases)| {
            let live = view.instances.iter().filter(|instance| !instance.state.is_final());
            live.filter_map(move |instance| Some((view, releases.get(&instance.release)?, instance)))
        })
    }

    /// Tells the cluster what has changed of an app's instances.
    fn account(&mut self, id: AppId, before: Option<AppView>) {
        let at = self.index[&id];
        let (view, releases) = (&self.views[at], &self.releases[at]);
        let mut held: HashSet<InstanceId> = HashSet::new();
        for instance in &view.instances {
            let release = releases.get(&instance.release);
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
