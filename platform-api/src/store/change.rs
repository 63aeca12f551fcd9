//! Counters, and the log of changes: every transaction that changes an app draws a revision here.
//!
//! The row of a counter stays locked until the transaction ends, so revisions become visible in their order.

use wharf_types::{AppId, Timestamp};

use super::{Conn, Result};

/// Changes that stay in the log.
const KEPT: i64 = 10_000;

/// Adds one to a counter and returns it.
pub(crate) async fn count(conn: &mut Conn, counter: &'static str) -> Result<i64> {
    let (value,): (i64,) =
        sqlx::query_as("UPDATE counter SET value = value + 1 WHERE name = $1 RETURNING value")
            .bind(counter)
            .fetch_one(conn)
            .await?;
    Ok(value)
}

/// Records that an app, its instances or its rollout changed.
pub(crate) async fn touch(conn: &mut Conn, app: AppId, now: Timestamp) -> Result<i64> {
    let revision = count(conn, "revision").await?;
    sqlx::query("UPDATE app SET revision = $2, updated_at = $3 WHERE id = $1")
        .bind(app.to_string())
        .bind(revision)
        .bind(now.as_microsecond())
        .execute(&mut *conn)
        .await?;
    record(conn, app, revision).await?;
    Ok(revision)
}

/// Like [`touch`], but only if nobody touched the app since `seen`. After `false` there is nothing to commit.
pub(crate) async fn touch_if(conn: &mut Conn, app: AppId, seen: i64, now: Timestamp) -> Result<bool> {
    // The counter first, as everywhere: transactions that lock the same rows in another order wait for each other in vain.
    let revision = count(conn, "revision").await?;
    let done = sqlx::query("UPDATE app SET revision = $3, updated_at = $4 WHERE id = $1 AND revision = $2")
        .bind(app.to_string())
        .bind(seen)
        .bind(revision)
        .bind(now.as_microsecond())
        .execute(&mut *conn)
        .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    record(conn, app, revision).await?;
    Ok(true)
}

async fn record(conn: &mut Conn, app: AppId, revision: i64) -> Result<()> {
    sqlx::query("INSERT INTO change (revision, app) VALUES ($1, $2)")
        .bind(revision)
        .bind(app.to_string())
        .execute(&mut *conn)
        .await?;
    sqlx::query("DELETE FROM change WHERE revision <= $1").bind(revision - KEPT).execute(conn).await?;
    Ok(())
}
