//! Takes in what a worker observed.

use std::collections::BTreeSet;
use std::sync::Arc;

use wharf_types::node::{InstanceReport, Reason};
use wharf_types::state::{InstanceState, Wanted};
use wharf_types::{AppId, JobId, NodeId, Timestamp};

use super::{Result, commit_then};
use crate::context::Context;
use crate::plan::job::RunView;
use crate::store::instance::{Instance, NewInstance};
use crate::store::{self, Conn};

/// Writes reports in their order, in one transaction.
pub(crate) async fn observe(
    context: &Arc<Context>,
    node: NodeId,
    reports: &[InstanceReport],
    now: Timestamp,
) -> Result<()> {
    if reports.is_empty() {
        return Ok(());
    }
    // A process that was deposed takes none: its successor may have read the rows already, and would tell the worker of an instance that the
    // worker has forgotten because this one had taken in what came after it.
    let mut tx = context.write_as_leader().await?;
    let (mut changed, mut jobs) = (BTreeSet::new(), BTreeSet::new());
    for report in reports {
        if let Some((job, run)) = store::run::get(&mut tx, report.id).await? {
            jobs.extend(observe_run(&mut tx, node, (job, &run), report, now).await?);
            continue;
        }
        changed.extend(observe_one(&mut tx, context, node, report, now).await?);
    }
    for app in &changed {
        store::change::touch(&mut tx, *app, now).await?;
    }
    for job in &jobs {
        store::job::touch(&mut tx, *job).await?;
    }
    commit_then(context, tx, move |context| {
        changed.into_iter().for_each(|app| context.changed(app));
        context.jobs_changed(jobs);
    })
    .await
}

/// Returns the job, if anything changed.
async fn observe_run(
    conn: &mut Conn,
    node: NodeId,
    (id, run): (JobId, &RunView),
    report: &InstanceReport,
    now: Timestamp,
) -> Result<Option<JobId>> {
    if run.node != node || !store::run::observe(conn, report, now).await? {
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
        return Ok(None);
    }
    let state = instance.view.state;
    changed |= store::instance::observe(conn, report, now).await?;
    if report.state == InstanceState::Failed && !state.is_final() && instance.view.wanted == Wanted::Run {
        tell_failure(conn, context, &instance, report.reason.as_ref(), now).await?;
    }
    if report.state.is_final() {
        store::instance::prune(conn, instance.app, instance.view.slot).await?;
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
    if old.view.node != Some(node) || !old.view.can_be_succeeded(now) {
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
    store::instance::create(conn, &new, now).await?;
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
