//! Brings every slot to one instance of the target release, and ends what is left over.
//!
//! Start first: an instance of another release stays routed until the one beside it is ready. A slot with nothing to protect
//! gets its instance at once; the others wait until the rollout has room for them. Where the rollout stops first, or both would
//! write to one volume that is not shared, the old one ends before there is a new one.
//!
//! While a rollout is held, because it is paused or its release is on trial, no further slot moves: what is lost meanwhile is made
//! anew as the release before.

use std::cmp::Reverse;
use std::time::Duration;

use wharf_types::node::{Reason, ReasonKind};
use wharf_types::spec::RestartCondition;
use wharf_types::state::{InstanceState, Wanted};
use wharf_types::{InstanceId, NodeId, Timestamp, VolumeId};

use super::draft::Draft;
use super::placing::Asked;
use super::scheduler::{Claim, Placed};
use super::view::after;
use super::{AppView, Change, InstanceView, ReleaseView, Unplaced, VolumeView};

/// The least time between two instances that failed by the platform's fault in one slot.
const PLATFORM_RETRY: Duration = Duration::from_secs(1);
/// How long a slot that no node could take waits before the nodes are looked at again, should nobody nudge earlier.
const PLACEMENT_RETRY: Duration = Duration::from_secs(1);

/// Ends the instances of nodes that no longer exist. A node whose lease has only expired may come back with them, and one that was given up
/// may still run what there is to be only one of.
pub(super) fn give_up_lost_nodes(draft: &mut Draft<'_>) {
    for index in 0..draft.app.instances.len() {
        let instance = &draft.app.instances[index];
        let Some(node) = instance.node.filter(|_| instance.is_live()) else { continue };
        let is_singleton = draft.app.alone.contains(&instance.release);
        let may_run = draft.cluster.knows(node) || (is_singleton && draft.cluster.lingers(node));
        if !may_run {
            let instance = instance.id;
            let message = format!("node {} is gone", draft.cluster.name_of(node));
            let reason = Reason { kind: ReasonKind::Platform, message };
            draft.push(Change::EndInstance { instance, state: InstanceState::Lost, reason });
        }
    }
}

/// Has what must end before another can start stay on its node as long as no other would take it: it would end for nothing, and users are
/// told why it does not.
pub(super) fn stay_without_a_place(draft: &mut Draft<'_>) {
    let Some(target) = draft.app.target.clone() else { return };
    for index in 0..draft.app.instances.len() {
        let instance = &draft.app.instances[index];
        let is_its_own = instance.is_wanted() && instance.release == target.id;
        if !instance.moves || !is_its_own || !draft.app.excludes(&target, instance) {
            continue;
        }
        let asked = Asked::of(&draft.app, &target);
        let refused = draft.cluster.round(draft.app.id, asked.ask(&target)).place().err();
        if let Some(refused) = refused {
            let unplaced = Unplaced::refused(instance.slot, &refused);
            draft.app.instances[index].moves = false;
            draft.unplaced(unplaced);
            draft.wake(after(draft.now, PLACEMENT_RETRY));
        }
    }
}

/// Takes every step that is due.
pub(super) fn converge(draft: &mut Draft<'_>) {
    let is_over = draft.app.deleting || draft.app.stopped.is_some();
    let target = draft.app.target.clone().filter(|_| !is_over);
    let slots = target.as_ref().map_or_else(Vec::new, |target| slots(draft.now, &draft.app, target));
    let mut kept = vec![false; draft.app.instances.len()];
    for index in slots.iter().flat_map(Slot::kept) {
        kept[index] = true;
    }
    for (index, is_kept) in kept.into_iter().enumerate() {
        let instance = &draft.app.instances[index];
        match instance.wanted {
            Wanted::Run if instance.is_live() && !is_kept => draft.want(index, Wanted::Unroute),
            Wanted::Unroute if instance.is_live() && instance.let_go => draft.want(index, Wanted::Stop),
            Wanted::Run | Wanted::Unroute | Wanted::Stop => {}
        }
    }
    if let Some(target) = target {
        fill(draft, &target, &slots);
    } else if draft.app.deleting && !draft.app.instances.iter().any(InstanceView::is_live) {
        draft.push(Change::DeleteApp);
    }
}

/// The slots that should get an instance now but fit on no node.
pub(super) fn unplaced(draft: &mut Draft<'_>, target: &ReleaseView) -> Vec<Unplaced> {
    let slots = slots(draft.now, &draft.app, target);
    let missing = missing(draft.now, &draft.app, target, &slots).slots;
    let outcomes = place(draft, target, missing).outcomes.into_iter();
    outcomes.filter_map(|(_, placed)| placed.err()).collect()
}

/// Of the instances in one slot, by their index in the view, those that matter.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// The one of the target release that should run on.
    current: Option<usize>,
    /// The one of another release that serves until `current` can. In a slot that is leaving it may be the target release's own.
    old: Option<usize>,
    /// The newest of the target release that ended although it was wanted, and that nobody replaced.
    ended: Option<usize>,
    /// Whether the target release serves here, or has completed.
    serves: bool,
    /// Whether `old` must end before there can be a `current`.
    gives_way: bool,
    /// Whether an instance that the target is to take over from has not ended yet, although it was told to.
    drains: bool,
    /// Whether `old` goes on beside `current`, because the target release is on trial.
    keeps_both: bool,
    /// Whether the target release has no use for the slot: what is in it goes when the rollout has come through.
    is_leaving: bool,
    /// Whether nothing may be in it: a global app has no node for it.
    is_gone: bool,
}

impl Slot {
    fn kept(&self) -> impl Iterator<Item = usize> + use<> {
        let stays = (!self.serves || self.keeps_both) && !self.gives_way;
        self.current.into_iter().chain(self.old.filter(|_| stays))
    }

    /// Whether it is on its way to the target release.
    fn is_moving(&self) -> bool {
        !self.serves && !self.is_leaving && (self.current.is_some() || self.old.is_none())
    }
}

fn slots(now: Timestamp, app: &AppView, target: &ReleaseView) -> Vec<Slot> {
    let ready = app.slots_ready(target);
    let slot = |number: u32| {
        let is_leaving = !app.has_slot(target, number as usize);
        let serves = !is_leaving && ready[number as usize];
        Slot { serves, is_leaving, is_gone: is_leaving && !app.keeps_slot(number), ..Slot::default() }
    };
    let mut slots: Vec<Slot> = (0..app.slots_kept()).map(slot).collect();
    // Whoever is nearest to serving stays; among equals the oldest, which has proved itself longest.
    let rank = |index: &usize| {
        let instance = &app.instances[*index];
        (
            instance.is_healthy(),
            instance.is_healthy() && instance.routed,
            instance.state,
            Reverse(instance.age()),
        )
    };
    for (index, instance) in app.instances.iter().enumerate() {
        let Some(slot) = slots.get_mut(instance.slot as usize).filter(|slot| !slot.is_gone) else { continue };
        let is_target = app.is_current(instance, target);
        // The release may have taken the slot over while its number was larger: then nothing else serves there.
        if is_target && slot.is_leaving && !instance.is_healthy() {
            continue;
        }
        if instance.is_wanted() {
            let best = if is_target && !slot.is_leaving { &mut slot.current } else { &mut slot.old };
            *best = best.take().into_iter().chain([index]).max_by_key(rank);
        } else if !is_target && instance.is_live() {
            slot.drains = true;
        } else if is_target
            && instance.wanted == Wanted::Run
            && instance.state.is_final()
            && !instance.replaced
            && app.is_in_place(instance, target)
        {
            slot.ended =
                slot.ended.into_iter().chain([index]).max_by_key(|index| app.instances[*index].age());
        }
    }
    for slot in &mut slots {
        if slot.current.is_some() {
            slot.old.take_if(|old| is_left_behind(&app.instances[*old], target));
        }
        // What a held rollout brought back is not to give way to what may not move.
        let may_move = slot.current.is_some() || !app.is_held();
        slot.gives_way = slot.old.is_some_and(|old| may_move && app.excludes(target, &app.instances[old]));
    }
    if app.is_on_trial() {
        slots.iter_mut().take(app.trial_slots(target) as usize).for_each(|slot| slot.keeps_both = true);
    }
    if app.stops_first(target) {
        give_way(app, room(now, app, target, &slots).slots, &mut slots);
    }
    slots
}

/// Whether it has to be nowhere any more once there is another of its release.
fn is_left_behind(instance: &InstanceView, release: &ReleaseView) -> bool {
    instance.release == release.id && instance.moves_unserved()
}

/// Lets the old instances of so many slots end before there is a new one, first where they serve nobody.
fn give_way(app: &AppView, room: usize, slots: &mut [Slot]) {
    let is_next = |slot: &Slot| slot.current.is_none() && !slot.serves && !slot.is_leaving && !slot.gives_way;
    let mut next: Vec<(bool, usize)> = (0..slots.len())
        .filter(|index| is_next(&slots[*index]))
        .filter_map(|index| Some((app.instances[slots[index].old?].is_healthy(), index)))
        .collect();
    next.sort_unstable();
    next.into_iter().take(room).for_each(|(_, index)| slots[index].gives_way = true);
}

/// How many slots may begin to move.
struct Room {
    slots: usize,
    /// When there will be more, if only time is lacking.
    at: Option<Timestamp>,
}

fn room(now: Timestamp, app: &AppView, target: &ReleaseView, slots: &[Slot]) -> Room {
    let Some(rollout) = app.rollout_under_way().filter(|_| app.is_rolling_out()) else {
        return Room { slots: usize::MAX, at: None };
    };
    if app.is_held() {
        return Room { slots: 0, at: None };
    }
    let dials = app.dials(target);
    let most = usize::try_from(dials.parallelism.of(app.replicas())).unwrap_or(usize::MAX);
    let counts = |(number, slot): &(u32, &Slot)| slot.is_moving() && !rollout.failed_slots.contains(number);
    let moving = (0..).zip(slots).filter(counts).count();
    if dials.delay.as_duration().is_zero() {
        return Room { slots: most.saturating_sub(moving), at: None };
    }
    match app.next_batch_at(target) {
        _ if moving > 0 => Room { slots: 0, at: None },
        Some(at) if now < at => Room { slots: 0, at: Some(at) },
        _ => Room { slots: most, at: None },
    }
}

/// Creates what is missing.
fn fill(draft: &mut Draft<'_>, target: &ReleaseView, slots: &[Slot]) {
    let missing = missing(draft.now, &draft.app, target, slots);
    if let Some(at) = missing.retry_at {
        draft.wake(at);
    }
    let stable = draft.app.stable.clone().filter(|stable| draft.app.is_held() && stable.id != target.id);
    let held = stable.as_ref().map(|stable| held(draft.now, &draft.app, stable, slots)).unwrap_or_default();
    if let Some(at) = held.retry_at {
        draft.wake(at);
    }
    if let Some(stable) = stable.filter(|_| !held.slots.is_empty()) {
        let has_placed = create(draft, &stable, held.slots);
        if has_placed && !missing.slots.is_empty() {
            // Whoever places these must know what was placed just now. Where nothing was, there is room for none of them, and nothing to learn at once.
            draft.wake(draft.now);
        }
        return;
    }
    create(draft, target, missing.slots);
    if target.spec.is_global() && draft.app.replicas() == 0 {
        let asked = Asked::of(&draft.app, target);
        let refused = draft.cluster.round(draft.app.id, asked.ask(target)).place().err();
        if let Some(refused) = refused {
            draft.unplaced(Unplaced::refused(0, &refused));
        }
    }
}

/// Creates an instance of a release in each of these slots, as far as there is room. `false`: there was none.
fn create(draft: &mut Draft<'_>, release: &ReleaseView, slots: Vec<u32>) -> bool {
    let mut has_placed = false;
    let Placing { outcomes, claims } = place(draft, release, slots);
    for (slot, placed) in outcomes {
        let unplaced = match placed {
            Ok(Placed::On(node)) => {
                place_volumes(draft, release, node);
                let id = draft.ids.instance();
                draft.push(Change::CreateInstance { id, release: release.id, slot, node });
                leave_behind(draft, release, slot);
                has_placed = true;
                continue;
            }
            Ok(Placed::After(node, victims)) => {
                Unplaced { slot, message: make_room(draft, node, &victims), change: None }
            }
            Err(unplaced) => {
                end_useless(draft, release, slot);
                unplaced
            }
        };
        draft.wake(after(draft.now, PLACEMENT_RETRY));
        draft.unplaced(unplaced);
    }
    draft.claim(claims);
    has_placed
}

/// There is another in the slot now.
fn leave_behind(draft: &mut Draft<'_>, release: &ReleaseView, slot: u32) {
    for index in 0..draft.app.instances.len() {
        let other = &draft.app.instances[index];
        if other.slot == slot && is_left_behind(other, release) {
            draft.want(index, Wanted::Unroute);
        }
    }
}

/// Where there is no room, an instance of another release that serves nobody must not keep it, such as one that fails again and again.
fn end_useless(draft: &mut Draft<'_>, release: &ReleaseView, slot: u32) {
    if draft.app.is_held() {
        return;
    }
    for index in 0..draft.app.instances.len() {
        let other = &draft.app.instances[index];
        let is_useless = other.release != release.id && other.is_wanted() && !other.is_healthy();
        if other.slot == slot && is_useless {
            draft.want(index, Wanted::Unroute);
        }
    }
}

/// Says where the release's volumes are from now on, if they are nowhere yet.
fn place_volumes(draft: &mut Draft<'_>, target: &ReleaseView, node: NodeId) {
    let of_target = |volume: &&VolumeView| target.spec.volumes.iter().any(|spec| spec.name == volume.name);
    let unplaced = draft.app.volumes.iter().filter(of_target).filter(|volume| volume.node.is_none());
    let unplaced: Vec<VolumeId> = unplaced.map(|volume| volume.id).collect();
    for volume in unplaced {
        draft.push(Change::PlaceVolume { volume, node });
    }
}

/// Tells instances of a lower priority to go; returns what the slot that takes their place waits for.
fn make_room(draft: &mut Draft<'_>, node: NodeId, victims: &[InstanceId]) -> String {
    for instance in victims.iter().copied() {
        if let Some(app) = draft.cluster.instance(instance).map(|held| held.app) {
            draft.push(Change::Preempt { instance, app, node });
        }
    }
    let name = draft.cluster.name_of(node);
    format!("node {name} will have room when instances of a lower priority have left it")
}

/// What became of slots that each want a node.
struct Placing {
    outcomes: Vec<(u32, Result<Placed, Unplaced>)>,
    claims: Vec<Claim>,
}

fn place(draft: &mut Draft<'_>, target: &ReleaseView, slots: Vec<u32>) -> Placing {
    if slots.is_empty() {
        return Placing { outcomes: Vec::new(), claims: Vec::new() };
    }
    let asked = Asked::of(&draft.app, target);
    let mut round = draft.cluster.round(draft.app.id, asked.ask(target));
    let mut outcomes = Vec::new();
    for slot in slots {
        let node = draft.app.node_of(target, slot);
        if let Some(node) = node {
            round.bind(node);
        }
        let placed = round.place();
        if let (Ok(Placed::On(node) | Placed::After(node, _)), false) =
            (&placed, target.spec.volumes.is_empty())
        {
            // The volumes will be where the first instance is, and the others go to them.
            round.pin(*node);
        }
        let placed = placed.map_err(|refused| {
            let mut unplaced = Unplaced::refused(slot, &refused);
            if node.is_some() {
                add_way_out(&draft.app, target, &mut unplaced);
            }
            unplaced
        });
        outcomes.push((slot, placed));
    }
    Placing { outcomes, claims: round.claims().to_vec() }
}

/// The node of a slot cannot take its instance. Where the release before has one there, that one's room may be what is lacking.
fn add_way_out(app: &AppView, target: &ReleaseView, unplaced: &mut Unplaced) {
    let is_before = |it: &InstanceView| it.slot == unplaced.slot && it.is_wanted() && it.release != target.id;
    if app.instances.iter().any(is_before) {
        let change = unplaced.change.take().unwrap_or_default();
        unplaced.change = Some(format!(
            "{change}, or set `update.order = \"stop-first\"`, with which the instance of the release before leaves the node first"
        ));
    }
}

/// The slots that should get an instance now.
#[derive(Debug, Default)]
struct Missing {
    slots: Vec<u32>,
    /// When further ones should.
    retry_at: Option<Timestamp>,
}

impl Missing {
    fn retry_at(&mut self, at: Timestamp) {
        self.retry_at = Some(self.retry_at.map_or(at, |earlier| earlier.min(at)));
    }
}

fn missing(now: Timestamp, app: &AppView, target: &ReleaseView, slots: &[Slot]) -> Missing {
    let Room { slots: mut room, at } = room(now, app, target, slots);
    let mut missing = Missing { slots: Vec::new(), retry_at: at };
    if app.waits_for_a_writer(target) {
        return missing;
    }
    let stops_first = app.stops_first(target);
    for (number, slot) in (0..).zip(slots) {
        if slot.serves || slot.is_leaving || slot.current.is_some() || (stops_first && slot.drains) {
            continue;
        }
        match slot.ended.map_or(Retry::Now, |ended| retry(now, app, target, &app.instances[ended])) {
            Retry::Never => continue,
            Retry::At(at) => {
                missing.retry_at(at);
                continue;
            }
            Retry::Now => {}
        }
        if app.is_held() && !slot.keeps_both {
            // While it is held, a slot comes back as what it was; only a restart's is of the target already.
            let comes_back = app.stable.as_ref().is_some_and(|stable| stable.id == target.id);
            if slot.old.is_some() || !comes_back {
                continue;
            }
        } else if slot.old.is_some() && !slot.keeps_both {
            if room == 0 || stops_first {
                continue;
            }
            room -= 1;
        } else if slot.keeps_both && app.rollout_under_way().is_some_and(|rollout| rollout.paused.is_some()) {
            continue;
        }
        missing.slots.push(number);
        if target.spec.is_exclusive() {
            break;
        }
    }
    missing
}

/// The slots in which an instance of the release before is missing while no further slot may move.
fn held(now: Timestamp, app: &AppView, stable: &ReleaseView, slots: &[Slot]) -> Missing {
    let mut missing = Missing::default();
    if app.waits_for_a_writer(stable) {
        return missing;
    }
    let of_stable = |(number, _): &(u32, &Slot)| app.has_slot(stable, *number as usize);
    for (number, slot) in (0..).zip(slots).filter(of_stable) {
        let has_moved = !app.is_on_trial() && (slot.current.is_some() || slot.serves);
        if slot.old.is_some() || has_moved || slot.drains {
            continue;
        }
        let ended = app
            .instances
            .iter()
            .filter(|instance| instance.release == stable.id && instance.slot == number)
            .filter(|instance| app.is_in_place(instance, stable))
            .filter(|instance| {
                instance.wanted == Wanted::Run && instance.state.is_final() && !instance.replaced
            })
            .max_by_key(|instance| instance.age());
        match ended.map_or(Retry::Now, |ended| retry(now, app, stable, ended)) {
            Retry::Never => {}
            Retry::At(at) => missing.retry_at(at),
            Retry::Now => missing.slots.push(number),
        }
        if stable.spec.is_exclusive() {
            break;
        }
    }
    missing
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retry {
    Now,
    At(Timestamp),
    /// The supervisor gave up, or the command is done: only a new rollout tries again.
    Never,
}

fn retry(now: Timestamp, app: &AppView, target: &ReleaseView, ended: &InstanceView) -> Retry {
    // A worker that stops an HTTP app, or a command that should always run, does so for reasons of its own.
    let should_have_gone_on =
        target.world.is_http() || target.spec.restart.condition == RestartCondition::Any;
    let by_platform = match ended.state {
        InstanceState::Lost => return Retry::Now,
        InstanceState::Stopped => should_have_gone_on,
        _ => ended.own_failure().is_none(),
    };
    let at = after(ended.created_at, PLATFORM_RETRY);
    match by_platform {
        true if now < at => Retry::At(at),
        true => Retry::Now,
        false if app.is_older_than_rollout(ended) => Retry::Now,
        false => Retry::Never,
    }
}

#[cfg(test)]
mod tests;
