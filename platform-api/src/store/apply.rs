//! Table `apply_reply`: replies that an apply which is sent again with the same `Idempotency-Key` gets.

use wharf_types::declare::change::Applied;
use wharf_types::{Timestamp, TokenId};

use super::codec::{from_json, json};
use super::query::{query, query_as};
use super::{Conn, Result};

/// How long a reply is kept.
const KEPT_MICROS: i64 = 24 * 3600 * 1_000_000;
/// Replies that are kept of one token: each may be of thousands of apps.
const KEPT: i64 = 50;

#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    Reply(Box<Applied>),
    /// The key was used for another request.
    Other,
}

pub(crate) async fn find(
    conn: &mut Conn,
    token: TokenId,
    key: &str,
    request_hash: &str,
) -> Result<Option<Found>> {
    let row: Option<(String, String)> =
        query_as("SELECT request_hash, reply FROM apply_reply WHERE token = $1 AND key = $2")
            .bind(token.to_string())
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
    token: TokenId,
    key: &str,
    request_hash: &str,
    reply: &Applied,
    now: Timestamp,
) -> Result<()> {
    query(
        "DELETE FROM apply_reply WHERE created_at < $2 OR (token = $1 AND key NOT IN (
             SELECT key FROM apply_reply WHERE token = $1 ORDER BY created_at DESC LIMIT $3))",
    )
    .bind(token.to_string())
    .bind(now.as_microsecond() - KEPT_MICROS)
    .bind(KEPT - 1)
    .execute(&mut *conn)
    .await?;
    query(
        "INSERT INTO apply_reply (token, key, request_hash, reply, created_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(token.to_string())
    .bind(key)
    .bind(request_hash)
    .bind(json(reply))
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(())
}
