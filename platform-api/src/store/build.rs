//! Table `build`: what was pushed, and what has become of it.

use uuid::Uuid;
use wharf_types::api::{BuildInfo, BuildState};
use wharf_types::{AppName, BuildId, NamespaceName, Timestamp};

use super::codec::{build_from_db, build_to_db, number, parse, time, time_opt};
use super::query::{query, query_as};
use super::{Conn, Result};

/// A build that begins.
pub(crate) struct NewBuild<'a> {
    pub(crate) id: BuildId,
    pub(crate) repository: Uuid,
    pub(crate) app: &'a AppName,
    pub(crate) branch: &'a str,
    pub(crate) commit: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) by: &'a str,
}

/// A build that has not ended.
#[derive(Clone, Debug)]
pub(crate) struct Unfinished {
    pub(crate) repository: Uuid,
    pub(crate) info: BuildInfo,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    repository: String,
    namespace: String,
    app_name: String,
    branch: String,
    commit_id: String,
    subject: String,
    state: i64,
    problem: Option<String>,
    release: Option<i64>,
    created_by: String,
    created_at: i64,
    ended_at: Option<i64>,
}

impl TryFrom<Row> for BuildInfo {
    type Error = super::StoreError;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: parse(&row.id)?,
            namespace: parse(&row.namespace)?,
            app: parse(&row.app_name)?,
            state: build_from_db(row.state)?,
            branch: row.branch,
            commit: row.commit_id,
            subject: row.subject,
            created_by: row.created_by,
            created_at: time(row.created_at)?,
            ended_at: time_opt(row.ended_at)?,
            release: row.release.map(number).transpose()?,
            problem: row.problem,
        })
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT build.id, build.repository, namespace.name AS namespace, build.app_name, build.branch, build.commit_id,
             build.subject, build.state, build.problem, build.release, build.created_by, build.created_at, build.ended_at
             FROM build JOIN repository ON repository.id = build.repository
             JOIN namespace ON namespace.id = repository.namespace ",
            $rest
        )
    };
}

pub(crate) async fn create(
    conn: &mut Conn,
    new: &NewBuild<'_>,
    state: BuildState,
    now: Timestamp,
) -> Result<()> {
    query(
        "INSERT INTO build (id, repository, app_name, branch, commit_id, subject, state, created_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(new.id.to_string())
    .bind(new.repository.to_string())
    .bind(new.app.as_str())
    .bind(new.branch)
    .bind(new.commit)
    .bind(new.subject)
    .bind(build_to_db(state))
    .bind(new.by)
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(())
}

/// Moves a build that has not ended. `false`: it has.
pub(crate) async fn advance(
    conn: &mut Conn,
    id: BuildId,
    state: BuildState,
    release: Option<u64>,
) -> Result<bool> {
    let done = query(
        "UPDATE build SET state = $2, release = COALESCE($3, release) WHERE id = $1 AND ended_at IS NULL",
    )
    .bind(id.to_string())
    .bind(build_to_db(state))
    .bind(release.map(|release| i64::try_from(release).unwrap_or(i64::MAX)))
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// `false`: it had ended already.
pub(crate) async fn end(
    conn: &mut Conn,
    id: BuildId,
    state: BuildState,
    problem: Option<&str>,
    now: Timestamp,
) -> Result<bool> {
    let done =
        query("UPDATE build SET state = $2, problem = $3, ended_at = $4 WHERE id = $1 AND ended_at IS NULL")
            .bind(id.to_string())
            .bind(build_to_db(state))
            .bind(problem)
            .bind(now.as_microsecond())
            .execute(conn)
            .await?;
    Ok(done.rows_affected() == 1)
}

pub(crate) async fn get(
    conn: &mut Conn,
    namespace: &NamespaceName,
    id: BuildId,
) -> Result<Option<BuildInfo>> {
    let row: Option<Row> = query_as(select!("WHERE namespace.name = $1 AND build.id = $2"))
        .bind(namespace.as_str())
        .bind(id.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(BuildInfo::try_from).transpose()
}

/// The newest first, from before a build on.
pub(crate) async fn list(
    conn: &mut Conn,
    namespace: &NamespaceName,
    app: Option<&AppName>,
    before: Option<BuildId>,
    most: i64,
) -> Result<Vec<BuildInfo>> {
    let rows: Vec<Row> = query_as(select!(
        "WHERE namespace.name = $1 AND ($2 = '' OR build.app_name = $2) AND ($3 = '' OR build.id < $3)
         ORDER BY build.id DESC LIMIT $4"
    ))
    .bind(namespace.as_str())
    .bind(app.map_or("", AppName::as_str))
    .bind(before.map(|id| id.to_string()).unwrap_or_default())
    .bind(most)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(BuildInfo::try_from).collect()
}

/// Whether the last build of an app that has succeeded was of a stack, whose services have releases of their own. None: there is no such build.
pub(crate) async fn was_stack(conn: &mut Conn, repository: Uuid, app: &AppName) -> Result<Option<bool>> {
    let row: Option<(Option<i64>,)> = query_as(
        "SELECT release FROM build WHERE repository = $1 AND app_name = $2 AND state = $3 ORDER BY id DESC LIMIT 1",
    )
    .bind(repository.to_string())
    .bind(app.as_str())
    .bind(build_to_db(BuildState::Succeeded))
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|(release,)| release.is_none()))
}

/// Those that were under way when a process ended.
pub(crate) async fn unfinished(conn: &mut Conn) -> Result<Vec<Unfinished>> {
    let rows: Vec<Row> =
        query_as(select!("WHERE build.ended_at IS NULL ORDER BY build.id")).fetch_all(conn).await?;
    let unfinished =
        |row: Row| Ok(Unfinished { repository: parse(&row.repository)?, info: BuildInfo::try_from(row)? });
    rows.into_iter().map(unfinished).collect()
}

/// Forgets what ended long ago, and what a repository has too many of; returns which.
pub(crate) async fn prune(conn: &mut Conn, before: Timestamp, kept: i64) -> Result<Vec<BuildId>> {
    let rows: Vec<(String,)> = query_as(
        "DELETE FROM build WHERE ended_at < $1 OR (ended_at IS NOT NULL AND
             (SELECT count(*) FROM build AS newer WHERE newer.repository = build.repository AND newer.id > build.id) >= $2)
         RETURNING id",
    )
    .bind(before.as_microsecond())
    .bind(kept)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|(id,)| parse(&id)).collect()
}
