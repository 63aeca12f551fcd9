//! Table `namespace`.

use wharf_types::{NamespaceId, NamespaceName, Timestamp};

use super::codec::{number, parse, time};
use super::query::{query, query_as};
use super::{Conn, News, Result};

#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    pub(crate) id: NamespaceId,
    pub(crate) name: NamespaceName,
    pub(crate) created_at: Timestamp,
    pub(crate) apps: u64,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    name: String,
    created_at: i64,
    apps: i64,
}

impl TryFrom<Row> for Namespace {
    type Error = super::StoreError;
    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: parse(&row.id)?,
            name: parse(&row.name)?,
            created_at: time(row.created_at)?,
            apps: number(row.apps)?,
        })
    }
}

pub(crate) async fn create(conn: &mut Conn, name: &NamespaceName, now: Timestamp) -> Result<NamespaceId> {
    let id = NamespaceId::new();
    query("INSERT INTO namespace (id, name, created_at) VALUES ($1, $2, $3)")
        .bind(id.to_string())
        .bind(name.as_str())
        .bind(now.as_microsecond())
        .execute(conn)
        .await?;
    Ok(id)
}

pub(crate) async fn find(conn: &mut Conn, name: &NamespaceName) -> Result<Option<Namespace>> {
    let row: Option<Row> = query_as(
        "SELECT id, name, created_at, (SELECT count(*) FROM app WHERE app.namespace = namespace.id) AS apps
         FROM namespace WHERE name = $1",
    )
    .bind(name.as_str())
    .fetch_optional(conn)
    .await?;
    row.map(Namespace::try_from).transpose()
}

/// Without its counts, which take a look at each of its apps.
pub(crate) async fn find_id(conn: &mut Conn, name: &NamespaceName) -> Result<Option<NamespaceId>> {
    let row: Option<(String,)> =
        query_as("SELECT id FROM namespace WHERE name = $1").bind(name.as_str()).fetch_optional(conn).await?;
    row.map(|(id,)| parse(&id)).transpose()
}

pub(crate) async fn list(conn: &mut Conn) -> Result<Vec<Namespace>> {
    let rows: Vec<Row> = query_as(
        "SELECT id, name, created_at, (SELECT count(*) FROM app WHERE app.namespace = namespace.id) AS apps
         FROM namespace ORDER BY name",
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Namespace::try_from).collect()
}

/// Returns `false` when the namespace still has apps.
pub(crate) async fn delete(conn: &mut Conn, id: NamespaceId) -> Result<bool> {
    conn.note(News::Access);
    conn.note(News::Rates);
    let done =
        query("DELETE FROM namespace WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM app WHERE namespace = $1)")
            .bind(id.to_string())
            .execute(conn)
            .await?;
    Ok(done.rows_affected() == 1)
}
