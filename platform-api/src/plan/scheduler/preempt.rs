//! Finds instances of a lower priority that have to leave so that one of a higher can run.
//!
//! This is for when nothing fits. It looks at every node once, in constant time each, and at the instances of the most promising ones:
//! those where instances of the lowest priority are enough, then those with the most room to win.

use std::cmp::Reverse;

use wharf_types::InstanceId;
use wharf_types::spec::Priority;

use super::Resources;
use super::cluster::Held;
use super::node::band;
use super::round::Round;

/// Nodes whose instances are looked at. One is enough to find room; with more it is found at a lower cost.
const NODES_MAX: usize = 100;

pub(super) struct Preempted {
    pub(super) node: u32,
    /// Whether only claims of lower priorities were in the way.
    pub(super) is_free_now: bool,
    /// Who has to be told to leave.
    pub(super) victims: Vec<InstanceId>,
}

/// The node that can be made to fit at the lowest cost: the lowest priorities, then the fewest instances, then the newest.
pub(super) fn search(round: &Round<'_>) -> Option<Preempted> {
    let own = round.band();
    // There may be room in a moment where nobody has to leave.
    if !round.cluster.holds_below(own) || round.cluster.awaits_any() {
        return None;
    }
    let needed = round.ask.takes;
    let mut candidates: Vec<_> = round
        .looked_at()
        .map(|at| (at, round.node(at)))
        .filter(|(at, node)| {
            node.coming_for(own, node.staying_below(own)).covers(needed) && round.is_usable(*at)
        })
        .map(|(at, node)| {
            let room = node.coming_for(own, node.staying_below(1));
            (!room.covers(needed), Reverse(room.memory_bytes), node.id, at)
        })
        .collect();
    if candidates.len() > NODES_MAX {
        candidates.select_nth_unstable(NODES_MAX);
        candidates.truncate(NODES_MAX);
    }
    let best = candidates.into_iter().filter_map(|(.., at)| {
        let victims = victims(round, at)?;
        let count_of = |priority| victims.iter().filter(|(_, held)| held.priority == priority).count();
        let oldest = victims.iter().map(|(_, held)| held.created_at).min();
        let cost = (count_of(Priority::Normal), count_of(Priority::Low), Reverse(oldest));
        Some((cost, round.rank(at), at, victims))
    });
    let (_, _, node, victims) = best.min_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)))?;
    let is_free_now = victims.is_empty() && round.node(node).free_for(own).covers(needed);
    Some(Preempted { node, is_free_now, victims: victims.into_iter().map(|(id, _)| id).collect() })
}

/// Who has to leave a node, from the lowest priority on; None where that is not enough, which can only be because instances of the app
/// itself are among them: it never pushes itself out.
fn victims(round: &Round<'_>, at: u32) -> Option<Vec<(InstanceId, Held)>> {
    let node = round.node(at);
    let own = round.band();
    let others = |priority: usize| {
        let held = node.instances.iter().map(|resident| (resident.id, resident.held(node.id)));
        let mut others: Vec<_> = held
            .filter(|(_, held)| band(held.priority) == priority && !held.leaving && held.app != round.app)
            .collect();
        // The largest first, so that few have to go; of equals the newest.
        others.sort_by_key(|(id, held)| {
            (
                Reverse(held.takes.memory_bytes),
                Reverse(held.takes.cpu_millis),
                Reverse(held.created_at),
                Reverse(*id),
            )
        });
        others
    };
    let suffices = |given: Resources| node.coming_for(own, given).covers(round.ask.takes);
    // Of the highest band that has to give, as few as will do when all below it have gone; then as few of those below.
    let mut chosen: Vec<(InstanceId, Held)> = Vec::new();
    for priority in (0..own).rev() {
        let below = (0..priority).flat_map(others).collect::<Vec<_>>();
        let given = takes(&chosen).plus(takes(&below));
        chosen.extend(fewest(others(priority), |more| suffices(given.plus(more)))?);
    }
    Some(chosen)
}

/// As few of these, which are sorted by size, as suffice together.
fn fewest(
    mut sorted: Vec<(InstanceId, Held)>,
    suffices: impl Fn(Resources) -> bool,
) -> Option<Vec<(InstanceId, Held)>> {
    let count = (0..=sorted.len()).find(|count| suffices(takes(&sorted[..*count])))?;
    sorted.truncate(count);
    // Where two things are short, some were chosen for the one that the others then also brought.
    for index in (0..sorted.len()).rev() {
        let without = sorted.remove(index);
        if !suffices(takes(&sorted)) {
            sorted.insert(index, without);
        }
    }
    Some(sorted)
}

fn takes(instances: &[(InstanceId, Held)]) -> Resources {
    Resources::sum(instances.iter().map(|(_, held)| held.takes))
}
