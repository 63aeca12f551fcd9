//! Table `route`: which app owns a hostname and path. A pattern belongs to one app of all namespaces.

use wharf_types::route::RoutePattern;
use wharf_types::{AppId, AppName, NamespaceName};

use super::codec::parse;
use super::query::{parameters, pieces, query, query_as, query_as_built, query_built, row_pieces, rows};
use super::{Conn, Result};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Owner {
    pub(crate) app_id: AppId,
    pub(crate) namespace: NamespaceName,
    pub(crate) app: AppName,
    pub(crate) pattern: String,
}

/// Every route with one of these hostnames, the hostname first, and whose it is.
pub(crate) async fn owners(conn: &mut Conn, hostnames: &[&str]) -> Result<Vec<(String, Owner)>> {
    let mut owners = Vec::new();
    for piece in pieces(hostnames) {
        let list = parameters(1, piece.len());
        let query = query_as_built(format!(
            "SELECT route.hostname, app.id, namespace.name, app.name, route.pattern FROM route
             JOIN app ON app.id = route.app JOIN namespace ON namespace.id = app.namespace
             WHERE route.hostname IN ({list})"
        ));
        let query = piece.iter().fold(query, |query, hostname| query.bind(*hostname));
        let rows: Vec<(String, String, String, String, String)> = query.fetch_all(&mut *conn).await?;
        for (hostname, app_id, namespace, app, pattern) in rows {
            let (app_id, namespace, app) = (parse(&app_id)?, parse(&namespace)?, parse(&app)?);
            owners.push((hostname, Owner { app_id, namespace, app, pattern }));
        }
    }
    Ok(owners)
}

/// Gives free routes to apps; one that somebody has is `Taken`.
pub(crate) async fn claim(conn: &mut Conn, routes: &[(AppId, &RoutePattern)]) -> Result<()> {
    for piece in row_pieces(routes) {
        let rows = rows(3, piece.len());
        let mut query = query_built(format!("INSERT INTO route (pattern, hostname, app) VALUES {rows}"));
        for (app, pattern) in piece {
            query = query.bind(pattern.to_string()).bind(pattern.hostname()).bind(app.to_string());
        }
        query.execute(&mut *conn).await?;
    }
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
