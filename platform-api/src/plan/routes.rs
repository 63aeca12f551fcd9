//! Builds the route table that every ingress serves by.

use std::collections::BTreeMap;
use std::sync::Arc;

use wharf_types::route::{Endpoint, Route, RouteTable};

use super::AppView;

/// One route for each pattern of each app, ordered by pattern. An app that has nothing ready, or whose only release failed,
/// keeps its routes, without endpoints, so that its visitors are told to wait rather than that it does not exist.
pub fn build(generation: u64, apps: &[AppView]) -> RouteTable {
    let mut oldest_first: Vec<&AppView> = apps.iter().filter(|app| !app.deleting).collect();
    oldest_first.sort_by_key(|app| app.id);
    let mut routes = BTreeMap::new();
    for app in oldest_first {
        let Some(release) = app.routed_release().filter(|release| release.world.is_http()) else { continue };
        let endpoints = endpoints(app);
        for pattern in &release.routes {
            // Two apps never hold one pattern; if they did, the newer one must not take the older one's visitors.
            routes.entry(pattern.clone()).or_insert_with(|| {
                Arc::new(Route {
                    pattern: pattern.clone(),
                    namespace: app.namespace.clone(),
                    app: app.name.clone(),
                    endpoints: endpoints.clone(),
                })
            });
        }
    }
    RouteTable { generation, routes: routes.into_values().collect() }
}

/// The healthy instances, of whatever release: during a rollout both serve.
fn endpoints(app: &AppView) -> Vec<Endpoint> {
    let mut healthy: Vec<_> = app.instances.iter().filter(|instance| instance.is_healthy()).collect();
    healthy.sort_by_key(|instance| (instance.slot, instance.id));
    healthy
        .into_iter()
        .filter_map(|instance| Some(Endpoint { instance: instance.id, node: instance.node? }))
        .collect()
}

#[cfg(test)]
mod tests {
    use wharf_types::state::{Health, InstanceState, Wanted};
    use wharf_types::world::World;

    use super::*;
    use crate::plan::fixture::{Fixture, release};

    fn patterns(table: &RouteTable) -> Vec<String> {
        table.routes.iter().map(|route| route.pattern.to_string()).collect()
    }

    #[test]
    fn only_healthy_running_instances_that_are_wanted_are_endpoints() {
        let mut app = Fixture::serving(1, 4).app;
        app.instances[0].health = Health::Unhealthy;
        app.instances[1].wanted = Wanted::Unroute;
        app.instances[2].state = InstanceState::Starting;
        let table = build(7, std::slice::from_ref(&app));
        assert_eq!(table.generation, 7);
        assert_eq!(patterns(&table), ["hello.default.localhost/", "hello.example.com/r1"]);
        for route in &table.routes {
            let endpoints: Vec<_> = route.endpoints.iter().map(|endpoint| endpoint.instance).collect();
            assert_eq!(endpoints, [app.instances[3].id]);
        }
    }

    #[test]
    fn the_routes_change_over_when_the_new_release_is_first_ready() {
        let mut fixture = Fixture::serving(1, 1);
        fixture.deploy(2);
        let new = fixture.add(2, 0);
        assert_eq!(
            patterns(&build(1, &[fixture.app.clone()])),
            ["hello.default.localhost/", "hello.example.com/r1"]
        );
        fixture.make_ready(new);
        let table = build(2, &[fixture.app.clone()]);
        assert_eq!(patterns(&table), ["hello.default.localhost/", "hello.example.com/r2"]);
        assert_eq!(table.routes[0].endpoints.len(), 2, "both serve until the old one is unrouted");
    }

    #[test]
    fn a_first_release_has_routes_before_anything_is_ready() {
        let mut fixture = Fixture::empty(1);
        fixture.deploy(1);
        let table = build(1, &[fixture.app]);
        assert_eq!(table.routes.len(), 2);
        assert!(table.routes.iter().all(|route| route.endpoints.is_empty()));
    }

    #[test]
    fn an_app_whose_first_release_failed_is_routed_to_nowhere() {
        let mut fixture = Fixture::empty(1);
        fixture.deploy(1);
        fixture.plan();
        fixture.fail(0, wharf_types::node::ReasonKind::Trap, "boom");
        fixture.plan();
        assert!(fixture.app.target.is_none());
        let table = build(1, &[fixture.app]);
        assert_eq!(patterns(&table), ["hello.default.localhost/", "hello.example.com/r1"]);
        assert!(table.routes.iter().all(|route| route.endpoints.is_empty()));
    }

    #[test]
    fn commands_and_deleted_apps_have_no_routes() {
        let mut deleting = Fixture::serving(1, 1).app;
        deleting.deleting = true;
        let mut command = Fixture::serving(1, 1).app;
        command.stable = Some(Arc::new(crate::plan::ReleaseView { world: World::CommandP2, ..release(1) }));
        command.target = command.stable.clone();
        assert_eq!(build(1, &[deleting, command]).routes, []);
    }

    #[test]
    fn the_older_app_keeps_a_pattern_that_two_claim() {
        let older = Fixture::serving(1, 1).app;
        let mut newer = Fixture::serving(1, 2).app;
        newer.id = wharf_types::AppId::from_uuid(uuid::Uuid::from_u128(u128::MAX));
        newer.name = "other".parse().unwrap();
        let table = build(1, &[newer, older.clone()]);
        assert!(table.routes.iter().all(|route| route.app == older.name));
    }
}
