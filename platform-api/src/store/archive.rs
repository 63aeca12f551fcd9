//! Tables `archive` and `namespace_archive`: pushed files of apps. Their bytes are in [`crate::artifacts`].

use wharf_types::api::FilesInfo;
use wharf_types::{Digest, NamespaceId, Timestamp};

use super::codec::{number, parse};
use super::query::{query, query_as};
use super::{Conn, Result};

/// Records an archive whose bytes are safely stored, and that the namespace may use it.
pub(crate) async fn put(
    conn: &mut Conn,
    namespace: NamespaceId,
    archive: &FilesInfo,
    now: Timestamp,
) -> Result<()> {
    query(
        "INSERT INTO archive (digest, bytes, files, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (digest) DO NOTHING",
    )
    .bind(archive.digest.to_string())
    .bind(i64::try_from(archive.bytes).unwrap_or(i64::MAX))
    .bind(i64::try_from(archive.files).unwrap_or(i64::MAX))
    .bind(now.as_microsecond())
    .execute(&mut *conn)
    .await?;
    query(
        "INSERT INTO namespace_archive (namespace, digest, pushed_at) VALUES ($1, $2, $3)
         ON CONFLICT (namespace, digest) DO UPDATE SET pushed_at = excluded.pushed_at",
    )
    .bind(namespace.to_string())
    .bind(archive.digest.to_string())
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(())
}

/// What the namespace pushed under this digest.
pub(crate) async fn find(
    conn: &mut Conn,
    namespace: NamespaceId,
    digest: Digest,
) -> Result<Option<FilesInfo>> {
    let row: Option<(i64, i64)> = query_as(
        "SELECT archive.bytes, archive.files FROM archive
         JOIN namespace_archive ON namespace_archive.digest = archive.digest
         WHERE namespace_archive.namespace = $1 AND archive.digest = $2",
    )
    .bind(namespace.to_string())
    .bind(digest.to_string())
    .fetch_optional(conn)
    .await?;
    row.map(|(bytes, files)| Ok(FilesInfo { digest, bytes: number(bytes)?, files: number(files)? }))
        .transpose()
}

/// An archive of any namespace: for a namespace that is made with apps in it.
pub(crate) async fn get(conn: &mut Conn, digest: Digest) -> Result<Option<FilesInfo>> {
    let row: Option<(i64, i64)> = query_as("SELECT bytes, files FROM archive WHERE digest = $1")
        .bind(digest.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(|(bytes, files)| Ok(FilesInfo { digest, bytes: number(bytes)?, files: number(files)? }))
        .transpose()
}

/// Forgets archives that no release names and that nobody pushed since `before`. Returns how many.
pub(crate) async fn delete_unused(conn: &mut Conn, before: Timestamp) -> Result<u64> {
    // Also those that other namespaces use are no longer counted where nobody does.
    query(
        "DELETE FROM namespace_archive WHERE pushed_at < $1 AND NOT EXISTS (SELECT 1 FROM release
             JOIN app ON app.id = release.app WHERE release.archive = namespace_archive.digest
             AND app.namespace = namespace_archive.namespace)",
    )
    .bind(before.as_microsecond())
    .execute(&mut *conn)
    .await?;
    let unused: Vec<(String,)> = query_as(
        "SELECT digest FROM archive WHERE created_at < $1
             AND NOT EXISTS (SELECT 1 FROM release WHERE release.archive = archive.digest)
             AND NOT EXISTS (SELECT 1 FROM job WHERE job.archive = archive.digest)
             AND NOT EXISTS (SELECT 1 FROM schedule WHERE schedule.archive = archive.digest)
             AND NOT EXISTS (SELECT 1 FROM namespace_archive
                 WHERE namespace_archive.digest = archive.digest AND namespace_archive.pushed_at >= $1)",
    )
    .bind(before.as_microsecond())
    .fetch_all(&mut *conn)
    .await?;
    for (digest,) in &unused {
        for statement in
            ["DELETE FROM namespace_archive WHERE digest = $1", "DELETE FROM archive WHERE digest = $1"]
        {
            query(statement).bind(digest).execute(&mut *conn).await?;
        }
    }
    Ok(unused.len() as u64)
}

pub(crate) async fn digests(conn: &mut Conn) -> Result<Vec<Digest>> {
    let rows: Vec<(String,)> = query_as("SELECT digest FROM archive").fetch_all(conn).await?;
    rows.iter().map(|(digest,)| parse(digest)).collect()
}
