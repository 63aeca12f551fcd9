//! Tables `join_token` and `node_identity`: who may become a node, and who is one.

use std::time::Duration;

use wharf_pki::NODE_LIFETIME;
use wharf_types::api::JoinTokenInfo;
use wharf_types::{NodeId, Timestamp, TokenId};

use super::codec::{number, parse, parse_opt, time};
use super::query::{query, query_as};
use super::{Conn, News, Result};

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    node: Option<String>,
    role: Option<String>,
    drained: bool,
    uses_left: i64,
    expires_at: i64,
    created_at: i64,
}

impl TryFrom<Row> for JoinTokenInfo {
    type Error = super::StoreError;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: parse(&row.id)?,
            node: parse_opt(row.node.as_deref())?,
            role: row.role,
            drained: row.drained,
            uses_left: number(row.uses_left)?,
            expires_at: time(row.expires_at)?,
            created_at: time(row.created_at)?,
        })
    }
}

pub(crate) async fn create(conn: &mut Conn, token: &JoinTokenInfo, secret_hash: &str) -> Result<()> {
    query(
        "INSERT INTO join_token (id, secret_hash, node, uses_left, expires_at, created_at, role, drained)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(token.id.to_string())
    .bind(secret_hash)
    .bind(token.node.map(|node| node.to_string()))
    .bind(i64::from(token.uses_left))
    .bind(token.expires_at.as_microsecond())
    .bind(token.created_at.as_microsecond())
    .bind(&token.role)
    .bind(token.drained)
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn list(conn: &mut Conn) -> Result<Vec<JoinTokenInfo>> {
    let rows: Vec<Row> = query_as(
        "SELECT id, node, role, drained, uses_left, expires_at, created_at FROM join_token ORDER BY id",
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(JoinTokenInfo::try_from).collect()
}

pub(crate) async fn find(conn: &mut Conn, secret_hash: &str) -> Result<Option<JoinTokenInfo>> {
    let row: Option<Row> = query_as(
        "SELECT id, node, role, drained, uses_left, expires_at, created_at FROM join_token WHERE secret_hash = $1",
    )
    .bind(secret_hash)
    .fetch_optional(conn)
    .await?;
    row.map(JoinTokenInfo::try_from).transpose()
}

/// Takes one use of a token. False: it has none left, or its time is over.
pub(crate) async fn spend(conn: &mut Conn, id: TokenId, now: Timestamp) -> Result<bool> {
    let done = query(
        "UPDATE join_token SET uses_left = uses_left - 1 WHERE id = $1 AND uses_left > 0 AND expires_at > $2",
    )
    .bind(id.to_string())
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Forgets a token. False: there is none.
pub(crate) async fn delete(conn: &mut Conn, id: TokenId) -> Result<bool> {
    let done = query("DELETE FROM join_token WHERE id = $1").bind(id.to_string()).execute(conn).await?;
    Ok(done.rows_affected() > 0)
}

/// Forgets tokens whose time was over before this.
pub(crate) async fn delete_expired(conn: &mut Conn, before: Timestamp) -> Result<()> {
    query("DELETE FROM join_token WHERE expires_at < $1").bind(before.as_microsecond()).execute(conn).await?;
    Ok(())
}

/// A host that has shown a join token and the public half of its key, by its hash, has become this node, or has got another certificate for it.
/// What the token says nothing of stays as it was.
pub(crate) async fn admit(
    conn: &mut Conn,
    node: NodeId,
    token: &JoinTokenInfo,
    key: &str,
    now: Timestamp,
) -> Result<()> {
    query(
        "INSERT INTO node_identity (id, joined_at, role, join_token, join_key, begins_drained)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (id) DO UPDATE
         SET joined_at = excluded.joined_at, role = COALESCE(excluded.role, node_identity.role),
             join_token = excluded.join_token, join_key = excluded.join_key, begins_drained = excluded.begins_drained",
    )
    .bind(node.to_string())
    .bind(now.as_microsecond())
    .bind(&token.role)
    .bind(token.id.to_string())
    .bind(key)
    .bind(token.drained)
    .execute(conn)
    .await?;
    Ok(())
}

/// The node that a host with this key has become by this token, unless it was removed.
pub(crate) async fn joined(conn: &mut Conn, token: TokenId, key: &str) -> Result<Option<NodeId>> {
    let row: Option<(String,)> = query_as(
        "SELECT id FROM node_identity WHERE join_token = $1 AND join_key = $2 AND removed_at IS NULL",
    )
    .bind(token.to_string())
    .bind(key)
    .fetch_optional(conn)
    .await?;
    row.map(|(id,)| parse(&id)).transpose()
}

/// Whether a node is to begin drained. From now on it has begun.
pub(crate) async fn take_begins_drained(conn: &mut Conn, node: NodeId) -> Result<bool> {
    let done = query("UPDATE node_identity SET begins_drained = FALSE WHERE id = $1 AND begins_drained")
        .bind(node.to_string())
        .execute(conn)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// What a join token has made of a node. None: it is what it says.
pub(crate) async fn role(conn: &mut Conn, node: NodeId) -> Result<Option<String>> {
    let row: Option<(Option<String>,)> = query_as("SELECT role FROM node_identity WHERE id = $1")
        .bind(node.to_string())
        .fetch_optional(conn)
        .await?;
    Ok(row.and_then(|(role,)| role))
}

/// Whether certificates of this node count.
pub(crate) async fn is_member(conn: &mut Conn, node: NodeId) -> Result<bool> {
    let row: Option<(i64,)> =
        query_as("SELECT joined_at FROM node_identity WHERE id = $1 AND removed_at IS NULL")
            .bind(node.to_string())
            .fetch_optional(conn)
            .await?;
    Ok(row.is_some())
}

/// Nodes that were removed so lately that they may have a certificate which is still valid, in the order of their ids.
pub(crate) async fn removed(conn: &mut Conn, now: Timestamp) -> Result<Vec<NodeId>> {
    // Clocks of hosts differ.
    let longest = NODE_LIFETIME + Duration::from_secs(3600);
    let since = now.checked_sub(longest).unwrap_or(Timestamp::MIN);
    let rows: Vec<(String,)> = query_as("SELECT id FROM node_identity WHERE removed_at >= $1 ORDER BY id")
        .bind(since.as_microsecond())
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(|(id,)| parse(&id)).collect()
}

/// From now on no certificate of this node counts, whoever has one.
pub(crate) async fn expel(conn: &mut Conn, node: NodeId, now: Timestamp) -> Result<()> {
    conn.note(News::Access);
    query("UPDATE node_identity SET removed_at = $2 WHERE id = $1 AND removed_at IS NULL")
        .bind(node.to_string())
        .bind(now.as_microsecond())
        .execute(conn)
        .await?;
    Ok(())
}
