//! Table `audit`: who changed what. Rows are only added, and forgotten when they are old.

use std::time::Duration;

use wharf_types::api::{AuditOutcome, AuditRecord};
use wharf_types::{NamespaceId, NamespaceName, Timestamp, TokenId, UserName};

use super::codec::{from_json, json, number, parse, parse_opt, time};
use super::query::{query, query_as};
use super::surplus::{BATCH, level};
use super::{Conn, Result, StoreError, change};

/// How long records are kept.
const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 3600);
const DONE: i64 = 10;
const REFUSED: i64 = 20;

#[derive(Clone, Debug)]
pub(crate) struct NewRecord {
    pub(crate) token: TokenId,
    pub(crate) token_name: String,
    pub(crate) user: Option<UserName>,
    pub(crate) actor: String,
    pub(crate) remote: Option<String>,
    pub(crate) action: String,
    pub(crate) namespace: Option<NamespaceName>,
    pub(crate) object: String,
    pub(crate) outcome: AuditOutcome,
    pub(crate) detail: Option<String>,
    pub(crate) before: Option<serde_json::Value>,
    pub(crate) after: Option<serde_json::Value>,
}

/// Which records are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) namespace: Option<NamespaceName>,
    /// Only of the namespace with this id, and of none that had its name before.
    pub(crate) namespace_id: Option<NamespaceId>,
    pub(crate) actor: Option<String>,
    pub(crate) object: Option<String>,
    pub(crate) after: Option<Timestamp>,
    /// Records with a greater `seq`.
    pub(crate) cursor: i64,
}

#[derive(sqlx::FromRow)]
struct Row {
    seq: i64,
    time: i64,
    actor: String,
    token: String,
    token_name: String,
    user_name: Option<String>,
    remote: Option<String>,
    action: String,
    namespace: Option<String>,
    object: String,
    outcome: i64,
    detail: Option<String>,
    before_change: Option<String>,
    after_change: Option<String>,
}

impl TryFrom<Row> for AuditRecord {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self> {
        let outcome = match row.outcome {
            DONE => AuditOutcome::Done,
            REFUSED => AuditOutcome::Refused,
            other => return Err(StoreError::Corrupt(format!("{other} is not an outcome"))),
        };
        Ok(Self {
            seq: row.seq,
            time: time(row.time)?,
            actor: row.actor,
            token: parse(&row.token)?,
            token_name: row.token_name,
            user: parse_opt(row.user_name.as_deref())?,
            remote: row.remote,
            action: row.action,
            namespace: parse_opt(row.namespace.as_deref())?,
            object: row.object,
            outcome,
            detail: row.detail,
            before: row.before_change.as_deref().map(from_json).transpose()?,
            after: row.after_change.as_deref().map(from_json).transpose()?,
        })
    }
}

pub(crate) async fn append(conn: &mut Conn, record: &NewRecord, now: Timestamp) -> Result<()> {
    change::count_later(conn, "audit").await?;
    query(
        "INSERT INTO audit (seq, time, actor, token, token_name, user_name, remote, action, namespace, namespace_id,
             object, outcome, detail, before_change, after_change)
         VALUES ((SELECT value FROM counter WHERE name = 'audit'), $1, $2, $3, $4, $5, $6, $7, $8,
             (SELECT id FROM namespace WHERE name = $8), $9, $10, $11, $12, $13)",
    )
    .bind(now.as_microsecond())
    .bind(&record.actor)
    .bind(record.token.to_string())
    .bind(&record.token_name)
    .bind(record.user.as_ref().map(UserName::as_str))
    .bind(&record.remote)
    .bind(&record.action)
    .bind(record.namespace.as_ref().map(NamespaceName::as_str))
    .bind(&record.object)
    .bind(match record.outcome {
        AuditOutcome::Done => DONE,
        AuditOutcome::Refused => REFUSED,
    })
    .bind(&record.detail)
    .bind(record.before.as_ref().map(json))
    .bind(record.after.as_ref().map(json))
    .later(conn)
    .await?;
    Ok(())
}

/// Records in their order, the oldest first.
pub(crate) async fn list(conn: &mut Conn, filter: &Filter, limit: i64) -> Result<Vec<AuditRecord>> {
    let rows: Vec<Row> = query_as(
        "SELECT seq, time, actor, token, token_name, user_name, remote, action, namespace, object, outcome, detail,
             before_change, after_change FROM audit
         WHERE seq > $1 AND ($2 IS NULL OR namespace = $2) AND ($3 IS NULL OR namespace_id = $3)
             AND ($4 IS NULL OR actor = $4) AND ($5 IS NULL OR object = $5) AND ($6 IS NULL OR time > $6)
         ORDER BY seq LIMIT $7",
    )
    .bind(filter.cursor)
    .bind(filter.namespace.as_ref().map(NamespaceName::as_str))
    .bind(filter.namespace_id.map(|id| id.to_string()))
    .bind(&filter.actor)
    .bind(&filter.object)
    .bind(filter.after.map(|at| at.as_microsecond()))
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(AuditRecord::try_from).collect()
}

/// Forgets what is too old, at most so much at once. Returns how many.
pub(crate) async fn prune(conn: &mut Conn, now: Timestamp) -> Result<u64> {
    let before = now.checked_sub(KEPT_FOR).unwrap_or(Timestamp::MIN);
    let done = query(
        "DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE time < $1 ORDER BY time LIMIT $2)",
    )
    .bind(before.as_microsecond())
    .bind(BATCH)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// Records of one actor in a namespace, or in none, that are too many: those up to `until`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordsSurplus {
    namespace: Option<String>,
    actor: String,
    until: i64,
}

/// A statement about the namespace `$1`, or, where that is NULL, about what is in none. Each of the two is found by the index.
macro_rules! in_namespace {
    ($namespace:expr, $before:literal, $after:literal) => {
        match $namespace {
            Some(_) => concat!($before, "namespace = $1", $after),
            None => concat!($before, "namespace IS NULL AND CAST($1 AS TEXT) IS NULL", $after),
        }
    };
}

/// What is too much where each namespace keeps so many and all together `kept`. Within a namespace, those with the most records lose their
/// oldest: what somebody did cannot be pushed out by somebody else.
pub(super) async fn surplus(conn: &mut Conn, of_namespace: u64, kept: u64) -> Result<Vec<RecordsSurplus>> {
    let counts: Vec<(Option<String>, i64)> =
        query_as("SELECT namespace, count(*) FROM audit GROUP BY namespace").fetch_all(&mut *conn).await?;
    let counts: Vec<(Option<String>, u64)> =
        counts.into_iter().map(|(name, count)| Ok((name, number(count)?))).collect::<Result<_>>()?;
    let most = level(&counts.iter().map(|(_, count)| *count).collect::<Vec<_>>(), kept).min(of_namespace);
    let mut found = Vec::new();
    for (namespace, _) in counts.into_iter().filter(|(_, count)| *count > most) {
        let statement = in_namespace!(
            &namespace,
            "SELECT actor, count(*) FROM audit WHERE ",
            " GROUP BY actor ORDER BY actor"
        );
        let actors: Vec<(String, i64)> = query_as(statement).bind(&namespace).fetch_all(&mut *conn).await?;
        let actors: Vec<(String, u64)> =
            actors.into_iter().map(|(name, count)| Ok((name, number(count)?))).collect::<Result<_>>()?;
        let each = level(&actors.iter().map(|(_, count)| *count).collect::<Vec<_>>(), most);
        for (actor, _) in actors.into_iter().filter(|(_, count)| *count > each) {
            let statement = in_namespace!(
                &namespace,
                "SELECT seq FROM audit WHERE ",
                " AND actor = $2 ORDER BY seq DESC LIMIT 1 OFFSET $3"
            );
            let newest: Option<(i64,)> = query_as(statement)
                .bind(&namespace)
                .bind(&actor)
                .bind(i64::try_from(each).unwrap_or(i64::MAX))
                .fetch_optional(&mut *conn)
                .await?;
            if let Some((until,)) = newest {
                found.push(RecordsSurplus { namespace: namespace.clone(), actor, until });
            }
        }
    }
    Ok(found)
}

/// Gives up some of what is too much. Returns how many.
pub(super) async fn give_up(conn: &mut Conn, surplus: &RecordsSurplus) -> Result<u64> {
    let statement = in_namespace!(
        &surplus.namespace,
        "DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE ",
        " AND actor = $2 AND seq <= $3 LIMIT $4)"
    );
    let done = query(statement)
        .bind(&surplus.namespace)
        .bind(&surplus.actor)
        .bind(surplus.until)
        .bind(BATCH)
        .execute(conn)
        .await?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::database;

    fn record(outcome: AuditOutcome) -> NewRecord {
        NewRecord {
            token: TokenId::new(),
            token_name: "laptop".into(),
            user: None,
            actor: "laptop".into(),
            remote: None,
            action: "put_namespace_app_scale".into(),
            namespace: None,
            object: "apps/hello".into(),
            outcome,
            detail: None,
            before: None,
            after: Some(serde_json::json!({"replicas": 2})),
        }
    }

    #[tokio::test]
    async fn old_records_go_and_new_ones_stay() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let then = Timestamp::UNIX_EPOCH;
        for outcome in [AuditOutcome::Done, AuditOutcome::Refused] {
            append(&mut tx, &record(outcome), then).await.unwrap();
        }
        let later = then + KEPT_FOR + Duration::from_secs(1);
        append(&mut tx, &record(AuditOutcome::Done), later).await.unwrap();
        assert_eq!(prune(&mut tx, then + KEPT_FOR).await.unwrap(), 0);
        assert_eq!(prune(&mut tx, later).await.unwrap(), 2);
        let left = list(&mut tx, &Filter::default(), 10).await.unwrap();
        assert_eq!(left.iter().map(|record| record.seq).collect::<Vec<_>>(), [3]);
        assert_eq!(left[0].after, Some(serde_json::json!({"replicas": 2})));
    }
    #[tokio::test]
    async fn whoever_floods_a_namespace_loses_their_own_records_and_nobody_elses() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let of = |actor: &str, namespace: Option<&str>| NewRecord {
            actor: actor.to_owned(),
            namespace: namespace.map(|name| name.parse().unwrap()),
            ..record(AuditOutcome::Done)
        };
        for _ in 0..3 {
            append(&mut tx, &of("rob", Some("red")), now).await.unwrap();
            append(&mut tx, &of("bob", Some("blue")), now).await.unwrap();
            append(&mut tx, &of("admin", None), now).await.unwrap();
        }
        for _ in 0..20 {
            append(&mut tx, &of("alice", Some("blue")), now).await.unwrap();
            append(&mut tx, &of("alice", None), now).await.unwrap();
        }
        for surplus in surplus(&mut tx, 10, 1000).await.unwrap() {
            while give_up(&mut tx, &surplus).await.unwrap() > 0 {}
        }
        let left = list(&mut tx, &Filter::default(), 100).await.unwrap();
        let count = |actor: &str, namespace: Option<&str>| {
            let of = |record: &&AuditRecord| {
                record.actor == actor && record.namespace.as_ref().map(NamespaceName::as_str) == namespace
            };
            left.iter().filter(of).count()
        };
        assert_eq!((count("rob", Some("red")), count("bob", Some("blue")), count("admin", None)), (3, 3, 3));
        assert_eq!((count("alice", Some("blue")), count("alice", None)), (7, 7));
        let newest = left.iter().rfind(|record| record.namespace.is_some()).unwrap();
        assert_eq!((newest.actor.as_str(), newest.seq), ("alice", 48), "the oldest go first");
        assert_eq!(surplus(&mut tx, 10, 1000).await.unwrap(), []);
        // All together: the two larger ones give way.
        assert_eq!(surplus(&mut tx, 10, 15).await.unwrap().len(), 2);
    }
}
