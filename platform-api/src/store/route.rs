//! Table `route`: which app owns a hostname and path. A pattern belongs to one app of all namespaces.

use wharf_types::route::RoutePattern;
use wharf_types::{AppId, AppName, NamespaceName};

use super::codec::parse;
use super::query::{query, query_as};
use super::{Conn, Result};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Owner {
    pub(crate) app_id: AppId,
    pub(crate) namespace: NamespaceName,
    pub(crate) app: AppName,
    pub(crate) pattern: String,
}

/// Every route with this hostname, and whose it is.
pub(crate) async fn owners_of_hostname(conn: &mut Conn, hostname: &str) -> Result<Vec<Owner>> {
    let rows: Vec<(String, String, String, String)> = query_as(
        "SELECT app.id, namespace.name, app.name, route.pattern FROM route
         JOIN app ON app.id = route.app JOIN namespace ON namespace.id = app.namespace
         WHERE route.hostname = $1",
    )
    .bind(hostname)
    .fetch_all(conn)
    .await?;
    rows.into_iter()
        .map(|(app_id, namespace, app, pattern)| {
            Ok(Owner { app_id: parse(&app_id)?, namespace: parse(&namespace)?, app: parse(&app)?, pattern })
        })
        .collect()
}

/// Gives a free route to an app. A route that it has already stays its own; one of another app is `Taken`.
pub(crate) async fn claim(conn: &mut Conn, app: AppId, pattern: &RoutePattern) -> Result<()> {
    query(
        "INSERT INTO route (pattern, hostname, app)
         SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT 1 FROM route WHERE pattern = $1 AND app = $3)",
    )
    .bind(pattern.to_string())
    .bind(pattern.hostname())
    .bind(app.to_string())
    .execute(conn)
    .await?;
    Ok(())
}

/// Gives up the app's routes that are not in `keep`.
pub(crate) async fn release_others(conn: &mut Conn, app: AppId, keep: &[RoutePattern]) -> Result<()> {
    let owned: Vec<(String,)> = query_as("SELECT pattern FROM route WHERE app = $1")
        .bind(app.to_string())
        .fetch_all(&mut *conn)
        .await?;
    for (pattern,) in owned {
        if !keep.iter().any(|kept| kept.to_string() == pattern) {
            query("DELETE FROM route WHERE pattern = $1 AND app = $2")
                .bind(pattern)
                .bind(app.to_string())
                .execute(&mut *conn)
                .await?;
        }
    }
    Ok(())
}
