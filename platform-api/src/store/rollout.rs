//! Table `rollout`.

use wharf_types::node::Reason;
use wharf_types::state::RolloutState;
use wharf_types::{AppId, ReleaseId, RolloutId, Timestamp};

use super::codec::{
    FINAL, from_json, json, number, parse, parse_opt, rollout_state_from_db, rollout_state_to_db, time,
    time_opt,
};
use super::{Conn, Result};
use crate::plan::RolloutView;

/// Rollouts that are kept of an app.
const KEPT: i64 = 100;

#[derive(Clone, Debug)]
pub(crate) struct Rollout {
    pub(crate) view: RolloutView,
    pub(crate) ended_at: Option<Timestamp>,
    pub(crate) reason: Option<Reason>,
    pub(crate) rolled_back_by: Option<RolloutId>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    from_release: Option<String>,
    to_release: String,
    state: i64,
    automatic: bool,
    renews: bool,
    started_at: i64,
    progressed_at: i64,
    progressed_ready: i64,
    monitoring_since: Option<i64>,
    ended_at: Option<i64>,
    reason: Option<String>,
    rolled_back_by: Option<String>,
}

impl TryFrom<Row> for Rollout {
    type Error = super::StoreError;
    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            view: RolloutView {
                id: parse(&row.id)?,
                from: parse_opt(row.from_release.as_deref())?,
                to: parse(&row.to_release)?,
                state: rollout_state_from_db(row.state)?,
                automatic: row.automatic,
                renews: row.renews,
                started_at: time(row.started_at)?,
                progressed_at: time(row.progressed_at)?,
                progressed_ready: number(row.progressed_ready)?,
                monitoring_since: time_opt(row.monitoring_since)?,
            },
            ended_at: time_opt(row.ended_at)?,
            reason: row.reason.as_deref().map(from_json).transpose()?,
            rolled_back_by: parse_opt(row.rolled_back_by.as_deref())?,
        })
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, from_release, to_release, state, automatic, renews, started_at, progressed_at, progressed_ready,
             monitoring_since, ended_at, reason, rolled_back_by FROM rollout ",
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
    pub(crate) renews: bool,
}

pub(crate) async fn create(conn: &mut Conn, rollout: &NewRollout, now: Timestamp) -> Result<()> {
    sqlx::query(
        "INSERT INTO rollout (id, app, from_release, to_release, state, automatic, renews, started_at, progressed_at,
             progressed_ready) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, 0)",
    )
    .bind(rollout.id.to_string())
    .bind(rollout.app.to_string())
    .bind(rollout.from.map(|id| id.to_string()))
    .bind(rollout.to.to_string())
    .bind(rollout_state_to_db(RolloutState::Pending))
    .bind(rollout.automatic)
    .bind(rollout.renews)
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn find(conn: &mut Conn, app: AppId, id: RolloutId) -> Result<Option<Rollout>> {
    let row: Option<Row> = sqlx::query_as(select!("WHERE app = $1 AND id = $2"))
        .bind(app.to_string())
        .bind(id.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(Rollout::try_from).transpose()
}

/// The app's newest rollout.
pub(crate) async fn newest(conn: &mut Conn, app: AppId) -> Result<Option<Rollout>> {
    let row: Option<Row> =
        sqlx::query_as(select!("WHERE app = $1 ORDER BY started_at DESC, id DESC LIMIT 1"))
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
    let done = sqlx::query(
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

/// Records that another instance of the new release became ready.
pub(crate) async fn progress(conn: &mut Conn, id: RolloutId, ready: u32, now: Timestamp) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE rollout SET progressed_at = $2, progressed_ready = $3 WHERE id = $1 AND state < $4",
    )
    .bind(id.to_string())
    .bind(now.as_microsecond())
    .bind(i64::from(ready))
    .bind(FINAL)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets the progress deadline of every open rollout begin anew: while the control plane was away, nothing could progress.
pub(crate) async fn restart_deadlines(conn: &mut Conn, now: Timestamp) -> Result<()> {
    sqlx::query("UPDATE rollout SET progressed_at = $1 WHERE state < $2")
        .bind(now.as_microsecond())
        .bind(FINAL)
        .execute(conn)
        .await?;
    Ok(())
}

pub(crate) async fn set_rolled_back_by(conn: &mut Conn, failed: RolloutId, by: RolloutId) -> Result<()> {
    sqlx::query("UPDATE rollout SET rolled_back_by = $2 WHERE id = $1")
        .bind(failed.to_string())
        .bind(by.to_string())
        .execute(conn)
        .await?;
    Ok(())
}

/// Ends the rollouts of an app that have not ended, because a newer one takes their place.
pub(crate) async fn supersede(conn: &mut Conn, app: AppId, now: Timestamp) -> Result<u64> {
    let done = sqlx::query("UPDATE rollout SET state = $2, ended_at = $3 WHERE app = $1 AND state < $4")
        .bind(app.to_string())
        .bind(rollout_state_to_db(RolloutState::Superseded))
        .bind(now.as_microsecond())
        .bind(FINAL)
        .execute(conn)
        .await?;
    Ok(done.rows_affected())
}

/// Forgets all but the newest rollouts of an app, as far as they have ended.
pub(crate) async fn prune(conn: &mut Conn, app: AppId) -> Result<u64> {
    let done = sqlx::query(
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
    let row: Option<Row> = sqlx::query_as(select!(
        "WHERE app = $1 AND automatic = $2 ORDER BY started_at DESC, id DESC LIMIT 1"
    ))
    .bind(app.to_string())
    .bind(false)
    .fetch_optional(conn)
    .await?;
    row.map(Rollout::try_from).transpose()
}
