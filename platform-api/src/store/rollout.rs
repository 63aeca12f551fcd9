//! Table `rollout`.

use std::collections::{BTreeSet, HashMap};

use wharf_types::api::Pause;
use wharf_types::node::Reason;
use wharf_types::requests::ReleaseRequests;
use wharf_types::state::RolloutState;
use wharf_types::{AppId, ReleaseId, RolloutId, Timestamp};

use super::codec::{
    FINAL, from_json, json, number, parse, parse_opt, rollout_state_from_db, rollout_state_to_db, time,
    time_opt,
};
use super::query::{parameters, pieces, query, query_as, query_as_built, query_built, row_pieces, rows};
use super::{Conn, Result};
use crate::plan::{RolloutView, Trial, started_after};

/// Rollouts that are kept of an app.
const KEPT: i64 = 100;

#[derive(Clone, Debug)]
pub(crate) struct Rollout {
    pub(crate) view: RolloutView,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) reason: Option<Reason>,
    pub(crate) rolled_back_by: Option<RolloutId>,
    /// Whether requests are still counted for it.
    pub(crate) counting: bool,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    from_release: Option<String>,
    to_release: String,
    state: i64,
    automatic: bool,
    backwards: bool,
    renews: bool,
    started_at: i64,
    progressed_at: i64,
    progressed_ready: i64,
    stepped_at: Option<i64>,
    canary_since: Option<i64>,
    canary_before: Option<String>,
    monitoring_since: Option<i64>,
    failed_slots: String,
    judged_since: Option<i64>,
    paused_at: Option<i64>,
    paused_by: Option<String>,
    aborted_by: Option<String>,
    ended_at: Option<i64>,
    reason: Option<String>,
    rolled_back_by: Option<String>,
    counting: bool,
}

impl TryFrom<Row> for Rollout {
    type Error = super::StoreError;
    fn try_from(row: Row) -> Result<Self> {
        let before = row.canary_before.as_deref().map(from_json).transpose()?.unwrap_or_default();
        let canary = time_opt(row.canary_since)?.map(|since| Trial { since, before });
        let paused = time_opt(row.paused_at)?.map(|since| Pause { since, by: row.paused_by });
        Ok(Self {
            view: RolloutView {
                id: parse(&row.id)?,
                from: parse_opt(row.from_release.as_deref())?,
                to: parse(&row.to_release)?,
                state: rollout_state_from_db(row.state)?,
                automatic: row.automatic,
                backwards: row.backwards,
                renews: row.renews,
                started_at: time(row.started_at)?,
                progressed_at: time(row.progressed_at)?,
                progressed_ready: number(row.progressed_ready)?,
                stepped_at: time_opt(row.stepped_at)?,
                canary,
                monitoring_since: time_opt(row.monitoring_since)?,
                failed_slots: from_json(&row.failed_slots)?,
                judged_since: time(row.judged_since.unwrap_or(row.started_at))?,
                paused,
                aborted_by: row.aborted_by,
                requests: Vec::new(),
            },
            ended_at: time_opt(row.ended_at)?,
            reason: row.reason.as_deref().map(from_json).transpose()?,
            rolled_back_by: parse_opt(row.rolled_back_by.as_deref())?,
            counting: row.counting,
        })
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, from_release, to_release, state, automatic, backwards, renews, started_at, progressed_at,
             progressed_ready, stepped_at, canary_since, canary_before, monitoring_since, failed_slots, judged_since, paused_at,
             paused_by, aborted_by, ended_at, reason, rolled_back_by, counting FROM rollout ",
            $rest
        )
    };
}

pub(crate) struct NewRollout {
    pub(crate) id: RolloutId,
    pub(crate) app: AppId,
    pub(crate) from: Option<ReleaseId>,
    pub(crate) to: ReleaseId,
    pub(crate) automatic: bool,
    pub(crate) backwards: bool,
    pub(crate) renews: bool,
}

pub(crate) async fn create(conn: &mut Conn, rollout: &NewRollout, now: Timestamp) -> Result<()> {
    create_all(conn, std::slice::from_ref(rollout), now).await
}

/// One of each app. Its time is after that of every one before it, by which the newest is known: their clock may have been that of another server,
/// or been put back since. What claims to be of the future, of the app, was before it, so that nothing has to wait until the clock is there.
pub(crate) async fn create_all(conn: &mut Conn, rollouts: &[NewRollout], now: Timestamp) -> Result<()> {
    let apps: Vec<AppId> = rollouts.iter().map(|rollout| rollout.app).collect();
    for piece in pieces(&apps) {
        let list = parameters(3, piece.len());
        let statement =
            format!("UPDATE rollout SET started_at = $1 WHERE started_at > $2 AND app IN ({list})");
        let query = query_built(statement).bind(now.as_microsecond() - 1).bind(now.as_microsecond());
        piece.iter().fold(query, |query, app| query.bind(app.to_string())).execute(&mut *conn).await?;
    }
    super::instance::predate(conn, &apps, now).await?;
    let before = started(conn, &apps).await?;
    for piece in row_pieces(rollouts) {
        let rows = rows(12, piece.len());
        let mut query = query_built(format!(
            "INSERT INTO rollout (id, app, from_release, to_release, state, automatic, renews, started_at, progressed_at,
                 progressed_ready, backwards, counting) VALUES {rows}"
        ));
        for rollout in piece {
            let started_at = started_after(now, before.get(&rollout.app).copied());
            query = query
                .bind(rollout.id.to_string())
                .bind(rollout.app.to_string())
                .bind(rollout.from.map(|id| id.to_string()))
                .bind(rollout.to.to_string())
                .bind(rollout_state_to_db(RolloutState::Pending))
                .bind(rollout.automatic)
                .bind(rollout.renews)
                .bind(started_at.as_microsecond())
                .bind(started_at.as_microsecond())
                .bind(0_i64)
                .bind(rollout.backwards)
                .bind(true);
        }
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

/// When the newest rollout of each of these apps began, of those that had one.
async fn started(conn: &mut Conn, apps: &[AppId]) -> Result<HashMap<AppId, Timestamp>> {
    let mut started = HashMap::new();
    for piece in pieces(apps) {
        let list = parameters(1, piece.len());
        let query = query_as_built(format!(
            "SELECT app, max(started_at) FROM rollout WHERE app IN ({list}) GROUP BY app"
        ));
        let query = piece.iter().fold(query, |query, app| query.bind(app.to_string()));
        let rows: Vec<(String, i64)> = query.fetch_all(&mut *conn).await?;
        for (app, at) in rows {
            started.insert(parse(&app)?, time(at)?);
        }
    }
    Ok(started)
}

pub(crate) async fn find(conn: &mut Conn, app: AppId, id: RolloutId) -> Result<Option<Rollout>> {
    let row: Option<Row> = query_as(select!("WHERE app = $1 AND id = $2"))
        .bind(app.to_string())
        .bind(id.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(Rollout::try_from).transpose()
}

/// The app's newest rollout.
pub(crate) async fn newest(conn: &mut Conn, app: AppId) -> Result<Option<Rollout>> {
    let row: Option<Row> = query_as(select!("WHERE app = $1 ORDER BY started_at DESC, id DESC LIMIT 1"))
        .bind(app.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(Rollout::try_from).transpose()
}

/// Moves a rollout on. Returns `false` when it has moved further or has ended.
pub(crate) async fn advance(
    conn: &mut Conn,
    id: RolloutId,
    state: RolloutState,
    reason: Option<&Reason>,
    monitoring_since: Option<Timestamp>,
    now: Timestamp,
) -> Result<bool> {
    let done = query(
        "UPDATE rollout SET state = $2, reason = COALESCE($3, reason), monitoring_since = COALESCE($4, monitoring_since),
             ended_at = $5 WHERE id = $1 AND state <= $2 AND state < $6",
    )
    .bind(id.to_string())
    .bind(rollout_state_to_db(state))
    .bind(reason.map(json))
    .bind(monitoring_since.map(|at| at.as_microsecond()))
    .bind(state.is_final().then(|| now.as_microsecond()))
    .bind(FINAL)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets the progress deadline begin anew; with `stepped`, because another instance of the new release became ready.
pub(crate) async fn progress(
    conn: &mut Conn,
    id: RolloutId,
    ready: u32,
    stepped: bool,
    now: Timestamp,
) -> Result<bool> {
    let done = query(
        "UPDATE rollout SET progressed_at = $2, progressed_ready = $3, stepped_at = COALESCE($4, stepped_at)
         WHERE id = $1 AND state < $5",
    )
    .bind(id.to_string())
    .bind(now.as_microsecond())
    .bind(i64::from(ready))
    .bind(stepped.then(|| now.as_microsecond()))
    .bind(FINAL)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Remembers in which slots the new release has failed.
pub(crate) async fn set_failed_slots(conn: &mut Conn, id: RolloutId, slots: &BTreeSet<u32>) -> Result<bool> {
    let done = query("UPDATE rollout SET failed_slots = $2 WHERE id = $1 AND state < $3")
        .bind(id.to_string())
        .bind(json(slots))
        .bind(FINAL)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// The trial begins now.
pub(crate) async fn begin_trial(
    conn: &mut Conn,
    id: RolloutId,
    before: &Vec<ReleaseRequests>,
    now: Timestamp,
) -> Result<bool> {
    let done = query("UPDATE rollout SET canary_since = $2, canary_before = $3 WHERE id = $1 AND state < $4")
        .bind(id.to_string())
        .bind(now.as_microsecond())
        .bind(json(before))
        .bind(FINAL)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets a rollout stand still. Returns `false` when it does already, or has ended.
pub(crate) async fn pause(
    conn: &mut Conn,
    id: RolloutId,
    by: Option<&str>,
    reason: Option<&Reason>,
    now: Timestamp,
) -> Result<bool> {
    let done = query(
        "UPDATE rollout SET paused_at = $2, paused_by = $3, reason = $4
         WHERE id = $1 AND paused_at IS NULL AND state < $5",
    )
    .bind(id.to_string())
    .bind(now.as_microsecond())
    .bind(by)
    .bind(reason.map(json))
    .bind(FINAL)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets a paused rollout go on.
pub(crate) async fn resume(conn: &mut Conn, id: RolloutId) -> Result<bool> {
    let done = query(
        "UPDATE rollout SET paused_at = NULL, paused_by = NULL, reason = NULL WHERE id = $1 AND state < $2",
    )
    .bind(id.to_string())
    .bind(FINAL)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Its deadline, its trial and its monitoring begin anew, and what has failed is forgiven.
pub(crate) async fn begin_anew(conn: &mut Conn, id: RolloutId, now: Timestamp) -> Result<bool> {
    let done = query(
        "UPDATE rollout SET progressed_at = $2, judged_since = $2,
             failed_slots = '[]', canary_since = NULL, canary_before = NULL,
             monitoring_since = CASE WHEN monitoring_since IS NULL THEN NULL ELSE $2 END
         WHERE id = $1 AND state < $3",
    )
    .bind(id.to_string())
    .bind(now.as_microsecond())
    .bind(FINAL)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Records the wish that it goes back.
pub(crate) async fn abort(conn: &mut Conn, id: RolloutId, by: &str) -> Result<bool> {
    let done = query("UPDATE rollout SET aborted_by = $2 WHERE id = $1 AND state < $3")
        .bind(id.to_string())
        .bind(by)
        .bind(FINAL)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Requests are no longer counted for it.
pub(crate) async fn stop_counting(conn: &mut Conn, id: RolloutId) -> Result<()> {
    query("UPDATE rollout SET counting = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(false)
        .execute(conn)
        .await?;
    Ok(())
}

/// Whether it is kept.
pub(crate) async fn exists(conn: &mut Conn, id: RolloutId) -> Result<bool> {
    let row: Option<(String,)> =
        query_as("SELECT id FROM rollout WHERE id = $1").bind(id.to_string()).fetch_optional(conn).await?;
    Ok(row.is_some())
}

/// Lets the progress deadline of every open rollout begin anew: while the control plane was away, nothing could progress.
pub(crate) async fn restart_deadlines(conn: &mut Conn, now: Timestamp) -> Result<()> {
    query("UPDATE rollout SET progressed_at = $1 WHERE state < $2")
        .bind(now.as_microsecond())
        .bind(FINAL)
        .execute(conn)
        .await?;
    Ok(())
}

pub(crate) async fn set_rolled_back_by(conn: &mut Conn, failed: RolloutId, by: RolloutId) -> Result<()> {
    query("UPDATE rollout SET rolled_back_by = $2 WHERE id = $1")
        .bind(failed.to_string())
        .bind(by.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Ends the rollouts of an app that have not ended, because a newer one takes their place.
pub(crate) async fn supersede(conn: &mut Conn, apps: &[AppId], now: Timestamp) -> Result<()> {
    for piece in pieces(apps) {
        let list = parameters(4, piece.len());
        let query = query_built(format!(
            "UPDATE rollout SET state = $1, ended_at = $2 WHERE state < $3 AND app IN ({list})"
        ))
        .bind(rollout_state_to_db(RolloutState::Superseded))
        .bind(now.as_microsecond())
        .bind(FINAL);
        piece.iter().fold(query, |query, app| query.bind(app.to_string())).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Forgets all but the newest rollouts of an app, as far as they have ended.
pub(crate) async fn prune(conn: &mut Conn, app: AppId) -> Result<u64> {
    let done = query(
        "DELETE FROM rollout WHERE app = $1 AND state >= $2 AND id NOT IN (
             SELECT id FROM rollout WHERE app = $1 ORDER BY started_at DESC, id DESC LIMIT $3)",
    )
    .bind(app.to_string())
    .bind(FINAL)
    .bind(KEPT)
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// The newest rollout that no failure started.
pub(crate) async fn newest_by_user(conn: &mut Conn, app: AppId) -> Result<Option<Rollout>> {
    let row: Option<Row> =
        query_as(select!("WHERE app = $1 AND automatic = $2 ORDER BY started_at DESC, id DESC LIMIT 1"))
            .bind(app.to_string())
            .bind(false)
            .fetch_optional(conn)
            .await?;
    row.map(Rollout::try_from).transpose()
}
