//! Table `app`.

use std::collections::BTreeMap;

use wharf_types::api::Stopped;
use wharf_types::{AppId, AppName, NamespaceId, NamespaceName, ReleaseId, SetName, Timestamp};

use super::codec::{from_json, json, number, parse, parse_opt, time, time_opt};
use super::query::{parameters, pieces, query, query_as, query_as_built, query_built, row_pieces, rows};
use super::{Conn, News, Result};
use crate::plan::Places;

/// What stands over, or behind, the variables of a release. None: there is no such variable.
pub(crate) type EnvOverrides = BTreeMap<String, Option<String>>;

#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) id: AppId,
    pub(crate) namespace_id: NamespaceId,
    pub(crate) namespace: NamespaceName,
    pub(crate) name: AppName,
    pub(crate) deleting: bool,
    pub(crate) stopped: Option<Stopped>,
    /// The number of slots that `scale` set, whatever a release asks for.
    pub(crate) scaled_to: Option<u32>,
    /// The number that open requests have decided on last, where the release has a range.
    pub(crate) autoscaled_to: Option<u32>,
    /// The nodes of its slots, where the release is global.
    pub(crate) places: Places,
    /// What `env` set or took away, whatever a manifest says.
    pub(crate) env_overrides: EnvOverrides,
    pub(crate) last_release: u64,
    pub(crate) target_release: Option<ReleaseId>,
    pub(crate) stable_release: Option<ReleaseId>,
    /// The set that it was applied under.
    pub(crate) applied_set: Option<SetName>,
    pub(crate) revision: i64,
    pub(crate) updated_at: Timestamp,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    namespace_id: String,
    namespace: String,
    name: String,
    deleting: bool,
    stopped_at: Option<i64>,
    stopped_by: Option<String>,
    scaled_to: Option<i64>,
    autoscaled_to: Option<i64>,
    places: Option<String>,
    env_overrides: String,
    last_release: i64,
    target_release: Option<String>,
    stable_release: Option<String>,
    applied_set: Option<String>,
    revision: i64,
    updated_at: i64,
}

impl TryFrom<Row> for App {
    type Error = super::StoreError;
    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: parse(&row.id)?,
            namespace_id: parse(&row.namespace_id)?,
            namespace: parse(&row.namespace)?,
            name: parse(&row.name)?,
            deleting: row.deleting,
            stopped: time_opt(row.stopped_at)?
                .map(|since| Stopped { since, by: row.stopped_by.unwrap_or_default() }),
            scaled_to: row.scaled_to.map(number).transpose()?,
            autoscaled_to: row.autoscaled_to.map(number).transpose()?,
            places: places(row.places.as_deref())?,
            env_overrides: from_json(&row.env_overrides)?,
            last_release: number(row.last_release)?,
            target_release: parse_opt(row.target_release.as_deref())?,
            stable_release: parse_opt(row.stable_release.as_deref())?,
            applied_set: parse_opt(row.applied_set.as_deref())?,
            revision: row.revision,
            updated_at: time(row.updated_at)?,
        })
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT app.id, app.namespace AS namespace_id, namespace.name AS namespace, app.name, app.deleting, app.stopped_at,
             app.stopped_by, app.scaled_to, app.autoscaled_to, app.places,
             app.env_overrides, app.last_release, app.target_release, app.stable_release,
             app.applied_set, app.revision, app.updated_at FROM app JOIN namespace ON namespace.id = app.namespace ",
            $rest
        )
    };
}

pub(super) fn places(stored: Option<&str>) -> Result<Places> {
    stored.map_or(Ok(Places::default()), from_json)
}

impl App {
    /// One that is yet to be made.
    pub(crate) fn new(
        namespace_id: NamespaceId,
        namespace: &NamespaceName,
        name: &AppName,
        now: Timestamp,
    ) -> Self {
        Self {
            id: AppId::new(),
            namespace_id,
            namespace: namespace.clone(),
            name: name.clone(),
            deleting: false,
            stopped: None,
            scaled_to: None,
            autoscaled_to: None,
            places: Places::default(),
            env_overrides: EnvOverrides::new(),
            last_release: 0,
            target_release: None,
            stable_release: None,
            applied_set: None,
            revision: 0,
            updated_at: now,
        }
    }
}

pub(crate) async fn create(
    conn: &mut Conn,
    namespace: NamespaceId,
    name: &AppName,
    now: Timestamp,
) -> Result<AppId> {
    let id = AppId::new();
    insert(conn, &[(id, namespace, name)], now).await?;
    Ok(id)
}

/// Makes the apps, each as [`App::new`] says.
pub(crate) async fn create_all(conn: &mut Conn, apps: &[&App], now: Timestamp) -> Result<()> {
    let apps: Vec<_> = apps.iter().map(|app| (app.id, app.namespace_id, &app.name)).collect();
    insert(conn, &apps, now).await
}

async fn insert(conn: &mut Conn, apps: &[(AppId, NamespaceId, &AppName)], now: Timestamp) -> Result<()> {
    for piece in row_pieces(apps) {
        let rows = rows(9, piece.len());
        let mut query = query_built(format!(
            "INSERT INTO app (id, namespace, name, deleting, env_overrides, last_release, revision, created_at, updated_at)
             VALUES {rows}"
        ));
        for (id, namespace, name) in piece {
            query = query
                .bind(id.to_string())
                .bind(namespace.to_string())
                .bind(name.as_str())
                .bind(false)
                .bind("{}")
                .bind(0_i64)
                .bind(0_i64)
                .bind(now.as_microsecond())
                .bind(now.as_microsecond());
        }
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

pub(crate) async fn find(conn: &mut Conn, namespace: &NamespaceName, name: &AppName) -> Result<Option<App>> {
    let row: Option<Row> = query_as(select!("WHERE namespace.name = $1 AND app.name = $2"))
        .bind(namespace.as_str())
        .bind(name.as_str())
        .fetch_optional(conn)
        .await?;
    row.map(App::try_from).transpose()
}

pub(crate) async fn get(conn: &mut Conn, id: AppId) -> Result<Option<App>> {
    let row: Option<Row> =
        query_as(select!("WHERE app.id = $1")).bind(id.to_string()).fetch_optional(conn).await?;
    row.map(App::try_from).transpose()
}

/// Those of these apps that there are, in any order.
pub(crate) async fn get_all(conn: &mut Conn, ids: &[AppId]) -> Result<Vec<App>> {
    let mut apps = Vec::with_capacity(ids.len());
    for ids in ids.chunks(NAMES) {
        let (select, list) = (select!("WHERE app.id IN ("), parameters(1, ids.len()));
        let query = query_as_built(format!("{select}{list})"));
        let query = ids.iter().fold(query, |query, id| query.bind(id.to_string()));
        let rows: Vec<Row> = query.fetch_all(&mut *conn).await?;
        for row in rows {
            apps.push(App::try_from(row)?);
        }
    }
    Ok(apps)
}

/// Apps of a namespace by name, after `after`.
pub(crate) async fn list(
    conn: &mut Conn,
    namespace: &NamespaceName,
    after: &str,
    limit: i64,
) -> Result<Vec<App>> {
    let rows: Vec<Row> =
        query_as(select!("WHERE namespace.name = $1 AND app.name > $2 ORDER BY app.name LIMIT $3"))
            .bind(namespace.as_str())
            .bind(after)
            .bind(limit)
            .fetch_all(conn)
            .await?;
    rows.into_iter().map(App::try_from).collect()
}

/// Names of one statement: SQLite takes some thousand parameters, and its planner few.
const NAMES: usize = 500;

/// Those of these apps that there are.
pub(crate) async fn find_all(
    conn: &mut Conn,
    namespace: NamespaceId,
    names: &[&AppName],
) -> Result<Vec<App>> {
    let mut apps = Vec::with_capacity(names.len());
    for names in names.chunks(NAMES) {
        let list = parameters(2, names.len());
        let select = select!("WHERE app.namespace = $1 AND app.name IN (");
        let query = query_as_built(format!("{select}{list})")).bind(namespace.to_string());
        let query = names.iter().fold(query, |query, name| query.bind(name.as_str()));
        let rows: Vec<Row> = query.fetch_all(conn).await?;
        for row in rows {
            apps.push(App::try_from(row)?);
        }
    }
    Ok(apps)
}

/// The apps of a namespace that were applied under a set.
pub(crate) async fn in_set(conn: &mut Conn, namespace: NamespaceId, set: &SetName) -> Result<Vec<App>> {
    let rows: Vec<Row> =
        query_as(select!("WHERE app.namespace = $1 AND app.applied_set = $2 ORDER BY app.name"))
            .bind(namespace.to_string())
            .bind(set.as_str())
            .fetch_all(conn)
            .await?;
    rows.into_iter().map(App::try_from).collect()
}

pub(crate) async fn set_applied_set(conn: &mut Conn, ids: &[AppId], set: &SetName) -> Result<()> {
    for piece in pieces(ids) {
        let list = parameters(2, piece.len());
        let query =
            query_built(format!("UPDATE app SET applied_set = $1 WHERE id IN ({list})")).bind(set.as_str());
        piece.iter().fold(query, |query, id| query.bind(id.to_string())).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Every app, with its revision: what else belongs to it changes with that.
pub(crate) async fn revisions(conn: &mut Conn) -> Result<Vec<(AppId, i64)>> {
    let rows: Vec<(String, i64)> =
        query_as("SELECT id, revision FROM app ORDER BY id").fetch_all(conn).await?;
    rows.iter().map(|(id, revision)| Ok((parse(id)?, *revision))).collect()
}

/// Draws the number of the app's next release.
#[cfg(test)]
pub(crate) async fn next_release(conn: &mut Conn, id: AppId) -> Result<u64> {
    let (number_of_release,): (i64,) =
        query_as("UPDATE app SET last_release = last_release + 1 WHERE id = $1 RETURNING last_release")
            .bind(id.to_string())
            .fetch_one(conn)
            .await?;
    number(number_of_release)
}

/// Moves each of these apps to the release that was just made of it, whose number is the one after its last.
pub(crate) async fn take_next_release(conn: &mut Conn, ids: &[AppId]) -> Result<()> {
    for piece in pieces(ids) {
        let list = parameters(1, piece.len());
        let query = query_built(format!(
            "UPDATE app SET last_release = last_release + 1, target_release = (SELECT release.id FROM release
                 WHERE release.app = app.id AND release.number = app.last_release + 1) WHERE id IN ({list})"
        ));
        piece.iter().fold(query, |query, id| query.bind(id.to_string())).execute(&mut *conn).await?;
    }
    Ok(())
}

pub(crate) async fn set_places(conn: &mut Conn, id: AppId, places: &Places) -> Result<()> {
    query("UPDATE app SET places = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind((*places != Places::default()).then(|| json(places)))
        .execute(conn)
        .await?;
    Ok(())
}

pub(crate) async fn set_scale(conn: &mut Conn, id: AppId, scaled_to: Option<u32>) -> Result<()> {
    query("UPDATE app SET scaled_to = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(scaled_to.map(i64::from))
        .later(conn)
        .await?;
    Ok(())
}

pub(crate) async fn set_autoscale(conn: &mut Conn, id: AppId, replicas: u32) -> Result<()> {
    query("UPDATE app SET autoscaled_to = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(i64::from(replicas))
        .later(conn)
        .await?;
    Ok(())
}

pub(crate) async fn set_env_overrides(conn: &mut Conn, id: AppId, env: &EnvOverrides) -> Result<()> {
    query("UPDATE app SET env_overrides = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(json(env))
        .later(conn)
        .await?;
    Ok(())
}

pub(crate) async fn set_target(conn: &mut Conn, id: AppId, release: Option<ReleaseId>) -> Result<()> {
    query("UPDATE app SET target_release = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(release.map(|id| id.to_string()))
        .execute(conn)
        .await?;
    Ok(())
}

pub(crate) async fn set_stable(conn: &mut Conn, id: AppId, release: Option<ReleaseId>) -> Result<()> {
    query("UPDATE app SET stable_release = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(release.map(|id| id.to_string()))
        .execute(conn)
        .await?;
    Ok(())
}

/// Stops the app, or, with None, lets it run again.
pub(crate) async fn set_stopped(conn: &mut Conn, id: AppId, stopped: Option<&Stopped>) -> Result<()> {
    query("UPDATE app SET stopped_at = $2, stopped_by = $3 WHERE id = $1")
        .bind(id.to_string())
        .bind(stopped.map(|stopped| stopped.since.as_microsecond()))
        .bind(stopped.map(|stopped| stopped.by.as_str()))
        .execute(conn)
        .await?;
    Ok(())
}

pub(crate) async fn mark_deleting(conn: &mut Conn, ids: &[AppId]) -> Result<()> {
    for piece in pieces(ids) {
        let list = parameters(2, piece.len());
        let query = query_built(format!("UPDATE app SET deleting = $1 WHERE id IN ({list})")).bind(true);
        piece.iter().fold(query, |query, id| query.bind(id.to_string())).execute(&mut *conn).await?;
    }
    Ok(())
}

/// Takes the app away with everything that refers to it.
pub(crate) async fn delete(conn: &mut Conn, id: AppId) -> Result<bool> {
    conn.note(News::Volumes);
    conn.note(News::App(id));
    let done = query("DELETE FROM app WHERE id = $1").bind(id.to_string()).execute(conn).await?;
    Ok(done.rows_affected() == 1)
}
