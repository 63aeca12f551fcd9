//! Table `release`: rows are written once; only `served` changes.

use std::sync::Arc;

use wharf_types::spec::AppSpec;
use wharf_types::{AppId, Digest, ReleaseId, Timestamp};

use super::app::EnvOverrides;
use super::codec::{from_json, json, number, parse, time};
use super::{Conn, Result};

/// Releases of an app that are kept, beside the current and the stable one.
pub(crate) const KEPT: u64 = 20;

#[derive(Clone, Debug)]
pub(crate) struct Release {
    pub(crate) id: ReleaseId,
    pub(crate) app: AppId,
    pub(crate) number: u64,
    pub(crate) artifact: Digest,
    pub(crate) spec: Arc<AppSpec>,
    /// Of the variables that `env` had set or taken away, what the manifest says.
    pub(crate) own_env: EnvOverrides,
    pub(crate) cause: String,
    pub(crate) created_by: String,
    pub(crate) served: bool,
    pub(crate) created_at: Timestamp,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    app: String,
    number: i64,
    artifact: String,
    spec: String,
    own_env: String,
    cause: String,
    created_by: String,
    served: bool,
    created_at: i64,
}

impl TryFrom<Row> for Release {
    type Error = super::StoreError;
    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: parse(&row.id)?,
            app: parse(&row.app)?,
            number: number(row.number)?,
            artifact: parse(&row.artifact)?,
            spec: Arc::new(from_json(&row.spec)?),
            own_env: from_json(&row.own_env)?,
            cause: row.cause,
            created_by: row.created_by,
            served: row.served,
            created_at: time(row.created_at)?,
        })
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, app, number, artifact, spec, own_env, cause, created_by, served, created_at FROM release ",
            $rest
        )
    };
}

pub(crate) async fn create(conn: &mut Conn, release: &Release) -> Result<()> {
    sqlx::query(
        "INSERT INTO release (id, app, number, artifact, spec, own_env, cause, created_by, served, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(release.id.to_string())
    .bind(release.app.to_string())
    .bind(i64::try_from(release.number).unwrap_or(i64::MAX))
    .bind(release.artifact.to_string())
    .bind(json(&*release.spec))
    .bind(json(&release.own_env))
    .bind(&release.cause)
    .bind(&release.created_by)
    .bind(release.served)
    .bind(release.created_at.as_microsecond())
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn get(conn: &mut Conn, id: ReleaseId) -> Result<Option<Release>> {
    let row: Option<Row> =
        sqlx::query_as(select!("WHERE id = $1")).bind(id.to_string()).fetch_optional(conn).await?;
    row.map(Release::try_from).transpose()
}

pub(crate) async fn find(conn: &mut Conn, app: AppId, number: u64) -> Result<Option<Release>> {
    let row: Option<Row> = sqlx::query_as(select!("WHERE app = $1 AND number = $2"))
        .bind(app.to_string())
        .bind(i64::try_from(number).unwrap_or(i64::MAX))
        .fetch_optional(conn)
        .await?;
    row.map(Release::try_from).transpose()
}

/// The app's releases below `before`, newest first.
pub(crate) async fn list(conn: &mut Conn, app: AppId, before: u64, limit: i64) -> Result<Vec<Release>> {
    let rows: Vec<Row> =
        sqlx::query_as(select!("WHERE app = $1 AND number < $2 ORDER BY number DESC LIMIT $3"))
            .bind(app.to_string())
            .bind(i64::try_from(before).unwrap_or(i64::MAX))
            .bind(limit)
            .fetch_all(conn)
            .await?;
    rows.into_iter().map(Release::try_from).collect()
}

/// The newest release below `before` that a user may come back to.
pub(crate) async fn find_served_before(conn: &mut Conn, app: AppId, before: u64) -> Result<Option<Release>> {
    let row: Option<Row> = sqlx::query_as(select!(
        "WHERE app = $1 AND number < $2 AND served = $3 ORDER BY number DESC LIMIT 1"
    ))
    .bind(app.to_string())
    .bind(i64::try_from(before).unwrap_or(i64::MAX))
    .bind(true)
    .fetch_optional(conn)
    .await?;
    row.map(Release::try_from).transpose()
}

/// The smallest and the largest number that is kept.
pub(crate) async fn range(conn: &mut Conn, app: AppId) -> Result<Option<(u64, u64)>> {
    let (first, last): (Option<i64>, Option<i64>) =
        sqlx::query_as("SELECT min(number), max(number) FROM release WHERE app = $1")
            .bind(app.to_string())
            .fetch_one(conn)
            .await?;
    first.zip(last).map(|(first, last)| Ok((number(first)?, number(last)?))).transpose()
}

pub(crate) async fn set_served(conn: &mut Conn, id: ReleaseId, served: bool) -> Result<()> {
    sqlx::query("UPDATE release SET served = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(served)
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets releases that are too old to come back: all but the newest [`KEPT`], those that the app is on, and those
/// that an instance still runs. Returns how many.
pub(crate) async fn prune(conn: &mut Conn, app: AppId) -> Result<u64> {
    let done = sqlx::query(
        "DELETE FROM release WHERE app = $1
             AND number <= (SELECT last_release FROM app WHERE app.id = $1) - $2
             AND NOT EXISTS (SELECT 1 FROM app WHERE app.id = $1
                 AND (app.target_release = release.id OR app.stable_release = release.id))
             AND NOT EXISTS (SELECT 1 FROM instance WHERE instance.release = release.id AND instance.state < $3)
             AND NOT EXISTS (SELECT 1 FROM rollout WHERE rollout.state < $3
                 AND (rollout.from_release = release.id OR rollout.to_release = release.id))",
    )
    .bind(app.to_string())
    .bind(i64::try_from(KEPT).unwrap_or(i64::MAX))
    .bind(super::codec::FINAL)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}
