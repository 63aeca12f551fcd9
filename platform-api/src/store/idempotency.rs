//! Table `idempotency`: replies that a retry with the same `Idempotency-Key` gets again.

use wharf_types::api::Deployed;
use wharf_types::{AppId, Timestamp};

use super::codec::{from_json, json};
use super::query::{query, query_as};
use super::{Conn, Result};

/// How long a reply is kept.
const KEPT_MICROS: i64 = 24 * 3600 * 1_000_000;

#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    Reply(Box<Deployed>),
    /// The key was used for another request.
    Other,
}

pub(crate) async fn find(
    conn: &mut Conn,
    app: AppId,
    key: &str,
    request_hash: &str,
) -> Result<Option<Found>> {
    let row: Option<(String, String)> =
        query_as("SELECT request_hash, reply FROM idempotency WHERE app = $1 AND key = $2")
            .bind(app.to_string())
            .bind(key)
            .fetch_optional(conn)
            .await?;
    row.map(|(hash, reply)| {
        Ok(if hash == request_hash { Found::Reply(Box::new(from_json(&reply)?)) } else { Found::Other })
    })
    .transpose()
}

pub(crate) async fn put(
    conn: &mut Conn,
    app: AppId,
    key: &str,
    request_hash: &str,
    reply: &Deployed,
    now: Timestamp,
) -> Result<()> {
    query("DELETE FROM idempotency WHERE app = $1 AND created_at < $2")
        .bind(app.to_string())
        .bind(now.as_microsecond() - KEPT_MICROS)
        .execute(&mut *conn)
        .await?;
    query("INSERT INTO idempotency (app, key, request_hash, reply, created_at) VALUES ($1, $2, $3, $4, $5)")
        .bind(app.to_string())
        .bind(key)
        .bind(request_hash)
        .bind(json(reply))
        .bind(now.as_microsecond())
        .execute(conn)
        .await?;
    Ok(())
}
