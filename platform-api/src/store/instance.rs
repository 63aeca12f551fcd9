//! Table `instance`. Observed state only grows; wanted state only grows; both by guarded updates.

use std::collections::HashMap;

use wharf_types::node::{InstanceReport, Reason};
use wharf_types::state::{Health, InstanceState, Wanted};
use wharf_types::{AppId, InstanceId, NodeId, ReleaseId, Timestamp};

use super::codec::{
    FINAL, from_json, health_from_db, health_to_db, json, number, parse, parse_opt, state_from_db,
    state_to_db, time, time_opt, wanted_from_db, wanted_to_db,
};
use super::query::{parameters, pieces, query, query_as, query_as_built, query_built};
use super::{Conn, Result};
use crate::plan::InstanceView;

/// Ended instances that are kept of a slot.
const ENDED_KEPT: i64 = 5;

#[derive(Clone, Debug)]
pub(crate) struct Instance {
    pub(crate) app: AppId,
    pub(crate) view: InstanceView,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    app: String,
    release: String,
    slot: i64,
    node: Option<String>,
    wanted: i64,
    state: i64,
    health: i64,
    restarts: i64,
    reason: Option<String>,
    replaced: bool,
    was_healthy: bool,
    created_at: i64,
    ended_at: Option<i64>,
}

impl TryFrom<Row> for Instance {
    type Error = super::StoreError;
    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            app: parse(&row.app)?,
            view: InstanceView {
                id: parse(&row.id)?,
                release: parse(&row.release)?,
                slot: number(row.slot)?,
                node: parse_opt(row.node.as_deref())?,
                wanted: wanted_from_db(row.wanted)?,
                state: state_from_db(row.state)?,
                health: health_from_db(row.health)?,
                restarts: number(row.restarts)?,
                reason: row.reason.as_deref().map(from_json).transpose()?,
                created_at: time(row.created_at)?,
                ended_at: time_opt(row.ended_at)?,
                replaced: row.replaced,
                was_healthy: row.was_healthy,
                let_go: false,
                routed: false,
                moves: false,
            },
        })
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, app, release, slot, node, wanted, state, health, restarts, reason, replaced, was_healthy,
             created_at, ended_at FROM instance ",
            $rest
        )
    };
}

pub(crate) struct NewInstance {
    pub(crate) id: InstanceId,
    pub(crate) app: AppId,
    pub(crate) release: ReleaseId,
    pub(crate) slot: u32,
    pub(crate) node: NodeId,
    pub(crate) wanted: Wanted,
}

pub(crate) async fn create(conn: &mut Conn, new: &NewInstance, now: Timestamp) -> Result<()> {
    create_all(conn, std::slice::from_ref(new), now).await
}

/// Parameters of a row that are its own.
const OWN: usize = 6;

pub(crate) async fn create_all(conn: &mut Conn, all: &[NewInstance], now: Timestamp) -> Result<()> {
    for piece in pieces(all) {
        let row = |number| {
            let own = parameters(5 + number * OWN, OWN);
            format!("({own}, $1, $2, 0, $3, $3, $4)")
        };
        let rows = (0..piece.len()).map(row).collect::<Vec<_>>().join(", ");
        let statement = format!(
            "INSERT INTO instance (id, app, release, slot, node, wanted, state, health, restarts, replaced, was_healthy,
                 created_at) VALUES {rows}"
        );
        let query = query_built(statement)
            .bind(state_to_db(InstanceState::Assigned))
            .bind(health_to_db(Health::Unknown))
            .bind(false)
            .bind(now.as_microsecond());
        let with_row = |query: super::query::Query, new: &NewInstance| {
            query
                .bind(new.id.to_string())
                .bind(new.app.to_string())
                .bind(new.release.to_string())
                .bind(i64::from(new.slot))
                .bind(new.node.to_string())
                .bind(wanted_to_db(new.wanted))
        };
        piece.iter().fold(query, with_row).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Instances of apps that claim to be of the future were made before now, by a clock that was ahead.
pub(crate) async fn predate(conn: &mut Conn, apps: &[AppId], now: Timestamp) -> Result<()> {
    for piece in pieces(apps) {
        let list = parameters(3, piece.len());
        let statement =
            format!("UPDATE instance SET created_at = $1 WHERE created_at > $2 AND app IN ({list})");
        let query = query_built(statement).bind(now.as_microsecond() - 1).bind(now.as_microsecond());
        piece.iter().fold(query, |query, app| query.bind(app.to_string())).execute(&mut *conn).await?;
    }
    Ok(())
}

pub(crate) async fn get(conn: &mut Conn, id: InstanceId) -> Result<Option<Instance>> {
    let row: Option<Row> =
        query_as(select!("WHERE id = $1")).bind(id.to_string()).fetch_optional(conn).await?;
    row.map(Instance::try_from).transpose()
}

/// Live instances of an app, oldest first, and the ended ones that are still kept, newest first, at most `ended_max`.
pub(crate) async fn list(
    conn: &mut Conn,
    app: AppId,
    ended_max: i64,
) -> Result<(Vec<InstanceView>, Vec<InstanceView>)> {
    let live: Vec<Row> = query_as(select!("WHERE app = $1 AND state < $2 ORDER BY slot, created_at, id"))
        .bind(app.to_string())
        .bind(FINAL)
        .fetch_all(&mut *conn)
        .await?;
    let ended: Vec<Row> =
        query_as(select!("WHERE app = $1 AND state >= $2 ORDER BY created_at DESC, id DESC LIMIT $3"))
            .bind(app.to_string())
            .bind(FINAL)
            .bind(ended_max)
            .fetch_all(conn)
            .await?;
    let view = |row| Ok(Instance::try_from(row)?.view);
    let domain = |rows: Vec<Row>| rows.into_iter().map(view).collect::<Result<Vec<_>>>();
    Ok((domain(live)?, domain(ended)?))
}

/// Whose instances these are, and where, as far as there are any.
pub(crate) async fn owners(
    conn: &mut Conn,
    ids: &[InstanceId],
) -> Result<HashMap<InstanceId, (AppId, Option<NodeId>)>> {
    let mut owners = HashMap::with_capacity(ids.len());
    for piece in pieces(ids) {
        let list = parameters(1, piece.len());
        let query = query_as_built(format!("SELECT id, app, node FROM instance WHERE id IN ({list})"));
        let query = piece.iter().fold(query, |query, id| query.bind(id.to_string()));
        let rows: Vec<(String, String, Option<String>)> = query.fetch_all(&mut *conn).await?;
        for (id, app, node) in rows {
            owners.insert(parse(&id)?, (parse(&app)?, parse_opt(node.as_deref())?));
        }
    }
    Ok(owners)
}

/// Merges a worker's report. Returns `false` when it says nothing new, or when the row has ended.
pub(crate) async fn observe(conn: &mut Conn, report: &InstanceReport, now: Timestamp) -> Result<bool> {
    Ok(!observe_all(conn, &[report.id], report, now).await?.is_empty())
}

/// Merges what was reported of all these instances in the same words. Returns those that it says something new of, and that have not ended.
pub(crate) async fn observe_all(
    conn: &mut Conn,
    ids: &[InstanceId],
    said: &InstanceReport,
    now: Timestamp,
) -> Result<Vec<InstanceId>> {
    let mut changed = Vec::with_capacity(ids.len());
    for piece in pieces(ids) {
        let list = parameters(8, piece.len());
        let statement = format!(
            "UPDATE instance SET state = CASE WHEN state < $1 THEN $1 ELSE state END, health = $2, restarts = $3, reason = $4,
                 was_healthy = (was_healthy OR $5), ended_at = $6
             WHERE state < $7 AND (state < $1 OR health <> $2 OR restarts <> $3 OR COALESCE(reason, '') <> COALESCE($4, ''))
                 AND id IN ({list}) RETURNING id"
        );
        let query = query_as_built(statement)
            .bind(state_to_db(said.state))
            .bind(health_to_db(said.health))
            .bind(i64::from(said.restarts))
            .bind(said.reason.as_ref().map(json))
            .bind(said.health == Health::Healthy)
            .bind(said.state.is_final().then(|| now.as_microsecond()))
            .bind(FINAL);
        let query = piece.iter().fold(query, |query, id| query.bind(id.to_string()));
        let rows: Vec<(String,)> = query.fetch_all(&mut *conn).await?;
        for (id,) in rows {
            changed.push(parse(&id)?);
        }
    }
    Ok(changed)
}

/// Marks an instance as replaced in its slot by the supervisor. One that has not ended has failed.
pub(crate) async fn mark_replaced(
    conn: &mut Conn,
    id: InstanceId,
    reason: Option<&Reason>,
    now: Timestamp,
) -> Result<bool> {
    let done = query(
        "UPDATE instance SET replaced = $2, state = CASE WHEN state < $3 THEN $4 ELSE state END,
             reason = COALESCE(reason, $5), ended_at = COALESCE(ended_at, $6) WHERE id = $1 AND replaced <> $2",
    )
    .bind(id.to_string())
    .bind(true)
    .bind(FINAL)
    .bind(state_to_db(InstanceState::Failed))
    .bind(reason.map(json))
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Wants more of an instance's end. Returns `false` when that much was wanted before.
pub(crate) async fn set_wanted(conn: &mut Conn, id: InstanceId, wanted: Wanted) -> Result<bool> {
    let done = query("UPDATE instance SET wanted = $2 WHERE id = $1 AND wanted < $2")
        .bind(id.to_string())
        .bind(wanted_to_db(wanted))
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// The control plane's own verdict. Returns `false` when the instance has ended.
pub(crate) async fn end(
    conn: &mut Conn,
    id: InstanceId,
    state: InstanceState,
    reason: &Reason,
    now: Timestamp,
) -> Result<bool> {
    let done =
        query("UPDATE instance SET state = $2, reason = $3, ended_at = $4 WHERE id = $1 AND state < $5")
            .bind(id.to_string())
            .bind(state_to_db(state))
            .bind(json(reason))
            .bind(now.as_microsecond())
            .bind(FINAL)
            .execute(conn)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Forgets all but the newest ended instances of a slot, and the one that has just ended: its successor is told of next, and a clock that was put back
/// makes it look older than all.
pub(crate) async fn prune(conn: &mut Conn, app: AppId, slot: u32, ended: InstanceId) -> Result<()> {
    query(
        "DELETE FROM instance WHERE app = $1 AND slot = $2 AND state >= $3 AND id <> $5 AND id NOT IN (
             SELECT id FROM instance WHERE app = $1 AND slot = $2 AND state >= $3
             ORDER BY created_at DESC, id DESC LIMIT $4)",
    )
    .bind(app.to_string())
    .bind(i64::from(slot))
    .bind(FINAL)
    .bind(ENDED_KEPT)
    .bind(ended.to_string())
    .execute(conn)
    .await?;
    Ok(())
}

/// How many instances live on a node that do not have their data there.
pub(crate) async fn movable(conn: &mut Conn, node: NodeId) -> Result<u64> {
    let (count,): (i64,) = query_as(
        "SELECT count(*) FROM instance WHERE state < $1 AND node = $2
         AND NOT EXISTS (SELECT 1 FROM volume WHERE volume.app = instance.app AND volume.node = instance.node)",
    )
    .bind(FINAL)
    .bind(node.to_string())
    .fetch_one(conn)
    .await?;
    number(count)
}

/// How many instances live on each node.
pub(crate) async fn live_by_node(conn: &mut Conn) -> Result<HashMap<NodeId, u64>> {
    let rows: Vec<(String, i64)> =
        query_as("SELECT node, count(*) FROM instance WHERE state < $1 AND node IS NOT NULL GROUP BY node")
            .bind(FINAL)
            .fetch_all(conn)
            .await?;
    rows.into_iter().map(|(node, count)| Ok((parse(&node)?, number(count)?))).collect()
}
