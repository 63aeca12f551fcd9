//! Table `volume`: which folders nodes keep, and for which app. What is in them only the nodes know.

use wharf_types::{AppId, AppName, NamespaceId, NamespaceName, NodeId, Timestamp, VolumeId, VolumeName};

use super::app::App;
use super::codec::{number, parse, parse_opt, time};
use super::query::{query, query_as};
use super::{Conn, News, Result};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Volume {
    pub(crate) id: VolumeId,
    /// None: its app is gone, or has lost it.
    pub(crate) app: Option<AppId>,
    /// The app that it was made for.
    pub(crate) app_name: AppName,
    pub(crate) name: VolumeName,
    /// None: it has no folder yet.
    pub(crate) node: Option<NodeId>,
    pub(crate) size_bytes: u64,
    /// Whether it goes as soon as no app has it.
    pub(crate) removing: bool,
    pub(crate) created_at: Timestamp,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    app: Option<String>,
    app_name: String,
    name: String,
    node: Option<String>,
    size_bytes: i64,
    removing: bool,
    created_at: i64,
}

impl TryFrom<Row> for Volume {
    type Error = super::StoreError;

    fn try_from(row: Row) -> Result<Self> {
        Ok(Self {
            id: parse(&row.id)?,
            app: parse_opt(row.app.as_deref())?,
            app_name: parse(&row.app_name)?,
            name: parse(&row.name)?,
            node: parse_opt(row.node.as_deref())?,
            size_bytes: number(row.size_bytes)?,
            removing: row.removing,
            created_at: time(row.created_at)?,
        })
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT volume.id, volume.app, volume.app_name, volume.name, volume.node, volume.size_bytes,
             volume.removing, volume.created_at FROM volume ",
            $rest
        )
    };
}

/// Makes the app's volume of this name, or gives it another size. True: it was made.
pub(crate) async fn put(
    conn: &mut Conn,
    app: &App,
    name: &VolumeName,
    size_bytes: u64,
    now: Timestamp,
) -> Result<bool> {
    let size = i64::try_from(size_bytes).unwrap_or(i64::MAX);
    let resized = query("UPDATE volume SET size_bytes = $3 WHERE app = $1 AND name = $2")
        .bind(app.id.to_string())
        .bind(name.as_str())
        .bind(size)
        .execute(&mut *conn)
        .await?;
    if resized.rows_affected() > 0 {
        return Ok(false);
    }
    query(
        "INSERT INTO volume (id, namespace, app, app_name, name, size_bytes, removing, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(VolumeId::new().to_string())
    .bind(app.namespace_id.to_string())
    .bind(app.id.to_string())
    .bind(app.name.as_str())
    .bind(name.as_str())
    .bind(size)
    .bind(false)
    .bind(now.as_microsecond())
    .execute(conn)
    .await?;
    Ok(true)
}

/// Those that an app has, by name.
pub(crate) async fn of_app(conn: &mut Conn, app: AppId) -> Result<Vec<Volume>> {
    let rows: Vec<Row> = query_as(select!("WHERE volume.app = $1 ORDER BY volume.name"))
        .bind(app.to_string())
        .fetch_all(conn)
        .await?;
    rows.into_iter().map(Volume::try_from).collect()
}

/// Those of a namespace, also of apps that are gone.
pub(crate) async fn list(conn: &mut Conn, namespace: &NamespaceName) -> Result<Vec<Volume>> {
    let rows: Vec<Row> = query_as(select!(
        "JOIN namespace ON namespace.id = volume.namespace WHERE namespace.name = $1
         ORDER BY volume.app_name, volume.name, volume.id"
    ))
    .bind(namespace.as_str())
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Volume::try_from).collect()
}

pub(crate) async fn find(conn: &mut Conn, namespace: &NamespaceName, id: VolumeId) -> Result<Option<Volume>> {
    let row: Option<Row> = query_as(select!(
        "JOIN namespace ON namespace.id = volume.namespace WHERE namespace.name = $1 AND volume.id = $2"
    ))
    .bind(namespace.as_str())
    .bind(id.to_string())
    .fetch_optional(conn)
    .await?;
    row.map(Volume::try_from).transpose()
}

pub(crate) async fn count(conn: &mut Conn, namespace: NamespaceId) -> Result<u64> {
    let (count,): (i64,) = query_as("SELECT count(*) FROM volume WHERE namespace = $1")
        .bind(namespace.to_string())
        .fetch_one(conn)
        .await?;
    number(count)
}

/// Records where its folder is. Returns `false` when it is somewhere already.
pub(crate) async fn place(conn: &mut Conn, id: VolumeId, node: NodeId) -> Result<bool> {
    let done = query("UPDATE volume SET node = $2 WHERE id = $1 AND node IS NULL")
        .bind(id.to_string())
        .bind(node.to_string())
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Those that an app has go with it.
pub(crate) async fn remove_with_app(conn: &mut Conn, app: AppId) -> Result<()> {
    query("UPDATE volume SET removing = $2 WHERE app = $1")
        .bind(app.to_string())
        .bind(true)
        .execute(conn)
        .await?;
    Ok(())
}

/// Takes it from its app, if it has one, and has it removed.
pub(crate) async fn remove(conn: &mut Conn, id: VolumeId) -> Result<()> {
    conn.note(News::Volumes);
    query("UPDATE volume SET removing = $2, app = NULL WHERE id = $1")
        .bind(id.to_string())
        .bind(true)
        .execute(conn)
        .await?;
    Ok(())
}

/// Forgets those that are to be removed and were never anywhere.
pub(crate) async fn forget_unplaced(conn: &mut Conn) -> Result<()> {
    query("DELETE FROM volume WHERE removing = $1 AND app IS NULL AND node IS NULL")
        .bind(true)
        .execute(conn)
        .await?;
    Ok(())
}

/// Those whose folders are to be removed, and where they are.
pub(crate) async fn doomed(conn: &mut Conn) -> Result<Vec<(NodeId, VolumeId)>> {
    let rows: Vec<(String, String)> = query_as(
        "SELECT node, id FROM volume WHERE removing = $1 AND app IS NULL AND node IS NOT NULL ORDER BY id",
    )
    .bind(true)
    .fetch_all(conn)
    .await?;
    rows.iter().map(|(node, id)| Ok((parse(node)?, parse(id)?))).collect()
}

/// Forgets one whose node says that its folder is gone. Returns `false` where nobody had asked for that.
pub(crate) async fn forget(conn: &mut Conn, node: NodeId, id: VolumeId) -> Result<bool> {
    conn.note(News::Volumes);
    let done = query("DELETE FROM volume WHERE id = $1 AND node = $2 AND removing = $3 AND app IS NULL")
        .bind(id.to_string())
        .bind(node.to_string())
        .bind(true)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() == 1)
}
