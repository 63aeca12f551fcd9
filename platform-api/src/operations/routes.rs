//! Who may have which hostname. A hostname belongs to one namespace; a hostname and path to one app.

use wharf_types::problem::ProblemCode;
use wharf_types::route::RoutePattern;
use wharf_types::{AppId, NamespaceName, Problem};

use super::Result;
use crate::store::app::App;
use crate::store::{self, Conn};

/// Gives the routes to the app, or says which of them is not to be had.
pub(super) async fn claim(conn: &mut Conn, domain: &str, app: &App, routes: &[RoutePattern]) -> Result<()> {
    for route in routes {
        if let Some(problem) = refusal(conn, domain, (&app.namespace, app.id), route).await? {
            return Err(problem.into());
        }
        store::route::claim(conn, app.id, route).await?;
    }
    Ok(())
}

/// Why an app cannot have a route.
pub(super) async fn refusal(
    conn: &mut Conn,
    domain: &str,
    (namespace, app): (&NamespaceName, AppId),
    route: &RoutePattern,
) -> Result<Option<Problem>> {
    if !may_name(namespace, domain, route.hostname()) {
        return Ok(Some(taken(route, None)));
    }
    for owner in store::route::owners_of_hostname(conn, route.hostname()).await? {
        let same_namespace = owner.namespace == *namespace;
        let same_pattern = owner.pattern == route.to_string();
        if !same_namespace || (same_pattern && owner.app_id != app) {
            return Ok(Some(taken(route, same_namespace.then(|| owner.app.to_string()))));
        }
    }
    Ok(None)
}

/// Gives up the app's routes that are not in `kept`. Its default one it keeps as long as it exists.
pub(crate) async fn keep_only(
    conn: &mut Conn,
    domain: &str,
    app: &App,
    mut kept: Vec<RoutePattern>,
) -> Result<()> {
    kept.push(RoutePattern::for_app(&app.name, &app.namespace, domain));
    Ok(store::route::release_others(conn, app.id, &kept).await?)
}

/// Hostnames below the platform's own domain are those of their namespace, `APP.NAMESPACE.DOMAIN`, whether or not it exists.
fn may_name(namespace: &NamespaceName, domain: &str, hostname: &str) -> bool {
    let domain = domain.to_ascii_lowercase();
    if hostname == domain {
        return false;
    }
    match hostname.strip_suffix(&domain).and_then(|rest| rest.strip_suffix('.')) {
        Some(below) => below.ends_with(&format!(".{namespace}")),
        None => true,
    }
}

fn taken(route: &RoutePattern, app: Option<String>) -> Problem {
    let whose = match app {
        Some(app) => format!("the app `{app}`"),
        None => "somebody else".to_owned(),
    };
    let detail = format!(
        "the route `{route}` belongs to {whose}; choose another in `http.routes`, or take it away there first"
    );
    Problem::new(ProblemCode::RouteTaken, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames_below_the_domain_belong_to_their_namespace() {
        let namespace: NamespaceName = "blue".parse().unwrap();
        let may = |hostname| may_name(&namespace, "localhost", hostname);
        assert!(may("hello.blue.localhost") && may("a.b.blue.localhost") && may("example.com"));
        assert!(
            !may("hello.red.localhost")
                && !may("blue.localhost")
                && !may("localhost")
                && !may("xblue.localhost")
        );
        assert!(may("notlocalhost"));
    }
}
