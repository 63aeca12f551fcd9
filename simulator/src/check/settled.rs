//! When faults stop, the cluster reaches what is wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wharf_platform_api::plan::InstanceView;
use wharf_types::NodeId;
use wharf_types::state::{Health, InstanceState, Wanted};

use super::placed::{Asks, Seen};
use crate::store::{App, Job};
use crate::world::World;
use crate::world::client::Quality;

/// How often in a row everything is as wanted before that counts.
const LOOKS: u32 = 3;

impl World {
    /// What is not as wanted yet.
    pub(crate) fn check_settled(&mut self) -> Option<String> {
        self.go_on();
        let seen = self.seen(self.leader());
        let waits = self.store.apps.values().find_map(|app| self.waits(app, &seen));
        let waits = waits.or_else(|| self.work(&seen)).or_else(|| self.not_drained(&seen));
        self.check.calm_looks = if waits.is_none() { self.check.calm_looks + 1 } else { 0 };
        let is_short = self.check.calm_looks < LOOKS;
        waits.or_else(|| is_short.then(|| "it was as wanted only for a moment".to_owned()))
    }

    fn waits(&self, app: &App, seen: &BTreeMap<NodeId, Seen>) -> Option<String> {
        let view = &app.view;
        let name = &view.name;
        if view.deleting {
            return Some(format!("{name} is to be deleted"));
        }
        // What is stopped waits with its rollout.
        if let Some(rollout) = app.rollout_under_way().filter(|_| view.stopped.is_none()) {
            return Some(format!("{name} has a rollout under way: {rollout:?}"));
        }
        let mut others = app.rollouts.iter().filter(|rollout| !rollout.state.is_final());
        if let Some(rollout) = others.find(|_| view.stopped.is_none()) {
            return Some(format!("{name} has a rollout that nobody looks at: {rollout:?}"));
        }
        let live: Vec<&InstanceView> =
            view.instances.iter().filter(|instance| !instance.state.is_final()).collect();
        let target = view.target.as_ref().filter(|_| view.stopped.is_none());
        let Some(target) = target else {
            return (!live.is_empty()).then(|| format!("{name} should not run: {live:?}"));
        };
        let loaded = app.load().view;
        let slots = loaded.slot_numbers().count() as u64;
        if let Some(what) = self.wrong_number(app, &loaded).or_else(|| self.uncounted(app, slots)) {
            return Some(what);
        }
        // Where there is no room for the new, the old stays; and where the new cannot start, what served before it.
        let is_tight = self.setup.memory_mib < 64;
        let has_no_room = |slot: u32| {
            self.setup.extras.any() && self.room(Asks::of_slot(app, target, slot), seen).is_none()
        };
        let is_bad = self.clients.of(&target.artifact) == Quality::CannotStart;
        let is_other = |it: &&&InstanceView| {
            let may_stay = is_tight || is_bad || has_no_room(it.slot);
            (it.release != target.id && !may_stay) || !loaded.is_slot(it.slot)
        };
        if let Some(other) = live.iter().find(is_other) {
            return Some(format!("{name} has an instance that is of no use: {other:?}"));
        }
        let leader = &self.controls[self.leader()];
        let unplaced = leader.unplaced.get(&view.id);
        if target.spec.is_global() {
            let nodes: BTreeSet<_> = live.iter().filter_map(|instance| instance.node).collect();
            let may_have_it = |seen: &Seen| !seen.is_drained && seen.meets(&target.spec.placement);
            let nodes_of_all = self.workers.iter().map(|worker| worker.node);
            let all = nodes_of_all.filter(|node| seen.get(node).is_none_or(may_have_it)).count();
            let may_stay = is_tight || is_bad || self.setup.extras.any();
            if loaded.slot_numbers().count() != all || (nodes.len() < live.len() && !may_stay) {
                return Some(format!(
                    "{name} should be on each of {all} nodes: {:?}, {live:?}",
                    loaded.places
                ));
            }
        }
        for slot in loaded.slot_numbers() {
            let counts = |it: &&&InstanceView| it.slot == slot && (it.release == target.id || !is_bad);
            let of_slot: Vec<_> = live.iter().filter(counts).collect();
            let is_unplaced = unplaced.is_some_and(|all| all.iter().any(|unplaced| unplaced.slot == slot));
            // With priorities there is room where something of a lower one has it, whatever the scheduler says.
            let may_wait = if self.setup.extras.any() { has_no_room(slot) } else { is_unplaced && is_tight };
            match of_slot[..] {
                [] | [_] if may_wait => {}
                [instance] if self.is_as_good_as_can_be(target, instance) => {}
                _ => {
                    return Some(format!(
                        "slot {slot} of {name} (release {}) has {of_slot:?}",
                        target.number
                    ));
                }
            }
        }
        let unreached = (0..self.workers.len()).find(|worker| !self.reaches(*worker, name.as_str()));
        let has_healthy = live.iter().any(|it| it.health == Health::Healthy);
        let is_there = if self.setup.extras.any() { has_healthy } else { !live.is_empty() };
        if let Some(worker) = unreached.filter(|_| is_there && !is_bad) {
            return Some(format!("worker {worker} does not reach {name}"));
        }
        None
    }

    fn is_as_good_as_can_be(
        &self,
        target: &wharf_platform_api::plan::ReleaseView,
        it: &InstanceView,
    ) -> bool {
        let is_healthy = it.state == InstanceState::Running && it.health == Health::Healthy;
        let is_bad = self.clients.of(&target.artifact) == Quality::CannotStart;
        it.wanted == Wanted::Run && (is_healthy || is_bad)
    }

    /// Jobs that have not ended, and guests that nobody knows.
    fn work(&self, seen: &BTreeMap<NodeId, Seen>) -> Option<String> {
        let is_tight = self.setup.memory_mib < 64;
        let by_hand = self.store.jobs.values().filter(|job| job.schedule.is_none() && !is_tight);
        let has_room =
            |job: &&Arc<Job>| !self.setup.extras.any() || self.room(Asks::of_job(job), seen).is_some();
        let by_hand = by_hand.filter(has_room);
        if let Some(job) = by_hand.into_iter().find(|job| !job.view.state.is_final()) {
            return Some(format!("job {} has not ended: {:?}", job.view.id, job.view.runs));
        }
        let wall = self.wall_of(self.controls[self.leader()].clock);
        for schedule in self.store.schedules.values() {
            let late = wall.checked_sub(jiff::SignedDuration::from_secs(2)).unwrap_or(wall);
            let next = schedule.cron.next_after(schedule.decided_until, &schedule.zone);
            if next.is_some_and(|next| next < late) {
                return Some(format!(
                    "{} has not been decided since {}",
                    schedule.id, schedule.decided_until
                ));
            }
        }
        self.workers.iter().find_map(|worker| {
            let unknown = worker
                .slots
                .values()
                .find(|slot| slot.assigned.job.is_none() && self.store.owner(slot.id).is_none())?;
            Some(format!("{} runs on {} and nobody knows", unknown.id, worker.registration.hostname))
        })
    }
}
