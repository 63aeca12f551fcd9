//! Table `job_run`: tries at the completions of jobs. Observed state only grows, and a run that was told to stop stays so.

use std::collections::HashMap;

use wharf_types::node::{InstanceReport, Reason};
use wharf_types::state::InstanceState;
use wharf_types::{InstanceId, JobId, NodeId, Timestamp};

use super::codec::{
    FINAL, from_json, json, number, parse, state_from_db, state_to_db, stop_from_db, stop_to_db, time,
    time_opt,
};
use super::query::{query, query_as};
use super::{Conn, Result};
use crate::plan::job::{RunView, StopCause};

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    job: String,
    completion: i64,
    attempt: i64,
    node: String,
    state: i64,
    stop: Option<i64>,
    exit_code: Option<i64>,
    reason: Option<String>,
    created_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
}

impl TryFrom<Row> for RunView {
    type Error = super::StoreError;
    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: parse(&row.id)?,
            index: number(row.completion)?,
            attempt: number(row.attempt)?,
            node: parse(&row.node)?,
            state: state_from_db(row.state)?,
            stop: row.stop.map(stop_from_db).transpose()?,
            exit_code: row.exit_code.map(number).transpose()?,
            reason: row.reason.as_deref().map(from_json).transpose()?,
            created_at: time(row.created_at)?,
            started_at: time_opt(row.started_at)?,
            ended_at: time_opt(row.ended_at)?,
        })
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, job, completion, attempt, node, state, stop, exit_code, reason, created_at, started_at, ended_at
             FROM job_run ",
            $rest
        )
    };
}

pub(crate) struct NewRun {
    pub(crate) id: InstanceId,
    pub(crate) job: JobId,
    pub(crate) index: u32,
    pub(crate) attempt: u32,
    pub(crate) node: NodeId,
}

pub(crate) async fn create(conn: &mut Conn, new: &NewRun, now: Timestamp) -> Result<()> {
    query(
        "INSERT INTO job_run (id, job, completion, attempt, node, state, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(new.id.to_string())
    .bind(new.job.to_string())
    .bind(i64::from(new.index))
    .bind(i64::from(new.attempt))
    .bind(new.node.to_string())
    .bind(state_to_db(InstanceState::Assigned))
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(())
}

/// A run and its job.
pub(crate) async fn get(conn: &mut Conn, id: InstanceId) -> Result<Option<(JobId, RunView)>> {
    let row: Option<Row> =
        query_as(select!("WHERE id = $1")).bind(id.to_string()).fetch_optional(conn).await?;
    row.map(|row| Ok((parse(&row.job)?, row.try_into()?))).transpose()
}

/// In the order of completions and attempts. A job has no more than its settings allow.
pub(crate) async fn of_job(conn: &mut Conn, job: JobId) -> Result<Vec<RunView>> {
    let rows: Vec<Row> = query_as(select!("WHERE job = $1 ORDER BY completion, attempt"))
        .bind(job.to_string())
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(RunView::try_from).collect()
}

/// Merges a worker's report. Returns `false` when it says nothing new, or when the run has ended.
pub(crate) async fn observe(conn: &mut Conn, report: &InstanceReport, now: Timestamp) -> Result<bool> {
    let has_started = report.state == InstanceState::Running || report.exit_code.is_some();
    let done = query(
        "UPDATE job_run SET state = CASE WHEN state < $2 THEN $2 ELSE state END, reason = $3,
             exit_code = COALESCE($4, exit_code), started_at = COALESCE(started_at, $5), ended_at = $6
         WHERE id = $1 AND state < $7 AND (state < $2 OR COALESCE(reason, '') <> COALESCE($3, ''))",
    )
    .bind(report.id.to_string())
    .bind(state_to_db(report.state))
    .bind(report.reason.as_ref().map(json))
    .bind(report.exit_code.map(i64::from))
    .bind(has_started.then(|| now.as_microsecond()))
    .bind(report.state.is_final().then(|| now.as_microsecond()))
    .bind(FINAL)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Tells a run to stop. Returns `false` when it was told before, or has ended.
pub(crate) async fn stop(conn: &mut Conn, id: InstanceId, cause: StopCause) -> Result<bool> {
    let done = query("UPDATE job_run SET stop = $2 WHERE id = $1 AND stop IS NULL AND state < $3")
        .bind(id.to_string())
        .bind(stop_to_db(cause))
        .bind(FINAL)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// The control plane's own verdict on a run whose node is lost. Returns `false` when it has ended.
pub(crate) async fn lose(conn: &mut Conn, id: InstanceId, reason: &Reason, now: Timestamp) -> Result<bool> {
    let done =
        query("UPDATE job_run SET state = $2, reason = $3, ended_at = $4 WHERE id = $1 AND state < $5")
            .bind(id.to_string())
            .bind(state_to_db(InstanceState::Lost))
            .bind(json(reason))
            .bind(now.as_microsecond())
            .bind(FINAL)
            .execute(conn)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// How many runs live on each node.
pub(crate) async fn live_by_node(conn: &mut Conn) -> Result<HashMap<NodeId, u64>> {
    let rows: Vec<(String, i64)> =
        query_as("SELECT node, count(*) FROM job_run WHERE state < $1 GROUP BY node")
            .bind(FINAL)
            .fetch_all(conn)
            .await?;
    rows.into_iter().map(|(node, count)| Ok((parse(&node)?, number(count)?))).collect()
}
