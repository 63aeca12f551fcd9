//! Table `schedule`: what starts jobs at planned times, and up to which time that has been decided.

use wharf_types::schedule::{Firing, ScheduleSpec};
use wharf_types::{NamespaceId, NamespaceName, ScheduleId, ScheduleName, Timestamp};

use super::codec::{from_json, json, number, parse, time};
use super::query::{query, query_as};
use super::{Conn, News, Result};

#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) id: ScheduleId,
    pub(crate) namespace_id: NamespaceId,
    pub(crate) namespace: NamespaceName,
    pub(crate) name: ScheduleName,
    pub(crate) spec: ScheduleSpec,
    pub(crate) decided_until: Timestamp,
    pub(crate) last: Option<Firing>,
    /// Of the settings: what is decided does not change it.
    pub(crate) revision: i64,
    pub(crate) created_by: String,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    namespace: String,
    namespace_name: String,
    name: String,
    spec: String,
    decided_until: i64,
    last: Option<String>,
    revision: i64,
    created_by: String,
    created_at: i64,
    updated_at: i64,
}

impl TryFrom<Row> for Schedule {
    type Error = super::StoreError;
    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: parse(&row.id)?,
            namespace_id: parse(&row.namespace)?,
            namespace: parse(&row.namespace_name)?,
            name: parse(&row.name)?,
            spec: from_json(&row.spec)?,
            decided_until: time(row.decided_until)?,
            last: row.last.as_deref().map(from_json).transpose()?,
            revision: row.revision,
            created_by: row.created_by,
            created_at: time(row.created_at)?,
            updated_at: time(row.updated_at)?,
        })
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT schedule.id, schedule.namespace, namespace.name AS namespace_name, schedule.name, spec, decided_until, last,
             revision, created_by, schedule.created_at, updated_at
             FROM schedule JOIN namespace ON namespace.id = schedule.namespace ",
            $rest
        )
    };
}

pub(crate) async fn create(conn: &mut Conn, schedule: &Schedule) -> Result<()> {
    conn.note(News::Schedules);
    query(
        "INSERT INTO schedule (id, namespace, name, spec, artifact, archive, decided_until, revision, created_by, created_at,
             updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
    )
    .bind(schedule.id.to_string())
    .bind(schedule.namespace_id.to_string())
    .bind(schedule.name.as_str())
    .bind(json(&schedule.spec))
    .bind(schedule.spec.job.artifact.map(|artifact| artifact.to_string()))
    .bind(archive(&schedule.spec))
    .bind(schedule.decided_until.as_microsecond())
    .bind(schedule.revision)
    .bind(&schedule.created_by)
    .bind(schedule.created_at.as_microsecond())
    .execute(conn)
    .await?;
    Ok(())
}

fn archive(spec: &ScheduleSpec) -> Option<String> {
    spec.job.spec.files.as_ref().map(|files| files.digest.to_string())
}

/// Gives a schedule other settings, and says from when on they count.
pub(crate) async fn update(
    conn: &mut Conn,
    id: ScheduleId,
    spec: &ScheduleSpec,
    decided_until: Timestamp,
    now: Timestamp,
) -> Result<()> {
    conn.note(News::Schedules);
    query(
        "UPDATE schedule SET spec = $2, artifact = $3, archive = $4, decided_until = $5, updated_at = $6,
             revision = revision + 1 WHERE id = $1",
    )
    .bind(id.to_string())
    .bind(json(spec))
    .bind(spec.job.artifact.map(|artifact| artifact.to_string()))
    .bind(archive(spec))
    .bind(decided_until.as_microsecond())
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(())
}

/// Records that every planned time up to one has been decided on. Returns `false` when somebody else did, or the settings are others:
/// then nothing may be made of the decision.
pub(crate) async fn decide(
    conn: &mut Conn,
    seen: &Schedule,
    decided_until: Timestamp,
    last: Option<&Firing>,
) -> Result<bool> {
    let done = query(
        "UPDATE schedule SET decided_until = $2, last = COALESCE($3, last)
         WHERE id = $1 AND revision = $4 AND decided_until = $5",
    )
    .bind(seen.id.to_string())
    .bind(decided_until.as_microsecond())
    .bind(last.map(json))
    .bind(seen.revision)
    .bind(seen.decided_until.as_microsecond())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(crate) async fn get(conn: &mut Conn, id: ScheduleId) -> Result<Option<Schedule>> {
    let row: Option<Row> =
        query_as(select!("WHERE schedule.id = $1")).bind(id.to_string()).fetch_optional(conn).await?;
    row.map(Schedule::try_from).transpose()
}

pub(crate) async fn find(
    conn: &mut Conn,
    namespace: &NamespaceName,
    name: &ScheduleName,
) -> Result<Option<Schedule>> {
    let row: Option<Row> = query_as(select!("WHERE namespace.name = $1 AND schedule.name = $2"))
        .bind(namespace.as_str())
        .bind(name.as_str())
        .fetch_optional(conn)
        .await?;
    row.map(Schedule::try_from).transpose()
}

/// The schedules of a namespace after a name, in the order of names.
pub(crate) async fn list(
    conn: &mut Conn,
    namespace: &NamespaceName,
    after: &str,
    limit: i64,
) -> Result<Vec<Schedule>> {
    let rows: Vec<Row> =
        query_as(select!("WHERE namespace.name = $1 AND schedule.name > $2 ORDER BY schedule.name LIMIT $3"))
            .bind(namespace.as_str())
            .bind(after)
            .bind(limit)
            .fetch_all(conn)
            .await?;
    rows.into_iter().map(Schedule::try_from).collect()
}

pub(crate) async fn ids(conn: &mut Conn) -> Result<Vec<ScheduleId>> {
    let rows: Vec<(String,)> = query_as("SELECT id FROM schedule").fetch_all(conn).await?;
    rows.into_iter().map(|(id,)| parse(&id)).collect()
}

pub(crate) async fn count(conn: &mut Conn, namespace: NamespaceId) -> Result<u64> {
    let (count,): (i64,) = query_as("SELECT count(*) FROM schedule WHERE namespace = $1")
        .bind(namespace.to_string())
        .fetch_one(conn)
        .await?;
    number(count)
}

pub(crate) async fn delete(conn: &mut Conn, id: ScheduleId) -> Result<()> {
    conn.note(News::Schedules);
    query("DELETE FROM schedule WHERE id = $1").bind(id.to_string()).execute(conn).await?;
    Ok(())
}
