//! Sets, suspends and removes schedules. The times themselves are decided on in `reconcile/schedules.rs`.

use std::sync::Arc;
use std::time::Duration;

use wharf_types::job::{JobInfo, JobState};
use wharf_types::problem::ProblemCode;
use wharf_types::schedule::{ScheduleInfo, ScheduleSpec};
use wharf_types::{JobName, NamespaceName, Problem, ScheduleId, ScheduleName, Timestamp};

use super::jobs::{self, AskedJob, Making, make, settle};
use super::secrets::find_namespace;
use super::{Once, Result, commit_then, invalid_spec, problem};
use crate::conditions;
use crate::context::Context;
use crate::plan::cron::{Cron, time_zone};
use crate::plan::job::Ending;
use crate::store::schedule::Schedule;
use crate::store::{self, Conn};
use crate::view;

/// Schedules of a namespace.
const SCHEDULES_MAX: u64 = 1000;
/// How long the jobs of a schedule that was removed are kept.
const ORPHANS_KEPT: Duration = Duration::from_secs(24 * 3600);

/// A schedule and the revision that `If-Match` can ask for.
pub(crate) struct Shown {
    pub(crate) info: ScheduleInfo,
    pub(crate) revision: i64,
    pub(crate) is_new: bool,
}

/// Makes a schedule, or gives it other settings. Only times from now on count: what was missed under other settings is not made up for.
pub(crate) async fn set(
    context: &Arc<Context>,
    asked: &AskedJob,
    name: &ScheduleName,
    spec: ScheduleSpec,
) -> Result<Shown> {
    check(&spec)?;
    let mut tx = context.store.write().await?;
    let namespace = find_namespace(&mut tx, &asked.namespace).await?;
    let settled = settle(&mut tx, context, namespace, &asked.namespace, &spec.job).await?;
    let known = store::schedule::find(&mut tx, &asked.namespace, name).await?;
    check_revision(known.as_ref(), name)?;
    if !asked.any_rights {
        let has = known.as_ref().map(|known| known.spec.job.spec.placement.priority);
        settled.check_priority(&mut tx, (namespace, &asked.namespace), has).await?;
        let has = known.as_ref().map(|known| known.spec.job.spec.for_worker().outbound);
        settled.check_outbound(&mut tx, (namespace, &asked.namespace), has.as_ref()).await?;
    }
    let (id, what) = if let Some(known) = &known {
        // The same settings again leave it as it is: what was missed is still made up for.
        if known.spec == spec {
            return show(&mut tx, known.id, asked.now).await;
        }
        store::schedule::update(&mut tx, known.id, &spec, asked.now, asked.now).await?;
        (known.id, "changed")
    } else {
        if store::schedule::count(&mut tx, namespace).await? >= SCHEDULES_MAX {
            let detail = format!(
                "the namespace `{}` has {SCHEDULES_MAX} schedules, which is the most",
                asked.namespace
            );
            return problem(ProblemCode::QuotaExceeded, detail);
        }
        let new = Schedule {
            id: ScheduleId::new(),
            namespace_id: namespace,
            namespace: asked.namespace.clone(),
            name: name.clone(),
            spec,
            decided_until: asked.now,
            last: None,
            revision: 1,
            created_by: asked.by.clone(),
            created_at: asked.now,
            updated_at: asked.now,
        };
        store::schedule::create(&mut tx, &new).await?;
        (new.id, "made")
    };
    tell(&mut tx, asked, name, "schedule.set", what).await?;
    let shown = show(&mut tx, id, asked.now).await?;
    commit_then(context, tx, |context| context.schedules_changed()).await?;
    Ok(Shown { is_new: known.is_none(), ..shown })
}

fn check(spec: &ScheduleSpec) -> Result<()> {
    spec.validate().map_err(invalid_spec)?;
    Cron::parse(&spec.cron)
        .map_err(|error| Problem::new(ProblemCode::InvalidSpec, format!("cron: {error}")))?;
    time_zone(&spec.timezone)
        .map_err(|error| Problem::new(ProblemCode::InvalidSpec, format!("timezone: {error}")))?;
    Ok(())
}

fn check_revision(known: Option<&Schedule>, name: &ScheduleName) -> Result<()> {
    Ok(conditions::check(&format!("schedule `{name}`"), known.map(|known| known.revision))?)
}

async fn show(conn: &mut Conn, id: ScheduleId, now: Timestamp) -> Result<Shown> {
    let Some(row) = store::schedule::get(conn, id).await? else {
        return problem(ProblemCode::NotFound, format!("the schedule {id} is gone"));
    };
    let info = view::job::schedule_info(conn, &row, now).await?;
    Ok(Shown { info, revision: row.revision, is_new: false })
}

pub(crate) async fn get(
    context: &Context,
    namespace: &NamespaceName,
    name: &ScheduleName,
    now: Timestamp,
) -> Result<Shown> {
    let mut tx = context.store.read().await?;
    let row = find(&mut tx, namespace, name).await?;
    show(&mut tx, row.id, now).await
}

async fn find(conn: &mut Conn, namespace: &NamespaceName, name: &ScheduleName) -> Result<Schedule> {
    if let Some(row) = store::schedule::find(conn, namespace, name).await? {
        return Ok(row);
    }
    find_namespace(conn, namespace).await?;
    problem(
        ProblemCode::NotFound,
        format!(
            "there is no schedule `{name}` in the namespace `{namespace}`; `wharf schedule ls` lists them"
        ),
    )
}

/// Suspends a schedule, or lets it go on: with the next time, whatever came meanwhile.
pub(crate) async fn suspend(
    context: &Arc<Context>,
    asked: &AskedJob,
    name: &ScheduleName,
    suspended: bool,
) -> Result<Shown> {
    let mut tx = context.store.write().await?;
    let row = find(&mut tx, &asked.namespace, name).await?;
    check_revision(Some(&row), name)?;
    if row.spec.suspended != suspended {
        let spec = ScheduleSpec { suspended, ..row.spec };
        store::schedule::update(&mut tx, row.id, &spec, asked.now, asked.now).await?;
        let (kind, what) =
            if suspended { ("schedule.suspended", "suspended") } else { ("schedule.resumed", "resumed") };
        tell(&mut tx, asked, name, kind, what).await?;
    }
    let shown = show(&mut tx, row.id, asked.now).await?;
    commit_then(context, tx, |context| context.schedules_changed()).await?;
    Ok(shown)
}

/// Makes a job of the schedule now, whatever it plans and whatever runs. Returns the job, and whether it is new.
pub(crate) async fn run_now(
    context: &Arc<Context>,
    asked: &AskedJob,
    name: &ScheduleName,
) -> Result<(JobInfo, bool)> {
    // A key that made a job of another schedule, or of a request for one, is of another request.
    let once = asked.once.as_ref().map(|Once { key, request_hash }| Once {
        key: key.clone(),
        request_hash: blake3::hash(format!("run {name} {request_hash}").as_bytes()).to_string(),
    });
    let asked = &AskedJob { once, ..asked.clone() };
    let mut tx = context.store.write().await?;
    let row = find(&mut tx, &asked.namespace, name).await?;
    if let Some(job) = jobs::made_before(&mut tx, row.namespace_id, asked).await? {
        return Ok((view::job::complete(&mut tx, job).await?.info(context, true), false));
    }
    let job_name = JobName::from(row.name.clone());
    let schedule = Some((row.id, &row.name, None));
    let making = Making { namespace: row.namespace_id, asked, name: &job_name, schedule };
    let id = make(&mut tx, context, &making, &row.spec.job).await?;
    let Some(loaded) = view::job::load(&mut tx, id).await? else {
        return problem(ProblemCode::Conflict, "the job went away while it was made; try again");
    };
    let info = loaded.info(context, true);
    commit_then(context, tx, move |context| context.jobs_changed([id])).await?;
    Ok((info, true))
}

/// Removes a schedule. Its jobs that run are cancelled; the others are kept for a day.
pub(crate) async fn remove(context: &Arc<Context>, asked: &AskedJob, name: &ScheduleName) -> Result<()> {
    let mut tx = context.store.write().await?;
    let row = find(&mut tx, &asked.namespace, name).await?;
    check_revision(Some(&row), name)?;
    let mut jobs = Vec::new();
    for job in store::job::of_schedule(&mut tx, row.id).await? {
        let reason = Some(format!("{} removed its schedule", asked.by));
        if store::job::end(&mut tx, job.id, &Ending { state: JobState::Cancelled, reason }).await? {
            jobs.push(job.id);
        }
    }
    let expires_at = asked.now.checked_add(ORPHANS_KEPT).unwrap_or(Timestamp::MAX);
    store::job::orphan(&mut tx, row.id, expires_at).await?;
    store::schedule::delete(&mut tx, row.id).await?;
    tell(&mut tx, asked, name, "schedule.removed", "removed").await?;
    commit_then(context, tx, move |context| {
        context.jobs_changed(jobs);
        context.schedules_changed();
    })
    .await
}

async fn tell(conn: &mut Conn, asked: &AskedJob, name: &ScheduleName, kind: &str, what: &str) -> Result<()> {
    let message = format!("the schedule {name} was {what} by {}", asked.by);
    store::event::append(conn, &asked.namespace, None, kind, &message, asked.now).await?;
    Ok(())
}

/// Makes the job of a planned time, in the transaction that decides on it. A refusal leaves nothing behind.
pub(crate) async fn fire(
    conn: &mut Conn,
    context: &Context,
    schedule: &Schedule,
    planned_at: Timestamp,
    now: Timestamp,
) -> Result<wharf_types::JobId> {
    let asked = AskedJob {
        namespace: schedule.namespace.clone(),
        by: schedule.created_by.clone(),
        once: None,
        any_rights: true,
        now,
    };
    let name = JobName::from(schedule.name.clone());
    let of_schedule = Some((schedule.id, &schedule.name, Some(planned_at)));
    let making =
        Making { namespace: schedule.namespace_id, asked: &asked, name: &name, schedule: of_schedule };
    jobs::make(conn, context, &making, &schedule.spec.job).await
}
