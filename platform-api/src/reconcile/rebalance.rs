//! Gives a node that has joined its share of what runs on the others.
//!
//! Only what the newcomer would get if it were placed now moves, a few instances at a time, each started there before it ends here.
//! What nodes have is compared once, when one joins: what becomes uneven later, such as by scaling down, stays. What cannot move at that
//! moment, because it is being rolled out or has only been started, is waited for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use wharf_types::{AppId, InstanceId, NodeId};

use super::fleet::Fleet;
use crate::plan::rebalance::{Course, course};

/// Instances that move at once, in the whole cluster.
const MOVES_MAX: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Rebalance {
    /// Nodes that are no newcomers. None: nobody has looked yet, and all that there are have been there before.
    settled: Option<BTreeSet<NodeId>>,
    /// How many more instances each newcomer is to get.
    shares: BTreeMap<NodeId, usize>,
    /// Instances that make way for one on a newcomer.
    moving: HashMap<InstanceId, AppId>,
    /// Apps that something may move of when they have come where they are going. As long as nothing else can, nobody looks again before that.
    waits_for: BTreeSet<AppId>,
    /// Whether there are other nodes, or other ready ones, than when somebody looked last, or something that was waited for has changed.
    is_due: bool,
}

/// What to do for the newcomers next.
#[derive(Debug)]
enum Choice {
    /// The instance makes way for one on the newcomer.
    Move(InstanceId, AppId, NodeId),
    /// Nothing can move now, but something of these apps later.
    Wait(BTreeSet<AppId>),
    /// Nothing wants to go there.
    Nothing,
}

impl Rebalance {
    pub(super) fn places_changed(&mut self) {
        self.is_due = true;
    }

    pub(super) fn app_changed(&mut self, app: AppId) {
        self.is_due |= self.waits_for.contains(&app);
    }

    /// Whether there may be something to choose: it is asked with every pass.
    fn has_work(&self) -> bool {
        let may_move = !self.shares.is_empty() && self.waits_for.is_empty();
        self.is_due || may_move || !self.moving.is_empty()
    }

    pub(super) fn moves(&self, instance: InstanceId) -> bool {
        self.moving.contains_key(&instance)
    }
}

impl Fleet {
    /// Chooses what moves next. Returns the apps that have to be planned for it. Call it once everything has been read.
    pub fn rebalance(&mut self) -> Vec<AppId> {
        if !self.rebalance.has_work() {
            return Vec::new();
        }
        let mut state = std::mem::take(&mut self.rebalance);
        state.is_due = false;
        let apps = self.choose(&mut state);
        self.rebalance = state;
        apps
    }

    fn choose(&mut self, state: &mut Rebalance) -> Vec<AppId> {
        let places = self.places().clone();
        let settled = state.settled.get_or_insert_with(|| places.keys().copied().collect());
        settled.retain(|node| places.contains_key(node));
        state.shares.retain(|node, _| places.contains_key(node));
        let ready: Vec<NodeId> = places.iter().filter(|(_, ready)| **ready).map(|(node, _)| *node).collect();
        let newcomers: Vec<NodeId> = ready.iter().filter(|node| !settled.contains(node)).copied().collect();
        if !newcomers.is_empty() {
            let all: usize = ready.iter().map(|node| self.cluster().instances_on(*node).len()).sum();
            for node in newcomers {
                let missing = (all / ready.len()).saturating_sub(self.cluster().instances_on(node).len());
                state.shares.insert(node, missing);
                settled.insert(node);
            }
        }
        state.shares.retain(|_, share| *share > 0);
        let is_live = |instance: &InstanceId, app: &AppId| {
            self.view(*app).is_some_and(|view| {
                view.instances.iter().any(|it| it.id == *instance && it.is_wanted() && it.is_healthy())
            })
        };
        state.waits_for.clear();
        let mut apps = Vec::new();
        state.moving.retain(|instance, app| {
            let stays = is_live(instance, app);
            if !stays {
                // What is left of the move in its view goes with the next look at it.
                apps.push(*app);
            }
            stays
        });
        apps.sort_unstable();
        while state.moving.len() < MOVES_MAX && !state.shares.is_empty() {
            let (instance, app, node) = match self.next_move(state, &ready) {
                Choice::Move(instance, app, node) => (instance, app, node),
                // What moves now may have others move after it.
                _ if !state.moving.is_empty() => break,
                Choice::Wait(apps) => {
                    state.waits_for = apps;
                    break;
                }
                Choice::Nothing => {
                    state.shares.clear();
                    break;
                }
            };
            state.moving.insert(instance, app);
            state.shares.entry(node).and_modify(|share| *share -= 1);
            state.shares.retain(|_, share| *share > 0);
            apps.push(app);
        }
        apps
    }

    /// An instance of the fullest node that would go to a newcomer.
    fn next_move(&mut self, state: &Rebalance, ready: &[NodeId]) -> Choice {
        let mut waits = BTreeSet::new();
        let mut donors: Vec<(usize, NodeId)> =
            ready.iter().map(|node| (self.cluster().instances_on(*node).len(), *node)).collect();
        donors.sort_unstable_by(|a, b| b.cmp(a));
        let fewest = donors.last().map_or(0, |(fewest, _)| *fewest);
        for (_, donor) in donors.into_iter().take_while(|(count, _)| *count > fewest + 1) {
            let mut instances: Vec<InstanceId> = self.cluster().instances_on(donor).collect();
            // What is older has served for longer, and was perhaps there before the newcomer went away.
            instances.sort_unstable_by(|a, b| b.cmp(a));
            for id in instances.into_iter().filter(|id| !state.moving.contains_key(id)) {
                let Some(app) = self.cluster().instance(id).map(|held| held.app) else { continue };
                // One after the other of an app: whoever is placed has to know what was placed before.
                if state.moving.values().any(|moving| *moving == app) {
                    continue;
                }
                match self.course_of(app, id) {
                    Some(Course::To(node)) if state.shares.contains_key(&node) => {
                        return Choice::Move(id, app, node);
                    }
                    Some(Course::NotYet) => {
                        waits.insert(app);
                    }
                    Some(Course::To(_) | Course::Stays) | None => {}
                }
            }
        }
        if waits.is_empty() { Choice::Nothing } else { Choice::Wait(waits) }
    }

    fn course_of(&mut self, app: AppId, id: InstanceId) -> Option<Course> {
        let (view, cluster) = self.view_beside_cluster(app)?;
        let instance = view.instances.iter().find(|instance| instance.id == id)?;
        Some(course(view, instance, cluster))
    }
}

#[cfg(test)]
mod tests;
