//! Tables `secret_version` and `release_secret`: sealed values of secrets and configs, and which release was made with which. No value
//! comes here open.

use std::collections::BTreeMap;

use wharf_types::api::SecretInfo;
use wharf_types::secret::ValueKind;
use wharf_types::{AppId, NamespaceId, ReleaseId, SecretName, SecretVersionId, Timestamp};

use super::codec::{number, parse, time};
use super::query::{query, query_as, query_built, row_pieces, rows};
use super::release::Release;
use super::{Conn, Result};
use crate::secrets::{Sealed, SecretOf};

/// One value of a secret, as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct SealedVersion {
    pub(crate) id: SecretVersionId,
    pub(crate) namespace: NamespaceId,
    pub(crate) name: SecretName,
    pub(crate) kind: ValueKind,
    pub(crate) version: u64,
    pub(crate) sealed: Sealed,
}

impl SealedVersion {
    /// What its value was sealed for.
    pub(crate) fn of(&self) -> SecretOf {
        SecretOf { namespace: self.namespace, id: self.id, kind: self.kind }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    namespace: String,
    name: String,
    readable: bool,
    version: i64,
    key_id: String,
    sealed: Vec<u8>,
}

impl TryFrom<Row> for SealedVersion {
    type Error = super::StoreError;
    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: parse(&row.id)?,
            namespace: parse(&row.namespace)?,
            name: parse(&row.name)?,
            kind: kind(row.readable),
            version: number(row.version)?,
            sealed: Sealed { key_id: row.key_id, octets: row.sealed },
        })
    }
}

fn kind(readable: bool) -> ValueKind {
    if readable { ValueKind::Config } else { ValueKind::Secret }
}

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT id, namespace, name, readable, version, key_id, sealed FROM secret_version ", $rest)
    };
}

pub(crate) async fn create(conn: &mut Conn, new: &SealedVersion, by: &str, now: Timestamp) -> Result<()> {
    query(
        "INSERT INTO secret_version (id, namespace, name, version, key_id, sealed, set_at, set_by, readable)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(new.id.to_string())
    .bind(new.namespace.to_string())
    .bind(new.name.as_str())
    .bind(i64::try_from(new.version).unwrap_or(i64::MAX))
    .bind(&new.sealed.key_id)
    .bind(&new.sealed.octets)
    .bind(now.as_microsecond())
    .bind(by)
    .bind(new.kind == ValueKind::Config)
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn get(conn: &mut Conn, id: SecretVersionId) -> Result<Option<SealedVersion>> {
    let row: Option<Row> =
        query_as(select!("WHERE id = $1")).bind(id.to_string()).fetch_optional(conn).await?;
    row.map(SealedVersion::try_from).transpose()
}

/// A version by its number, or the newest.
pub(crate) async fn find_version(
    conn: &mut Conn,
    namespace: NamespaceId,
    name: &SecretName,
    version: Option<u64>,
) -> Result<Option<SealedVersion>> {
    let Some(version) = version else { return find(conn, namespace, name).await };
    let row: Option<Row> = query_as(select!("WHERE namespace = $1 AND name = $2 AND version = $3"))
        .bind(namespace.to_string())
        .bind(name.as_str())
        .bind(i64::try_from(version).unwrap_or(i64::MAX))
        .fetch_optional(conn)
        .await?;
    row.map(SealedVersion::try_from).transpose()
}

/// The newest version.
pub(crate) async fn find(
    conn: &mut Conn,
    namespace: NamespaceId,
    name: &SecretName,
) -> Result<Option<SealedVersion>> {
    let row: Option<Row> =
        query_as(select!("WHERE namespace = $1 AND name = $2 ORDER BY version DESC LIMIT 1"))
            .bind(namespace.to_string())
            .bind(name.as_str())
            .fetch_optional(conn)
            .await?;
    row.map(SealedVersion::try_from).transpose()
}

/// How many secrets and configs the namespace has.
pub(crate) async fn count(conn: &mut Conn, namespace: NamespaceId) -> Result<u64> {
    let (count,): (i64,) = query_as("SELECT count(DISTINCT name) FROM secret_version WHERE namespace = $1")
        .bind(namespace.to_string())
        .fetch_one(conn)
        .await?;
    number(count)
}

/// What the newest version of a secret or config is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Newest {
    pub(crate) kind: ValueKind,
    /// Octets of the sealed value, which has a few more than the value.
    pub(crate) bytes: usize,
}

/// A namespace's secrets and configs.
pub(crate) async fn all(conn: &mut Conn, namespace: NamespaceId) -> Result<Vec<(SecretName, Newest)>> {
    let rows: Vec<(String, bool, i64)> = query_as(
        "SELECT name, readable, CAST(length(sealed) AS BIGINT) FROM secret_version WHERE namespace = $1
             AND version = (SELECT max(newer.version) FROM secret_version AS newer
                 WHERE newer.namespace = secret_version.namespace AND newer.name = secret_version.name)",
    )
    .bind(namespace.to_string())
    .fetch_all(conn)
    .await?;
    let newest = |(name, readable, bytes): (String, bool, i64)| {
        Ok((parse(&name)?, Newest { kind: kind(readable), bytes: number(bytes)? }))
    };
    rows.into_iter().map(newest).collect()
}

/// Those of one kind in the order of their names.
pub(crate) async fn list(
    conn: &mut Conn,
    namespace: NamespaceId,
    kind: ValueKind,
) -> Result<Vec<SecretInfo>> {
    let rows: Vec<(String, i64, i64, String)> = query_as(
        "SELECT name, version, set_at, set_by FROM secret_version WHERE namespace = $1 AND readable = $2
         ORDER BY name, version",
    )
    .bind(namespace.to_string())
    .bind(kind == ValueKind::Config)
    .fetch_all(&mut *conn)
    .await?;
    let mut secrets: BTreeMap<SecretName, SecretInfo> = BTreeMap::new();
    for (name, version, set_at, set_by) in rows {
        let (name, version, set_at): (SecretName, u64, _) = (parse(&name)?, number(version)?, time(set_at)?);
        let mut versions = secrets.remove(&name).map(|older| older.versions).unwrap_or_default();
        versions.push(version);
        let info = SecretInfo { name: name.clone(), version, set_at, set_by, versions, apps: Vec::new() };
        secrets.insert(name, info);
    }
    let users: Vec<(String, String)> = query_as(
        "SELECT DISTINCT secret_version.name, app.name FROM secret_version
         JOIN release_secret ON release_secret.secret_version = secret_version.id
         JOIN release ON release.id = release_secret.release
         JOIN app ON app.id = release.app
         WHERE secret_version.namespace = $1 ORDER BY app.name",
    )
    .bind(namespace.to_string())
    .fetch_all(conn)
    .await?;
    for (secret, app) in users {
        if let Some(info) = secrets.get_mut(&parse::<SecretName>(&secret)?) {
            info.apps.push(parse(&app)?);
        }
    }
    Ok(secrets.into_values().collect())
}

/// The kept releases that were made with any version of it: the names of their apps and their numbers.
pub(crate) async fn users(
    conn: &mut Conn,
    namespace: NamespaceId,
    name: &SecretName,
) -> Result<Vec<(String, u64)>> {
    let rows: Vec<(String, i64)> = query_as(
        "SELECT app.name, release.number FROM secret_version
         JOIN release_secret ON release_secret.secret_version = secret_version.id
         JOIN release ON release.id = release_secret.release
         JOIN app ON app.id = release.app
         WHERE secret_version.namespace = $1 AND secret_version.name = $2 ORDER BY app.name, release.number",
    )
    .bind(namespace.to_string())
    .bind(name.as_str())
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|(app, release)| Ok((app, number(release)?))).collect()
}

/// The jobs that have not ended and were made with any version of it.
pub(crate) async fn jobs(conn: &mut Conn, namespace: NamespaceId, name: &SecretName) -> Result<Vec<String>> {
    let rows: Vec<(String, String)> = query_as(
        "SELECT DISTINCT job.name, job.id FROM secret_version
         JOIN job_secret ON job_secret.secret_version = secret_version.id
         JOIN job ON job.id = job_secret.job
         WHERE secret_version.namespace = $1 AND secret_version.name = $2 ORDER BY job.id LIMIT 20",
    )
    .bind(namespace.to_string())
    .bind(name.as_str())
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|(name, id)| format!("{name} ({id})")).collect())
}

/// The apps of [`users`].
pub(crate) async fn apps(conn: &mut Conn, namespace: NamespaceId, name: &SecretName) -> Result<Vec<AppId>> {
    let rows: Vec<(String,)> = query_as(
        "SELECT DISTINCT release.app FROM secret_version
         JOIN release_secret ON release_secret.secret_version = secret_version.id
         JOIN release ON release.id = release_secret.release
         WHERE secret_version.namespace = $1 AND secret_version.name = $2",
    )
    .bind(namespace.to_string())
    .bind(name.as_str())
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|(app,)| parse(&app)).collect()
}

/// The apps whose current release was made with any version of it, `but` perhaps one.
pub(crate) async fn apps_on(
    conn: &mut Conn,
    namespace: NamespaceId,
    name: &SecretName,
    but: Option<SecretVersionId>,
) -> Result<Vec<AppId>> {
    let rows: Vec<(String,)> = query_as(
        "SELECT DISTINCT app.id FROM secret_version
         JOIN release_secret ON release_secret.secret_version = secret_version.id
         JOIN release ON release.id = release_secret.release
         JOIN app ON app.id = release.app AND app.target_release = release.id
         WHERE secret_version.namespace = $1 AND secret_version.name = $2 AND secret_version.id <> $3",
    )
    .bind(namespace.to_string())
    .bind(name.as_str())
    .bind(but.map(|id| id.to_string()).unwrap_or_default())
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(|(app,)| parse(&app)).collect()
}

/// Returns `false` when there was none.
pub(crate) async fn delete(conn: &mut Conn, namespace: NamespaceId, name: &SecretName) -> Result<bool> {
    let done = query("DELETE FROM secret_version WHERE namespace = $1 AND name = $2")
        .bind(namespace.to_string())
        .bind(name.as_str())
        .execute(conn)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Notes that a release was made with this version.
pub(crate) async fn pin_all(conn: &mut Conn, pins: &[(ReleaseId, SecretVersionId)]) -> Result<()> {
    for piece in row_pieces(pins) {
        let rows = rows(2, piece.len());
        let mut query =
            query_built(format!("INSERT INTO release_secret (release, secret_version) VALUES {rows}"));
        for (release, version) in piece {
            query = query.bind(release.to_string()).bind(version.to_string());
        }
        query.execute(&mut *conn).await?;
    }
    Ok(())
}

/// A version that a release was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinned {
    pub id: SecretVersionId,
    pub version: u64,
    /// Octets of the sealed value, which has a few more than the value.
    pub bytes: usize,
}

/// The versions that a release was made with.
pub(crate) async fn pinned(conn: &mut Conn, release: &Release) -> Result<BTreeMap<SecretName, Pinned>> {
    // Most releases have none, and at a start all of them are read.
    if release.spec.values().next().is_none() {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<(String, String, i64, i64)> = query_as(
        "SELECT name, id, version, CAST(length(sealed) AS BIGINT) FROM secret_version
         JOIN release_secret ON release_secret.secret_version = secret_version.id
         WHERE release_secret.release = $1",
    )
    .bind(release.id.to_string())
    .fetch_all(conn)
    .await?;
    let pinned = |(name, id, version, bytes): (String, String, i64, i64)| {
        let pinned = Pinned { id: parse(&id)?, version: number(version)?, bytes: number(bytes)? };
        Ok((parse(&name)?, pinned))
    };
    rows.into_iter().map(pinned).collect()
}

/// Forgets the versions that neither are the newest nor belong to a kept release. Returns how many.
pub(crate) async fn prune(conn: &mut Conn, namespace: NamespaceId) -> Result<u64> {
    let done = query(
        "DELETE FROM secret_version WHERE namespace = $1
             AND version < (SELECT max(newer.version) FROM secret_version AS newer
                 WHERE newer.namespace = secret_version.namespace AND newer.name = secret_version.name)
             AND NOT EXISTS (SELECT 1 FROM release_secret WHERE release_secret.secret_version = secret_version.id)
             AND NOT EXISTS (SELECT 1 FROM job_secret WHERE job_secret.secret_version = secret_version.id)",
    )
    .bind(namespace.to_string())
    .execute(conn)
    .await?;
    Ok(done.rows_affected())
}

/// The keys that sealed what is kept, and how many versions each.
pub(crate) async fn keys_in_use(conn: &mut Conn) -> Result<Vec<(String, u64)>> {
    let rows: Vec<(String, i64)> =
        query_as("SELECT key_id, count(*) FROM secret_version GROUP BY key_id").fetch_all(conn).await?;
    rows.into_iter().map(|(key, versions)| Ok((key, number(versions)?))).collect()
}

pub(crate) async fn ids(conn: &mut Conn) -> Result<Vec<SecretVersionId>> {
    let rows: Vec<(String,)> = query_as("SELECT id FROM secret_version").fetch_all(conn).await?;
    rows.into_iter().map(|(id,)| parse(&id)).collect()
}

pub(crate) async fn not_sealed_by(conn: &mut Conn, key_id: &str) -> Result<Vec<SecretVersionId>> {
    let rows: Vec<(String,)> =
        query_as("SELECT id FROM secret_version WHERE key_id <> $1").bind(key_id).fetch_all(conn).await?;
    rows.into_iter().map(|(id,)| parse(&id)).collect()
}

/// Replaces what is kept of a value by the same value under another key.
pub(crate) async fn reseal(conn: &mut Conn, id: SecretVersionId, sealed: &Sealed) -> Result<()> {
    query("UPDATE secret_version SET key_id = $2, sealed = $3 WHERE id = $1")
        .bind(id.to_string())
        .bind(&sealed.key_id)
        .bind(&sealed.octets)
        .execute(conn)
        .await?;
    Ok(())
}
