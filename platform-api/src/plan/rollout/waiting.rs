//! What a rollout waits for, in a sentence for people.

use wharf_types::Timestamp;
use wharf_types::quantity::Span;
use wharf_types::state::{InstanceState, RolloutState};

use super::canary;
use crate::plan::view::after;
use crate::plan::{AppView, InstanceView, ReleaseView, RolloutView};

/// None: it waits for nothing but its instances, or there is none.
pub(crate) fn waits(now: Timestamp, app: &AppView) -> Option<String> {
    let (rollout, target) = (app.rollout_under_way()?, app.target.as_ref()?);
    if rollout.to != target.id {
        return None;
    }
    if app.stopped.is_some() {
        return Some("the app is stopped; the rollout goes on when it is started".to_owned());
    }
    if let Some(paused) = &rollout.paused {
        let by = paused.by.as_deref().map_or("`update.on_failure`".to_owned(), |by| format!("`{by}`"));
        return Some(format!("it is paused by {by} since {}", short(paused.since)));
    }
    match rollout.state {
        RolloutState::Canary => Some(on_trial(now, app, rollout, target)),
        RolloutState::Running => moving(now, app, target),
        RolloutState::Monitoring => {
            let since = rollout.monitoring_since?;
            let end = after(since, app.dials(target).monitor.as_duration());
            Some(format!("it is monitored until {}", short(end)))
        }
        _ => None,
    }
}

fn on_trial(now: Timestamp, app: &AppView, rollout: &RolloutView, target: &ReleaseView) -> String {
    let (Some(trial), Some(spec)) = (&rollout.canary, &target.spec.update.canary) else {
        return format!("the instances of release {} for its trial are not ready yet", target.number);
    };
    let figures = canary::comparison(app, rollout, trial, target);
    let until = match canary::verdict(now, spec, trial.since, &figures) {
        canary::Verdict::Wait(until) => format!("on trial until {}", short(until)),
        canary::Verdict::GoOn(_) | canary::Verdict::Bad(_) => "the trial is over".to_owned(),
    };
    let few = match figures.new.counts.total() {
        total if total < spec.min_requests => format!(" (too few to tell: {} are needed)", spec.min_requests),
        _ => String::new(),
    };
    format!("{until}: {}{few}", canary::told(&figures))
}

fn moving(now: Timestamp, app: &AppView, target: &ReleaseView) -> Option<String> {
    let ready = app.slots_ready(target);
    let of_target = |instance: &InstanceView| {
        instance.is_wanted()
            && app.is_current(instance, target)
            && ready.get(instance.slot as usize) == Some(&false)
    };
    let is_moving = app.instances.iter().any(of_target);
    if let Some(at) = app.next_batch_at(target).filter(|at| now < *at && !is_moving) {
        return Some(format!(
            "the next batch moves at {}: `update.delay` is {}",
            short(at),
            Span::from(app.dials(target).delay.as_duration())
        ));
    }
    let ending = |instance: &InstanceView| {
        instance.is_live() && !instance.is_wanted() && !app.is_current(instance, target)
    };
    if app.stops_first(target) && app.instances.iter().any(ending) {
        return Some("instances of the release before finish their open requests first".to_owned());
    }
    // Such as how much of an image is pulled.
    let preparing = app.instances.iter().filter(|it| of_target(it) && it.state == InstanceState::Preparing);
    let told = preparing.filter_map(|it| Some((it.slot, &it.reason.as_ref()?.message)));
    told.min_by_key(|(slot, _)| *slot).map(|(_, message)| message.clone())
}

/// To the second.
fn short(at: Timestamp) -> String {
    at.strftime("%H:%M:%S UTC").to_string()
}
