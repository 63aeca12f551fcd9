//! Builds the route table that every ingress serves by.

use std::collections::BTreeMap;
use std::sync::Arc;

use wharf_types::node::ReasonKind;
use wharf_types::route::{
    Canary, ContainerEndpoint, ContainerRoute, Endpoint, Route, RoutePattern, RouteTable, TcpEndpoint,
    TcpRoute,
};
use wharf_types::state::{Health, InstanceState, Wanted};

use super::{AppView, InstanceView, ReleaseView};

/// One route for each pattern and for each public port of each app, in their order. An app that has nothing ready, or whose only release failed,
/// keeps its routes, without endpoints, so that its visitors are told to wait rather than that it does not exist.
pub fn build(generation: u64, apps: &[AppView]) -> RouteTable {
    let mut oldest_first: Vec<&AppView> = apps.iter().collect();
    oldest_first.sort_by_key(|app| app.id);
    let (mut routes, mut tcp, mut containers) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for app in oldest_first {
        // Two apps never hold one pattern; if they did, the newer one must not take the older one's visitors.
        let own = AppRoutes::of(app);
        for route in own.http {
            routes.entry(route.pattern.clone()).or_insert(route);
        }
        for route in own.tcp {
            tcp.entry(route.port).or_insert(route);
        }
        for route in own.containers {
            containers.entry((route.namespace.clone(), route.app.clone())).or_insert(route);
        }
    }
    let (routes, tcp) = (routes.into_values().collect(), tcp.into_values().collect());
    let containers = containers.into_values().collect();
    RouteTable { generation, routes, tcp, containers, ..RouteTable::default() }
}

/// What an app has in the route table, where no older one has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppRoutes {
    pub http: Vec<Arc<Route>>,
    pub tcp: Vec<Arc<TcpRoute>>,
    pub containers: Vec<Arc<ContainerRoute>>,
}

impl AppRoutes {
    pub fn of(app: &AppView) -> Self {
        let mut routes = Self::default();
        let Some(release) = app.routed_release().filter(|_| !app.deleting) else { return routes };
        routes.tcp = release.spec.tcp.ports.iter().map(|port| Arc::new(tcp_route(app, *port))).collect();
        if release.world.is_container() && !release.spec.container.host_network {
            routes.containers.push(Arc::new(container_route(app, release)));
        }
        if !release.world.is_http() {
            return routes;
        }
        let (canary, endpoints) = (canary(app), endpoints(app));
        let route = |pattern: &RoutePattern| Route {
            pattern: pattern.clone(),
            namespace: app.namespace.clone(),
            app: app.name.clone(),
            endpoints: endpoints.clone(),
            stopped: app.stopped.is_some(),
            counted: app.range().is_some(),
            wakes: app.wakes(),
            canary,
        };
        routes.http = release.routes.iter().map(|pattern| Arc::new(route(pattern))).collect();
        routes
    }
}

/// The instances that serve, of whatever release: during a rollout both do.
fn endpoints(app: &AppView) -> Vec<Endpoint> {
    serving(app)
        .into_iter()
        .filter_map(|instance| {
            let concurrency = app.release(instance.release).map_or(0, |it| it.spec.limits.concurrency);
            let release = app.number(instance.release);
            Some(Endpoint { instance: instance.id, node: instance.node?, release, concurrency })
        })
        .collect()
}

/// What the release on trial gets.
fn canary(app: &AppView) -> Option<Canary> {
    let target = app.target.as_ref().filter(|_| app.is_on_trial())?;
    let share = target.spec.update.canary.as_ref()?.share;
    Some(Canary { release: target.number, share })
}

/// The port leads to those of them whose release has it, because the others do not listen for it.
fn tcp_route(app: &AppView, port: u16) -> TcpRoute {
    let endpoint = |instance: &InstanceView| {
        let spec =
            &app.release(instance.release).filter(|release| release.spec.tcp.ports.contains(&port))?.spec;
        Some(TcpEndpoint {
            instance: instance.id,
            node: instance.node?,
            connections_max: spec.limits.concurrency,
            proxy_protocol: spec.tcp.proxy_protocol,
            release: app.number(instance.release),
        })
    };
    TcpRoute {
        port,
        namespace: app.namespace.clone(),
        app: app.name.clone(),
        endpoints: serving(app).into_iter().filter_map(endpoint).collect(),
        counted: app.range().is_some(),
    }
}

/// By name every port is reached, whatever the release of an instance says about ports.
fn container_route(app: &AppView, release: &ReleaseView) -> ContainerRoute {
    let endpoint = |it: &InstanceView| it.node.map(|node| ContainerEndpoint { instance: it.id, node });
    ContainerRoute {
        namespace: app.namespace.clone(),
        app: app.name.clone(),
        networks: release.spec.container.networks.clone(),
        apart: !release.spec.names.is_empty(),
        endpoints: serving(app).into_iter().filter_map(endpoint).collect(),
    }
}

/// The healthy instances. While there is none, those that went with a worker process: the worker that was started again answers for each of them with
/// its successor, from the moment at which that one runs until it turns out whether it is healthy.
fn serving(app: &AppView) -> Vec<&InstanceView> {
    let mut serving: Vec<_> = app.instances.iter().filter(|instance| instance.is_healthy()).collect();
    if serving.is_empty() {
        serving = app.instances.iter().filter(|instance| is_stood_in_for(app, instance)).collect();
    }
    serving.sort_by_key(|instance| (instance.slot, instance.id));
    serving
}

/// Whether an instance was lost with its worker process, and the one that takes its place is starting.
fn is_stood_in_for(app: &AppView, lost: &InstanceView) -> bool {
    let is_newer = |other: &&InstanceView| other.slot == lost.slot && other.age() > lost.age();
    let went_with_worker = lost.replaced
        && lost.was_healthy
        && lost.wanted == Wanted::Run
        && lost.state == InstanceState::Failed
        && lost.reason.as_ref().is_some_and(|reason| reason.kind == ReasonKind::Platform);
    let newer: Vec<_> = app.instances.iter().filter(is_newer).collect();
    let [successor] = newer[..] else { return false };
    let is_starting = successor.is_wanted() && successor.health == Health::Unknown;
    went_with_worker && is_starting && successor.node == lost.node && successor.release == lost.release
}

#[cfg(test)]
mod tests {
    use wharf_types::node::Reason;
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
    fn an_instance_that_went_with_its_worker_keeps_its_route_until_its_successor_has_one() {
        let mut fixture = Fixture::serving(1, 1);
        let lost = fixture.app.instances[0].id;
        let added = fixture.add(1, 0);
        let endpoints = |app: &AppView| -> Vec<_> {
            let table = build(1, std::slice::from_ref(app));
            table.routes[0].endpoints.iter().map(|endpoint| endpoint.instance).collect()
        };
        let first = &mut fixture.app.instances[0];
        (first.state, first.health, first.replaced) = (InstanceState::Failed, Health::Unknown, true);
        assert!(endpoints(&fixture.app).is_empty(), "it may have failed by its own fault");
        let message = "the worker was restarted".to_owned();
        let reason = Reason { kind: ReasonKind::Platform, message };
        fixture.app.instances[0].reason = Some(Box::new(reason));
        assert_eq!(endpoints(&fixture.app), [lost]);
        let mut unhealthy = fixture.app.clone();
        unhealthy.instances[1].health = Health::Unhealthy;
        assert!(endpoints(&unhealthy).is_empty());
        fixture.make_ready(added);
        assert_eq!(endpoints(&fixture.app), [fixture.app.instances[added].id]);
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

    /// A command with these public ports, as release `number`.
    fn server(number: u64, ports: &[u16]) -> Arc<crate::plan::ReleaseView> {
        let mut spec = (*release(number).spec).clone();
        spec.tcp.ports = ports.to_vec();
        spec.tcp.proxy_protocol = number == 2;
        spec.limits.concurrency = 10;
        let (world, routes) = (World::CommandP2, Vec::new());
        Arc::new(crate::plan::ReleaseView { world, routes, spec: Arc::new(spec), ..release(number) })
    }

    #[test]
    fn a_port_leads_to_the_healthy_instances_of_its_app() {
        let mut app = Fixture::serving(1, 3).app;
        app.stable = Some(server(1, &[7001, 7000]));
        app.target = app.stable.clone();
        app.instances[1].health = Health::Unknown;
        let table = build(1, std::slice::from_ref(&app));
        assert_eq!(table.routes, []);
        assert_eq!(table.tcp.iter().map(|route| route.port).collect::<Vec<_>>(), [7000, 7001]);
        for route in &table.tcp {
            let ids: Vec<_> = route.endpoints.iter().map(|endpoint| endpoint.instance).collect();
            assert_eq!(ids, [app.instances[0].id, app.instances[2].id]);
            assert_eq!((route.endpoints[0].connections_max, route.endpoints[0].proxy_protocol), (10, false));
        }
    }

    #[test]
    fn a_container_is_found_by_its_name_without_any_port() {
        let mut app = Fixture::serving(1, 2).app;
        let with = |world, host_network| {
            let mut spec = (*release(1).spec).clone();
            spec.container.networks.insert("back".to_owned(), vec!["cache".to_owned()]);
            spec.container.host_network = host_network;
            let spec = Arc::new(spec);
            Arc::new(crate::plan::ReleaseView { world, routes: Vec::new(), spec, ..release(1) })
        };
        app.stable = Some(with(World::Container, false));
        app.target = app.stable.clone();
        app.instances[1].health = Health::Unknown;
        let table = build(1, std::slice::from_ref(&app));
        assert!(table.routes.is_empty() && table.tcp.is_empty());
        let [container] = &table.containers[..] else { panic!("one") };
        assert_eq!((&container.namespace, &container.app), (&app.namespace, &app.name));
        assert_eq!(container.networks["back"], ["cache"]);
        let ids: Vec<_> = container.endpoints.iter().map(|endpoint| endpoint.instance).collect();
        assert_eq!(ids, [app.instances[0].id]);
        for (world, host_network) in [(World::Container, true), (World::CommandP2, false)] {
            app.stable = Some(with(world, host_network));
            app.target = app.stable.clone();
            assert_eq!(build(1, std::slice::from_ref(&app)).containers, []);
        }
    }

    #[test]
    fn during_a_rollout_each_instance_keeps_the_settings_and_ports_of_its_release() {
        let mut fixture = Fixture::serving(1, 1);
        fixture.deploy(2);
        let new = fixture.add(2, 0);
        let old = fixture.app.instances[0].id;
        let new_id = fixture.app.instances[new].id;
        fixture.app.stable = Some(server(1, &[7000, 7001]));
        fixture.app.target = Some(server(2, &[7000, 7002]));
        let ports = |app: &AppView| {
            let table = build(1, std::slice::from_ref(app));
            let route = |route: &Arc<TcpRoute>| {
                let endpoints = route.endpoints.iter();
                (route.port, endpoints.map(|end| (end.instance, end.proxy_protocol)).collect::<Vec<_>>())
            };
            table.tcp.iter().map(route).collect::<Vec<_>>()
        };
        assert_eq!(ports(&fixture.app), [(7000, vec![(old, false)]), (7001, vec![(old, false)])]);
        fixture.make_ready(new);
        let mut both = vec![(old, false), (new_id, true)];
        both.sort();
        assert_eq!(ports(&fixture.app), [(7000, both), (7002, vec![(new_id, true)])]);
    }

    #[test]
    fn an_app_that_is_scaled_to_nothing_keeps_its_port_and_a_deleted_one_does_not() {
        let mut app = Fixture::empty(0).app;
        app.stable = Some(server(1, &[7000]));
        app.target = app.stable.clone();
        let table = build(1, std::slice::from_ref(&app));
        assert_eq!((table.tcp[0].port, table.tcp[0].endpoints.len()), (7000, 0));
        app.deleting = true;
        assert_eq!(build(1, &[app]).tcp, []);
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
