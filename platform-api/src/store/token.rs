//! Table `token`. Secrets are random and long, so a plain hash of them is enough; the secret itself is never stored.

use wharf_types::api::{Role, TokenInfo, Verb};
use wharf_types::{NamespaceId, NamespaceName, Timestamp, TokenId, UserId};

use super::codec::{from_json, json, number, parse, parse_opt, role_from_db, role_to_db, time, time_opt};
use super::query::{query, query_as};
use super::{Conn, News, Result};

pub(crate) struct NewToken<'a> {
    pub(crate) id: TokenId,
    pub(crate) name: &'a str,
    pub(crate) secret_hash: &'a str,
    /// Whose it is. None: nobody's.
    pub(crate) owner: Option<UserId>,
    pub(crate) role: Role,
    pub(crate) namespace: Option<NamespaceId>,
    pub(crate) verbs: &'a [Verb],
    /// The server whose first token it is, which stands in its data directory.
    pub(crate) first_of: Option<&'a str>,
    pub(crate) expires_at: Option<Timestamp>,
}

/// A token with the id of whom it belongs to, whom its info only names.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) info: TokenInfo,
    pub(crate) owner: Option<UserId>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    owner: Option<String>,
    user_name: Option<String>,
    role: i64,
    namespace: Option<String>,
    verbs: String,
    created_at: i64,
    expires_at: Option<i64>,
}

impl TryFrom<Row> for Token {
    type Error = super::StoreError;
    fn try_from(row: Row) -> Result<Self> {
        let info = TokenInfo {
            id: parse(&row.id)?,
            name: row.name,
            user: parse_opt(row.user_name.as_deref())?,
            role: role_from_db(row.role)?,
            namespace: parse_opt::<NamespaceName>(row.namespace.as_deref())?,
            verbs: from_json(&row.verbs)?,
            created_at: time(row.created_at)?,
            expires_at: time_opt(row.expires_at)?,
        };
        Ok(Self { info, owner: parse_opt(row.owner.as_deref())? })
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT token.id, token.name, token.account AS owner, account.name AS user_name, token.role,
             namespace.name AS namespace, token.verbs, token.created_at, token.expires_at FROM token
             LEFT JOIN namespace ON namespace.id = token.namespace LEFT JOIN account ON account.id = token.account ",
            $rest
        )
    };
}

pub(crate) async fn create(conn: &mut Conn, token: NewToken<'_>, now: Timestamp) -> Result<()> {
    query(
        "INSERT INTO token (id, name, secret_hash, account, role, namespace, verbs, bootstrap, created_at, expires_at,
             server) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(token.id.to_string())
    .bind(token.name)
    .bind(token.secret_hash)
    .bind(token.owner.map(|id| id.to_string()))
    .bind(role_to_db(token.role))
    .bind(token.namespace.map(|id| id.to_string()))
    .bind(json(&token.verbs))
    .bind(token.first_of.is_some())
    .bind(now.as_microsecond())
    .bind(token.expires_at.map(|at| at.as_microsecond()))
    .bind(token.first_of.unwrap_or_default())
    .execute(conn)
    .await?;
    Ok(())
}

pub(crate) async fn find_by_hash(conn: &mut Conn, secret_hash: &str) -> Result<Option<Token>> {
    let row: Option<Row> =
        query_as(select!("WHERE token.secret_hash = $1")).bind(secret_hash).fetch_optional(conn).await?;
    row.map(Token::try_from).transpose()
}

pub(crate) async fn get(conn: &mut Conn, id: TokenId) -> Result<Option<Token>> {
    let row: Option<Row> =
        query_as(select!("WHERE token.id = $1")).bind(id.to_string()).fetch_optional(conn).await?;
    row.map(Token::try_from).transpose()
}

/// All tokens, or those of one user.
pub(crate) async fn list(conn: &mut Conn, owner: Option<UserId>) -> Result<Vec<TokenInfo>> {
    let rows: Vec<Row> =
        query_as(select!("WHERE $1 IS NULL OR token.account = $1 ORDER BY token.created_at, token.id"))
            .bind(owner.map(|id| id.to_string()))
            .fetch_all(conn)
            .await?;
    rows.into_iter().map(|row| Token::try_from(row).map(|token| token.info)).collect()
}

/// How many tokens of a user have not expired.
pub(crate) async fn count(conn: &mut Conn, owner: UserId, now: Timestamp) -> Result<u64> {
    let (count,): (i64,) =
        query_as("SELECT count(*) FROM token WHERE account = $1 AND (expires_at IS NULL OR expires_at > $2)")
            .bind(owner.to_string())
            .bind(now.as_microsecond())
            .fetch_one(conn)
            .await?;
    number(count)
}

/// Forgets the tokens of a user that expired before `before`.
pub(crate) async fn delete_expired(conn: &mut Conn, owner: UserId, before: Timestamp) -> Result<()> {
    query("DELETE FROM token WHERE account = $1 AND expires_at < $2")
        .bind(owner.to_string())
        .bind(before.as_microsecond())
        .execute(conn)
        .await?;
    Ok(())
}

pub(crate) async fn delete(conn: &mut Conn, id: TokenId) -> Result<bool> {
    conn.note(News::Access);
    let done = query("DELETE FROM token WHERE id = $1").bind(id.to_string()).execute(conn).await?;
    Ok(done.rows_affected() == 1)
}

/// Takes a server's first token away.
pub(crate) async fn delete_first(conn: &mut Conn, server: &str) -> Result<()> {
    conn.note(News::Access);
    query("DELETE FROM token WHERE bootstrap = $1 AND server = $2")
        .bind(true)
        .bind(server)
        .execute(conn)
        .await?;
    Ok(())
}
