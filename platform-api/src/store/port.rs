//! Table `tcp_port`: which app has a public port. A port belongs to one app of all namespaces.

use wharf_types::{AppId, AppName, NamespaceName};

use super::codec::parse;
use super::query::{query, query_as};
use super::{Conn, Result};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Owner {
    pub(crate) app_id: AppId,
    pub(crate) namespace: NamespaceName,
    pub(crate) app: AppName,
}

pub(crate) async fn owner(conn: &mut Conn, port: u16) -> Result<Option<Owner>> {
    let row: Option<(String, String, String)> = query_as(
        "SELECT app.id, namespace.name, app.name FROM tcp_port
         JOIN app ON app.id = tcp_port.app JOIN namespace ON namespace.id = app.namespace
         WHERE tcp_port.port = $1",
    )
    .bind(i64::from(port))
    .fetch_optional(conn)
    .await?;
    row.map(|(app_id, namespace, app)| {
        Ok(Owner { app_id: parse(&app_id)?, namespace: parse(&namespace)?, app: parse(&app)? })
    })
    .transpose()
}

/// Gives a free port to an app. One that it has already stays its own.
pub(crate) async fn claim(conn: &mut Conn, app: AppId, port: u16) -> Result<()> {
    query(
        "INSERT INTO tcp_port (port, app)
         SELECT $1, $2 WHERE NOT EXISTS (SELECT 1 FROM tcp_port WHERE port = $1 AND app = $2)",
    )
    .bind(i64::from(port))
    .bind(app.to_string())
    .execute(conn)
    .await?;
    Ok(())
}

/// Gives up the app's ports that are not in `keep`.
pub(crate) async fn release_others(conn: &mut Conn, app: AppId, keep: &[u16]) -> Result<()> {
    let owned: Vec<(i64,)> = query_as("SELECT port FROM tcp_port WHERE app = $1")
        .bind(app.to_string())
        .fetch_all(&mut *conn)
        .await?;
    for (port,) in owned {
        if !keep.iter().any(|kept| i64::from(*kept) == port) {
            query("DELETE FROM tcp_port WHERE port = $1 AND app = $2")
                .bind(port)
                .bind(app.to_string())
                .execute(&mut *conn)
                .await?;
        }
    }
    Ok(())
}
