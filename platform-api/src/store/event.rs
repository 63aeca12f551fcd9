//! Table `event`: append-only facts for users.

use wharf_types::event::Event;
use wharf_types::{AppName, NamespaceName, Timestamp};

use super::codec::{parse, parse_opt, time};
use super::{Conn, Result, change};

/// Events that are kept in all.
const KEPT: i64 = 100_000;

#[derive(sqlx::FromRow)]
struct Row {
    seq: i64,
    time: i64,
    namespace: String,
    app: Option<String>,
    kind: String,
    message: String,
}

impl TryFrom<Row> for Event {
    type Error = super::StoreError;
    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            seq: row.seq,
            time: time(row.time)?,
            namespace: parse(&row.namespace)?,
            app: parse_opt(row.app.as_deref())?,
            kind: row.kind,
            message: row.message,
        })
    }
}

pub(crate) async fn append(
    conn: &mut Conn,
    namespace: &NamespaceName,
    app: Option<&AppName>,
    kind: &str,
    message: &str,
    now: Timestamp,
) -> Result<i64> {
    let seq = change::count(conn, "event").await?;
    sqlx::query(
        "INSERT INTO event (seq, time, namespace, app, kind, message) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(seq)
    .bind(now.as_microsecond())
    .bind(namespace.as_str())
    .bind(app.map(AppName::as_str))
    .bind(kind)
    .bind(message)
    .execute(&mut *conn)
    .await?;
    sqlx::query("DELETE FROM event WHERE seq <= $1").bind(seq - KEPT).execute(conn).await?;
    Ok(seq)
}

/// Forgets what happened in a namespace, before another one can have its name.
pub(crate) async fn delete(conn: &mut Conn, namespace: &NamespaceName) -> Result<()> {
    sqlx::query("DELETE FROM event WHERE namespace = $1").bind(namespace.as_str()).execute(conn).await?;
    Ok(())
}

/// What changed the settings of apps of a namespace at or after a time, newest first.
pub(crate) async fn changes_since(
    conn: &mut Conn,
    namespace: &NamespaceName,
    since: Timestamp,
    limit: i64,
) -> Result<Vec<Event>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT seq, time, namespace, app, kind, message FROM event
         WHERE namespace = $1 AND time >= $2
             AND kind IN ('release.created', 'rollback.started', 'rollout.failed', 'app.scaled', 'app.deleting', 'app.deleted')
         ORDER BY seq DESC LIMIT $3",
    )
    .bind(namespace.as_str())
    .bind(since.as_microsecond())
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Event::try_from).collect()
}

/// Events after `after`, oldest first. Without an app: those of the whole namespace.
pub(crate) async fn list(
    conn: &mut Conn,
    namespace: &NamespaceName,
    app: Option<&AppName>,
    after: i64,
    limit: i64,
) -> Result<Vec<Event>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT seq, time, namespace, app, kind, message FROM event
         WHERE namespace = $1 AND ($2 IS NULL OR app = $2) AND seq > $3 ORDER BY seq LIMIT $4",
    )
    .bind(namespace.as_str())
    .bind(app.map(AppName::as_str))
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Event::try_from).collect()
}
