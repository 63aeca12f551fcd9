//! Table `member`: what users are in namespaces.

use wharf_types::api::{MemberInfo, Membership, Role};
use wharf_types::{NamespaceId, Timestamp, UserId};

use super::codec::{parse, role_from_db, role_to_db, time};
use super::query::{query, query_as};
use super::{Conn, News, Result};

/// Makes a user a member, or gives a member another role.
pub(crate) async fn put(
    conn: &mut Conn,
    namespace: NamespaceId,
    user: UserId,
    role: Role,
    by: &str,
    now: Timestamp,
) -> Result<()> {
    conn.note(News::Access);
    query(
        "INSERT INTO member (account, namespace, role, since, set_by) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (account, namespace) DO UPDATE SET role = excluded.role, since = excluded.since, set_by = excluded.set_by",
    )
    .bind(user.to_string())
    .bind(namespace.to_string())
    .bind(role_to_db(role))
    .bind(now.as_microsecond())
    .bind(by)
    .execute(conn)
    .await?;
    Ok(())
}

/// The role of one member.
pub(crate) async fn find(conn: &mut Conn, namespace: NamespaceId, user: UserId) -> Result<Option<Role>> {
    let row: Option<(i64,)> = query_as("SELECT role FROM member WHERE account = $1 AND namespace = $2")
        .bind(user.to_string())
        .bind(namespace.to_string())
        .fetch_optional(conn)
        .await?;
    row.map(|(role,)| role_from_db(role)).transpose()
}

/// Where a user is a member, and as what. What this costs depends on the user alone, and on no namespace that somebody asks for.
pub(crate) async fn of_user(conn: &mut Conn, user: UserId) -> Result<Vec<Membership>> {
    let rows: Vec<(String, i64)> = query_as(
        "SELECT namespace.name, member.role FROM member JOIN namespace ON namespace.id = member.namespace
         WHERE member.account = $1 ORDER BY namespace.name",
    )
    .bind(user.to_string())
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|(namespace, role)| Ok(Membership { namespace: parse(&namespace)?, role: role_from_db(role)? }))
        .collect()
}

pub(crate) async fn list(conn: &mut Conn, namespace: NamespaceId) -> Result<Vec<MemberInfo>> {
    let rows: Vec<(String, i64, i64, String)> = query_as(
        "SELECT account.name, member.role, member.since, member.set_by FROM member
         JOIN account ON account.id = member.account WHERE member.namespace = $1 ORDER BY account.name",
    )
    .bind(namespace.to_string())
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|(user, role, since, by)| {
            Ok(MemberInfo { user: parse(&user)?, role: role_from_db(role)?, since: time(since)?, by })
        })
        .collect()
}

pub(crate) async fn delete(conn: &mut Conn, namespace: NamespaceId, user: UserId) -> Result<bool> {
    conn.note(News::Access);
    let done = query("DELETE FROM member WHERE account = $1 AND namespace = $2")
        .bind(user.to_string())
        .bind(namespace.to_string())
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}
