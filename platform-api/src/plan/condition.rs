//! What an app is doing, in one word, and why, in sentences.

use std::collections::BTreeMap;

use wharf_types::NodeId;
use wharf_types::node::{Reason, ReasonKind};
use wharf_types::spec::AppSpec;
use wharf_types::state::{AppCondition, Health, InstanceState, Wanted};

use super::{AppView, InstanceView, ReleaseView, Unplaced};

/// Replacements in a slot, since it was healthy for `restart.reset_after`, from which on failing is a habit.
const CRASH_LOOP_RESTARTS: u32 = 2;

/// The one word, and what is behind it when it is not a good one.
pub fn condition(app: &AppView) -> (AppCondition, Option<Reason>) {
    let ready = slots_ready(app);
    let looping = crash_looping(app);
    let word = if app.is_asleep() {
        AppCondition::Asleep
    } else if app.deleting
        || app.stopped.is_some()
        || (app.replicas() == 0 && !app.is_global())
        || has_ended(app)
    {
        AppCondition::Stopped
    } else if app.is_rolling_out() {
        AppCondition::Deploying
    } else if looping.is_some() {
        AppCondition::CrashLooping
    } else if ready == app.replicas() && ready > 0 {
        AppCondition::Running
    } else if ready == 0 {
        AppCondition::Down
    } else {
        AppCondition::Degraded
    };
    let reason = match word {
        AppCondition::Running | AppCondition::Asleep | AppCondition::Stopped => None,
        AppCondition::CrashLooping => looping.and_then(|instance| reason_of(app, instance)),
        AppCondition::Deploying | AppCondition::Degraded | AppCondition::Down => worst_reason(app),
    };
    (word, reason)
}

/// Why the app is in its condition, the most important fact first, and what to do about it. `unplaced` is what the
/// newest plan left over, `draining` the names of the nodes that are to be emptied; `last_failed_rollout` is the number of a release that did not
/// come into service, as long as no later one has.
pub fn explain(
    app: &AppView,
    unplaced: &[Unplaced],
    draining: &BTreeMap<NodeId, String>,
    last_failed_rollout: Option<(u64, Reason)>,
) -> (Vec<String>, Vec<String>) {
    let (word, reason) = condition(app);
    let mut because = vec![describe(app, word)];
    because.extend(scaling(app));
    let (stuck, unplaced): (Vec<&Unplaced>, Vec<&Unplaced>) =
        unplaced.iter().partition(|unplaced| is_stuck(app, unplaced));
    let mut advice = Vec::new();
    stay(app, &stuck, draining, &mut because, &mut advice);
    match word {
        AppCondition::Stopped if app.stopped.is_some() && !app.deleting => {
            advice.push(format!("`wharf start {}` starts it.", app.name));
        }
        AppCondition::Stopped if app.replicas() == 0 && !app.deleting => {
            advice.push(format!("`wharf scale 1 --app {}` starts it.", app.name));
        }
        AppCondition::Running | AppCondition::Asleep | AppCondition::Stopped => {}
        AppCondition::Deploying
        | AppCondition::Degraded
        | AppCondition::CrashLooping
        | AppCondition::Down => {
            if let Some(none) = unplaced.first().filter(|_| app.is_global() && app.replicas() == 0) {
                because
                    .push(format!("It runs on every node that may have it, and none may: {}.", none.message));
                advice.extend(none.change.as_deref().map(as_sentence));
                advice.push("It starts on each node that comes to meet its constraints.".to_owned());
            } else if let Some(first) = unplaced.first() {
                let wait = if unplaced.len() == 1 { "waits" } else { "wait" };
                because.push(format!(
                    "{} of its slots {wait} for a node: {}.",
                    unplaced.len(),
                    first.message
                ));
                advice.extend(first.change.as_deref().map(as_sentence));
            }
            if let Some(reason) = &reason {
                because.push(sentence(&reason.message));
                // An image that is on its way has not failed.
                if !(reason.kind == ReasonKind::Platform && reason.message.starts_with("pulling ")) {
                    advice.push(advise(app, reason.kind));
                }
            } else if let Some(waiting) = newest_waiting(app) {
                because.push(format!(
                    "The instance in slot {} is {}.",
                    waiting.slot_number(),
                    progress(waiting)
                ));
            }
            let given_up = given_up(app);
            if !given_up.is_empty() {
                because.push(format!("{} not tried again.", slots_are(&given_up)));
                advice.push(format!("`wharf restart {}` tries again, and so does a deploy.", app.name));
            }
        }
    }
    if let Some((number, failed)) = last_failed_rollout {
        because.push(format!("The rollout to release {number} failed: {}", sentence(&failed.message)));
        let again = "Correct the cause and deploy again; the failed rollout leaves nothing to undo.";
        advice.extend([advise(app, failed.kind), again.to_owned()]);
    }
    let mut given = Vec::new();
    advice.retain(|line| {
        !given.contains(line) && {
            given.push(line.clone());
            true
        }
    });
    (because, advice)
}

/// The condition in a sentence.
fn describe(app: &AppView, word: AppCondition) -> String {
    let (ready, replicas) = (slots_ready(app), app.replicas());
    let release =
        app.target.as_ref().map_or("a release".to_owned(), |target| format!("release {}", target.number));
    match word {
        AppCondition::Stopped if app.deleting => "It is being deleted.".to_owned(),
        AppCondition::Stopped if app.stopped.is_some() => {
            let by = app.stopped.as_ref().map_or("", |stopped| stopped.by.as_str());
            format!("It was stopped by `{by}`, and stays so until it is started.")
        }
        AppCondition::Stopped if replicas == 0 => "It is scaled to zero.".to_owned(),
        AppCondition::Stopped => {
            "Its command has ended with success, and its restart condition says not to run it again."
                .to_owned()
        }
        AppCondition::Asleep => {
            format!("It is asleep, because nobody asks for it; the next request wakes {release}.")
        }
        AppCondition::Running => format!("{ready} of {replicas} slots serve {release}."),
        AppCondition::Deploying => {
            let on_target = app.target.as_ref().map_or(0, |target| count(&app.slots_ready(target)));
            format!("It is moving to {release}: {on_target} of {replicas} slots are ready on it.")
        }
        AppCondition::CrashLooping => {
            let looping = crash_looping(app);
            let restarts = looping.map_or(0, |instance| instance.restarts);
            let between = match looping.is_some_and(|instance| is_ready(app, instance)) {
                true => ", and is ready in between",
                false => "",
            };
            format!(
                "An instance of {release} fails again and again ({restarts} restarts){between}; {ready} of {replicas} slots are ready."
            )
        }
        AppCondition::Down if app.target.is_none() => {
            "No release of it is in service: the first one failed, or none was deployed yet.".to_owned()
        }
        AppCondition::Down if app.is_global() && replicas == 0 => "There is no node for it.".to_owned(),
        AppCondition::Degraded | AppCondition::Down => format!("{ready} of {replicas} slots are ready."),
    }
}

/// What decides how many slots there are, where that is not a user.
fn scaling(app: &AppView) -> Option<String> {
    if app.is_global() && app.replicas() > 0 {
        return Some("It runs once on every node that its constraints allow.".to_owned());
    }
    let range = app.range()?;
    let most = if app.replicas() == range.max { ", and it has as many as it may" } else { "" };
    Some(format!(
        "Its open requests decide how many instances it has, {} to {}: {} each{most}.",
        range.min, range.max, range.concurrency
    ))
}

/// Whether what has no node has one in truth, on which it serves until there is another.
fn is_stuck(app: &AppView, unplaced: &Unplaced) -> bool {
    let target = app.target.as_ref().filter(|_| !app.is_rolling_out());
    let stays = |target: &ReleaseView| {
        let is_it = |it: &&InstanceView| it.slot == unplaced.slot && it.release == target.id;
        app.instances.iter().filter(is_it).any(InstanceView::is_wanted)
    };
    target.is_some_and(|target| stays(target))
}

/// What is to leave its node and cannot.
fn stay(
    app: &AppView,
    stuck: &[&Unplaced],
    draining: &BTreeMap<NodeId, String>,
    because: &mut Vec<String>,
    advice: &mut Vec<String>,
) {
    let mut of_nodes: BTreeMap<Option<&String>, Vec<&Unplaced>> = BTreeMap::new();
    for unplaced in stuck {
        let is_it = |it: &&InstanceView| it.slot == unplaced.slot && it.is_wanted();
        let node = app.instances.iter().filter(is_it).find_map(|it| draining.get(&it.node?));
        of_nodes.entry(node).or_default().push(unplaced);
    }
    for (node, unplaced) in of_nodes {
        let Some(first) = unplaced.first() else { continue };
        let slots: Vec<u32> = unplaced.iter().map(|unplaced| unplaced.slot.saturating_add(1)).collect();
        let from = node.map_or_else(
            || "to move to another node".to_owned(),
            |node| format!("to leave {node}, which is being drained"),
        );
        because.push(format!(
            "What is in {} is {from}, and goes on where it is until there is room elsewhere: {}.",
            slots_of(&slots),
            first.message
        ));
        advice.extend(first.change.as_deref().map(as_sentence));
    }
    // These are not even tried elsewhere.
    let stays = |it: &&InstanceView| {
        let has_volumes = app.release(it.release).is_some_and(|release| !release.spec.volumes.is_empty());
        it.is_wanted() && has_volumes
    };
    for instance in app.instances.iter().filter(stays) {
        let Some(node) = instance.node.and_then(|node| draining.get(&node)) else { continue };
        because.push(format!(
            "What is in slot {} stays on {node}, which is being drained, because its volumes are there.",
            instance.slot_number()
        ));
        advice.push(format!(
            "Volumes move by `wharf volume backup` and `restore`; `wharf node resume {node}` takes the node back into service."
        ));
    }
}

fn progress(instance: &InstanceView) -> &'static str {
    match (instance.state, instance.health) {
        (InstanceState::Running, Health::Unhealthy) => "running, but fails its health check",
        (InstanceState::Running, _) => "running, but has not passed its health check yet",
        (state, _) => state.doing(),
    }
}

fn advise(app: &AppView, kind: ReasonKind) -> String {
    let name = &app.name;
    let release = app.target.as_ref().or(app.stable.as_ref());
    let is_container = release.is_some_and(|release| release.world.is_container());
    match kind {
        ReasonKind::Artifact if is_container => {
            "Correct the image or the settings and deploy again: it cannot run as it is, however often it is tried."
                .to_owned()
        }
        ReasonKind::Artifact => {
            "Build the artifact again and deploy it: this one cannot run, however often it is tried."
                .to_owned()
        }
        ReasonKind::Trap => {
            format!("`wharf logs --app {name}` shows what the guest printed before it failed.")
        }
        ReasonKind::Exit => format!(
            "`wharf logs --app {name}` shows what the command printed; `restart.condition` says whether it runs again."
        ),
        ReasonKind::Limit if is_container => format!(
            "Raise the limit that it has reached, below `[limits]` or `[container]` or of the volume, or find out what uses it up: `wharf top` and \
             `wharf logs --app {name}`."
        ),
        ReasonKind::Limit => format!(
            "Raise the limit under `[limits]`, or find out what uses it up: `wharf top` and `wharf logs --app {name}`."
        ),
        ReasonKind::Probe => probe(release.map(|release| (&*release.spec, is_container))),
        ReasonKind::Canary => format!(
            "`wharf logs --app {name}` shows what the release printed on trial; `update.canary` says how much worse it may be."
        ),
        ReasonKind::Asked => format!("`wharf events --app {name}` shows who wanted it so."),
        ReasonKind::Platform => {
            format!("The platform tries again by itself; `wharf events --app {name}` shows what it does.")
        }
    }
}

/// What an app has to do to be taken for healthy. The settings come with whether they are a container's.
fn probe(checked: Option<(&AppSpec, bool)>) -> String {
    if let Some((spec, true)) = checked {
        let own = spec.container.health.as_ref().filter(|health| !health.disable);
        if let Some(health) = own.filter(|health| !health.command.is_empty()) {
            let command = health.command.join(" ");
            return format!(
                "Make the check `{command}` end with 0 within {}, or change `container.health`.",
                health.timeout
            );
        }
        if own.is_some() || spec.container.http_port.is_none() {
            return "Make the check succeed that the image brings with it, or set another as `container.health`."
                .to_owned();
        }
    }
    let health = checked.map(|(spec, _)| spec.http.health.clone()).unwrap_or_default();
    let (path, good) = match &health.path {
        Some(path) => (path.as_str(), "with a status of 200 to 399"),
        None => ("/", "with a status below 500"),
    };
    format!("Make the app answer `{path}` {good} within {}, or change `http.health`.", health.timeout)
}

/// Slots in which an instance serves, of whatever release.
fn slots_ready(app: &AppView) -> u32 {
    let mut ready = vec![false; app.slots_end() as usize];
    for release in [&app.target, &app.stable].into_iter().flatten() {
        for (slot, serves) in ready.iter_mut().zip(app.slots_served(release)) {
            *slot |= serves;
        }
    }
    let is_counted = |instance: &&InstanceView| instance.is_healthy() && app.is_slot(instance.slot);
    for instance in app.instances.iter().filter(is_counted) {
        if let Some(slot) = ready.get_mut(instance.slot as usize) {
            *slot = true;
        }
    }
    count(&ready)
}

fn count(slots: &[bool]) -> u32 {
    slots.iter().map(|ready| u32::from(*ready)).sum()
}

/// Whether the app is a command that is done: it is ready in every slot, yet nothing runs.
fn has_ended(app: &AppView) -> bool {
    let is_done = |target: &ReleaseView| {
        let ready = app.slots_ready(target);
        app.replicas() > 0 && app.slot_numbers().all(|slot| ready[slot as usize])
    };
    app.target.as_ref().is_some_and(|target| is_done(target))
        && !app.instances.iter().any(InstanceView::is_wanted)
}

/// The instance that has had the most before it. That it is ready says nothing: one that its liveness check ends every few seconds is so most of the
/// time. Once it has been for long enough its worker counts from 0 again.
fn crash_looping(app: &AppView) -> Option<&InstanceView> {
    app.instances
        .iter()
        .filter(|instance| instance.is_wanted() && instance.restarts >= CRASH_LOOP_RESTARTS)
        .max_by_key(|instance| (!is_ready(app, instance), instance.restarts, instance.age()))
}

fn is_ready(app: &AppView, instance: &InstanceView) -> bool {
    match app.release(instance.release) {
        Some(release) => instance.is_ready_for(release),
        None => instance.is_healthy(),
    }
}

/// An instance's own reason, or that of the one whose slot it took over.
fn reason_of(app: &AppView, instance: &InstanceView) -> Option<Reason> {
    let before = |other: &&InstanceView| other.slot == instance.slot && other.release == instance.release;
    let newest_ended = app.instances.iter().filter(before).filter(|other| other.state.is_final());
    let of_ended = || newest_ended.max_by_key(|other| other.age())?.reason.as_deref();
    instance.reason.as_deref().or_else(of_ended).cloned()
}

/// Why a slot is not ready: of what is wanted and not ready the newest that says something, the guest's words first.
fn worst_reason(app: &AppView) -> Option<Reason> {
    app.instances
        .iter()
        .filter(|instance| instance.wanted == Wanted::Run && !is_ready(app, instance))
        .filter(|instance| instance.is_live() || is_newest(app, instance))
        .filter_map(|instance| Some((instance, instance.reason.as_deref()?)))
        .max_by_key(|(instance, reason)| (reason.kind != ReasonKind::Platform, instance.age()))
        .map(|(_, reason)| reason.clone())
}

/// Whether nothing newer of the same release ended well, or runs, in its slot.
fn is_newest(app: &AppView, instance: &InstanceView) -> bool {
    let newer = |other: &InstanceView| {
        other.slot == instance.slot && other.release == instance.release && other.age() > instance.age()
    };
    !app.instances.iter().any(|other| newer(other) && (other.state.is_final() || is_ready(app, other)))
}

fn newest_waiting(app: &AppView) -> Option<&InstanceView> {
    let waiting = |instance: &&InstanceView| instance.is_wanted() && !is_ready(app, instance);
    app.instances.iter().filter(waiting).max_by_key(|instance| instance.age())
}

/// Slots whose newest instance failed although it was wanted, and has no successor: the supervisor gave up. Counted from 1.
fn given_up(app: &AppView) -> Vec<u32> {
    // A rollout tries every slot again.
    if app.rollout_under_way().is_some() {
        return Vec::new();
    }
    let mut slots: Vec<u32> = app
        .instances
        .iter()
        .filter(|instance| instance.own_failure().is_some() && !instance.replaced)
        .filter(|failed| {
            let newer = |other: &InstanceView| other.slot == failed.slot && other.age() > failed.age();
            app.is_in_use(failed) && !app.instances.iter().any(newer)
        })
        .map(InstanceView::slot_number)
        .collect();
    slots.sort_unstable();
    slots.dedup();
    slots
}

fn slots_are(slots: &[u32]) -> String {
    match slots {
        [one] => format!("Slot {one} is"),
        _ => format!("The {} are", slots_of(slots)),
    }
}

/// Numbers of slots, counted from 1.
pub(super) fn slots_of(slots: &[u32]) -> String {
    let numbers: Vec<String> = slots.iter().take(10).map(u32::to_string).collect();
    let more = if slots.len() > 10 { format!(" and {} more", slots.len() - 10) } else { String::new() };
    let noun = if slots.len() == 1 { "slot" } else { "slots" };
    format!("{noun} {}{more}", numbers.join(", "))
}

/// What was written to stand within a sentence.
fn as_sentence(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().map(|first| first.to_ascii_uppercase());
    sentence(&first.into_iter().chain(rest).collect::<String>())
}

/// Guests and libraries rarely end what they say with a full stop.
fn sentence(text: &str) -> String {
    let text = text.trim_end();
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

#[cfg(test)]
mod tests;
