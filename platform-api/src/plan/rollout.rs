//! Moves a rollout through its states, and goes back when the new release is bad.
//!
//! A rollout runs until every slot serves the new release, is then monitored for a while, and has succeeded. It fails at once
//! when an instance of the new release cannot start, and after the progress deadline when nothing moves. Which instances are
//! made and ended meanwhile is decided by [`super::slots`].

use wharf_types::node::{Reason, ReasonKind};
use wharf_types::quantity::Span;
use wharf_types::state::{Health, InstanceState, RolloutState, Wanted};
use wharf_types::{ReleaseId, Timestamp};

use super::draft::Draft;
use super::view::after;
use super::{AppView, Change, InstanceView, ReleaseView, RolloutView, slots};

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
    while !draft.is_blind() && step(draft) {}
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
    match rollout.state {
        RolloutState::Pending => start(draft, &rollout, &target),
        RolloutState::Running => run(draft, &rollout, &target),
        RolloutState::Monitoring => monitor(draft, &rollout, &target),
        RolloutState::Succeeded | RolloutState::Failed | RolloutState::Superseded => false,
    }
}

fn start(draft: &mut Draft<'_>, rollout: &RolloutView, target: &ReleaseView) -> bool {
    set_state(draft, rollout, RolloutState::Running);
    if !rollout.automatic {
        draft.event("rollout.started", format!("release {} is being rolled out", target.number));
    }
    true
}

fn run(draft: &mut Draft<'_>, rollout: &RolloutView, target: &ReleaseView) -> bool {
    if let Some(reason) = cannot_start(&draft.app, rollout).cloned() {
        return fail(draft, rollout, target, reason);
    }
    let slots_ready = draft.app.slots_ready(target);
    let ready = slots_ready.iter().map(|ready| u32::from(*ready)).sum();
    let progressed_at = if ready > rollout.progressed_ready {
        draft.push(Change::Progress { rollout: rollout.id, ready });
        draft.now
    } else {
        rollout.progressed_at
    };
    // Whoever is told that the release serves may send a request at once, so every ingress must know the way by then.
    let routed = !target.is_routed() || draft.app.slots_routed(target).iter().all(|routed| *routed);
    if slots_ready.iter().all(|ready| *ready) && routed {
        return serve(draft, rollout, target);
    }
    // The compiler has a limit of its own, and a large artifact may take it longer than the app takes to start.
    let preparing = |instance: &InstanceView| {
        instance.release == target.id && instance.is_wanted() && instance.state == InstanceState::Preparing
    };
    let deadline = after(progressed_at, target.spec.update.progress_deadline.as_duration());
    // And whoever writes to its volume now may finish what is open, for as long as the app wants.
    let waits_for_others = draft.app.instances.iter().any(preparing) || draft.app.is_held_up(target);
    if draft.now >= deadline && waits_for_others {
        draft.push(Change::Progress { rollout: rollout.id, ready });
        return true;
    }
    if draft.now >= deadline {
        let reason = stalled(draft, target);
        return fail(draft, rollout, target, reason);
    }
    draft.wake(deadline);
    false
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
    } else {
        draft.event("rollout.serving", format!("every slot serves release {}", target.number));
    }
    true
}

fn monitor(draft: &mut Draft<'_>, rollout: &RolloutView, target: &ReleaseView) -> bool {
    let since = rollout.monitoring_since.unwrap_or(rollout.started_at);
    if let Some(reason) = fails_in_service(&draft.app, since, target) {
        return fail(draft, rollout, target, reason);
    }
    let end = after(since, target.spec.update.monitor.as_duration());
    if draft.now < end {
        draft.wake(end);
        return false;
    }
    set_state(draft, rollout, RolloutState::Succeeded);
    draft.event("rollout.succeeded", format!("release {} is in service", target.number));
    true
}

fn fail(draft: &mut Draft<'_>, rollout: &RolloutView, target: &ReleaseView, reason: Reason) -> bool {
    let way_back = way_back(&draft.app, rollout);
    let outcome = match way_back {
        WayBack::Release(id) => format!("going back to {}", name(&draft.app, id)),
        WayBack::Nothing => "there is no release to go back to, so everything stops".to_owned(),
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
    // What fails for want of a node may be good; what was in service when it failed is not.
    let is_bad = rollout.state == RolloutState::Monitoring || reason.kind != ReasonKind::Platform;
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

/// An instance of the new release that failed by its own fault before it was ever healthy. The supervisor may have replaced it
/// already: what fails on its first run is not worth waiting for.
fn cannot_start<'a>(app: &'a AppView, rollout: &RolloutView) -> Option<&'a Reason> {
    app.instances
        .iter()
        .filter(|instance| instance.release == rollout.to && instance.created_at >= rollout.started_at)
        .filter(|instance| !instance.was_healthy)
        .filter_map(|instance| Some((instance.slot, instance.age(), instance.own_failure()?)))
        .min_by_key(|(slot, age, _)| (*slot, *age))
        .map(|(_, _, reason)| reason)
}

/// Why an instance of the new release failed, or became unhealthy, since every slot served it.
fn fails_in_service(app: &AppView, since: Timestamp, target: &ReleaseView) -> Option<Reason> {
    let of_release = || app.instances.iter().filter(|instance| instance.release == target.id);
    // What failed before the monitoring began is still in view, but then its slot had a newer instance at that time.
    let is_recent = |failed: &InstanceView| {
        let mut newer =
            of_release().filter(|other| other.slot == failed.slot && other.age() > failed.age()).peekable();
        failed.created_at >= since
            || newer.peek().is_none()
            || newer.any(|successor| successor.restarts > 0 && successor.created_at >= since)
    };
    let fault = |instance: &InstanceView| match instance.own_failure() {
        Some(reason) => is_recent(instance).then(|| reason.clone()),
        None if instance.is_wanted() && instance.health == Health::Unhealthy => {
            Some(instance.reason.clone().unwrap_or_else(|| unhealthy(instance)))
        }
        None => None,
    };
    of_release()
        .filter_map(|instance| Some((instance.slot, instance.age(), fault(instance)?)))
        .min_by_key(|(slot, age, _)| (*slot, *age))
        .map(|(_, _, reason)| reason)
}

fn unhealthy(instance: &InstanceView) -> Reason {
    Reason {
        kind: ReasonKind::Probe,
        message: format!(
            "the instance in slot {} stopped answering its health check",
            instance.slot_number()
        ),
    }
}

/// What a rollout waited for until its deadline: the guests' own words, else those of the scheduler.
fn stalled(draft: &mut Draft<'_>, target: &ReleaseView) -> Reason {
    let unplaced = slots::unplaced(draft, target);
    let deadline = target.spec.update.progress_deadline;
    let waited =
        |kind, message: &str| Reason { kind, message: format!("{}: {message}", no_progress(deadline)) };
    let ready = draft.app.slots_ready(target);
    let waiting = |instance: &&InstanceView| {
        instance.release == target.id
            && instance.wanted == Wanted::Run
            && !draft.app.is_older_than_rollout(instance)
            && ready.get(instance.slot as usize) == Some(&false)
    };
    let worst = draft
        .app
        .instances
        .iter()
        .filter(waiting)
        .filter_map(|instance| Some((instance, instance.reason.as_ref()?)))
        .min_by_key(|(instance, reason)| (reason.kind == ReasonKind::Platform, instance.slot, instance.id));
    if let Some((_, reason)) = worst {
        return waited(reason.kind, &reason.message);
    }
    if let Some(unplaced) = unplaced.first() {
        return waited(ReasonKind::Platform, &unplaced.message);
    }
    match draft
        .app
        .instances
        .iter()
        .filter(waiting)
        .filter(|instance| instance.is_live())
        .min_by_key(|i| (i.state, i.slot))
    {
        Some(instance) if instance.state == InstanceState::Running => waited(
            ReasonKind::Probe,
            &format!(
                "the instance in slot {} runs, but has not passed its health check",
                instance.slot_number()
            ),
        ),
        Some(instance) => waited(
            ReasonKind::Platform,
            &format!("the instance in slot {} is still {}", instance.slot_number(), instance.state.as_str()),
        ),
        None if ready.iter().all(|ready| *ready) => waited(
            ReasonKind::Platform,
            "every slot is ready, but an ingress has not taken up the routes to it yet",
        ),
        None => waited(ReasonKind::Platform, "some slots have no instance"),
    }
}

fn no_progress(deadline: Span) -> String {
    format!("no further instance became ready within {deadline}")
}

fn set_state(draft: &mut Draft<'_>, rollout: &RolloutView, state: RolloutState) {
    draft.push(Change::SetRollout { rollout: rollout.id, state, reason: None, monitoring_since: None });
}

#[cfg(test)]
mod tests;
