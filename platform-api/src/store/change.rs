//! Counters: every transaction that changes an app draws a revision here.
//!
//! The row of a counter stays locked until the transaction ends, so revisions become visible in their order.

use wharf_types::{AppId, Timestamp};

use super::codec::number;
use super::query::{parameters, pieces, query, query_as, query_built};
use super::{Conn, News, Result};

/// Adds one to a counter and returns it.
pub(crate) async fn count(conn: &mut Conn, counter: &'static str) -> Result<i64> {
    count_many(conn, counter, 1).await
}

/// Draws so many numbers, one after the other, and returns the last of them.
pub(crate) async fn count_many(conn: &mut Conn, counter: &'static str, many: i64) -> Result<i64> {
    let (value,): (i64,) = query_as("UPDATE counter SET value = value + $2 WHERE name = $1 RETURNING value")
        .bind(counter)
        .bind(many)
        .fetch_one(conn)
        .await?;
    Ok(value)
}

/// Adds one to a counter, for a statement behind it that reads there what it has become.
pub(super) async fn count_later(conn: &mut Conn, counter: &'static str) -> Result<()> {
    query("UPDATE counter SET value = value + 1 WHERE name = $1").bind(counter).later(conn).await?;
    Ok(())
}

/// Adds to a counter without drawing what is left out.
pub(crate) async fn skip(conn: &mut Conn, counter: &'static str, by: i64) -> Result<()> {
    query("UPDATE counter SET value = value + $2 WHERE name = $1")
        .bind(counter)
        .bind(by)
        .execute(conn)
        .await?;
    Ok(())
}

/// How often a control plane has begun to lead on this database: the newest epoch.
pub(crate) async fn starts(conn: &mut Conn) -> Result<u64> {
    let (value,): (i64,) =
        query_as("SELECT value FROM counter WHERE name = 'starts'").fetch_one(conn).await?;
    number(value)
}

/// Like [`touch`], and returns the app's new revision.
pub(crate) async fn touch_to(conn: &mut Conn, app: AppId, now: Timestamp) -> Result<i64> {
    let revision = count(conn, "revision").await?;
    query("UPDATE app SET revision = $2, updated_at = $3 WHERE id = $1")
        .bind(app.to_string())
        .bind(revision)
        .bind(now.as_microsecond())
        .later(&mut *conn)
        .await?;
    conn.note(News::App(app));
    Ok(revision)
}

/// Records that an app, its instances or its rollout changed.
pub(crate) async fn touch(conn: &mut Conn, app: AppId, now: Timestamp) -> Result<()> {
    count_later(conn, "revision").await?;
    query(
        "UPDATE app SET revision = (SELECT value FROM counter WHERE name = 'revision'), updated_at = $2
         WHERE id = $1",
    )
    .bind(app.to_string())
    .bind(now.as_microsecond())
    .later(&mut *conn)
    .await?;
    conn.note(News::App(app));
    Ok(())
}

/// The same of many apps, which get one revision.
pub(crate) async fn touch_all(conn: &mut Conn, apps: &[AppId], now: Timestamp) -> Result<()> {
    if apps.is_empty() {
        return Ok(());
    }
    let revision = count(conn, "revision").await?;
    for piece in pieces(apps) {
        let list = parameters(3, piece.len());
        let statement = format!("UPDATE app SET revision = $1, updated_at = $2 WHERE id IN ({list})");
        let query = query_built(statement).bind(revision).bind(now.as_microsecond());
        piece.iter().fold(query, |query, app| query.bind(app.to_string())).execute(&mut *conn).await?;
    }
    apps.iter().for_each(|app| conn.note(News::App(*app)));
    Ok(())
}

/// Like [`touch`], but only if nobody touched the app since `seen`. After `false` there is nothing to commit.
pub(crate) async fn touch_if(conn: &mut Conn, app: AppId, seen: i64, now: Timestamp) -> Result<bool> {
    // The counter first, as everywhere: transactions that lock the same rows in another order wait for each other in vain.
    let revision = count(conn, "revision").await?;
    let done = query("UPDATE app SET revision = $3, updated_at = $4 WHERE id = $1 AND revision = $2")
        .bind(app.to_string())
        .bind(seen)
        .bind(revision)
        .bind(now.as_microsecond())
        .execute(&mut *conn)
        .await?;
    conn.note(News::App(app));
    Ok(done.rows_affected() > 0)
}
