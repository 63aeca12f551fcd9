//! Takes in what workers observed.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use tracing::warn;
use wharf_types::node::{InstanceReport, Reason};
use wharf_types::state::{InstanceState, Wanted};
use wharf_types::{AppId, InstanceId, JobId, NodeId, Timestamp};

use super::{Result, commit_then};
use crate::context::Context;
use crate::plan::job::RunView;
use crate::store::instance::{Instance, NewInstance};
use crate::store::{self, Conn};

/// What a worker has reported of its instances, in its order.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) node: NodeId,
    pub(crate) reports: Vec<InstanceReport>,
    pub(crate) now: Timestamp,
}

/// Writes what several workers have reported, in one transaction: all of it or nothing.
pub(crate) async fn observe(context: &Arc<Context>, all: &[Said]) -> Result<()> {
    // A process that was deposed takes none: its successor may have read the rows already, and would tell the worker of an instance that the
    // worker has forgotten because this one had taken in what came after it.
    let mut tx = context.write_as_leader().await?;
    let now = all.iter().map(|said| said.now).max().unwrap_or_else(Timestamp::now);
    let (mut changed, mut jobs) = (BTreeSet::new(), BTreeSet::new());
    let done = observe_steps(&mut tx, all, &mut changed, now).await?;
    for Said { node, reports, now } in all {
        for report in reports.iter().filter(|report| !done.contains(&report.id)) {
            if let Some((job, run)) = store::run::get(&mut tx, report.id).await? {
                jobs.extend(observe_run(&mut tx, *node, (job, &run), report, *now).await?);
                continue;
            }
            changed.extend(observe_one(&mut tx, context, *node, report, *now).await?);
        }
    }
    let changed: Vec<AppId> = changed.into_iter().collect();
    store::change::touch_all(&mut tx, &changed, now).await?;
    for job in &jobs {
        store::job::touch(&mut tx, *job).await?;
    }
    commit_then(context, tx, move |context| {
        changed.into_iter().for_each(|app| context.changed(app));
        context.jobs_changed(jobs);
    })
    .await
}

/// Merges what says of an instance of an app no more than how far it has come, which is nearly everything: many at once. Returns what needs no other
/// look.
async fn observe_steps(
    conn: &mut Conn,
    all: &[Said],
    changed: &mut BTreeSet<AppId>,
    now: Timestamp,
) -> Result<HashSet<InstanceId>> {
    let reports = all.iter().flat_map(|said| said.reports.iter().map(|report| (said.node, report)));
    let is_step = |report: &InstanceReport| report.replaces.is_none() && !report.state.is_final();
    let steps: Vec<(NodeId, &InstanceReport)> = reports.filter(|(_, report)| is_step(report)).collect();
    let ids: Vec<InstanceId> = steps.iter().map(|(_, report)| report.id).collect();
    let owners = store::instance::owners(conn, &ids).await?;
    let mut alike: Vec<(&InstanceReport, Vec<InstanceId>)> = Vec::new();
    for (node, report) in steps {
        match owners.get(&report.id) {
            Some((_, placed_on)) if *placed_on == Some(node) => {}
            Some(_) => {
                is_of_another(node, report.id);
                continue;
            }
            None => continue,
        }
        match alike.iter_mut().find(|(first, _)| says_the_same(first, report)) {
            Some((_, ids)) => ids.push(report.id),
            None => alike.push((report, vec![report.id])),
        }
    }
    for (report, ids) in alike {
        for id in store::instance::observe_all(conn, &ids, report, now).await? {
            changed.extend(owners.get(&id).map(|(app, _)| *app));
        }
    }
    Ok(owners.into_keys().collect())
}

/// A node never has what is another's: it is at fault, or somebody else speaks for it.
fn is_of_another(node: NodeId, id: InstanceId) {
    warn!(node.id = %node, instance.id = %id, "node {node} says something of instance {id}, which it never had; it is not taken in");
}

/// Whether two reports differ in nothing but the instance.
fn says_the_same(one: &InstanceReport, other: &InstanceReport) -> bool {
    (one.state, one.health, one.restarts, &one.reason)
        == (other.state, other.health, other.restarts, &other.reason)
}

/// Returns the job, if anything changed.
async fn observe_run(
    conn: &mut Conn,
    node: NodeId,
    (id, run): (JobId, &RunView),
    report: &InstanceReport,
    now: Timestamp,
) -> Result<Option<JobId>> {
    if run.node != node {
        is_of_another(node, report.id);
        return Ok(None);
    }
    if !store::run::observe(conn, report, now).await? {
        return Ok(None);
    }
    if report.state == InstanceState::Failed
        && let Some(job) = store::job::get(conn, id).await?
    {
        let why = report.reason.as_ref().map_or("no reason was reported", |reason| reason.message.as_str());
        let (name, attempt) = (&job.name, run.attempt);
        let which =
            if job.spec.completions > 1 { format!(" for completion {}", run.index) } else { String::new() };
        let message = format!("run {attempt}{which} of the job {name} ({id}) failed: {why}");
        store::event::append(conn, &job.namespace, job.app.as_ref(), "job.run-failed", &message, now).await?;
    }
    Ok(Some(id))
}

/// Returns the app, if anything changed.
async fn observe_one(
    conn: &mut Conn,
    context: &Context,
    node: NodeId,
    report: &InstanceReport,
    now: Timestamp,
) -> Result<Option<AppId>> {
    let mut changed = false;
    let instance = match store::instance::get(conn, report.id).await? {
        Some(instance) => instance,
        None => match take_over(conn, context, node, report, now).await? {
            Some(instance) => {
                changed = true;
                instance
            }
            // The instance was forgotten here, because it ended long ago or its app is gone.
            None => return Ok(None),
        },
    };
    if instance.view.node != Some(node) {
        is_of_another(node, report.id);
        return Ok(None);
    }
    let state = instance.view.state;
    changed |= store::instance::observe(conn, report, now).await?;
    if report.state == InstanceState::Failed && !state.is_final() && instance.view.wanted == Wanted::Run {
        tell_failure(conn, context, &instance, report.reason.as_ref(), now).await?;
    }
    if report.state.is_final() {
        store::instance::prune(conn, instance.app, instance.view.slot, report.id).await?;
    }
    Ok(changed.then_some(instance.app))
}

/// Makes the row of an instance that the supervisor put in another one's slot.
async fn take_over(
    conn: &mut Conn,
    context: &Context,
    node: NodeId,
    report: &InstanceReport,
    now: Timestamp,
) -> Result<Option<Instance>> {
    let Some(old) = report.replaces else { return Ok(None) };
    let Some(old) = store::instance::get(conn, old).await? else { return Ok(None) };
    if old.view.node != Some(node) {
        is_of_another(node, old.view.id);
        return Ok(None);
    }
    if !old.view.can_be_succeeded(now) {
        return Ok(None);
    }
    let new = NewInstance {
        id: report.id,
        app: old.app,
        release: old.view.release,
        slot: old.view.slot,
        node,
        wanted: old.view.wanted,
    };
    store::instance::mark_replaced(conn, old.view.id, report.reason.as_ref(), now).await?;
    // Also by a clock that was put back it comes after the other.
    store::instance::create(conn, &new, now.max(old.view.created_at)).await?;
    if !old.view.state.is_final() && old.view.wanted == Wanted::Run {
        tell_failure(conn, context, &old, report.reason.as_ref(), now).await?;
    }
    Ok(store::instance::get(conn, report.id).await?)
}

async fn tell_failure(
    conn: &mut Conn,
    context: &Context,
    instance: &Instance,
    reason: Option<&Reason>,
    now: Timestamp,
) -> Result<()> {
    let Some(app) = store::app::get(conn, instance.app).await? else { return Ok(()) };
    let release = context.releases.get(conn, &app, instance.view.release).await?;
    let number = release.map_or_else(|| "?".to_owned(), |release| release.number.to_string());
    let why = reason.map_or("no reason was reported", |reason| reason.message.as_str());
    let message =
        format!("the instance of release {number} in slot {} failed: {why}", instance.view.slot_number());
    store::event::append(conn, &app.namespace, Some(&app.name), "instance.failed", &message, now).await?;
    Ok(())
}
