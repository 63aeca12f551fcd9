//! Table `release`: rows are written once; only `served` changes.

use std::sync::Arc;
use std::time::Duration;

use wharf_types::spec::AppSpec;
use wharf_types::{AppId, Digest, ReleaseId, Timestamp};

use super::app::EnvOverrides;
use super::codec::{from_json, json, number, parse, time};
use super::query::{parameters, query, query_as, query_as_built, query_built, row_pieces, rows};
use super::{Conn, Result};

/// Releases of an app that are kept however old they are, beside the current and the stable one.
const KEPT: i64 = 20;
/// How long further ones are kept.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// The most that are kept of an app that is deployed all day.
const KEPT_MAX: i64 = 100;

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

#[cfg(test)]
pub(crate) async fn create(conn: &mut Conn, release: &Release) -> Result<()> {
    create_all(conn, &[release]).await
}

pub(crate) async fn create_all(conn: &mut Conn, releases: &[&Release]) -> Result<()> {
    for piece in row_pieces(releases) {
        let rows = rows(11, piece.len());
        let mut query = query_built(format!(
            "INSERT INTO release (id, app, number, artifact, spec, own_env, cause, created_by, served, created_at, archive)
             VALUES {rows}"
        ));
        for release in piece {
            query = query
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
                .bind(release.spec.files.as_ref().map(|files| files.digest.to_string()));
        }
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

pub(crate) async fn get(conn: &mut Conn, id: ReleaseId) -> Result<Option<Release>> {
    let row: Option<Row> =
        query_as(select!("WHERE id = $1")).bind(id.to_string()).fetch_optional(conn).await?;
    row.map(Release::try_from).transpose()
}

/// Ids of one statement.
const IDS: usize = 500;

/// Those of these releases that are kept.
pub(crate) async fn get_all(conn: &mut Conn, ids: &[ReleaseId]) -> Result<Vec<Release>> {
    let mut releases = Vec::with_capacity(ids.len());
    for ids in ids.chunks(IDS) {
        let (select, list) = (select!("WHERE id IN ("), parameters(1, ids.len()));
        let query = query_as_built(format!("{select}{list})"));
        let query = ids.iter().fold(query, |query, id| query.bind(id.to_string()));
        let rows: Vec<Row> = query.fetch_all(conn).await?;
        for row in rows {
            releases.push(Release::try_from(row)?);
        }
    }
    Ok(releases)
}

pub(crate) async fn find(conn: &mut Conn, app: AppId, number: u64) -> Result<Option<Release>> {
    let row: Option<Row> = query_as(select!("WHERE app = $1 AND number = $2"))
        .bind(app.to_string())
        .bind(i64::try_from(number).unwrap_or(i64::MAX))
        .fetch_optional(conn)
        .await?;
    row.map(Release::try_from).transpose()
}

/// The app's releases below `before`, newest first.
pub(crate) async fn list(conn: &mut Conn, app: AppId, before: u64, limit: i64) -> Result<Vec<Release>> {
    let rows: Vec<Row> = query_as(select!("WHERE app = $1 AND number < $2 ORDER BY number DESC LIMIT $3"))
        .bind(app.to_string())
        .bind(i64::try_from(before).unwrap_or(i64::MAX))
        .bind(limit)
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(Release::try_from).collect()
}

/// The newest release below `before` that a user may come back to.
pub(crate) async fn find_served_before(conn: &mut Conn, app: AppId, before: u64) -> Result<Option<Release>> {
    let row: Option<Row> =
        query_as(select!("WHERE app = $1 AND number < $2 AND served = $3 ORDER BY number DESC LIMIT 1"))
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
        query_as("SELECT min(number), max(number) FROM release WHERE app = $1")
            .bind(app.to_string())
            .fetch_one(conn)
            .await?;
    first.zip(last).map(|(first, last)| Ok((number(first)?, number(last)?))).transpose()
}

pub(crate) async fn set_served(conn: &mut Conn, id: ReleaseId, served: bool) -> Result<()> {
    query("UPDATE release SET served = $2 WHERE id = $1")
        .bind(id.to_string())
        .bind(served)
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets releases that are too old to come back: all but the newest [`KEPT`], younger ones up to [`KEPT_MAX`], those that
/// the app is on, and those that an instance still runs. Returns how many.
pub(crate) async fn prune(conn: &mut Conn, app: AppId, now: Timestamp) -> Result<u64> {
    let young = now.checked_sub(KEPT_FOR).unwrap_or(Timestamp::MIN);
    let done = query(
        "DELETE FROM release WHERE app = $1
             AND (number <= (SELECT last_release FROM app WHERE app.id = $1) - $4
                 OR (created_at < $5 AND number <= (SELECT last_release FROM app WHERE app.id = $1) - $2))
             AND NOT EXISTS (SELECT 1 FROM app WHERE app.id = $1
                 AND (app.target_release = release.id OR app.stable_release = release.id))
             AND NOT EXISTS (SELECT 1 FROM instance WHERE instance.release = release.id AND instance.state < $3)
             AND NOT EXISTS (SELECT 1 FROM rollout WHERE rollout.app = $1 AND rollout.state < $3
                 AND (rollout.from_release = release.id OR rollout.to_release = release.id))",
    )
    .bind(app.to_string())
    .bind(KEPT)
    .bind(super::codec::FINAL)
    .bind(KEPT_MAX)
    .bind(young.as_microsecond())
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

#[cfg(test)]
mod tests {
    use wharf_types::state::{RolloutState, Wanted};
    use wharf_types::world::World;
    use wharf_types::{InstanceId, NamespaceName, NodeId};

    use super::*;
    use crate::store;
    use crate::store::rollout::NewRollout;
    use crate::tests::database;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// An app with releases that were made at these times.
    async fn app_with(conn: &mut Conn, times: impl Iterator<Item = Timestamp>) -> AppId {
        let name = NamespaceName::default_namespace();
        let namespace = store::namespace::create(conn, &name, Timestamp::UNIX_EPOCH).await.unwrap();
        let artifact = store::artifact::Artifact {
            digest: Digest::of(b"app"),
            bytes: 3,
            world: World::HttpProxy,
            imports: Vec::new(),
        };
        store::artifact::put(conn, namespace, &artifact, Timestamp::UNIX_EPOCH).await.unwrap();
        let name = "hello".parse().unwrap();
        let app = store::app::create(conn, namespace, &name, Timestamp::UNIX_EPOCH).await.unwrap();
        for created_at in times {
            let release = Release {
                id: ReleaseId::new(),
                app,
                number: store::app::next_release(conn, app).await.unwrap(),
                artifact: artifact.digest,
                spec: Arc::default(),
                own_env: EnvOverrides::new(),
                cause: "deploy".to_owned(),
                created_by: "test".to_owned(),
                served: true,
                created_at,
            };
            create(conn, &release).await.unwrap();
        }
        app
    }

    #[tokio::test]
    async fn twenty_releases_are_kept_for_ever_and_up_to_a_hundred_for_a_month() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let day = |number: u32| Timestamp::UNIX_EPOCH + DAY * number;
        // Five on each of thirty days.
        let app = app_with(&mut tx, (0..150).map(|number| day(number / 5))).await;

        prune(&mut tx, app, day(29)).await.unwrap();
        assert_eq!(range(&mut tx, app).await.unwrap(), Some((51, 150)));
        prune(&mut tx, app, day(50)).await.unwrap();
        assert_eq!(range(&mut tx, app).await.unwrap(), Some((101, 150)), "those of the day 20 and later");
        prune(&mut tx, app, day(1000)).await.unwrap();
        assert_eq!(range(&mut tx, app).await.unwrap(), Some((131, 150)));

        let current = find(&mut tx, app, 131).await.unwrap().unwrap();
        store::app::set_target(&mut tx, app, Some(current.id)).await.unwrap();
        let newer = Release { id: ReleaseId::new(), number: 151, ..current };
        store::app::next_release(&mut tx, app).await.unwrap();
        create(&mut tx, &newer).await.unwrap();
        assert_eq!(prune(&mut tx, app, day(1000)).await.unwrap(), 0, "the one that the app is on stays");
    }

    #[tokio::test]
    async fn a_rollout_is_the_newest_whatever_the_clock_shows() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let app = app_with(&mut tx, std::iter::once(Timestamp::UNIX_EPOCH)).await;
        let release = find(&mut tx, app, 1).await.unwrap().unwrap().id;
        for second in [100, 40, 40, 70] {
            let now = Timestamp::UNIX_EPOCH + Duration::from_secs(second);
            let id = wharf_types::RolloutId::new();
            let (automatic, backwards, renews) = (false, false, false);
            let new = NewRollout { id, app, from: None, to: release, automatic, backwards, renews };
            store::rollout::create(&mut tx, &new, now).await.unwrap();
            assert_eq!(store::rollout::newest(&mut tx, app).await.unwrap().unwrap().view.id, id);
        }
    }

    #[tokio::test]
    async fn a_hundred_rollouts_are_kept_and_those_under_way() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let app = app_with(&mut tx, std::iter::once(Timestamp::UNIX_EPOCH)).await;
        let release = find(&mut tx, app, 1).await.unwrap().unwrap().id;
        let mut ids = Vec::new();
        for second in 0..110 {
            let now = Timestamp::UNIX_EPOCH + Duration::from_secs(second);
            let id = wharf_types::RolloutId::new();
            let (automatic, backwards, renews) = (false, false, false);
            let new = NewRollout { id, app, from: None, to: release, automatic, backwards, renews };
            store::rollout::create(&mut tx, &new, now).await.unwrap();
            if second > 0 {
                store::rollout::advance(&mut tx, id, RolloutState::Succeeded, None, None, now).await.unwrap();
            }
            ids.push(id);
        }
        assert_eq!(store::rollout::prune(&mut tx, app).await.unwrap(), 9);
        let mut kept = Vec::new();
        for id in ids {
            kept.push(store::rollout::find(&mut tx, app, id).await.unwrap().is_some());
        }
        assert!(kept[0] && kept[10] && !kept[1] && !kept[9], "{kept:?}");
    }

    #[tokio::test]
    async fn what_began_by_a_clock_that_was_ahead_is_older_than_what_begins_after_it() {
        let (_dir, store) = database::store().await;
        let mut tx = store.write().await.unwrap();
        let app = app_with(&mut tx, std::iter::once(Timestamp::UNIX_EPOCH)).await;
        let release = find(&mut tx, app, 1).await.unwrap().unwrap().id;
        let at = |second| Timestamp::UNIX_EPOCH + Duration::from_secs(second);
        let (id, node) = (InstanceId::new(), NodeId::new());
        let wanted = Wanted::Run;
        let instance = store::instance::NewInstance { id, app, release, slot: 1, node, wanted };
        store::instance::create(&mut tx, &instance, at(1250)).await.unwrap();
        for second in [1200, 1300, 60, 30] {
            let id = wharf_types::RolloutId::new();
            let (automatic, backwards, renews) = (false, false, false);
            let new = NewRollout { id, app, from: None, to: release, automatic, backwards, renews };
            store::rollout::create(&mut tx, &new, at(second)).await.unwrap();
            let newest = store::rollout::newest(&mut tx, app).await.unwrap().unwrap();
            assert_eq!((newest.view.id, newest.view.started_at), (id, at(second)), "{second}");
            let made = store::instance::get(&mut tx, instance.id).await.unwrap().unwrap().view.created_at;
            assert!(made < at(second), "{second}: {made}");
        }
    }
}
