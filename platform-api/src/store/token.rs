//! Table `token`. Secrets are random and long, so a plain hash of them is enough; the secret itself is never stored.

use wharf_types::api::{Role, TokenInfo};
use wharf_types::{NamespaceId, NamespaceName, Timestamp, TokenId};

use super::codec::{parse, parse_opt, role_from_db, role_to_db, time, time_opt};
use super::{Conn, Result};

pub(crate) struct NewToken<'a> {
    pub(crate) id: TokenId,
    pub(crate) name: &'a str,
    pub(crate) secret_hash: &'a str,
    pub(crate) role: Role,
    pub(crate) namespace: Option<NamespaceId>,
    pub(crate) bootstrap: bool,
    pub(crate) expires_at: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    role: i64,
    namespace: Option<String>,
    created_at: i64,
    expires_at: Option<i64>,
}

impl TryFrom<Row> for TokenInfo {
    type Error = super::StoreError;
    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: parse(&row.id)?,
            name: row.name,
            role: role_from_db(row.role)?,
            namespace: parse_opt::<NamespaceName>(row.namespace.as_deref())?,
            created_at: time(row.created_at)?,
            expires_at: time_opt(row.expires_at)?,
        })
    }
}

pub(crate) async fn create(conn: &mut Conn, token: NewToken<'_>, now: Timestamp) -> Result<()> {
    sqlx::query(
        "INSERT INTO token (id, name, secret_hash, role, namespace, bootstrap, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(token.id.to_string())
    .bind(token.name)
    .bind(token.secret_hash)
    .bind(role_to_db(token.role))
    .bind(token.namespace.map(|id| id.to_string()))
    .bind(token.bootstrap)
    .bind(now.as_microsecond())
    .bind(token.expires_at.map(|at| at.as_microsecond()))
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn find_by_hash(conn: &mut Conn, secret_hash: &str) -> Result<Option<TokenInfo>> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT token.id, token.name, token.role, namespace.name AS namespace, token.created_at, token.expires_at
         FROM token LEFT JOIN namespace ON namespace.id = token.namespace WHERE token.secret_hash = $1",
    )
    .bind(secret_hash)
    .fetch_optional(conn)
    .await?;
    row.map(TokenInfo::try_from).transpose()
}

pub(crate) async fn list(conn: &mut Conn) -> Result<Vec<TokenInfo>> {
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT token.id, token.name, token.role, namespace.name AS namespace, token.created_at, token.expires_at
         FROM token LEFT JOIN namespace ON namespace.id = token.namespace ORDER BY token.created_at, token.id",
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(TokenInfo::try_from).collect()
}

pub(crate) async fn delete(conn: &mut Conn, id: TokenId) -> Result<bool> {
    let done = sqlx::query("DELETE FROM token WHERE id = $1").bind(id.to_string()).execute(conn).await?;
    Ok(done.rows_affected() == 1)
}

pub(crate) async fn delete_bootstrap(conn: &mut Conn) -> Result<()> {
    sqlx::query("DELETE FROM token WHERE bootstrap = $1").bind(true).execute(conn).await?;
    Ok(())
}
