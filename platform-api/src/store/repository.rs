//! Tables `repository` and `preview`: where apps are pushed, and which apps show what a branch would be.

use uuid::Uuid;
use wharf_types::api::{PreviewInfo, PushPolicy, WhenBusy};
use wharf_types::{AppId, AppName, NamespaceId, NamespaceName, Timestamp};

use super::codec::{busy_from_db, busy_to_db, parse, time};
use super::query::{query, query_as};
use super::{Conn, Result};

/// The branch that is deployed unless somebody says otherwise.
pub(crate) const BRANCH: &str = "main";

#[derive(Clone, Debug)]
pub(crate) struct Repository {
    pub(crate) id: Uuid,
    pub(crate) branch: String,
    pub(crate) when_busy: WhenBusy,
}

type Row = (String, String, i64);

fn of_row((id, branch, when_busy): Row) -> Result<Repository> {
    Ok(Repository { id: parse(&id)?, branch, when_busy: busy_from_db(when_busy)? })
}

/// The repository of an app, whether or not that has been made.
pub(crate) async fn find(
    conn: &mut Conn,
    namespace: NamespaceId,
    app: &AppName,
) -> Result<Option<Repository>> {
    let row: Option<Row> =
        query_as("SELECT id, branch, when_busy FROM repository WHERE namespace = $1 AND app_name = $2")
            .bind(namespace.to_string())
            .bind(app.as_str())
            .fetch_optional(conn)
            .await?;
    row.map(of_row).transpose()
}

/// The same, which is made unless there is one.
pub(crate) async fn ensure(
    conn: &mut Conn,
    namespace: NamespaceId,
    app: &AppName,
    now: Timestamp,
) -> Result<Repository> {
    let row: Row = query_as(
        "INSERT INTO repository (id, namespace, app_name, branch, when_busy, created_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (namespace, app_name) DO UPDATE SET branch = repository.branch
         RETURNING id, branch, when_busy",
    )
    .bind(Uuid::now_v7().to_string())
    .bind(namespace.to_string())
    .bind(app.as_str())
    .bind(BRANCH)
    .bind(busy_to_db(WhenBusy::default()))
    .bind(now.as_microsecond())
    .fetch_one(conn)
    .await?;
    of_row(row)
}

pub(crate) async fn set(conn: &mut Conn, repository: &Repository) -> Result<()> {
    query("UPDATE repository SET branch = $2, when_busy = $3 WHERE id = $1")
        .bind(repository.id.to_string())
        .bind(repository.branch.as_str())
        .bind(busy_to_db(repository.when_busy))
        .execute(conn)
        .await?;
    Ok(())
}

/// Those that nobody has measured.
pub(crate) async fn unmeasured(conn: &mut Conn) -> Result<Vec<Uuid>> {
    let rows: Vec<(String,)> = query_as("SELECT id FROM repository WHERE bytes = 0").fetch_all(conn).await?;
    rows.into_iter().map(|(id,)| parse(&id)).collect()
}

/// Takes note of what it takes of the disk.
pub(crate) async fn set_bytes(conn: &mut Conn, repository: Uuid, bytes: u64) -> Result<()> {
    query("UPDATE repository SET bytes = $2 WHERE id = $1")
        .bind(repository.to_string())
        .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets the repository of an app. Its folder goes later.
pub(crate) async fn remove(conn: &mut Conn, namespace: NamespaceId, app: &AppName) -> Result<()> {
    query("DELETE FROM repository WHERE namespace = $1 AND app_name = $2")
        .bind(namespace.to_string())
        .bind(app.as_str())
        .execute(conn)
        .await?;
    Ok(())
}

pub(crate) async fn policy(conn: &mut Conn, namespace: NamespaceId) -> Result<PushPolicy> {
    let row: Option<(bool, bool)> =
        query_as("SELECT creates_apps, build_network FROM push_policy WHERE namespace = $1")
            .bind(namespace.to_string())
            .fetch_optional(conn)
            .await?;
    Ok(row.map_or_else(PushPolicy::default, |(creates_apps, build_network)| PushPolicy {
        creates_apps,
        build_network,
    }))
}

pub(crate) async fn set_policy(conn: &mut Conn, namespace: NamespaceId, policy: PushPolicy) -> Result<()> {
    query(
        "INSERT INTO push_policy (namespace, creates_apps, build_network) VALUES ($1, $2, $3)
         ON CONFLICT (namespace) DO UPDATE SET creates_apps = excluded.creates_apps, build_network = excluded.build_network",
    )
    .bind(namespace.to_string())
    .bind(policy.creates_apps)
    .bind(policy.build_network)
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets those that nothing came of: no app or stack of the name is there, nor a preview, and nothing is under way.
pub(crate) async fn prune(conn: &mut Conn, before: Timestamp) -> Result<()> {
    query(
        "DELETE FROM repository WHERE created_at < $1
             AND NOT EXISTS (SELECT 1 FROM app WHERE app.namespace = repository.namespace AND app.name = repository.app_name)
             AND NOT EXISTS (SELECT 1 FROM app WHERE app.namespace = repository.namespace AND app.applied_set = repository.app_name)
             AND NOT EXISTS (SELECT 1 FROM preview WHERE preview.repository = repository.id)
             AND NOT EXISTS (SELECT 1 FROM stack_preview WHERE stack_preview.repository = repository.id)
             AND NOT EXISTS (SELECT 1 FROM build WHERE build.repository = repository.id AND build.ended_at IS NULL)",
    )
    .bind(before.as_microsecond())
    .execute(conn)
    .await?;
    Ok(())
}

/// All that there are: what else has a folder is nobody's.
pub(crate) async fn ids(conn: &mut Conn) -> Result<Vec<Uuid>> {
    let rows: Vec<(String,)> = query_as("SELECT id FROM repository").fetch_all(conn).await?;
    rows.into_iter().map(|(id,)| parse(&id)).collect()
}

/// Makes an app the preview of a branch, or lets it last longer.
pub(crate) async fn put_preview(
    conn: &mut Conn,
    app: AppId,
    repository: Uuid,
    branch: &str,
    expires_at: Timestamp,
) -> Result<()> {
    query(
        "INSERT INTO preview (app, repository, branch, expires_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (app) DO UPDATE SET expires_at = excluded.expires_at",
    )
    .bind(app.to_string())
    .bind(repository.to_string())
    .bind(branch)
    .bind(expires_at.as_microsecond())
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn previews(conn: &mut Conn, repository: Uuid) -> Result<Vec<PreviewInfo>> {
    let rows: Vec<(String, String, i64)> = query_as(
        "SELECT app.name, preview.branch, preview.expires_at FROM preview JOIN app ON app.id = preview.app
         WHERE preview.repository = $1 ORDER BY preview.branch",
    )
    .bind(repository.to_string())
    .fetch_all(conn)
    .await?;
    let preview = |(app, branch, expires_at): (String, String, i64)| {
        Ok(PreviewInfo { app: parse(&app)?, branch, expires_at: time(expires_at)?, services: Vec::new() })
    };
    rows.into_iter().map(preview).collect()
}

/// A preview whose time is over.
#[derive(Clone, Debug)]
pub(crate) struct Expired {
    pub(crate) namespace: NamespaceName,
    pub(crate) app: AppName,
    pub(crate) repository: Uuid,
    pub(crate) branch: String,
}

pub(crate) async fn expired(conn: &mut Conn, now: Timestamp) -> Result<Vec<Expired>> {
    let rows: Vec<(String, String, String, String)> = query_as(
        "SELECT namespace.name, app.name, preview.repository, preview.branch FROM preview
         JOIN app ON app.id = preview.app JOIN namespace ON namespace.id = app.namespace
         WHERE preview.expires_at < $1",
    )
    .bind(now.as_microsecond())
    .fetch_all(conn)
    .await?;
    let expired = |(namespace, app, repository, branch): (String, String, String, String)| {
        Ok(Expired {
            namespace: parse(&namespace)?,
            app: parse(&app)?,
            repository: parse(&repository)?,
            branch,
        })
    };
    rows.into_iter().map(expired).collect()
}
