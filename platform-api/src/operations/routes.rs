//! Who may have which hostname. A hostname belongs to one namespace; a hostname and path to one app.

use std::collections::{BTreeSet, HashMap};

use wharf_types::problem::ProblemCode;
use wharf_types::route::RoutePattern;
use wharf_types::{AppId, NamespaceName, Problem};

use super::Result;
use super::releases::Refused;
use crate::store::app::App;
use crate::store::route::Owner;
use crate::store::{self, Conn};

/// Gives the routes to the app, or says which of them is not to be had.
pub(super) async fn claim(conn: &mut Conn, domain: &str, app: &App, routes: &[RoutePattern]) -> Result<()> {
    claim_all(conn, domain, &[(app, routes.to_vec())]).await.map_err(|refused| refused.error)
}

/// The same for many apps, in their order.
pub(super) async fn claim_all(
    conn: &mut Conn,
    domain: &str,
    wanted: &[(&App, Vec<RoutePattern>)],
) -> std::result::Result<(), Refused> {
    let hostnames: BTreeSet<&str> =
        wanted.iter().flat_map(|(_, routes)| routes).map(RoutePattern::hostname).collect();
    let mut owners = Owners::read(conn, hostnames).await?;
    let mut new = Vec::new();
    for (app, routes) in wanted {
        for route in routes {
            if let Some(problem) = owners.refusal(domain, (&app.namespace, app.id), route) {
                return Err(Refused::of(app.id, problem));
            }
            if owners.give(app, route) {
                new.push((app.id, route));
            }
        }
    }
    Ok(store::route::claim(conn, &new).await?)
}

/// Who has which hostname.
#[derive(Debug, Default)]
pub(super) struct Owners(HashMap<String, Vec<Owner>>);

impl Owners {
    /// Asks for all of these at once.
    pub(super) async fn read(conn: &mut Conn, hostnames: BTreeSet<&str>) -> store::Result<Self> {
        let hostnames: Vec<&str> = hostnames.into_iter().collect();
        let mut owners: HashMap<String, Vec<Owner>> = HashMap::new();
        for (hostname, owner) in store::route::owners(conn, &hostnames).await? {
            owners.entry(hostname).or_default().push(owner);
        }
        Ok(Self(owners))
    }

    fn of(&self, route: &RoutePattern) -> &[Owner] {
        self.0.get(route.hostname()).map(Vec::as_slice).unwrap_or_default()
    }

    /// Why an app cannot have a route.
    pub(super) fn refusal(
        &self,
        domain: &str,
        (namespace, app): (&NamespaceName, AppId),
        route: &RoutePattern,
    ) -> Option<Problem> {
        if !may_name(namespace, domain, route.hostname()) {
            return Some(taken(route, None));
        }
        let pattern = route.to_string();
        self.of(route).iter().find_map(|owner| {
            let same_namespace = owner.namespace == *namespace;
            let is_taken = !same_namespace || (owner.pattern == pattern && owner.app_id != app);
            is_taken.then(|| taken(route, same_namespace.then(|| owner.app.to_string())))
        })
    }

    /// The app has the route from now on. False: it had it before.
    fn give(&mut self, app: &App, route: &RoutePattern) -> bool {
        let pattern = route.to_string();
        if self.of(route).iter().any(|owner| owner.pattern == pattern) {
            return false;
        }
        let (namespace, name) = (app.namespace.clone(), app.name.clone());
        let owner = Owner { app_id: app.id, namespace, app: name, pattern };
        self.0.entry(route.hostname().to_owned()).or_default().push(owner);
        true
    }
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

    #[test]
    fn a_hostname_is_of_the_first_namespace_that_takes_it_and_a_route_of_the_first_app() {
        let app = |namespace: &str, name: &str| {
            let (namespace, name) = (namespace.parse().unwrap(), name.parse().unwrap());
            App::new(wharf_types::NamespaceId::new(), &namespace, &name, wharf_types::Timestamp::UNIX_EPOCH)
        };
        let (web, shop, other) = (app("blue", "web"), app("blue", "shop"), app("red", "web"));
        let route = |text: &str| text.parse::<RoutePattern>().unwrap();
        let mut owners = Owners::default();
        let refusal = |owners: &Owners, app: &App, text: &str| {
            owners.refusal("localhost", (&app.namespace, app.id), &route(text)).map(|problem| problem.detail)
        };
        assert_eq!(refusal(&owners, &web, "example.com/a"), None);
        assert!(owners.give(&web, &route("example.com/a")));
        assert!(!owners.give(&web, &route("example.com/a")), "it has it already");
        assert_eq!(refusal(&owners, &web, "example.com/a"), None);
        assert_eq!(refusal(&owners, &shop, "example.com/b"), None);
        assert!(refusal(&owners, &shop, "example.com/a").unwrap().contains("belongs to the app `web`"));
        assert!(refusal(&owners, &other, "example.com/b").unwrap().contains("belongs to somebody else"));
    }
}
