//! What each node has to run, kept up by what single apps and jobs have there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use wharf_types::node::AssignedInstance;
use wharf_types::{InstanceId, NodeId, SecretVersionId};

use super::sorted::Sorted;
use super::whole::{Assigned, Common, Whole};

#[derive(Debug, Default)]
pub(super) struct Shares {
    by_node: HashMap<NodeId, Share>,
    /// Those of which something is not as their nodes were told last.
    changed: BTreeSet<NodeId>,
    /// How many instances use each secret, on whatever node.
    secrets: HashMap<SecretVersionId, u32>,
    /// Secrets that are newly used, or not any more, since somebody asked.
    turned: BTreeSet<SecretVersionId>,
}

/// What one node has to run. Instances that ended are left out, which tells the worker that its report has arrived.
#[derive(Debug, Default)]
pub(super) struct Share {
    pub(super) instances: Sorted<Assigned>,
    pub(super) singletons: Arc<BTreeSet<InstanceId>>,
    /// How many of its instances use each.
    secrets: BTreeMap<SecretVersionId, u32>,
    changed: BTreeSet<InstanceId>,
    turned: BTreeSet<SecretVersionId>,
}

/// How a share differs from what the node was told.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Those that are new, or of which something else is wanted.
    pub(super) instances: Vec<AssignedInstance>,
    pub(super) dropped_instances: Vec<InstanceId>,
    /// Secrets that the node has no use for any more, or for the first time.
    pub(super) secrets: Vec<SecretVersionId>,
    pub(super) dropped_secrets: Vec<SecretVersionId>,
    /// Whether others have got further.
    pub(super) is_observed: bool,
}

impl Shares {
    pub(super) fn get(&self, node: NodeId) -> Option<&Share> {
        self.by_node.get(&node)
    }

    pub(super) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Takes in an instance, or what has changed of it.
    pub(super) fn put(&mut self, node: NodeId, assigned: Assigned) {
        let share = self.by_node.entry(node).or_default();
        if share.instances.get(&assigned.id) == Some(&assigned) {
            return;
        }
        let (id, common) = (assigned.id, assigned.common.clone());
        if assigned.is_singleton() {
            Arc::make_mut(&mut share.singletons).insert(id);
        }
        let before = share.instances.insert(assigned);
        share.changed.insert(id);
        self.changed.insert(node);
        if before.as_ref().is_some_and(|before| before.common.secrets == common.secrets) {
            return;
        }
        self.count(node, &common, true);
        if let Some(before) = before {
            self.count(node, &before.common, false);
        }
    }

    /// Forgets an instance that has ended.
    pub(super) fn remove(&mut self, node: NodeId, id: InstanceId) {
        let Some(share) = self.by_node.get_mut(&node) else { return };
        let Some(before) = share.instances.remove(&id) else { return };
        share.changed.insert(id);
        self.changed.insert(node);
        if before.is_singleton() {
            Arc::make_mut(&mut share.singletons).remove(&id);
        }
        self.count(node, &before.common, false);
    }

    fn count(&mut self, node: NodeId, common: &Common, is_more: bool) {
        let used: BTreeSet<SecretVersionId> = common.secrets.values().copied().collect();
        let Some(share) = self.by_node.get_mut(&node).filter(|_| !used.is_empty()) else { return };
        for id in used {
            let on_node = share.secrets.entry(id).or_default();
            let anywhere = self.secrets.entry(id).or_default();
            if is_more {
                if *on_node == 0 {
                    share.turned.insert(id);
                }
                if *anywhere == 0 {
                    self.turned.insert(id);
                }
                *on_node += 1;
                *anywhere += 1;
                continue;
            }
            *on_node = on_node.saturating_sub(1);
            *anywhere = anywhere.saturating_sub(1);
            if *on_node == 0 {
                share.turned.insert(id);
                share.secrets.remove(&id);
            }
            if *anywhere == 0 {
                self.turned.insert(id);
                self.secrets.remove(&id);
            }
        }
    }

    /// Whether any instance uses a secret.
    pub(super) fn uses(&self, id: SecretVersionId) -> bool {
        self.secrets.contains_key(&id)
    }

    pub(super) fn turned_secrets(&self) -> &BTreeSet<SecretVersionId> {
        &self.turned
    }

    /// Call when what was turned is taken care of.
    pub(super) fn secrets_settled(&mut self) {
        self.turned.clear();
    }

    /// Call when every node that is there was told its share. One that is not there is told all of it when it comes.
    pub(super) fn told(&mut self) {
        for node in std::mem::take(&mut self.changed) {
            let Some(share) = self.by_node.get_mut(&node) else { continue };
            share.changed.clear();
            share.turned.clear();
            if share.instances.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }
}

impl Share {
    /// The secrets that its instances use.
    pub(super) fn secrets(&self) -> impl Iterator<Item = SecretVersionId> {
        self.secrets.keys().copied()
    }

    /// How it differs from the newest that its node was told.
    pub(super) fn since(&self, known: &Whole) -> Difference {
        let mut difference = Difference::default();
        for id in &self.changed {
            match (known.instances.get(id), self.instances.get(id)) {
                (Some(known), Some(new)) if known == new => {}
                (Some(known), Some(new)) if known.is_as_wanted(new) => difference.is_observed = true,
                (_, Some(new)) => difference.instances.push(new.told()),
                (Some(_), None) => difference.dropped_instances.push(*id),
                (None, None) => {}
            }
        }
        for id in &self.turned {
            match (known.secrets.get(id).is_some(), self.secrets.contains_key(id)) {
                (false, true) => difference.secrets.push(*id),
                (true, false) => difference.dropped_secrets.push(*id),
                (true, true) | (false, false) => {}
            }
        }
        difference
    }
}

impl Difference {
    /// Whether a worker has to know.
    pub(super) fn is_news(&self) -> bool {
        !self.instances.is_empty()
            || !self.dropped_instances.is_empty()
            || !self.secrets.is_empty()
            || !self.dropped_secrets.is_empty()
    }
}
