//! Tables `kv_entry` and `kv_usage`: what guests keep. Limits are those of [`wharf_types::keyvalue`].

use wharf_types::keyvalue::{KEYS_PER_PAGE, NAMESPACE_MAX_BYTES};
use wharf_types::{AppId, NamespaceId};

use super::codec::number;
use super::query::{query, query_as};
use super::{Conn, Result};

/// The bucket of one app that an operation works on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket<'a> {
    pub(crate) namespace: NamespaceId,
    pub(crate) app: AppId,
    pub(crate) name: &'a str,
}

pub(crate) async fn get(conn: &mut Conn, bucket: Bucket<'_>, key: &str) -> Result<Option<Vec<u8>>> {
    let row: Option<(Vec<u8>,)> =
        query_as("SELECT value FROM kv_entry WHERE app = $1 AND bucket = $2 AND key = $3")
            .bind(bucket.app.to_string())
            .bind(bucket.name)
            .bind(key)
            .fetch_optional(conn)
            .await?;
    Ok(row.map(|(value,)| value))
}

/// Returns `false`, with nothing written, when the namespace's quota does not allow it.
pub(crate) async fn set(conn: &mut Conn, bucket: Bucket<'_>, key: &str, value: &[u8]) -> Result<bool> {
    let old = size(conn, bucket, key).await?;
    if !account(conn, bucket.namespace, (key.len() + value.len()) as i64 - old).await? {
        return Ok(false);
    }
    query(
        "INSERT INTO kv_entry (namespace, app, bucket, key, value) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (app, bucket, key) DO UPDATE SET value = excluded.value",
    )
    .bind(bucket.namespace.to_string())
    .bind(bucket.app.to_string())
    .bind(bucket.name)
    .bind(key)
    .bind(value)
    .execute(conn)
    .await?;
    Ok(true)
}

pub(crate) async fn delete(conn: &mut Conn, bucket: Bucket<'_>, key: &str) -> Result<()> {
    let old = size(conn, bucket, key).await?;
    if old == 0 {
        return Ok(());
    }
    account(conn, bucket.namespace, -old).await?;
    query("DELETE FROM kv_entry WHERE app = $1 AND bucket = $2 AND key = $3")
        .bind(bucket.app.to_string())
        .bind(bucket.name)
        .bind(key)
        .execute(conn)
        .await?;
    Ok(())
}

/// One page of keys greater than `after`, and whether there are more.
pub(crate) async fn keys(
    conn: &mut Conn,
    bucket: Bucket<'_>,
    after: Option<&str>,
) -> Result<(Vec<String>, bool)> {
    let rows: Vec<(String,)> = query_as(
        "SELECT key FROM kv_entry WHERE app = $1 AND bucket = $2 AND ($3 IS NULL OR key > $3) ORDER BY key LIMIT $4",
    )
    .bind(bucket.app.to_string())
    .bind(bucket.name)
    .bind(after)
    .bind(KEYS_PER_PAGE as i64 + 1)
    .fetch_all(conn)
    .await?;
    let more = rows.len() > KEYS_PER_PAGE;
    Ok((rows.into_iter().take(KEYS_PER_PAGE).map(|(key,)| key).collect(), more))
}

/// Counts the namespace's octets anew, after an app went away with its entries.
pub(crate) async fn recount(conn: &mut Conn, namespace: NamespaceId) -> Result<()> {
    query(
        "UPDATE kv_usage SET bytes = (SELECT COALESCE(SUM(octet_length(key) + octet_length(value)), 0)
             FROM kv_entry WHERE kv_entry.namespace = kv_usage.namespace) WHERE namespace = $1",
    )
    .bind(namespace.to_string())
    .execute(conn)
    .await?;
    Ok(())
}

/// Octets that an entry takes; 0 when it is absent (an entry has a key, so it takes at least one).
async fn size(conn: &mut Conn, bucket: Bucket<'_>, key: &str) -> Result<i64> {
    let row: Option<(i64,)> = query_as(
        // PostgreSQL counts octets in 32 bits.
        "SELECT CAST(octet_length(key) + octet_length(value) AS BIGINT) FROM kv_entry
         WHERE app = $1 AND bucket = $2 AND key = $3",
    )
    .bind(bucket.app.to_string())
    .bind(bucket.name)
    .bind(key)
    .fetch_optional(conn)
    .await?;
    row.map_or(Ok(0), |(size,)| number(size))
}

async fn account(conn: &mut Conn, namespace: NamespaceId, delta: i64) -> Result<bool> {
    query("INSERT INTO kv_usage (namespace, bytes) VALUES ($1, 0) ON CONFLICT (namespace) DO NOTHING")
        .bind(namespace.to_string())
        .execute(&mut *conn)
        .await?;
    let done = query(
        "UPDATE kv_usage SET bytes = bytes + $2 WHERE namespace = $1 AND ($2 <= 0 OR bytes + $2 <= $3)",
    )
    .bind(namespace.to_string())
    .bind(delta)
    .bind(i64::try_from(NAMESPACE_MAX_BYTES).unwrap_or(i64::MAX))
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}
