//! Tables `artifact` and `namespace_artifact`: what is known of pushed artifacts. Their bytes are in [`crate::artifacts`].

use wharf_types::world::World;
use wharf_types::{Digest, NamespaceId, Timestamp};

use super::codec::{from_json, json, number, parse};
use super::query::{query, query_as};
use super::{Conn, Result};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Artifact {
    pub(crate) digest: Digest,
    pub(crate) bytes: u64,
    pub(crate) world: World,
    pub(crate) imports: Vec<String>,
}

#[derive(sqlx::FromRow)]
struct Row {
    digest: String,
    bytes: i64,
    world: String,
    imports: String,
}

impl TryFrom<Row> for Artifact {
    type Error = super::StoreError;
    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            digest: parse(&row.digest)?,
            bytes: number(row.bytes)?,
            world: from_json(&row.world)?,
            imports: from_json(&row.imports)?,
        })
    }
}

/// Records an artifact whose bytes are safely stored, and that the namespace may use it.
pub(crate) async fn put(
    conn: &mut Conn,
    namespace: NamespaceId,
    artifact: &Artifact,
    now: Timestamp,
) -> Result<()> {
    query(
        "INSERT INTO artifact (digest, bytes, world, imports, created_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (digest) DO NOTHING",
    )
    .bind(artifact.digest.to_string())
    .bind(i64::try_from(artifact.bytes).unwrap_or(i64::MAX))
    .bind(json(&artifact.world))
    .bind(json(&artifact.imports))
    .bind(now.as_microsecond())
    .execute(&mut *conn)
    .await?;
    query(
        "INSERT INTO namespace_artifact (namespace, digest, pushed_at) VALUES ($1, $2, $3)
         ON CONFLICT (namespace, digest) DO UPDATE SET pushed_at = excluded.pushed_at",
    )
    .bind(namespace.to_string())
    .bind(artifact.digest.to_string())
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(())
}

/// Forgets artifacts that no release is made of and that nobody pushed since `before`. Returns how many.
pub(crate) async fn delete_unused(conn: &mut Conn, before: Timestamp) -> Result<u64> {
    // Also those that other namespaces use are no longer counted where nobody does.
    query(
        "DELETE FROM namespace_artifact WHERE pushed_at < $1 AND NOT EXISTS (SELECT 1 FROM release
             JOIN app ON app.id = release.app WHERE release.artifact = namespace_artifact.digest
             AND app.namespace = namespace_artifact.namespace)
         AND NOT EXISTS (SELECT 1 FROM schedule WHERE schedule.artifact = namespace_artifact.digest
             AND schedule.namespace = namespace_artifact.namespace)",
    )
    .bind(before.as_microsecond())
    .execute(&mut *conn)
    .await?;
    let unused: Vec<(String,)> = query_as(
        "SELECT digest FROM artifact WHERE created_at < $1
             AND NOT EXISTS (SELECT 1 FROM release WHERE release.artifact = artifact.digest)
             AND NOT EXISTS (SELECT 1 FROM job WHERE job.artifact = artifact.digest)
             AND NOT EXISTS (SELECT 1 FROM schedule WHERE schedule.artifact = artifact.digest)
             AND NOT EXISTS (SELECT 1 FROM namespace_artifact
                 WHERE namespace_artifact.digest = artifact.digest AND namespace_artifact.pushed_at >= $1)",
    )
    .bind(before.as_microsecond())
    .fetch_all(&mut *conn)
    .await?;
    for (digest,) in &unused {
        for statement in
            ["DELETE FROM namespace_artifact WHERE digest = $1", "DELETE FROM artifact WHERE digest = $1"]
        {
            query(statement).bind(digest).execute(&mut *conn).await?;
        }
    }
    Ok(unused.len() as u64)
}

pub(crate) async fn digests(conn: &mut Conn) -> Result<Vec<Digest>> {
    let rows: Vec<(String,)> = query_as("SELECT digest FROM artifact").fetch_all(conn).await?;
    rows.iter().map(|(digest,)| parse(digest)).collect()
}

/// What the namespace pushed under this digest.
pub(crate) async fn find(
    conn: &mut Conn,
    namespace: NamespaceId,
    digest: Digest,
) -> Result<Option<Artifact>> {
    let row: Option<Row> = query_as(
        "SELECT artifact.digest, artifact.bytes, artifact.world, artifact.imports FROM artifact
         JOIN namespace_artifact ON namespace_artifact.digest = artifact.digest
         WHERE namespace_artifact.namespace = $1 AND artifact.digest = $2",
    )
    .bind(namespace.to_string())
    .bind(digest.to_string())
    .fetch_optional(conn)
    .await?;
    row.map(Artifact::try_from).transpose()
}

/// An artifact of any namespace: for releases, which only hold artifacts that their namespace pushed.
pub(crate) async fn get(conn: &mut Conn, digest: Digest) -> Result<Option<Artifact>> {
    let row: Option<Row> = query_as("SELECT digest, bytes, world, imports FROM artifact WHERE digest = $1")
        .bind(digest.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(Artifact::try_from).transpose()
}
