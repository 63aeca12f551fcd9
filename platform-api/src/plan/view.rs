//! Questions about a view that several decisions ask.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use wharf_types::node::{Reason, ReasonKind};
use wharf_types::spec::{AppSpec, Dials, Ratio, ReplicaRange, Replicas, RestartCondition, UpdateOrder};
use wharf_types::state::{Health, InstanceState, RolloutState, Wanted};
use wharf_types::world::World;
use wharf_types::{InstanceId, NodeId, ReleaseId, Timestamp};

use super::{AppView, InstanceView, Place, ReleaseView, RolloutView};

impl AppView {
    /// A release that the view holds.
    pub(crate) fn release(&self, id: ReleaseId) -> Option<&Arc<ReleaseView>> {
        [&self.target, &self.stable].into_iter().flatten().find(|release| release.id == id)
    }

    /// The number of a release. 0: it is not kept.
    pub(crate) fn number(&self, id: ReleaseId) -> u64 {
        let known = || self.release(id).map(|release| release.number);
        let kept = self.numbers.iter().find(|(release, _)| *release == id);
        kept.map(|(_, number)| *number).or_else(known).unwrap_or(0)
    }

    /// What time it is for the app where a clock shows `now`: never before its rollout began, or was resumed. That may have been by the clock of
    /// another server, or before this one was put back; and what is made for a rollout would count as older than it, and be made again.
    pub fn time(&self, now: Timestamp) -> Timestamp {
        self.rollout.as_ref().map_or(now, |rollout| now.max(rollout.started_at).max(rollout.judged_since))
    }

    /// The number of slots.
    pub fn replicas(&self) -> u32 {
        self.counted_release()
            .map_or_else(|| self.scaled_to.unwrap_or(0), |release| self.replicas_of(release))
    }

    /// The release that says how many slots there are.
    fn counted_release(&self) -> Option<&Arc<ReleaseView>> {
        self.target.as_ref().or(self.stable.as_ref()).or(self.latest.as_ref())
    }

    /// Whether it is to run on every node that may have it.
    pub(crate) fn is_global(&self) -> bool {
        self.counted_release().is_some_and(|release| release.spec.is_global())
    }

    /// One more than the number of the last slot. In between, slots of a global app may be missing.
    pub(crate) fn slots_end(&self) -> u32 {
        self.counted_release().map_or_else(|| self.replicas(), |release| self.slots_end_of(release))
    }

    fn slots_end_of(&self, release: &ReleaseView) -> u32 {
        if !release.spec.is_global() {
            return self.replicas_of(release);
        }
        let end = self.places.slots.iter().rposition(|place| self.is_of(*place, release));
        end.map_or(0, |last| u32::try_from(last + 1).unwrap_or(u32::MAX))
    }

    /// Whether a release has the slot.
    pub(crate) fn has_slot(&self, release: &ReleaseView, slot: usize) -> bool {
        match release.spec.is_global() {
            true => self.places.slots.get(slot).is_some_and(|place| self.is_of(*place, release)),
            false => slot < self.replicas_of(release) as usize,
        }
    }

    /// The numbers of the slots.
    pub fn slot_numbers(&self) -> impl Iterator<Item = u32> {
        (0..self.slots_end()).filter(|slot| self.is_slot(*slot))
    }

    /// Whether there is such a slot now.
    pub fn is_slot(&self, slot: u32) -> bool {
        let has = |release: &Arc<ReleaseView>| self.has_slot(release, slot as usize);
        slot < self.slots_end() && self.counted_release().is_none_or(has)
    }

    fn is_of(&self, place: Option<Place>, release: &ReleaseView) -> bool {
        let is_target = self.target.as_ref().is_none_or(|target| target.id == release.id);
        let is_stable = !is_target && self.stable.as_ref().is_some_and(|stable| stable.id == release.id);
        place.is_some_and(|place| if is_stable { place.stable } else { place.target })
    }

    /// The node on which an instance of the release in the slot has to be. None: anywhere.
    pub(crate) fn node_of(&self, release: &ReleaseView, slot: u32) -> Option<NodeId> {
        let place = self.places.at(slot).filter(|_| release.spec.is_global());
        place.map(|place| place.node)
    }

    /// Whether an instance of the release is where its slot is.
    pub(crate) fn is_in_place(&self, instance: &InstanceView, release: &ReleaseView) -> bool {
        !release.spec.is_global() || instance.node == self.node_of(release, instance.slot)
    }

    /// The same, and the release has that slot.
    pub(crate) fn is_in_slot(&self, instance: &InstanceView, release: &ReleaseView) -> bool {
        self.has_slot(release, instance.slot as usize) && self.is_in_place(instance, release)
    }

    /// Whether the slot, by whatever instance, is one that the app has now.
    pub(crate) fn is_in_use(&self, instance: &InstanceView) -> bool {
        self.counted_release().is_some_and(|release| self.is_in_slot(instance, release))
    }

    /// One more than the last slot in which an instance of the release before may serve. Until the new release has proved itself, a
    /// smaller number of its own takes nothing away, so that going back finds every slot served. Where a release in between never came
    /// through, its instances may be all that serves.
    pub(crate) fn slots_kept(&self) -> u32 {
        if !self.keeps_others() {
            return self.slots_end();
        }
        let before = self.stable.as_ref().map_or(0, |stable| self.slots_end_of(stable));
        let served = self.in_between().map(InstanceView::slot_number).max().unwrap_or(0);
        self.slots_end().max(before).max(served)
    }

    /// Whether this slot is one of those that are kept, and not the target's.
    pub(crate) fn keeps_slot(&self, slot: u32) -> bool {
        let has_global =
            [&self.target, &self.stable].into_iter().flatten().any(|release| release.spec.is_global());
        let of_stable = || self.stable.as_ref().is_some_and(|stable| self.has_slot(stable, slot as usize));
        let serves = |it: &InstanceView| it.slot == slot || (!has_global && it.slot > slot);
        self.keeps_others() && (of_stable() || self.in_between().any(serves))
    }

    /// Whether slots that the target has no use for are kept.
    fn keeps_others(&self) -> bool {
        (self.scaled_to.is_none() || self.is_global()) && self.is_rolling_out()
    }

    /// What serves of releases between the stable one and the target.
    fn in_between(&self) -> impl Iterator<Item = &InstanceView> {
        self.instances.iter().filter(|it| it.is_healthy() && self.release(it.release).is_none())
    }

    /// The number of slots that a release has.
    pub(crate) fn replicas_of(&self, release: &ReleaseView) -> u32 {
        if release.spec.is_global() {
            let of_release = self.places.slots.iter().filter(|place| self.is_of(**place, release));
            return u32::try_from(of_release.count()).unwrap_or(u32::MAX);
        }
        if let Some(replicas) = self.scaled_to {
            return replicas;
        }
        match &release.spec.scale.replicas {
            Replicas::Global(_) => 0,
            Replicas::Fixed(replicas) => *replicas,
            replicas @ Replicas::Range(range) => {
                // A rollout needs an instance to prove the release with, also where nobody asks for it.
                let least = u32::from(self.rollout_under_way().is_some());
                range.clamp(self.autoscaled_to.unwrap_or_else(|| replicas.first()).max(least))
            }
        }
    }

    /// The range within which open requests decide. None: nobody but users does, or nothing is to run.
    pub(crate) fn range(&self) -> Option<&ReplicaRange> {
        let is_ours = self.scaled_to.is_none() && self.stopped.is_none() && !self.deleting;
        self.target.as_ref().filter(|_| is_ours).and_then(|target| target.spec.scale.replicas.range())
    }

    /// Whether nobody has asked for it for a while, so that it has no instance until somebody does.
    pub(crate) fn is_asleep(&self) -> bool {
        self.range().is_some() && self.replicas() == 0
    }

    /// Whether a request that finds no instance waits for one: the app sleeps, or its first instance is on its way. One that
    /// fails, on its way or later, is not waited for.
    pub(crate) fn wakes(&self) -> bool {
        let fails =
            |it: &InstanceView| it.is_wanted() && !it.is_healthy() && (it.restarts > 0 || it.was_healthy);
        self.range().is_some_and(|range| range.min == 0) && !self.instances.iter().any(fails)
    }

    /// The release that should serve: the target as soon as it can, until then the one before.
    pub(crate) fn serving_release(&self) -> Option<&Arc<ReleaseView>> {
        let target_serves =
            |target: &ReleaseView| self.instances.iter().any(|instance| instance.is_ready_for(target));
        match (&self.target, &self.stable) {
            // While the new release is on trial, the old one says where the app is.
            (Some(_), Some(stable)) if self.is_on_trial() => Some(stable),
            (Some(target), Some(stable)) => Some(if target_serves(target) { target } else { stable }),
            (target, stable) => target.as_ref().or(stable.as_ref()),
        }
    }

    /// The release whose routes lead to the app: the one that should serve, or else the newest, which failed.
    pub(crate) fn routed_release(&self) -> Option<&Arc<ReleaseView>> {
        self.serving_release().or(self.latest.as_ref())
    }

    /// The node that has the app's volumes, if the release has any. All are on one node, also those that only other releases have.
    pub(crate) fn home(&self, release: &ReleaseView) -> Option<NodeId> {
        let placed = || self.volumes.iter().find_map(|volume| volume.node);
        if release.spec.volumes.is_empty() { None } else { placed() }
    }

    /// Whether an instance of `target` must not live beside this one: one of the two is to be the only one, or both would write to a volume
    /// that is not shared. Of an instance whose release is not in view it is not known what it writes to, so it may be the same.
    pub(crate) fn excludes(&self, target: &ReleaseView, instance: &InstanceView) -> bool {
        let excludes_unknown = || target.spec.volumes.iter().any(|volume| !volume.read_only);
        target.spec.scale.singleton
            || self.alone.contains(&instance.release)
            || self
                .release(instance.release)
                .map_or_else(excludes_unknown, |other| target.spec.excludes(&other.spec))
    }

    /// Whether an instance lives that has to end before there can be one of `target`.
    pub(crate) fn waits_for_a_writer(&self, target: &ReleaseView) -> bool {
        self.instances.iter().any(|instance| instance.is_live() && self.excludes(target, instance))
    }

    /// The same of those that the target is to take over from.
    pub(crate) fn is_held_up(&self, target: &ReleaseView) -> bool {
        let in_the_way = |instance: &InstanceView| instance.is_live() && !self.is_current(instance, target);
        self.instances.iter().any(|instance| in_the_way(instance) && self.excludes(target, instance))
    }

    /// Which of the slots `0..slots_end` `release` serves, or has completed, by instances that are to stay.
    pub(crate) fn slots_ready(&self, release: &ReleaseView) -> Vec<bool> {
        self.slots_where(|instance| self.is_current(instance, release) && self.serves(instance, release))
    }

    /// Of these the slots that every ingress knows the way to.
    pub(crate) fn slots_routed(&self, release: &ReleaseView) -> Vec<bool> {
        self.slots_where(|instance| {
            instance.routed
                && self.is_current(instance, release)
                && instance.is_ready_for(release)
                && self.is_in_place(instance, release)
        })
    }

    /// Which of them it serves by any instances, also those that a restart is about to replace.
    pub(crate) fn slots_served(&self, release: &ReleaseView) -> Vec<bool> {
        self.slots_where(|instance| self.serves(instance, release))
    }

    fn slots_where(&self, serves: impl Fn(&InstanceView) -> bool) -> Vec<bool> {
        let mut slots = vec![false; self.slots_end() as usize];
        for instance in &self.instances {
            if let Some(slot) = slots.get_mut(instance.slot as usize).filter(|_| self.is_slot(instance.slot))
            {
                *slot |= serves(instance);
            }
        }
        slots
    }

    fn serves(&self, instance: &InstanceView, release: &ReleaseView) -> bool {
        (instance.is_ready_for(release) || self.has_completed(instance, release))
            && self.is_in_place(instance, release)
    }

    /// Whether it is an instance that the slots are to end up with: of the release, not from before a restart of it, and where it may stay.
    pub(crate) fn is_current(&self, instance: &InstanceView, release: &ReleaseView) -> bool {
        let renews =
            self.rollout_under_way().is_some_and(|rollout| rollout.renews && rollout.to == release.id);
        instance.release == release.id && !instance.moves && !(renews && self.is_older_than_rollout(instance))
    }

    /// Whether a command ended with success, and its restart condition is content with that.
    pub(crate) fn has_completed(&self, instance: &InstanceView, release: &ReleaseView) -> bool {
        instance.release == release.id
            && !release.world.is_http()
            && instance.state == InstanceState::Stopped
            && instance.wanted == Wanted::Run
            && !instance.replaced
            && release.spec.restart.condition != RestartCondition::Any
            && !self.is_older_than_rollout(instance)
    }

    /// Whether what this instance went through says nothing about the rollout that is under way.
    pub(crate) fn is_older_than_rollout(&self, instance: &InstanceView) -> bool {
        self.rollout_under_way().is_some_and(|rollout| instance.created_at < rollout.started_at)
    }

    /// How the rollout to `target` moves.
    pub(crate) fn dials(&self, target: &ReleaseView) -> Dials {
        target.spec.update.dials(self.rollout_under_way().is_some_and(|rollout| rollout.backwards))
    }

    /// Whether the old instance of a slot ends before the new one is made.
    pub(crate) fn stops_first(&self, target: &ReleaseView) -> bool {
        self.is_rolling_out() && self.dials(target).order == UpdateOrder::StopFirst
    }

    /// When the batch after the one that serves by now may move. None: at once.
    pub(crate) fn next_batch_at(&self, target: &ReleaseView) -> Option<Timestamp> {
        let delay = self.dials(target).delay.as_duration();
        let stepped_at = self.rollout_under_way().and_then(|rollout| rollout.stepped_at);
        stepped_at.filter(|_| !delay.is_zero()).map(|at| after(at, delay))
    }

    /// Whether no slot may move to the new release: what is lost meanwhile comes back as the old one.
    pub(crate) fn is_held(&self) -> bool {
        self.rollout_under_way()
            .is_some_and(|rollout| rollout.paused.is_some() && rollout.state < RolloutState::Monitoring)
            || self.is_on_trial()
    }

    /// Whether the new release runs beside all instances of the old one.
    pub(crate) fn is_on_trial(&self) -> bool {
        self.rollout_under_way().is_some_and(|rollout| rollout.state == RolloutState::Canary)
    }

    /// The number of slots, from the first on, in which the new release runs while it is on trial.
    pub(crate) fn trial_slots(&self, target: &ReleaseView) -> u32 {
        let share = target.spec.update.canary.as_ref().map_or(Ratio::default(), |canary| canary.share);
        let count = share.share_of(self.replicas()).clamp(1, self.replicas().max(1));
        self.slot_numbers().nth(count as usize - 1).map_or(count, |last| last + 1)
    }

    pub fn rollout_under_way(&self) -> Option<&RolloutView> {
        self.rollout.as_deref().filter(|rollout| !rollout.state.is_final())
    }

    /// Whether new instances are still being brought into service.
    pub(crate) fn is_rolling_out(&self) -> bool {
        self.rollout_under_way().is_some_and(|rollout| rollout.state < RolloutState::Monitoring)
    }
}

/// Of these releases, those of which there must not be two instances at once.
pub fn alone<'a>(releases: impl IntoIterator<Item = &'a Arc<ReleaseView>>) -> BTreeSet<ReleaseId> {
    let alone = releases.into_iter().filter(|release| release.spec.scale.singleton);
    alone.map(|release| release.id).collect()
}

/// One of these releases, of which there are a few.
pub(crate) fn release_of(releases: &[Arc<ReleaseView>], id: ReleaseId) -> Option<&Arc<ReleaseView>> {
    releases.iter().find(|release| release.id == id)
}

/// The numbers of these releases, in the order of their ids: mostly a single one, for which a map would have room for eleven.
pub fn numbers<'a>(releases: impl IntoIterator<Item = &'a Arc<ReleaseView>>) -> Box<[(ReleaseId, u64)]> {
    let mut numbers: Vec<_> = releases.into_iter().map(|release| (release.id, release.number)).collect();
    numbers.sort_unstable();
    numbers.into_boxed_slice()
}

/// What an instance of an HTTP app takes of its node while nobody asks for anything.
const IDLE_HTTP_BYTES: u64 = 1 << 20;

impl ReleaseView {
    /// Whether the ingress leads to its instances. What it does not lead to is ready once it has run for a moment.
    pub fn is_routed(&self) -> bool {
        self.world.is_http() || !self.spec.tcp.ports.is_empty()
    }

    /// Memory that one instance reserves on its node, in octets.
    ///
    /// An HTTP app makes its guest's memory for a request and gives it back afterwards, so `limits.memory` says what a request
    /// may take and not what an instance holds: if each instance reserved that, a node would be full with a few dozen apps that
    /// do nothing, and a host is meant to keep thousands. What requests take at once is bounded by the node's places for guests; when
    /// those are taken, requests wait and then get 503. A command holds its memory as long as it runs, so it reserves all of it.
    /// Whoever knows better says so in `reserve.memory`.
    pub(crate) fn reservation_bytes(&self) -> u64 {
        reservation_bytes(&self.spec, self.world)
    }
}

/// [`ReleaseView::reservation_bytes`] of these settings.
pub(crate) fn reservation_bytes(spec: &AppSpec, world: World) -> u64 {
    if let Some(reserved) = spec.reserve.memory {
        return reserved.as_bytes();
    }
    let limit = spec.limits.memory.as_bytes();
    // A container holds its memory also while nobody asks for anything.
    if world.is_http() && !world.is_container() { limit.min(IDLE_HTTP_BYTES) } else { limit }
}

/// Of the ended instances of an app (newest first) those that a plan looks at: that ended since the rollout began, or, without one, the
/// newest of each slot.
pub fn relevant(mut ended: Vec<InstanceView>, under_way: Option<&RolloutView>) -> Vec<InstanceView> {
    let mut slots = HashSet::new();
    ended.retain(|instance| match under_way {
        Some(rollout) => instance.ended_at.is_none_or(|at| at >= rollout.started_at),
        None => slots.insert(instance.slot),
    });
    ended
}

impl InstanceView {
    /// Whether it still runs, will run, or has to be stopped.
    pub fn is_live(&self) -> bool {
        !self.state.is_final() && !self.replaced
    }

    pub fn is_wanted(&self) -> bool {
        self.is_live() && self.wanted == Wanted::Run
    }

    /// Whether it is to go to another node, and has never served on this one: then nothing is lost when it goes before another serves.
    pub(crate) fn moves_unserved(&self) -> bool {
        self.moves && self.is_wanted() && !self.is_healthy() && !self.was_healthy
    }

    /// Whether requests may be sent to it.
    pub fn is_healthy(&self) -> bool {
        self.is_wanted() && self.state == InstanceState::Running && self.health == Health::Healthy
    }

    /// Whether it serves as an instance of `release`.
    pub(crate) fn is_ready_for(&self, release: &ReleaseView) -> bool {
        self.release == release.id && self.is_healthy()
    }

    /// Why it failed although it was wanted, if that was its own fault. A failure without a reason is not held against it:
    /// a worker that was killed cannot say what became of its instances.
    pub(crate) fn own_failure(&self) -> Option<&Reason> {
        let failed = self.state == InstanceState::Failed && self.wanted == Wanted::Run;
        self.reason.as_deref().filter(|reason| failed && reason.kind != ReasonKind::Platform)
    }

    /// The number of its slot as people count, from 1; in here slots begin with 0.
    pub(crate) fn slot_number(&self) -> u32 {
        self.slot.saturating_add(1)
    }

    /// Orders instances from the oldest to the newest.
    pub fn age(&self) -> (Timestamp, InstanceId) {
        (self.created_at, self.id)
    }
}

/// When a rollout began whose app had another one before: after that, whatever clocks say.
pub fn started_after(now: Timestamp, before: Option<Timestamp>) -> Timestamp {
    before.map_or(now, |before| now.max(after(before, Duration::from_micros(1))))
}

/// Time arithmetic that cannot fail; the far future is as good as never.
pub(crate) fn after(time: Timestamp, span: Duration) -> Timestamp {
    time.checked_add(span).unwrap_or(Timestamp::MAX)
}
