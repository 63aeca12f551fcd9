//! Tables `kv_entry` and `kv_usage`: what guests keep. Limits are those of [`wharf_types::keyvalue`].

use std::collections::{BTreeMap, BTreeSet};

use wharf_types::keyvalue::{KEYS_PER_PAGE, NAMESPACE_MAX_BYTES, entry_bytes};
use wharf_types::{AppId, NamespaceId};

use super::codec::number;
use super::query::{parameters, pieces, query, query_as, query_as_built, query_built, row_pieces};
use super::{Conn, Result};

/// Entries that are deleted of an app in one transaction, and what they count at most but for the last of them: some 20 ms.
const DELETED_AT_ONCE: i64 = 2000;
const DELETED_BYTES: i64 = 8 << 20;

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

/// Sets all of them; of one key that is named several times, the last value. Returns `false`, with nothing written, when the namespace's quota
/// does not allow it.
pub(crate) async fn set_all(conn: &mut Conn, bucket: Bucket<'_>, pairs: &[(&str, &[u8])]) -> Result<bool> {
    let last: BTreeMap<&str, &[u8]> = pairs.iter().copied().collect();
    let pairs: Vec<(&str, &[u8])> = last.into_iter().collect();
    let new = pairs.iter().map(|(key, value)| entry_bytes(bucket.name, key, value.len())).sum::<u64>();
    let old = sizes(conn, bucket, &pairs).await?;
    if !account(conn, bucket.namespace, new as i64 - old).await? {
        return Ok(false);
    }
    for piece in row_pieces(&pairs) {
        let row = |at: usize| format!("($1, $2, $3, ${}, ${})", 4 + 2 * at, 5 + 2 * at);
        let rows = (0..piece.len()).map(row).collect::<Vec<_>>().join(", ");
        let query = query_built(format!(
            "INSERT INTO kv_entry (namespace, app, bucket, key, value) VALUES {rows}
             ON CONFLICT (app, bucket, key) DO UPDATE SET value = excluded.value"
        ));
        let query = query.bind(bucket.namespace.to_string()).bind(bucket.app.to_string()).bind(bucket.name);
        let query = piece.iter().fold(query, |query, (key, value)| query.bind(*key).bind(*value));
        query.execute(&mut *conn).await?;
    }
    Ok(true)
}

/// Those that are not there are passed over.
pub(crate) async fn delete_all(conn: &mut Conn, bucket: Bucket<'_>, keys: &[&str]) -> Result<()> {
    let keys: Vec<&str> = keys.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let mut freed = 0;
    for piece in pieces(&keys) {
        let list = parameters(3, piece.len());
        let query = query_as_built(format!(
            "DELETE FROM kv_entry WHERE app = $1 AND bucket = $2 AND key IN ({list})
             RETURNING key, CAST(octet_length(value) AS BIGINT)"
        ));
        let query = query.bind(bucket.app.to_string()).bind(bucket.name);
        let query = piece.iter().fold(query, |query, key| query.bind(*key));
        let rows: Vec<(String, i64)> = query.fetch_all(&mut *conn).await?;
        freed += counted(bucket.name, &rows)?;
    }
    free(conn, bucket.namespace, freed).await
}

/// Deletes a part of an app's entries that takes no long time, in whatever order, and returns whether that were all.
pub(crate) async fn delete_some_of_app(conn: &mut Conn, namespace: NamespaceId, app: AppId) -> Result<bool> {
    let rows: Vec<(String, String, i64)> = query_as(
        "SELECT bucket, key, CAST(octet_length(value) AS BIGINT) FROM kv_entry WHERE app = $1 ORDER BY bucket, key LIMIT $2",
    )
    .bind(app.to_string())
    .bind(DELETED_AT_ONCE)
    .fetch_all(&mut *conn)
    .await?;
    let (mut freed, mut last) = (0, None);
    for (bucket, key, value) in &rows {
        let value: usize = number(*value)?;
        freed += entry_bytes(bucket, key, value) as i64;
        last = Some((bucket, key));
        if freed >= DELETED_BYTES {
            break;
        }
    }
    let Some((bucket, key)) = last else { return Ok(true) };
    query("DELETE FROM kv_entry WHERE app = $1 AND (bucket, key) <= ($2, $3)")
        .bind(app.to_string())
        .bind(bucket)
        .bind(key)
        .execute(&mut *conn)
        .await?;
    free(conn, namespace, freed).await?;
    Ok(rows.len() < DELETED_AT_ONCE as usize && rows.last().map(|(bucket, key, _)| (bucket, key)) == last)
}

/// One page of keys greater than `after`, and whether there are more.
pub(crate) async fn keys(
    conn: &mut Conn,
    bucket: Bucket<'_>,
    after: Option<&str>,
) -> Result<(Vec<String>, bool)> {
    let rows: Vec<(String,)> = query_as(
        "SELECT key FROM kv_entry WHERE app = $1 AND bucket = $2 AND key > $3 ORDER BY key LIMIT $4",
    )
    .bind(bucket.app.to_string())
    .bind(bucket.name)
    // No key is empty, so all of them are greater than that. A condition with an alternative would look at every key of the bucket.
    .bind(after.unwrap_or_default())
    .bind(KEYS_PER_PAGE as i64 + 1)
    .fetch_all(conn)
    .await?;
    let more = rows.len() > KEYS_PER_PAGE;
    Ok((rows.into_iter().take(KEYS_PER_PAGE).map(|(key,)| key).collect(), more))
}

/// What those of these keys count that are there.
async fn sizes(conn: &mut Conn, bucket: Bucket<'_>, pairs: &[(&str, &[u8])]) -> Result<i64> {
    let mut bytes = 0;
    for piece in pieces(pairs) {
        let list = parameters(3, piece.len());
        let query = query_as_built(format!(
            // PostgreSQL counts octets in 32 bits.
            "SELECT key, CAST(octet_length(value) AS BIGINT) FROM kv_entry WHERE app = $1 AND bucket = $2 AND key IN ({list})"
        ));
        let query = query.bind(bucket.app.to_string()).bind(bucket.name);
        let query = piece.iter().fold(query, |query, (key, _)| query.bind(*key));
        let rows: Vec<(String, i64)> = query.fetch_all(&mut *conn).await?;
        bytes += counted(bucket.name, &rows)?;
    }
    Ok(bytes)
}

/// What entries count, by their keys and the octets of their values.
fn counted(bucket: &str, entries: &[(String, i64)]) -> Result<i64> {
    let mut bytes = 0;
    for (key, value) in entries {
        bytes += entry_bytes(bucket, key, number(*value)?) as i64;
    }
    Ok(bytes)
}

/// Adds to what the namespace has. Returns `false`, with nothing written, where it would have more than before and more than it may.
async fn account(conn: &mut Conn, namespace: NamespaceId, delta: i64) -> Result<bool> {
    let done = query(
        "INSERT INTO kv_usage (namespace, bytes) VALUES ($1, $2) ON CONFLICT (namespace) DO UPDATE
         SET bytes = kv_usage.bytes + excluded.bytes
         WHERE excluded.bytes <= 0 OR kv_usage.bytes + excluded.bytes <= $3",
    )
    .bind(namespace.to_string())
    .bind(delta)
    .bind(NAMESPACE_MAX_BYTES as i64)
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Takes from what the namespace has. A server of an earlier version, which counts less for each entry, may have written beside this one: it never has less
/// than nothing.
async fn free(conn: &mut Conn, namespace: NamespaceId, bytes: i64) -> Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    query("UPDATE kv_usage SET bytes = CASE WHEN bytes > $2 THEN bytes - $2 ELSE 0 END WHERE namespace = $1")
        .bind(namespace.to_string())
        .bind(bytes)
        .execute(conn)
        .await?;
    Ok(())
}

/// What a namespace has.
#[cfg(test)]
pub(crate) async fn usage(conn: &mut Conn, namespace: NamespaceId) -> Result<i64> {
    let row: Option<(i64,)> = query_as("SELECT bytes FROM kv_usage WHERE namespace = $1")
        .bind(namespace.to_string())
        .fetch_optional(conn)
        .await?;
    Ok(row.map_or(0, |(bytes,)| bytes))
}

#[cfg(test)]
mod tests {
    use wharf_types::Timestamp;

    use super::super::{Store, app, namespace};
    use super::*;
    use crate::tests::database;

    async fn namespace_with(store: &Store, apps: &[&str]) -> (NamespaceId, Vec<AppId>) {
        let (mut tx, now) = (store.write().await.unwrap(), Timestamp::now());
        let namespace = namespace::create(&mut tx, &"keeping".parse().unwrap(), now).await.unwrap();
        let mut ids = Vec::new();
        for name in apps {
            ids.push(app::create(&mut tx, namespace, &name.parse().unwrap(), now).await.unwrap());
        }
        tx.commit().await.unwrap();
        (namespace, ids)
    }

    fn numbered(count: usize) -> Vec<String> {
        (0..count).map(|at| format!("key-{at:05}")).collect()
    }

    #[tokio::test]
    async fn a_batch_writes_each_key_once_and_what_it_counts_is_given_back() {
        let (_dir, store) = database::store().await;
        let (namespace, apps) = namespace_with(&store, &["one"]).await;
        let bucket = Bucket { namespace, app: apps[0], name: "b" };
        let mut tx = store.write().await.unwrap();
        let pairs: [(&str, &[u8]); 4] = [("x", b"1"), ("y", b"22"), ("x", b"333"), ("z", b"")];
        assert!(set_all(&mut tx, bucket, &pairs).await.unwrap());
        assert_eq!(get(&mut tx, bucket, "x").await.unwrap().as_deref(), Some(&b"333"[..]));
        assert_eq!(usage(&mut tx, namespace).await.unwrap(), 3 * (256 + 2) + 5);
        assert!(set_all(&mut tx, bucket, &[("x", &b""[..])]).await.unwrap());
        assert_eq!(usage(&mut tx, namespace).await.unwrap(), 3 * (256 + 2) + 2);
        delete_all(&mut tx, bucket, &["x", "none", "x", "y"]).await.unwrap();
        assert_eq!(usage(&mut tx, namespace).await.unwrap(), 256 + 2);
        let many = numbered(777);
        let pairs: Vec<(&str, &[u8])> = many.iter().map(|key| (key.as_str(), key.as_bytes())).collect();
        assert!(set_all(&mut tx, bucket, &pairs).await.unwrap());
        assert_eq!(get(&mut tx, bucket, &many[776]).await.unwrap().as_deref(), Some(many[776].as_bytes()));
        let keys: Vec<&str> = many.iter().map(String::as_str).collect();
        delete_all(&mut tx, bucket, &keys).await.unwrap();
        assert_eq!(usage(&mut tx, namespace).await.unwrap(), 256 + 2);
        tx.commit().await.unwrap();
    }

    #[tokio::test]
    async fn a_namespace_that_has_too_much_may_shrink_and_nothing_else() {
        let (_dir, store) = database::store().await;
        let (namespace, apps) = namespace_with(&store, &["one"]).await;
        let bucket = Bucket { namespace, app: apps[0], name: "b" };
        let mut tx = store.write().await.unwrap();
        assert!(set_all(&mut tx, bucket, &[("x", &b"123"[..])]).await.unwrap());
        query("UPDATE kv_usage SET bytes = $1")
            .bind(NAMESPACE_MAX_BYTES as i64 + 10_000)
            .execute(&mut tx)
            .await
            .unwrap();
        assert!(!set_all(&mut tx, bucket, &[("x", &b"1234"[..])]).await.unwrap());
        assert!(!set_all(&mut tx, bucket, &[("y", &b""[..])]).await.unwrap());
        assert!(set_all(&mut tx, bucket, &[("x", &b"321"[..])]).await.unwrap());
        assert!(set_all(&mut tx, bucket, &[("x", &b"1"[..])]).await.unwrap());
        delete_all(&mut tx, bucket, &["x"]).await.unwrap();
        let left = NAMESPACE_MAX_BYTES as i64 + 10_000 - (256 + 2 + 3);
        assert_eq!(usage(&mut tx, namespace).await.unwrap(), left);
    }

    #[tokio::test]
    async fn an_app_is_emptied_part_by_part_and_nobody_else() {
        let (_dir, store) = database::store().await;
        let (namespace, apps) = namespace_with(&store, &["one", "other"]).await;
        let mut tx = store.write().await.unwrap();
        let keys = numbered(2100);
        let pairs: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), &b"v"[..])).collect();
        for (app, name) in [(apps[0], "a"), (apps[0], "b"), (apps[1], "a")] {
            assert!(set_all(&mut tx, Bucket { namespace, app, name }, &pairs).await.unwrap());
        }
        let of_one = usage(&mut tx, namespace).await.unwrap() / 3;
        let large = vec![0; 1 << 20];
        for key in &keys[..10] {
            let pairs: [(&str, &[u8]); 1] = [(key, &large)];
            let bucket = Bucket { namespace, app: apps[0], name: "c" };
            assert!(set_all(&mut tx, bucket, &pairs).await.unwrap());
        }
        let mut parts = 1;
        while !delete_some_of_app(&mut tx, namespace, apps[0]).await.unwrap() {
            parts += 1;
        }
        // Of 4210 entries, and 10 MiB.
        assert_eq!(parts, 4);
        assert_eq!(usage(&mut tx, namespace).await.unwrap(), of_one);
        let bucket = |app| Bucket { namespace, app, name: "a" };
        assert_eq!(super::keys(&mut tx, bucket(apps[0]), None).await.unwrap(), (Vec::new(), false));
        let (first, more) = super::keys(&mut tx, bucket(apps[1]), None).await.unwrap();
        assert_eq!((&first[..], more), (&keys[..1000], true));
        let (last, more) = super::keys(&mut tx, bucket(apps[1]), Some(&keys[1999])).await.unwrap();
        assert_eq!((&last[..], more), (&keys[2000..], false));
    }
}
