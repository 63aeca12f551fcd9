//! What users are told of instances that are lost with their node, or go from one to another: one event for all of an app that share the cause,
//! however many they are.
//!
//! It is read off the changes that are planned already, and changes nothing else.

use std::collections::{BTreeMap, BTreeSet};

use wharf_types::state::InstanceState;
use wharf_types::{InstanceId, NodeId, ReleaseId};

use super::condition::slots_of;
use super::draft::Draft;
use super::{AppView, Change, InstanceView};

/// Why there is another instance elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Lost,
    Drain,
    Rebalance,
}

/// Slots, counted from 1, by the node that they go to.
type Slots = BTreeMap<NodeId, Vec<u32>>;

pub(super) fn tell(draft: &mut Draft<'_>, before: &AppView) {
    // Nothing comes after the end of an app.
    if draft.planned().iter().any(|change| matches!(change, Change::DeleteApp)) {
        return;
    }
    for (node, slots) in lost(draft, before) {
        let (name, slots) = (draft.cluster.name_of(node), slots_of(&slots));
        draft.event("instance.lost", format!("{name} is gone, and with it what ran in {slots}"));
    }
    for ((from, cause), slots) in moved(draft) {
        let from = draft.cluster.name_of(from);
        let to = slots
            .iter()
            .map(|(node, slots)| format!("{} to {}", slots_of(slots), draft.cluster.name_of(*node)));
        let to = to.collect::<Vec<_>>().join(", ");
        let message = match cause {
            Cause::Lost => format!("from {from}, which is gone: {to}"),
            Cause::Drain => format!("from {from}, which is being drained: {to}"),
            Cause::Rebalance => format!("from {from}, so that another node gets its share: {to}"),
        };
        draft.event("instance.moved", message);
    }
}

/// The slots of what has ended because its node is gone, by that node.
fn lost(draft: &Draft<'_>, before: &AppView) -> Slots {
    let mut lost = Slots::new();
    for change in draft.planned() {
        let Change::EndInstance { instance, state: InstanceState::Lost, .. } = change else { continue };
        let Some(ended) = before.instances.iter().find(|known| known.id == *instance) else { continue };
        if let Some(node) = ended.node {
            lost.entry(node).or_default().push(ended.slot_number());
        }
    }
    lost.values_mut().for_each(|slots| slots.sort_unstable());
    lost
}

/// What is made in the place of something that was on another node, by that node and the cause.
fn moved(draft: &Draft<'_>) -> BTreeMap<(NodeId, Cause), Slots> {
    let made = |change: &Change| match change {
        Change::CreateInstance { id, release, slot, node } => Some((*id, *release, *slot, *node)),
        _ => None,
    };
    let made: Vec<_> = draft.planned().iter().filter_map(made).collect();
    let mut moved = BTreeMap::<(NodeId, Cause), Slots>::new();
    if made.is_empty() {
        return moved;
    }
    let new: BTreeSet<InstanceId> = made.iter().map(|(id, ..)| *id).collect();
    let mut newest: BTreeMap<(u32, ReleaseId), &InstanceView> = BTreeMap::new();
    for instance in draft.app.instances.iter().filter(|instance| !new.contains(&instance.id)) {
        let known = newest.entry((instance.slot, instance.release)).or_insert(instance);
        if instance.age() > known.age() {
            *known = instance;
        }
    }
    for (_, release, slot, to) in made {
        let Some(old) = newest.get(&(slot, release)) else { continue };
        let Some(from) = old.node.filter(|from| *from != to) else { continue };
        if let Some(cause) = cause(draft, old, from) {
            let slots = moved.entry((from, cause)).or_default();
            slots.entry(to).or_default().push(old.slot_number());
        }
    }
    moved
}

/// Why something is made in the place of an instance. None: the reason is not its node.
fn cause(draft: &Draft<'_>, old: &InstanceView, from: NodeId) -> Option<Cause> {
    if old.state == InstanceState::Lost {
        return Some(Cause::Lost);
    }
    // What there is to be only one of has ended before there is another.
    let moves = old.moves && (old.is_live() || draft.app.alone.contains(&old.release));
    match draft.cluster.drains(from) {
        true if moves => Some(Cause::Drain),
        false if moves => Some(Cause::Rebalance),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
