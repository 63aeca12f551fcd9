//! What has failed in a rollout, how much of that may be, and what a rollout without progress waits for.

use std::collections::{BTreeMap, BTreeSet};

use wharf_types::node::{Reason, ReasonKind};
use wharf_types::quantity::Span;
use wharf_types::spec::OnFailure;
use wharf_types::state::{Health, InstanceState, RolloutState, Wanted};

use crate::plan::draft::Draft;
use crate::plan::{AppView, InstanceView, ReleaseView, RolloutView, slots};

/// Slots in which an instance of the new release failed by its own fault, and that were not counted yet, with the first reason of
/// each. The supervisor may have replaced it already: that it failed is what counts.
pub(super) fn new(app: &AppView, rollout: &RolloutView, target: &ReleaseView) -> BTreeMap<u32, Reason> {
    let is_monitored = rollout.state == RolloutState::Monitoring;
    // On trial, too: whoever gets no requests would otherwise be found to have failed none.
    let is_in_service = is_monitored || (rollout.state == RolloutState::Canary && rollout.canary.is_some());
    let since = rollout.judged_since.max(rollout.monitoring_since.unwrap_or(rollout.judged_since));
    let counts = |instance: &InstanceView| {
        let ended = instance.ended_at.unwrap_or(instance.created_at) >= since;
        ended && (is_monitored || instance.created_at >= rollout.started_at)
    };
    let fault = |instance: &InstanceView| match instance.own_failure() {
        Some(reason) => counts(instance).then(|| reason.clone()),
        None if is_in_service && instance.is_wanted() && instance.health == Health::Unhealthy => {
            Some(instance.reason.as_deref().cloned().unwrap_or_else(|| unhealthy(instance)))
        }
        None => None,
    };
    let mut of_target: Vec<_> = app
        .instances
        .iter()
        .filter(|instance| app.is_current(instance, target) && app.is_in_slot(instance, target))
        .filter(|instance| !rollout.failed_slots.contains(&instance.slot))
        .collect();
    of_target.sort_by_key(|instance| instance.age());
    let mut new = BTreeMap::new();
    for instance in of_target {
        if let Some(reason) = fault(instance) {
            new.entry(instance.slot).or_insert(reason);
        }
    }
    new
}

/// Whether a rollout in which these slots have failed is to go on.
pub(super) fn may_go_on(
    app: &AppView,
    rollout: &RolloutView,
    target: &ReleaseView,
    failed: &BTreeSet<u32>,
) -> bool {
    let goes_on = target.spec.update.on_failure == OnFailure::Continue && !rollout.automatic;
    goes_on || failed.len() <= allowed(app, target)
}

/// How many slots may fail.
fn allowed(app: &AppView, target: &ReleaseView) -> usize {
    app.dials(target).max_failure_ratio.most_of(app.replicas()) as usize
}

/// A failure, and how many there were where more than none may be.
pub(super) fn with_figures(app: &AppView, target: &ReleaseView, failed: usize, reason: Reason) -> Reason {
    let ratio = app.dials(target).max_failure_ratio;
    if ratio.as_millionths() == 0 {
        return reason;
    }
    let message = format!(
        "{failed} of {} instances failed, more than {ratio} of them: {}",
        app.replicas(),
        reason.message
    );
    Reason { message, ..reason }
}

/// A failure that may be, in words.
pub(super) fn tolerated(app: &AppView, target: &ReleaseView, reason: &Reason) -> String {
    let failed = app.rollout_under_way().map_or(0, |rollout| rollout.failed_slots.len());
    format!(
        "release {}: {}; {failed} of {} instances have failed so far, and the rollout goes on",
        target.number,
        reason.message,
        app.replicas()
    )
}

/// Slots that should serve by now and do not.
pub(super) fn late(app: &AppView, rollout: &RolloutView, target: &ReleaseView) -> BTreeSet<u32> {
    let ready = app.slots_ready(target);
    let of_target = |slot: u32| {
        app.instances
            .iter()
            .any(|instance| instance.slot == slot && instance.is_wanted() && app.is_current(instance, target))
    };
    let late = (0..).zip(&ready).filter(|(slot, ready)| {
        !**ready && !rollout.failed_slots.contains(slot) && app.has_slot(target, *slot as usize)
    });
    let late: Vec<u32> = late.map(|(slot, _)| slot).collect();
    let moving: BTreeSet<u32> = late.iter().copied().filter(|slot| of_target(*slot)).collect();
    // Where none has an instance, none found a node.
    if moving.is_empty() { late.into_iter().collect() } else { moving }
}

/// Whether something is waited for that is no fault of the release.
pub(super) fn waits_for_others(app: &AppView, target: &ReleaseView) -> bool {
    // The compiler has a limit of its own, and a large artifact may take it longer than the app takes to start.
    let preparing = |instance: &InstanceView| {
        instance.release == target.id && instance.is_wanted() && instance.state == InstanceState::Preparing
    };
    // And whoever ends first may finish what is open, for as long as the app wants.
    let ending = |instance: &InstanceView| {
        instance.is_live() && !instance.is_wanted() && !app.is_current(instance, target)
    };
    app.instances.iter().any(preparing)
        || app.is_held_up(target)
        || (app.stops_first(target) && app.instances.iter().any(ending))
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
pub(super) fn stalled(draft: &mut Draft<'_>, target: &ReleaseView) -> Reason {
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
        .filter_map(|instance| Some((instance, instance.reason.as_deref()?)))
        .min_by_key(|(instance, reason)| (reason.kind == ReasonKind::Platform, instance.slot, instance.id));
    if let Some((_, reason)) = worst {
        return waited(reason.kind, &reason.message);
    }
    if let Some(unplaced) = unplaced.first() {
        return waited(ReasonKind::Platform, &unplaced.told());
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
