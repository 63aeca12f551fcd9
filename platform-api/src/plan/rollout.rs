//! Moves a rollout through its states, and goes back when the new release is bad.
//!
//! A rollout may begin with a trial ([`canary`]), runs until every slot serves the new release, is then monitored for a while,
//! and has succeeded. It fails when more instances of the new release fail than may ([`failures`]), and after the progress deadline
//! when nothing moves. What a failure leads to is the release's to say. Which instances are made and ended meanwhile is decided by
//! [`super::slots`].
//!
//! That a rollout is paused, or is to go back, is a wish beside its state, which only grows.

mod canary;
mod failures;
mod waiting;

use wharf_types::node::{Reason, ReasonKind};
use wharf_types::spec::OnFailure;
use wharf_types::state::{RolloutState, Wanted};
use wharf_types::{ReleaseId, Timestamp};

use super::draft::Draft;
use super::view::after;
use super::{AppView, Change, InstanceView, ReleaseView, RolloutView, places};
pub(crate) use waiting::waits;

/// Where an app goes whose rollout failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WayBack {
    Release(ReleaseId),
    /// No release ever served: nothing should run.
    Nothing,
    /// This rollout was the way back; the supervisors go on trying.
    Stay,
}

/// Takes every step that is due.
pub(super) fn advance(draft: &mut Draft<'_>) {
    while !draft.is_blind() {
        // Each step may have changed whose constraints count.
        places::settle(draft);
        if !step(draft) {
            break;
        }
    }
}

/// Takes one step and says whether there may be another.
fn step(draft: &mut Draft<'_>) -> bool {
    let (Some(rollout), Some(target)) = (draft.app.rollout_under_way().cloned(), draft.app.target.clone())
    else {
        return false;
    };
    if draft.app.deleting || rollout.to != target.id {
        return false;
    }
    if let Some(by) = &rollout.aborted_by {
        let reason = Reason { kind: ReasonKind::Asked, message: format!("it was aborted by {by}") };
        return go_back(draft, &rollout, &target, reason);
    }
    if rollout.paused.is_some() || draft.app.stopped.is_some() {
        return false;
    }
    match rollout.state {
        RolloutState::Pending => start(draft, &rollout, &target),
        RolloutState::Canary => try_out(draft, &rollout, &target),
        RolloutState::Running => run(draft, &rollout, &target),
        RolloutState::Monitoring => monitor(draft, &rollout, &target),
        RolloutState::Succeeded | RolloutState::Failed | RolloutState::Superseded => false,
    }
}

fn start(draft: &mut Draft<'_>, rollout: &RolloutView, target: &ReleaseView) -> bool {
    let has_trial = canary::is_wanted(&draft.app, rollout, target);
    set_state(draft, rollout, if has_trial { RolloutState::Canary } else { RolloutState::Running });
    if !rollout.automatic {
        draft.event("rollout.started", format!("release {} is being rolled out", target.number));
    }
    true
}

/// The new release gets a part of the requests, and is compared with the old one.
fn try_out(draft: &mut Draft<'_>, rollout: &RolloutView, target: &ReleaseView) -> bool {
    if let Some(again) = judge(draft, rollout, target) {
        return again;
    }
    let Some(spec) = &target.spec.update.canary else {
        set_state(draft, rollout, RolloutState::Running);
        return true;
    };
    let Some(trial) = &rollout.canary else {
        let progressed_at = note_progress(draft, rollout, target);
        let of_trial = draft.app.trial_slots(target) as usize;
        // However many may fail in all, without these there is nothing to be tried out.
        if let Some(slot) = (0..of_trial).find(|slot| has_failed(rollout, *slot)) {
            return without_trial(draft, rollout, target, slot);
        }
        let routed = draft.app.slots_routed(target);
        let of_target = |slot: &usize| draft.app.has_slot(target, *slot);
        if (0..routed.len()).take(of_trial).filter(of_target).all(|slot| routed[slot]) {
            draft.push(Change::BeginTrial { rollout: rollout.id, before: rollout.requests.clone() });
            let message = format!(
                "release {} gets {} of the requests for {}",
                target.number, spec.share, spec.duration
            );
            draft.event("rollout.canary", message);
            return true;
        }
        return overdue(draft, rollout, target, progressed_at);
    };
    let comparison = canary::comparison(&draft.app, rollout, trial, target);
    match canary::verdict(draft.now, spec, trial.since, &comparison) {
        canary::Verdict::Wait(until) => {
            draft.wake(until.min(after(draft.now, canary::LOOK)));
            false
        }
        canary::Verdict::GoOn(message) => {
            draft.event("rollout.canary_passed", message);
            finish_trial(draft, rollout)
        }
        canary::Verdict::Bad(message) if target.spec.update.on_failure == OnFailure::Continue => {
            draft.event("rollout.tolerated", format!("{message}; it goes on, as `update.on_failure` asks"));
            finish_trial(draft, rollout)
        }
        canary::Verdict::Bad(message) => {
            fail(draft, rollout, target, Reason { kind: ReasonKind::Canary, message })
        }
    }
}

/// An instance that was to be tried out has failed before the trial began.
fn without_trial(draft: &mut Draft<'_>, rollout: &RolloutView, target: &ReleaseView, slot: usize) -> bool {
    let of_slot = |instance: &&InstanceView| instance.release == target.id && instance.slot as usize == slot;
    let mut failures = draft.app.instances.iter().filter(of_slot).filter_map(InstanceView::own_failure);
    let why = failures.next_back().map_or("it did not come into service", |reason| &reason.message);
    let message = format!("the instance on trial in slot {} failed: {why}", slot + 1);
    if target.spec.update.on_failure == OnFailure::Continue {
        draft.event("rollout.tolerated", format!("{message}; it goes on, as `update.on_failure` asks"));
        return finish_trial(draft, rollout);
    }
    fail(draft, rollout, target, Reason { kind: ReasonKind::Canary, message })
}

fn finish_trial(draft: &mut Draft<'_>, rollout: &RolloutView) -> bool {
    set_state(draft, rollout, RolloutState::Running);
    let ready = rollout.progressed_ready;
    draft.push(Change::Progress { rollout: rollout.id, ready, stepped: true });
    true
}

fn run(draft: &mut Draft<'_>, rollout: &RolloutView, target: &ReleaseView) -> bool {
    if let Some(again) = judge(draft, rollout, target) {
        return again;
    }
    let progressed_at = note_progress(draft, rollout, target);
    let ready = draft.app.slots_ready(target);
    // Whoever is told that the release serves may send a request at once, so every ingress must know the way by then.
    let routed = draft.app.slots_routed(target);
    let is_done = |slot: usize, ready: bool| {
        (ready && (routed[slot] || !target.is_routed()))
            || (!ready && has_failed(rollout, slot))
            || !draft.app.has_slot(target, slot)
    };
    if ready.iter().enumerate().all(|(slot, ready)| is_done(slot, *ready)) {
        if draft.app.replicas() == 0 || ready.contains(&true) {
            return serve(draft, rollout, target);
        }
        let message = format!("not one of {} instances came into service", draft.app.replicas());
        return go_back(draft, rollout, target, Reason { kind: ReasonKind::Probe, message });
    }
    overdue(draft, rollout, target, progressed_at)
}

fn has_failed(rollout: &RolloutView, slot: usize) -> bool {
    u32::try_from(slot).is_ok_and(|slot| rollout.failed_slots.contains(&slot))
}

/// Returns when an instance became ready last.
fn note_progress(draft: &mut Draft<'_>, rollout: &RolloutView, target: &ReleaseView) -> Timestamp {
    let ready = draft.app.slots_ready(target).into_iter().map(u32::from).sum();
    if ready <= rollout.progressed_ready {
        return rollout.progressed_at;
    }
    draft.push(Change::Progress { rollout: rollout.id, ready, stepped: true });
    draft.now
}

/// Fails the rollout when nothing has moved for too long.
fn overdue(
    draft: &mut Draft<'_>,
    rollout: &RolloutView,
    target: &ReleaseView,
    progressed_at: Timestamp,
) -> bool {
    // What waits for `update.delay` is not late.
    let since = progressed_at.max(draft.app.next_batch_at(target).unwrap_or(progressed_at));
    let deadline = after(since, target.spec.update.progress_deadline.as_duration());
    if draft.now < deadline {
        draft.wake(deadline);
        return false;
    }
    let again = Change::Progress { rollout: rollout.id, ready: rollout.progressed_ready, stepped: false };
    if failures::waits_for_others(&draft.app, target) {
        draft.push(again);
        return true;
    }
    let late = failures::late(&draft.app, rollout, target);
    let failed = rollout.failed_slots.union(&late).copied().collect();
    let reason = failures::stalled(draft, target);
    if late.is_empty() || !failures::may_go_on(&draft.app, rollout, target, &failed) {
        return fail(draft, rollout, target, reason);
    }
    draft.push(Change::CountFailures { rollout: rollout.id, slots: failed });
    draft.push(again);
    draft.event("rollout.tolerated", failures::tolerated(&draft.app, target, &reason));
    true
}

/// Counts what failed. None: nothing new has.
fn judge(draft: &mut Draft<'_>, rollout: &RolloutView, target: &ReleaseView) -> Option<bool> {
    let new = failures::new(&draft.app, rollout, target);
    let reason = new.values().next()?.clone();
    let failed = rollout.failed_slots.iter().chain(new.keys()).copied().collect();
    draft.push(Change::CountFailures { rollout: rollout.id, slots: failed });
    let failed = draft.app.rollout_under_way().map(|rollout| rollout.failed_slots.clone())?;
    if failures::may_go_on(&draft.app, rollout, target, &failed) {
        draft.event("rollout.tolerated", failures::tolerated(&draft.app, target, &reason));
        return Some(true);
    }
    let reason = failures::with_figures(&draft.app, target, failed.len(), reason);
    Some(fail(draft, rollout, target, reason))
}

/// Every slot serves the new release.
fn serve(draft: &mut Draft<'_>, rollout: &RolloutView, target: &ReleaseView) -> bool {
    draft.push(Change::SetRollout {
        rollout: rollout.id,
        state: RolloutState::Monitoring,
        reason: None,
        monitoring_since: Some(draft.now),
    });
    if draft.app.stable.as_ref().is_none_or(|stable| stable.id != target.id) {
        draft.push(Change::SetStable { release: Some(target.id) });
    }
    draft.push(Change::SetServed { release: target.id, served: true });
    if rollout.automatic {
        draft.event("rollout.rolled_back", format!("release {} serves again", target.number));
    } else if target.spec.is_global() && draft.app.replicas() == 0 {
        let message = format!("release {} is global, and there is no node that may run it", target.number);
        draft.event("rollout.serving", message);
    } else {
        draft.event("rollout.serving", format!("every slot serves release {}", target.number));
    }
    true
}

fn monitor(draft: &mut Draft<'_>, rollout: &RolloutView, target: &ReleaseView) -> bool {
    if let Some(again) = judge(draft, rollout, target) {
        return again;
    }
    let since = rollout.monitoring_since.unwrap_or(rollout.started_at);
    let end = after(since, draft.app.dials(target).monitor.as_duration());
    if draft.now < end {
        draft.wake(end);
        return false;
    }
    set_state(draft, rollout, RolloutState::Succeeded);
    draft.event("rollout.succeeded", format!("release {} is in service", target.number));
    // Where the new release was allowed to fail, the old one has served until now.
    for index in 0..draft.app.instances.len() {
        let instance = &draft.app.instances[index];
        if instance.is_wanted() && instance.release != target.id && !rollout.failed_slots.is_empty() {
            draft.want(index, Wanted::Unroute);
        }
    }
    true
}

/// More failed than may. What that leads to is the release's to say.
fn fail(draft: &mut Draft<'_>, rollout: &RolloutView, target: &ReleaseView, reason: Reason) -> bool {
    if target.spec.update.on_failure != OnFailure::Pause || rollout.automatic {
        return go_back(draft, rollout, target, reason);
    }
    let message = format!(
        "release {}: {}; the rollout is paused: `wharf rollout resume` goes on, `wharf rollout abort` goes back",
        target.number, reason.message
    );
    draft.push(Change::Pause { rollout: rollout.id, reason });
    draft.event("rollout.paused", message);
    true
}

fn go_back(draft: &mut Draft<'_>, rollout: &RolloutView, target: &ReleaseView, reason: Reason) -> bool {
    let way_back = way_back(&draft.app, rollout);
    let outcome = match way_back {
        WayBack::Release(id) => format!("going back to {}", name(&draft.app, id)),
        WayBack::Nothing => "there is no release to go back to, so everything stops".to_owned(),
        WayBack::Stay if reason.kind == ReasonKind::Asked => "the app stays on it".to_owned(),
        WayBack::Stay => "the app stays on it, and what fails is tried again".to_owned(),
    };
    draft.push(Change::SetRollout {
        rollout: rollout.id,
        state: RolloutState::Failed,
        reason: Some(reason.clone()),
        monitoring_since: None,
    });
    let message = format!("release {} failed: {}; {outcome}", target.number, reason.message);
    draft.event("rollout.failed", message);
    // What fails for want of a node, or is aborted, may be good; what was in service when it failed is not.
    let is_bad = rollout.state == RolloutState::Monitoring
        || !matches!(reason.kind, ReasonKind::Platform | ReasonKind::Asked);
    if is_bad && way_back != WayBack::Stay {
        draft.push(Change::SetServed { release: target.id, served: false });
    }
    match way_back {
        WayBack::Release(to) => roll_back(draft, rollout, to),
        WayBack::Nothing => stop(draft),
        WayBack::Stay => {}
    }
    true
}

/// Lets nothing run, and lets no later rollout come back to the release that failed.
fn stop(draft: &mut Draft<'_>) {
    if draft.app.stable.is_some() {
        draft.push(Change::SetStable { release: None });
    }
    draft.push(Change::SetTarget { release: None });
}

fn roll_back(draft: &mut Draft<'_>, failed: &RolloutView, to: ReleaseId) {
    let name = name(&draft.app, to);
    let rollout = draft.ids.rollout();
    draft.push(Change::RollBack { failed: failed.id, rollout, from: failed.to, to });
    if draft.app.stable.as_ref().is_none_or(|stable| stable.id != to) {
        draft.push(Change::SetStable { release: Some(to) });
    }
    draft.push(Change::SetTarget { release: Some(to) });
    draft.event("rollback.started", format!("{name} is being brought back"));
}

fn name(app: &AppView, release: ReleaseId) -> String {
    app.release(release).map_or("the release before".to_owned(), |known| format!("release {}", known.number))
}

/// Once the new release was in service, it is itself what is stable; then only the rollout knows what was before.
fn way_back(app: &AppView, rollout: &RolloutView) -> WayBack {
    let before = match rollout.state {
        RolloutState::Monitoring => rollout.from,
        _ => app.stable.as_ref().map(|stable| stable.id),
    };
    match before {
        _ if rollout.automatic => WayBack::Stay,
        Some(before) if before == rollout.to => WayBack::Stay,
        Some(before) => WayBack::Release(before),
        None => WayBack::Nothing,
    }
}

fn set_state(draft: &mut Draft<'_>, rollout: &RolloutView, state: RolloutState) {
    draft.push(Change::SetRollout { rollout: rollout.id, state, reason: None, monitoring_since: None });
}

#[cfg(test)]
mod tests;
