//! Table `event`: append-only facts for users.

use std::time::Duration;

use wharf_types::event::{Event, NodeEvent};
use wharf_types::{AppName, NamespaceName, NodeId, Timestamp};

use super::codec::{number, parse, parse_opt, time};
use super::query::{query, query_as, query_built, row_pieces, rows};
use super::surplus::{BATCH, level};
use super::{Conn, Result, change};

/// How long events are kept.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// What stands for the namespace where an event is about a node, whose id is then in the place of the app. No namespace can be called so, and what
/// belongs to none is kept as long as everything else.
const OF_NODES: &str = "";

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

impl TryFrom<Row> for NodeEvent {
    type Error = super::StoreError;
    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            seq: row.seq,
            time: time(row.time)?,
            node: parse(row.app.as_deref().unwrap_or_default())?,
            kind: row.kind,
            message: row.message,
        })
    }
}

/// A fact that is yet to be written.
#[derive(Debug)]
pub(crate) struct NewEvent<'a> {
    pub(crate) namespace: &'a NamespaceName,
    pub(crate) app: Option<&'a AppName>,
    pub(crate) kind: &'a str,
    pub(crate) message: String,
}

/// Appends many, in their order.
pub(crate) async fn append_all(conn: &mut Conn, events: &[NewEvent<'_>], now: Timestamp) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let many = i64::try_from(events.len()).unwrap_or(i64::MAX);
    let mut seq = change::count_many(conn, "event", many).await? - many;
    for piece in row_pieces(events) {
        let rows = rows(6, piece.len());
        let statement = format!("INSERT INTO event (seq, time, namespace, app, kind, message) VALUES {rows}");
        let mut query = query_built(statement);
        for event in piece {
            seq += 1;
            query = query
                .bind(seq)
                .bind(now.as_microsecond())
                .bind(event.namespace.as_str())
                .bind(event.app.map(AppName::as_str))
                .bind(event.kind)
                .bind(&event.message);
        }
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

pub(crate) async fn append(
    conn: &mut Conn,
    namespace: &NamespaceName,
    app: Option<&AppName>,
    kind: &str,
    message: &str,
    now: Timestamp,
) -> Result<()> {
    insert(conn, (namespace.as_str(), app.map(AppName::as_str)), kind, message, now).await
}

/// The same of what happened to a node.
pub(crate) async fn append_of_node(
    conn: &mut Conn,
    node: NodeId,
    kind: &str,
    message: &str,
    now: Timestamp,
) -> Result<()> {
    insert(conn, (OF_NODES, Some(node.to_string().as_str())), kind, message, now).await
}

async fn insert(
    conn: &mut Conn,
    (namespace, subject): (&str, Option<&str>),
    kind: &str,
    message: &str,
    now: Timestamp,
) -> Result<()> {
    change::count_later(conn, "event").await?;
    query(
        "INSERT INTO event (seq, time, namespace, app, kind, message)
         VALUES ((SELECT value FROM counter WHERE name = 'event'), $1, $2, $3, $4, $5)",
    )
    .bind(now.as_microsecond())
    .bind(namespace)
    .bind(subject)
    .bind(kind)
    .bind(message)
    .later(conn)
    .await?;
    Ok(())
}

/// Forgets what is too old, at most so much at once. Returns how many.
pub(crate) async fn prune(conn: &mut Conn, now: Timestamp) -> Result<u64> {
    let before = now.checked_sub(KEPT_FOR).unwrap_or(Timestamp::MIN);
    let done = query(
        "DELETE FROM event WHERE seq IN (SELECT seq FROM event WHERE time < $1 ORDER BY time LIMIT $2)",
    )
    .bind(before.as_microsecond())
    .bind(BATCH)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Events of a namespace that are too many: those up to `until`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventsSurplus {
    namespace: String,
    until: i64,
}

/// What is too much where each namespace keeps so many, the nodes together as many, and all together `kept`.
pub(super) async fn surplus(conn: &mut Conn, of_namespace: u64, kept: u64) -> Result<Vec<EventsSurplus>> {
    let counts: Vec<(String, i64)> =
        query_as("SELECT namespace, count(*) FROM event GROUP BY namespace").fetch_all(&mut *conn).await?;
    let counts: Vec<(String, u64)> =
        counts.into_iter().map(|(name, count)| Ok((name, number(count)?))).collect::<Result<_>>()?;
    let most = level(&counts.iter().map(|(_, count)| *count).collect::<Vec<_>>(), kept).min(of_namespace);
    let mut found = Vec::new();
    for (namespace, _) in counts.into_iter().filter(|(_, count)| *count > most) {
        let newest: Option<(i64,)> =
            query_as("SELECT seq FROM event WHERE namespace = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2")
                .bind(&namespace)
                .bind(i64::try_from(most).unwrap_or(i64::MAX))
                .fetch_optional(&mut *conn)
                .await?;
        if let Some((until,)) = newest {
            found.push(EventsSurplus { namespace, until });
        }
    }
    Ok(found)
}

/// Gives up some of what is too much. Returns how many.
pub(super) async fn give_up(conn: &mut Conn, surplus: &EventsSurplus) -> Result<u64> {
    let done = query(
        "DELETE FROM event WHERE seq IN (SELECT seq FROM event WHERE namespace = $1 AND seq <= $2 LIMIT $3)",
    )
    .bind(&surplus.namespace)
    .bind(surplus.until)
    .bind(BATCH)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Forgets what happened in a namespace, before another one can have its name.
pub(crate) async fn delete(conn: &mut Conn, namespace: &NamespaceName) -> Result<()> {
    query("DELETE FROM event WHERE namespace = $1").bind(namespace.as_str()).execute(conn).await?;
    Ok(())
}

/// What changed the settings of apps of a namespace at or after a time, newest first.
pub(crate) async fn changes_since(
    conn: &mut Conn,
    namespace: &NamespaceName,
    since: Timestamp,
    limit: i64,
) -> Result<Vec<Event>> {
    let rows: Vec<Row> = query_as(
        "SELECT seq, time, namespace, app, kind, message FROM event
         WHERE namespace = $1 AND time >= $2
             AND kind IN ('release.created', 'rollback.started', 'rollout.failed', 'app.scaled', 'app.deleting', 'app.deleted',
                 'config.set', 'config.removed')
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
    let rows: Vec<Row> = query_as(
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

/// What happened to nodes after `after`, oldest first.
pub(crate) async fn of_nodes(conn: &mut Conn, after: i64, limit: i64) -> Result<Vec<NodeEvent>> {
    let rows: Vec<Row> = query_as(
        "SELECT seq, time, namespace, app, kind, message FROM event
         WHERE namespace = $1 AND seq > $2 ORDER BY seq LIMIT $3",
    )
    .bind(OF_NODES)
    .bind(after)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(NodeEvent::try_from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::database;

    #[tokio::test]
    async fn events_are_kept_for_thirty_days() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let namespace = NamespaceName::default_namespace();
        let then = Timestamp::UNIX_EPOCH;
        let later = then + KEPT_FOR + Duration::from_secs(1);
        for (kind, at) in [("app.scaled", then), ("app.deleted", later)] {
            append(&mut tx, &namespace, None, kind, "", at).await.unwrap();
        }
        assert_eq!(prune(&mut tx, then + KEPT_FOR).await.unwrap(), 0);
        assert_eq!(prune(&mut tx, later).await.unwrap(), 1);
        let left = list(&mut tx, &namespace, None, 0, 10).await.unwrap();
        assert_eq!(left.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["app.deleted"]);
    }

    #[tokio::test]
    async fn what_happens_to_nodes_is_in_no_namespace() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let (namespace, node, now) =
            (NamespaceName::default_namespace(), NodeId::new(), Timestamp::UNIX_EPOCH);
        append(&mut tx, &namespace, None, "app.scaled", "", now).await.unwrap();
        append_of_node(&mut tx, node, "node.silent", "nothing is heard of a", now).await.unwrap();
        let of_namespace = list(&mut tx, &namespace, None, 0, 10).await.unwrap();
        assert_eq!(of_namespace.len(), 1);
        let found = of_nodes(&mut tx, 0, 10).await.unwrap();
        let [event] = &found[..] else { panic!("{found:?}") };
        assert_eq!((event.node, event.kind.as_str()), (node, "node.silent"));
        assert!(event.seq > of_namespace[0].seq);
        assert_eq!(of_nodes(&mut tx, event.seq, 10).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_namespace_with_too_many_events_loses_its_own_oldest() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let (blue, red): (NamespaceName, NamespaceName) = ("blue".parse().unwrap(), "red".parse().unwrap());
        append(&mut tx, &red, None, "app.scaled", "", now).await.unwrap();
        append_of_node(&mut tx, NodeId::new(), "node.silent", "", now).await.unwrap();
        for number in 0..30 {
            append(&mut tx, &blue, None, "app.scaled", &number.to_string(), now).await.unwrap();
        }
        for surplus in surplus(&mut tx, 10, 1000).await.unwrap() {
            while give_up(&mut tx, &surplus).await.unwrap() > 0 {}
        }
        let left = list(&mut tx, &blue, None, 0, 100).await.unwrap();
        assert_eq!((left.len(), left[0].message.as_str()), (10, "20"));
        assert_eq!(list(&mut tx, &red, None, 0, 100).await.unwrap().len(), 1);
        assert_eq!(of_nodes(&mut tx, 0, 100).await.unwrap().len(), 1);
        assert_eq!(surplus(&mut tx, 10, 1000).await.unwrap(), []);
    }
}
