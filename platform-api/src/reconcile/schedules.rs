//! Looks at schedules when their times come, and makes the jobs.

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{error, warn};
use wharf_types::job::JobState;
use wharf_types::schedule::Firing;
use wharf_types::{JobId, ScheduleId, Timestamp};

use super::{RETRY, chain, plan_after};
use crate::context::Context;
use crate::operations::OperationError;
use crate::operations::schedules::fire;
use crate::plan::job::Ending;
use crate::plan::schedule::{self, ScheduleChange, ScheduleChanges};
use crate::store::schedule::Schedule;
use crate::store::{self, Conn, StoreError};
use crate::view;

/// When each schedule has to be looked at.
#[derive(Default)]
pub(super) struct Schedules {
    wakes: BTreeMap<ScheduleId, Timestamp>,
}

impl Schedules {
    pub(super) fn next_wake(&self) -> Option<Timestamp> {
        self.wakes.values().min().copied()
    }

    /// Looks at those that are due, and at all of them after one was changed.
    pub(super) async fn pass(&mut self, context: &Arc<Context>) {
        let now = Timestamp::now();
        let mut due: Vec<ScheduleId> =
            self.wakes.extract_if(.., |_, at| *at <= now).map(|(schedule, _)| schedule).collect();
        if context.take_schedules_changed() {
            match all(context).await {
                Ok(ids) => {
                    self.wakes.clear();
                    due = ids;
                }
                Err(error) => {
                    warn!("cannot list the schedules, trying again: {}", chain(&error));
                    context.schedules_unread();
                }
            }
        }
        for id in due {
            match look_at(context, id, now).await {
                Ok(Some(at)) => drop(self.wakes.insert(id, at)),
                Ok(None) => {}
                Err(OperationError::Store(error @ StoreError::Corrupt(_))) => {
                    error!(schedule.id = %id, "schedule {id} cannot be read and is left out until it is set again: {}", chain(&error));
                }
                Err(error) => {
                    warn!(schedule.id = %id, "cannot look at schedule {id}, trying again in {RETRY:?}: {}", chain(&error));
                    self.wakes.insert(id, plan_after(Timestamp::now(), RETRY));
                }
            }
        }
    }
}

async fn all(context: &Context) -> store::Result<Vec<ScheduleId>> {
    let mut tx = context.store.read().await?;
    store::schedule::ids(&mut tx).await
}

/// Returns when to look again. None: it is gone, or suspended.
async fn look_at(
    context: &Arc<Context>,
    id: ScheduleId,
    now: Timestamp,
) -> Result<Option<Timestamp>, OperationError> {
    let mut tx = context.store.read().await?;
    let Some(row) = store::schedule::get(&mut tx, id).await? else { return Ok(None) };
    let jobs = store::job::of_schedule(&mut tx, id).await?;
    drop(tx);
    let active = jobs.iter().filter(|job| !job.state.is_final()).map(|job| job.id).collect();
    let changes = schedule::plan(now, &view::job::schedule(&row, active)?);
    let Some(decided_until) = changes.decided_until else { return Ok(changes.wake_at) };
    let made = write(context, &row, decided_until, &changes, now).await?;
    context.jobs_changed(made);
    Ok(changes.wake_at)
}

/// Writes the decision and what follows from it in one transaction: either both stand or neither.
async fn write(
    context: &Arc<Context>,
    row: &Schedule,
    decided_until: Timestamp,
    changes: &ScheduleChanges,
    now: Timestamp,
) -> Result<Vec<JobId>, OperationError> {
    let mut tx = context.write_as_leader().await?;
    let (mut touched, mut last) = (Vec::new(), None);
    let mut was_passed = row.last.as_ref().is_some_and(|last| last.job.is_none());
    for change in &changes.changes {
        let firing = match change {
            ScheduleChange::Cancel { job } => {
                let reason = Some("the next job of its schedule takes its place".to_owned());
                store::job::end(&mut tx, *job, &Ending { state: JobState::Cancelled, reason }).await?;
                touched.push(*job);
                continue;
            }
            ScheduleChange::Pass { planned_at, reason } => {
                Firing { planned_at: *planned_at, job: None, reason: Some(reason.clone()) }
            }
            ScheduleChange::Fire { planned_at } => try_fire(&mut tx, context, row, *planned_at, now).await?,
        };
        touched.extend(firing.job);
        // One that is passed over again and again says so once.
        if let (Some(reason), false) = (&firing.reason, was_passed) {
            let (name, planned_at) = (&row.name, firing.planned_at);
            let message = format!("the schedule {name} made no job for {planned_at}: {reason}");
            store::event::append(&mut tx, &row.namespace, None, "schedule.passed", &message, now).await?;
        }
        was_passed = firing.job.is_none();
        last = Some(firing);
    }
    if !store::schedule::decide(&mut tx, row, decided_until, last.as_ref()).await? {
        // Its settings were changed meanwhile, after which it is looked at again.
        return Ok(Vec::new());
    }
    tx.commit().await?;
    Ok(touched)
}

/// A job that is refused, such as because its artifact is gone, is a time without a job. The schedule goes on.
async fn try_fire(
    conn: &mut Conn,
    context: &Context,
    row: &Schedule,
    planned_at: Timestamp,
    now: Timestamp,
) -> Result<Firing, OperationError> {
    match fire(conn, context, row, planned_at, now).await {
        Ok(job) => Ok(Firing { planned_at, job: Some(job), reason: None }),
        Err(OperationError::Problem(problem)) => {
            Ok(Firing { planned_at, job: None, reason: Some(problem.detail) })
        }
        Err(error) => Err(error),
    }
}
