//! Tables `job` and `job_secret`: runs to completion, and the versions of secrets that they were made with.

use std::collections::BTreeMap;
use std::sync::Arc;

use wharf_types::job::{JobSpec, JobState};
use wharf_types::{
    AppName, Digest, JobId, JobName, NamespaceId, NamespaceName, ScheduleId, ScheduleName, SecretVersionId,
    Timestamp,
};

use super::codec::{
    FINAL, from_json, job_state_from_db, job_state_to_db, json, number, parse, parse_opt, time, time_opt,
};
use super::query::{query, query_as};
use super::{Conn, News, Result};
use crate::plan::job::Ending;
use crate::quota::Demand;

#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    pub(crate) namespace: NamespaceName,
    pub(crate) name: JobName,
    pub(crate) artifact: Digest,
    pub(crate) app: Option<AppName>,
    pub(crate) release: u64,
    pub(crate) spec: Arc<JobSpec>,
    /// Of each variable of a secret, the version.
    pub(crate) secrets: Arc<BTreeMap<String, SecretVersionId>>,
    pub(crate) state: JobState,
    pub(crate) ending: Option<JobState>,
    pub(crate) reason: Option<String>,
    pub(crate) request_hash: Option<String>,
    /// None: it was made by hand, or its schedule is gone.
    pub(crate) schedule: Option<ScheduleId>,
    pub(crate) schedule_name: Option<ScheduleName>,
    pub(crate) planned_at: Option<Timestamp>,
    pub(crate) revision: i64,
    pub(crate) created_by: String,
    pub(crate) created_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) expires_at: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    namespace_name: String,
    name: String,
    artifact: String,
    app: Option<String>,
    release: i64,
    spec: String,
    secrets: String,
    state: i64,
    ending: Option<i64>,
    reason: Option<String>,
    request_hash: Option<String>,
    schedule: Option<String>,
    schedule_name: Option<String>,
    planned_at: Option<i64>,
    revision: i64,
    created_by: String,
    created_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
    expires_at: Option<i64>,
}

impl TryFrom<Row> for Job {
    type Error = super::StoreError;
    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: parse(&row.id)?,
            namespace: parse(&row.namespace_name)?,
            name: parse(&row.name)?,
            artifact: parse(&row.artifact)?,
            app: parse_opt(row.app.as_deref())?,
            release: number(row.release)?,
            spec: Arc::new(from_json(&row.spec)?),
            secrets: Arc::new(from_json(&row.secrets)?),
            state: job_state_from_db(row.state)?,
            ending: row.ending.map(job_state_from_db).transpose()?,
            reason: row.reason,
            request_hash: row.request_hash,
            schedule: parse_opt(row.schedule.as_deref())?,
            schedule_name: parse_opt(row.schedule_name.as_deref())?,
            planned_at: time_opt(row.planned_at)?,
            revision: row.revision,
            created_by: row.created_by,
            created_at: time(row.created_at)?,
            started_at: time_opt(row.started_at)?,
            ended_at: time_opt(row.ended_at)?,
            expires_at: time_opt(row.expires_at)?,
        })
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT job.id, namespace.name AS namespace_name, job.name, artifact, app, release, spec, secrets, state, ending,
             reason, request_hash, schedule, schedule_name, planned_at, revision, created_by, job.created_at, started_at,
             ended_at, expires_at FROM job JOIN namespace ON namespace.id = job.namespace ",
            $rest
        )
    };
}

pub(crate) struct NewJob<'a> {
    pub(crate) id: JobId,
    pub(crate) namespace: NamespaceId,
    pub(crate) name: &'a JobName,
    pub(crate) artifact: Digest,
    pub(crate) app: Option<&'a AppName>,
    pub(crate) release: u64,
    pub(crate) spec: &'a JobSpec,
    pub(crate) secrets: &'a BTreeMap<String, SecretVersionId>,
    /// With the hash of the request.
    pub(crate) token: Option<(&'a str, &'a str)>,
    /// With the planned time.
    pub(crate) schedule: Option<(ScheduleId, &'a ScheduleName, Option<Timestamp>)>,
    pub(crate) created_by: &'a str,
    pub(crate) demand: Demand,
}

pub(crate) async fn create(conn: &mut Conn, new: &NewJob<'_>, now: Timestamp) -> Result<()> {
    conn.note(News::Job(new.id));
    let planned_at = new.schedule.and_then(|(_, _, planned_at)| planned_at);
    query(
        "INSERT INTO job (id, namespace, name, artifact, archive, app, release, spec, secrets, state, token, request_hash,
             schedule, schedule_name, planned_at, revision, created_by, created_at, instances, memory_bytes, cpu_millis)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 1, $16, $17, $18, $19, $20)",
    )
    .bind(new.id.to_string())
    .bind(new.namespace.to_string())
    .bind(new.name.as_str())
    .bind(new.artifact.to_string())
    .bind(new.spec.files.as_ref().map(|files| files.digest.to_string()))
    .bind(new.app.map(AppName::as_str))
    .bind(i64::try_from(new.release).unwrap_or(i64::MAX))
    .bind(json(new.spec))
    .bind(json(new.secrets))
    .bind(job_state_to_db(JobState::Pending))
    .bind(new.token.map(|(token, _)| token))
    .bind(new.token.map(|(_, hash)| hash))
    .bind(new.schedule.map(|(id, _, _)| id.to_string()))
    .bind(new.schedule.map(|(_, name, _)| name.as_str()))
    .bind(planned_at.map(Timestamp::as_microsecond))
    .bind(new.created_by)
    .bind(now.as_microsecond())
    .bind(i64::from(new.demand.replicas))
    .bind(i64::try_from(new.demand.memory_bytes).unwrap_or(i64::MAX))
    .bind(i64::from(new.demand.cpu_millis))
    .execute(&mut *conn)
    .await?;
    let versions: std::collections::BTreeSet<&SecretVersionId> = new.secrets.values().collect();
    for version in versions {
        query("INSERT INTO job_secret (job, secret_version) VALUES ($1, $2)")
            .bind(new.id.to_string())
            .bind(version.to_string())
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}

pub(crate) async fn get(conn: &mut Conn, id: JobId) -> Result<Option<Job>> {
    let row: Option<Row> =
        query_as(select!("WHERE job.id = $1")).bind(id.to_string()).fetch_optional(conn).await?;
    row.map(Job::try_from).transpose()
}

/// The newest job of a namespace that has this name or this id.
pub(crate) async fn find(conn: &mut Conn, namespace: &NamespaceName, text: &str) -> Result<Option<Job>> {
    let row: Option<Row> = query_as(select!(
        "WHERE namespace.name = $1 AND (job.id = $2 OR job.name = $2) ORDER BY job.id DESC LIMIT 1"
    ))
    .bind(namespace.as_str())
    .bind(text)
    .fetch_optional(conn)
    .await?;
    row.map(Job::try_from).transpose()
}

pub(crate) async fn find_by_token(
    conn: &mut Conn,
    namespace: NamespaceId,
    token: &str,
) -> Result<Option<Job>> {
    let row: Option<Row> = query_as(select!("WHERE job.namespace = $1 AND token = $2"))
        .bind(namespace.to_string())
        .bind(token)
        .fetch_optional(conn)
        .await?;
    row.map(Job::try_from).transpose()
}

/// The jobs of a namespace before one in a list, newest first.
pub(crate) async fn list(
    conn: &mut Conn,
    namespace: &NamespaceName,
    before: Option<JobId>,
    limit: i64,
) -> Result<Vec<Job>> {
    let rows: Vec<Row> =
        query_as(select!("WHERE namespace.name = $1 AND job.id < $2 ORDER BY job.id DESC LIMIT $3"))
            .bind(namespace.as_str())
            .bind(before.map_or_else(|| "~".to_owned(), |id| id.to_string()))
            .bind(limit)
            .fetch_all(conn)
            .await?;
    rows.into_iter().map(Job::try_from).collect()
}

/// The jobs of this name, newest first. More of one name are looked at when these have gone.
pub(crate) async fn named(conn: &mut Conn, namespace: &NamespaceName, name: &JobName) -> Result<Vec<Job>> {
    let rows: Vec<Row> =
        query_as(select!("WHERE namespace.name = $1 AND job.name = $2 ORDER BY job.id DESC LIMIT 100"))
            .bind(namespace.as_str())
            .bind(name.as_str())
            .fetch_all(conn)
            .await?;
    rows.into_iter().map(Job::try_from).collect()
}

/// The jobs of a schedule, newest first. With its bounds on what is kept there are not many.
pub(crate) async fn of_schedule(conn: &mut Conn, schedule: ScheduleId) -> Result<Vec<Job>> {
    let rows: Vec<Row> = query_as(select!("WHERE schedule = $1 ORDER BY job.id DESC LIMIT 1000"))
        .bind(schedule.to_string())
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(Job::try_from).collect()
}

/// Those that have not ended, or are to be forgotten.
pub(crate) async fn due(conn: &mut Conn, now: Timestamp) -> Result<Vec<JobId>> {
    let rows: Vec<(String,)> =
        query_as("SELECT id FROM job WHERE state < $1 OR expires_at <= $2 ORDER BY id")
            .bind(FINAL)
            .bind(now.as_microsecond())
            .fetch_all(conn)
            .await?;
    rows.into_iter().map(|(id,)| parse(&id)).collect()
}

/// How many jobs a namespace has, and how many of them have not ended.
pub(crate) async fn count(conn: &mut Conn, namespace: NamespaceId) -> Result<(u64, u64)> {
    let (all, live): (i64, i64) = query_as(
        "SELECT count(*), COALESCE(sum(CASE WHEN state < $2 THEN 1 ELSE 0 END), 0) FROM job WHERE namespace = $1",
    )
    .bind(namespace.to_string())
    .bind(FINAL)
    .fetch_one(conn)
    .await?;
    Ok((number(all)?, number(live)?))
}

/// Jobs of all namespaces by state.
pub(crate) async fn by_state(conn: &mut Conn) -> Result<Vec<(NamespaceName, JobState, u64)>> {
    let rows: Vec<(String, i64, i64)> = query_as(
        "SELECT namespace.name, state, count(*) FROM job JOIN namespace ON namespace.id = job.namespace
         GROUP BY namespace.name, state ORDER BY namespace.name, state",
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|(namespace, state, count)| Ok((parse(&namespace)?, job_state_from_db(state)?, number(count)?)))
        .collect()
}

/// Records that the job or a run of it changed.
pub(crate) async fn touch(conn: &mut Conn, id: JobId) -> Result<()> {
    conn.note(News::Job(id));
    query("UPDATE job SET revision = revision + 1 WHERE id = $1").bind(id.to_string()).execute(conn).await?;
    Ok(())
}

/// The same, but only if nobody did since `seen`. After `false` there is nothing to commit.
pub(crate) async fn touch_if(conn: &mut Conn, id: JobId, seen: i64) -> Result<bool> {
    conn.note(News::Job(id));
    let done = query("UPDATE job SET revision = revision + 1 WHERE id = $1 AND revision = $2")
        .bind(id.to_string())
        .bind(seen)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Says how the job is to end. Returns `false` when that was said before, or it has ended.
pub(crate) async fn end(conn: &mut Conn, id: JobId, ending: &Ending) -> Result<bool> {
    conn.note(News::Job(id));
    let done = query(
        "UPDATE job SET ending = $2, reason = $3, revision = revision + 1
         WHERE id = $1 AND ending IS NULL AND state < $4",
    )
    .bind(id.to_string())
    .bind(job_state_to_db(ending.state))
    .bind(&ending.reason)
    .bind(FINAL)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Takes the job to a later state. Returns `false` when it is there, or further.
pub(crate) async fn advance(
    conn: &mut Conn,
    id: JobId,
    state: JobState,
    expires_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<bool> {
    conn.note(News::Job(id));
    let done = query(
        "UPDATE job SET state = $2, started_at = COALESCE(started_at, $3), ended_at = $4, expires_at = $5,
             reason = CASE WHEN $2 = $6 THEN NULL ELSE reason END
         WHERE id = $1 AND state < $2 AND state < $7",
    )
    .bind(id.to_string())
    .bind(job_state_to_db(state))
    .bind((state == JobState::Running).then(|| now.as_microsecond()))
    .bind(state.is_final().then(|| now.as_microsecond()))
    .bind(expires_at.map(Timestamp::as_microsecond))
    .bind(job_state_to_db(JobState::Succeeded))
    .bind(FINAL)
    .execute(&mut *conn)
    .await?;
    if state.is_final() {
        query("DELETE FROM job_secret WHERE job = $1").bind(id.to_string()).execute(conn).await?;
    }
    Ok(done.rows_affected() == 1)
}

/// Forgets a job and its runs. Returns `false` when it is not there, or has not ended.
pub(crate) async fn delete(conn: &mut Conn, id: JobId) -> Result<bool> {
    conn.note(News::Job(id));
    let done = query("DELETE FROM job WHERE id = $1 AND state >= $2")
        .bind(id.to_string())
        .bind(FINAL)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// The ended jobs of a schedule that are too many: older than the newest so many that succeeded, or did not.
pub(crate) async fn surplus(
    conn: &mut Conn,
    schedule: ScheduleId,
    succeeded: u32,
    others: u32,
) -> Result<Vec<JobId>> {
    let mut surplus = Vec::new();
    let success = job_state_to_db(JobState::Succeeded);
    for (from, to, kept) in [(success, success, succeeded), (success + 1, i64::MAX, others)] {
        let rows: Vec<(String,)> = query_as(
            "SELECT id FROM job WHERE schedule = $1 AND state >= $2 AND state <= $3 ORDER BY id DESC LIMIT 1000 OFFSET $4",
        )
        .bind(schedule.to_string())
        .bind(from)
        .bind(to)
        .bind(i64::from(kept))
        .fetch_all(&mut *conn)
        .await?;
        for (id,) in rows {
            surplus.push(parse(&id)?);
        }
    }
    Ok(surplus)
}

/// Has the ended jobs of a schedule that goes expire, as those do that were made by hand.
pub(crate) async fn orphan(conn: &mut Conn, schedule: ScheduleId, expires_at: Timestamp) -> Result<()> {
    query("UPDATE job SET expires_at = $2, revision = revision + 1 WHERE schedule = $1 AND state >= $3")
        .bind(schedule.to_string())
        .bind(expires_at.as_microsecond())
        .bind(FINAL)
        .execute(conn)
        .await?;
    Ok(())
}
