//! Writes what the planner found, in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use wharf_types::node::Reason;
use wharf_types::state::Wanted;
use wharf_types::{AppId, InstanceId, NodeId, ReleaseId, Timestamp};

use crate::context::Context;
use crate::operations::{OperationError, routes};
use crate::plan::job::StopCause;
use crate::plan::{AppView, Change, Changes};
use crate::store::instance::NewInstance;
use crate::store::rollout::NewRollout;
use crate::store::{self, Conn};

/// Instances of one app that are named in an event.
const TOLD_MAX: usize = 10;

pub(super) enum Applied {
    Done,
    /// Somebody else changed the app since the view was read: nothing was written.
    Outdated,
    /// A part of the data of an app that is to go is gone. Nothing else was written.
    Emptied,
    Deleted,
}

pub(super) async fn apply(
    context: &Context,
    app: AppId,
    view: &AppView,
    revision: i64,
    changes: &Changes,
    now: Timestamp,
) -> Result<Applied, OperationError> {
    let deletes = changes.changes.contains(&Change::DeleteApp);
    if deletes && !empty(context, app).await? {
        return Ok(Applied::Emptied);
    }
    let mut tx = context.write_as_leader().await?;
    // The one guard that matters: every writer draws a revision, so an unchanged one means that the view still holds.
    if !store::change::touch_if(&mut tx, app, revision, now).await? {
        return Ok(Applied::Outdated);
    }
    // A thousand instances in a row cost little more than one.
    for run in changes.changes.chunk_by(|a, b| creates(a) && creates(b)) {
        let new: Vec<NewInstance> = run.iter().filter_map(|change| new_instance(app, change)).collect();
        store::instance::create_all(&mut tx, &new, now).await?;
        for change in run {
            apply_one(&mut tx, app, view, change, now).await?;
        }
    }
    preempt(&mut tx, context, &preempted(&changes.changes), now).await?;
    if !deletes && changes.changes.iter().any(ends_rollout) {
        clean_up(&mut tx, context, app, now).await?;
    }
    tx.commit().await?;
    if deletes {
        context.volumes_changed();
        context.logs.remove(&view.namespace, &view.name).await;
    }
    context.announce(app);
    for change in &changes.changes {
        if let Change::Preempt { app: victim, .. } = change {
            context.owner_changed(*victim);
        }
    }
    Ok(if deletes { Applied::Deleted } else { Applied::Done })
}

fn creates(change: &Change) -> bool {
    matches!(change, Change::CreateInstance { .. })
}

fn new_instance(app: AppId, change: &Change) -> Option<NewInstance> {
    let Change::CreateInstance { id, release, slot, node } = change else { return None };
    let (id, release, slot, node) = (*id, *release, *slot, *node);
    Some(NewInstance { id, app, release, slot, node, wanted: Wanted::Run })
}

async fn apply_one(
    conn: &mut Conn,
    app: AppId,
    view: &AppView,
    change: &Change,
    now: Timestamp,
) -> Result<(), OperationError> {
    match change {
        // Those are made together with their neighbours.
        Change::CreateInstance { .. } => {}
        Change::SetPlaces { places } => store::app::set_places(conn, app, places).await?,
        Change::PlaceVolume { volume, node } => {
            store::volume::place(conn, *volume, *node).await?;
        }
        Change::SetWanted { instance, wanted } => {
            store::instance::set_wanted(conn, *instance, *wanted).await?;
        }
        // What leaves of one app is told in one event.
        Change::Preempt { .. } => {}
        Change::EndInstance { instance, state, reason } => {
            store::instance::end(conn, *instance, *state, reason, now).await?;
        }
        Change::SetRollout { rollout, state, reason, monitoring_since } => {
            let reason: Option<&Reason> = reason.as_ref();
            store::rollout::advance(conn, *rollout, *state, reason, *monitoring_since, now).await?;
        }
        Change::Progress { rollout, ready, stepped } => {
            store::rollout::progress(conn, *rollout, *ready, *stepped, now).await?;
        }
        Change::CountFailures { rollout, slots } => {
            store::rollout::set_failed_slots(conn, *rollout, slots).await?;
        }
        Change::Pause { rollout, reason } => {
            store::rollout::pause(conn, *rollout, None, Some(reason), now).await?;
        }
        Change::BeginTrial { rollout, before } => {
            store::rollout::begin_trial(conn, *rollout, before, now).await?;
        }
        Change::SetStable { release } => store::app::set_stable(conn, app, *release).await?,
        Change::SetServed { release, served } => store::release::set_served(conn, *release, *served).await?,
        Change::SetTarget { release } => store::app::set_target(conn, app, *release).await?,
        Change::RollBack { failed, rollout, from, to } => {
            let id = *rollout;
            let new = NewRollout {
                id,
                app,
                from: Some(*from),
                to: *to,
                automatic: true,
                backwards: true,
                renews: false,
            };
            store::rollout::create(conn, &new, now).await?;
            store::rollout::set_rolled_back_by(conn, *failed, *rollout).await?;
        }
        Change::DeleteApp => delete(conn, app, view, now).await?,
        Change::Event { kind, message } => {
            store::event::append(conn, &view.namespace, Some(&view.name), kind, message, now).await?;
        }
    }
    Ok(())
}

/// An instance that has to leave its node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Victim {
    /// Its app, or the job that it is a run of.
    pub(super) owner: AppId,
    pub(super) instance: InstanceId,
    pub(super) node: NodeId,
}

fn preempted(changes: &[Change]) -> Vec<Victim> {
    let victim = |change: &Change| match change {
        Change::Preempt { instance, app, node } => {
            Some(Victim { owner: *app, instance: *instance, node: *node })
        }
        _ => None,
    };
    changes.iter().filter_map(victim).collect()
}

/// Takes instances of other apps out of service, and tells these apps' users why, in one event for each app. They are not told for whom: it may
/// be somebody else's app.
pub(super) async fn preempt(
    conn: &mut Conn,
    context: &Context,
    victims: &[Victim],
    now: Timestamp,
) -> Result<(), OperationError> {
    let mut of_owners: BTreeMap<AppId, Vec<Victim>> = BTreeMap::new();
    for victim in victims {
        of_owners.entry(victim.owner).or_default().push(*victim);
    }
    for (owner, victims) in of_owners {
        let Some(app) = store::app::get(conn, owner).await? else {
            for run in victims {
                preempt_run(conn, run.instance, now).await?;
            }
            continue;
        };
        let (mut told, mut nodes) = (Vec::new(), BTreeSet::new());
        for Victim { instance, node, .. } in victims {
            if store::instance::set_wanted(conn, instance, Wanted::Unroute).await? {
                told.push(instance);
                nodes.insert(context.nodes.name(node));
            }
        }
        if told.is_empty() {
            continue;
        }
        store::change::touch(conn, owner, now).await?;
        let more = match told.len().saturating_sub(TOLD_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let ids: Vec<String> = told.iter().take(TOLD_MAX).map(InstanceId::to_string).collect();
        let nodes: Vec<String> = nodes.into_iter().take(TOLD_MAX).collect();
        let (ids, nodes) = (ids.join(", "), nodes.join(", "));
        let who = match told.len() {
            1 => format!("instance {ids} leaves its node ({nodes})"),
            _ => format!("the instances {ids}{more} leave their nodes ({nodes})"),
        };
        let message =
            format!("{who}, because something of a higher priority needs the room and fits nowhere else");
        let kind = "instance.preempted";
        store::event::append(conn, &app.namespace, Some(&app.name), kind, &message, now).await?;
    }
    Ok(())
}

/// The same for a run of a job. It is made up for as soon as there is room.
async fn preempt_run(conn: &mut Conn, run: InstanceId, now: Timestamp) -> Result<(), OperationError> {
    let Some((job, _)) = store::run::get(conn, run).await? else { return Ok(()) };
    let Some(job) = store::job::get(conn, job).await? else { return Ok(()) };
    if !store::run::stop(conn, run, StopCause::Preempted).await? {
        return Ok(());
    }
    store::job::touch(conn, job.id).await?;
    let message = format!(
        "a run of the job {} ({}) leaves its node, because something of a higher priority needs the room and fits nowhere else",
        job.name, job.id
    );
    store::event::append(conn, &job.namespace, job.app.as_ref(), "instance.preempted", &message, now).await?;
    Ok(())
}

/// Deletes a part of what the guests of an app have kept, which may take longer than others can wait for, and returns whether that were all. Where it
/// goes on does not matter: what is there yet is in the database.
async fn empty(context: &Context, id: AppId) -> Result<bool, OperationError> {
    let mut tx = context.write_as_leader().await?;
    let Some(app) = store::app::get(&mut tx, id).await?.filter(|app| app.deleting) else { return Ok(true) };
    let is_empty = store::keyvalue::delete_some_of_app(&mut tx, app.namespace_id, id).await?;
    tx.commit().await?;
    Ok(is_empty)
}

async fn delete(conn: &mut Conn, id: AppId, view: &AppView, now: Timestamp) -> Result<(), OperationError> {
    let app = store::app::get(conn, id).await?;
    let volumes = store::volume::of_app(conn, id).await?;
    if let Some(app) = &app {
        // What a guest has written just before its end.
        while !store::keyvalue::delete_some_of_app(conn, app.namespace_id, id).await? {}
    }
    store::app::delete(conn, id).await?;
    store::volume::forget_unplaced(conn).await?;
    if let Some(app) = app {
        store::secret::prune(conn, app.namespace_id).await?;
    }
    let kept: Vec<_> = volumes.iter().filter(|volume| !volume.removing).collect();
    let mut message = format!("the app {} and its data are gone", view.name);
    if !kept.is_empty() {
        let names: Vec<_> = kept.iter().map(|volume| format!("`{}` ({})", volume.name, volume.id)).collect();
        message = format!("the app {} is gone; its volumes are kept: {}", view.name, names.join(", "));
    }
    store::event::append(conn, &view.namespace, Some(&view.name), "app.deleted", &message, now).await?;
    Ok(())
}

fn ends_rollout(change: &Change) -> bool {
    matches!(change, Change::SetRollout { state, .. } if state.is_final())
}

/// Forgets releases and rollouts that are too old, and gives up routes and ports that lead to no release in use.
async fn clean_up(
    conn: &mut Conn,
    context: &Context,
    id: AppId,
    now: Timestamp,
) -> Result<(), OperationError> {
    let forgotten = store::release::prune(conn, id, now).await?;
    store::rollout::prune(conn, id).await?;
    let Some(app) = store::app::get(conn, id).await? else { return Ok(()) };
    if forgotten > 0 {
        store::secret::prune(conn, app.namespace_id).await?;
    }
    let mut used: Vec<ReleaseId> = app.target_release.into_iter().chain(app.stable_release).collect();
    if used.is_empty() {
        // Nothing serves, but the newest release's routes still say that the app exists.
        used.extend(store::rollout::newest(conn, id).await?.map(|rollout| rollout.view.to));
    }
    let (mut kept, mut kept_ports) = (Vec::new(), Vec::new());
    for release in used {
        if let Some(release) = context.releases.get(conn, &app, release).await? {
            kept.extend(release.routes.iter().cloned());
            kept_ports.extend(&release.spec.tcp.ports);
        }
    }
    store::port::release_others(conn, id, &kept_ports).await?;
    routes::keep_only(conn, &context.config.domain, &app, kept).await
}
