//! Table `account`: who may be a member of namespaces and have tokens.

use std::collections::HashMap;

use wharf_types::api::{Membership, UserInfo};
use wharf_types::{Timestamp, UserId, UserName};

use super::codec::{number, parse, role_from_db, time};
use super::query::{query, query_as};
use super::{Conn, News, Result};

pub(crate) async fn create(conn: &mut Conn, name: &UserName, now: Timestamp) -> Result<UserId> {
    let id = UserId::new();
    query("INSERT INTO account (id, name, created_at) VALUES ($1, $2, $3)")
        .bind(id.to_string())
        .bind(name.as_str())
        .bind(now.as_microsecond())
        .execute(conn)
        .await?;
    Ok(id)
}

pub(crate) async fn find(conn: &mut Conn, name: &UserName) -> Result<Option<UserId>> {
    let row: Option<(String,)> =
        query_as("SELECT id FROM account WHERE name = $1").bind(name.as_str()).fetch_optional(conn).await?;
    row.map(|(id,)| parse(&id)).transpose()
}

pub(crate) async fn count(conn: &mut Conn) -> Result<u64> {
    let (count,): (i64,) = query_as("SELECT count(*) FROM account").fetch_one(conn).await?;
    number(count)
}

/// Every user with all memberships, by name.
pub(crate) async fn list(conn: &mut Conn) -> Result<Vec<UserInfo>> {
    let members: Vec<(String, String, i64)> = query_as(
        "SELECT member.account, namespace.name, member.role FROM member
         JOIN namespace ON namespace.id = member.namespace ORDER BY namespace.name",
    )
    .fetch_all(&mut *conn)
    .await?;
    let mut memberships: HashMap<String, Vec<Membership>> = HashMap::new();
    for (account, namespace, role) in members {
        let membership = Membership { namespace: parse(&namespace)?, role: role_from_db(role)? };
        memberships.entry(account).or_default().push(membership);
    }
    let rows: Vec<(String, String, i64, i64)> = query_as(
        "SELECT id, name, (SELECT count(*) FROM token WHERE token.account = account.id), created_at
         FROM account ORDER BY name",
    )
    .fetch_all(conn)
    .await?;
    let info = |(id, name, tokens, created_at): (String, String, i64, i64)| {
        Ok(UserInfo {
            name: parse(&name)?,
            memberships: memberships.remove(&id).unwrap_or_default(),
            tokens: number(tokens)?,
            created_at: time(created_at)?,
        })
    };
    rows.into_iter().map(info).collect()
}

/// Takes a user away, with all tokens and memberships.
pub(crate) async fn delete(conn: &mut Conn, id: UserId) -> Result<bool> {
    conn.note(News::Access);
    let done = query("DELETE FROM account WHERE id = $1").bind(id.to_string()).execute(conn).await?;
    Ok(done.rows_affected() == 1)
}
