//! A job out of the store: for the planner as [`JobView`], for users as `JobInfo`; and a schedule.

use std::sync::Arc;

use wharf_types::job::{JobInfo, JobRun, JobState};
use wharf_types::schedule::{ScheduleInfo, ScheduledJob};
use wharf_types::world::World;
use wharf_types::{AppName, JobId, Timestamp};

use crate::context::Context;
use crate::plan::Unplaced;
use crate::plan::cron::{Cron, time_zone};
use crate::plan::job::{CommandView, Ending, JobView, RunView};
use crate::plan::schedule::ScheduleView;
use crate::store::job::Job;
use crate::store::schedule::Schedule;
use crate::store::{self, Conn, StoreError};

pub(crate) struct LoadedJob {
    pub(crate) job: Job,
    pub(crate) view: JobView,
}

pub(crate) async fn load(conn: &mut Conn, id: JobId) -> store::Result<Option<LoadedJob>> {
    match store::job::get(conn, id).await? {
        Some(job) => Ok(Some(complete(conn, job).await?)),
        None => Ok(None),
    }
}

/// Reads what belongs to a job's row.
pub(crate) async fn complete(conn: &mut Conn, job: Job) -> store::Result<LoadedJob> {
    let runs = store::run::of_job(conn, job.id).await?;
    let artifact = store::artifact::get(conn, job.artifact)
        .await?
        .ok_or_else(|| StoreError::Corrupt(format!("job {} has no artifact", job.id)))?;
    let view = view(&job, artifact.world, runs);
    Ok(LoadedJob { job, view })
}

fn view(job: &Job, world: World, runs: Vec<RunView>) -> JobView {
    let command = CommandView {
        artifact: job.artifact,
        world,
        spec: Arc::new(job.spec.for_worker()),
        secrets: job.secrets.clone(),
        app: job.app.clone().unwrap_or_else(|| AppName::from(job.name.clone())),
        release: job.release,
    };
    JobView {
        id: job.id,
        namespace: job.namespace.clone(),
        name: job.name.clone(),
        scheduled: job.schedule.is_some(),
        spec: job.spec.clone(),
        command: Arc::new(command),
        state: job.state,
        ending: job.ending.map(|state| Ending { state, reason: job.reason.clone() }),
        created_at: job.created_at,
        ended_at: job.ended_at,
        expires_at: job.expires_at,
        runs,
    }
}

impl LoadedJob {
    /// With its runs, or without them.
    pub(crate) fn info(&self, context: &Context, with_runs: bool) -> JobInfo {
        let (job, view) = (&self.job, &self.view);
        let completions = view.completions();
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let unplaced = context.unplaced().get(&job.id.as_owner()).cloned().unwrap_or_default();
        let mut waits: Vec<String> = unplaced.iter().map(Unplaced::told).collect();
        waits.dedup();
        waits.truncate(10);
        JobInfo {
            id: job.id,
            namespace: job.namespace.clone(),
            name: job.name.clone(),
            state: job.state,
            ending: job.ending.filter(|_| !job.state.is_final()),
            reason: job.reason.clone().filter(|_| job.state != JobState::Succeeded),
            exit_code: view.exit_code(),
            artifact: job.artifact,
            app: job.app.clone(),
            release: (job.release > 0).then_some(job.release),
            schedule: job.schedule_name.clone(),
            planned_at: job.planned_at,
            spec: (*job.spec).clone(),
            succeeded: count(completions.iter().filter(|completion| completion.succeeded).count()),
            failed: count(completions.iter().filter(|completion| view.has_failed(completion)).count()),
            active: view.active(),
            waits,
            runs: if with_runs { view.runs.iter().map(run).collect() } else { Vec::new() },
            created_by: job.created_by.clone(),
            created_at: job.created_at,
            started_at: job.started_at,
            ended_at: job.ended_at,
        }
    }
}

fn run(run: &RunView) -> JobRun {
    JobRun {
        id: run.id,
        index: run.index,
        attempt: run.attempt,
        node: run.node,
        state: run.state,
        outcome: run.outcome(),
        exit_code: run.exit_code,
        reason: run.reason.clone(),
        created_at: run.created_at,
        started_at: run.started_at,
        ended_at: run.ended_at,
    }
}

/// What was stored can be read again, unless a zone has gone with an upgrade of the platform.
pub(crate) fn schedule(schedule: &Schedule, active: Vec<JobId>) -> store::Result<ScheduleView> {
    let corrupt = |problem: String| StoreError::Corrupt(format!("schedule {}: {problem}", schedule.id));
    Ok(ScheduleView {
        id: schedule.id,
        cron: Cron::parse(&schedule.spec.cron).map_err(|error| corrupt(error.to_string()))?,
        zone: time_zone(&schedule.spec.timezone).map_err(corrupt)?,
        spec: schedule.spec.clone(),
        decided_until: schedule.decided_until,
        active,
    })
}

pub(crate) async fn schedule_info(
    conn: &mut Conn,
    row: &Schedule,
    now: Timestamp,
) -> store::Result<ScheduleInfo> {
    let jobs = store::job::of_schedule(conn, row.id).await?;
    let next_at = schedule(row, Vec::new())?.next_after(now).filter(|_| !row.spec.suspended);
    let scheduled = |job: Job| ScheduledJob {
        id: job.id,
        state: job.state,
        planned_at: job.planned_at,
        created_at: job.created_at,
        ended_at: job.ended_at,
    };
    Ok(ScheduleInfo {
        id: row.id,
        namespace: row.namespace.clone(),
        name: row.name.clone(),
        spec: row.spec.clone(),
        next_at,
        decided_until: row.decided_until,
        last: row.last.clone(),
        jobs: jobs.into_iter().map(scheduled).collect(),
        created_at: row.created_at,
        updated_at: row.updated_at,
    })
}
