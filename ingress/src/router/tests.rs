use super::*;
use crate::peers::Peers;
use proptest::prelude::*;
use wharf_types::spec::Ratio;

fn table(routes: &[(&str, &str, usize)], node: NodeId) -> RouteTable {
    let routes = routes.iter().map(|(pattern, app, endpoints)| {
        Arc::new(route::Route {
            pattern: pattern.parse().unwrap(),
            namespace: "default".parse().unwrap(),
            app: app.parse().unwrap(),
            endpoints: (0..*endpoints)
                .map(|_| route::Endpoint { instance: InstanceId::new(), node, release: 1, concurrency: 0 })
                .collect(),
            stopped: false,
            counted: false,
            wakes: false,
            canary: None,
        })
    });
    RouteTable { generation: 7, routes: routes.collect(), ..RouteTable::default() }
}

fn router(routes: &[(&str, &str, usize)]) -> Router {
    let node = NodeId::new();
    Router::build(&table(routes, node), node, &mut Targets::default())
}

fn app_of(router: &Router, host: &str, path: &str) -> Option<String> {
    match router.find(host, path) {
        Match::Route(route) => Some(route.app.to_string()),
        _ => None,
    }
}

#[test]
fn the_longest_prefix_wins() {
    let router = router(&[("x.com/", "root", 0), ("x.com/api/v2", "v2", 0), ("x.com/api", "api", 0)]);
    for (path, app) in
        [("/", "root"), ("/apix", "root"), ("/api", "api"), ("/api/v1", "api"), ("/api/v2/y", "v2")]
    {
        assert_eq!(app_of(&router, "x.com", path).as_deref(), Some(app), "{path}");
    }
}

#[test]
fn port_dot_and_case_of_a_host_do_not_matter() {
    let router = router(&[("hello.example.com/", "hello", 0)]);
    for host in ["hello.example.com", "HELLO.example.COM:8080", "hello.example.com.", "hello.example.com.:80"]
    {
        assert_eq!(app_of(&router, host, "/").as_deref(), Some("hello"), "{host}");
    }
}

#[test]
fn an_unknown_host_never_gets_another_apps_answer() {
    let router = router(&[("a.com/", "a", 1), ("b.com/only", "b", 1)]);
    for host in ["", ".", ":", "com", "aa.com", "a.com.evil", "x.a.com", "[::1]:80", "127.0.0.1", "a.com.."] {
        assert!(matches!(router.find(host, "/"), Match::UnknownHost), "{host}");
    }
    assert!(matches!(router.find("b.com", "/onlyx"), Match::UnknownPath));
}

#[test]
fn the_first_of_two_equal_patterns_counts() {
    let router = router(&[("a.com/x", "first", 0), ("a.com/x", "second", 0)]);
    assert_eq!(app_of(&router, "a.com", "/x").as_deref(), Some("first"));
}

#[test]
fn endpoints_of_other_nodes_are_left_out() {
    let (here, elsewhere) = (NodeId::new(), NodeId::new());
    let router = Router::build(&table(&[("a.com/", "a", 3)], elsewhere), here, &mut Targets::default());
    let Match::Route(route) = router.find("a.com", "/") else { panic!("the route exists") };
    assert!(route.targets.here.is_empty() && route.choose(&[], |_| 0).is_none());
}

#[test]
fn counters_outlive_the_table() {
    let node = NodeId::new();
    let mut table = table(&[("a.com/", "a", 1)], node);
    let mut targets = Targets::default();
    let old = Router::build(&table, node, &mut targets);
    let Match::Route(route) = old.find("a.com", "/") else { panic!("the route exists") };
    route.targets.here[0].open.fetch_add(5, Ordering::Relaxed);
    table.generation += 1;
    let new = Router::build(&table, node, &mut targets);
    drop(old);
    let Match::Route(route) = new.find("a.com", "/") else { panic!("the route exists") };
    assert_eq!(route.targets.here[0].open_requests(), 5);
    drop(new);
    Router::build(&RouteTable::default(), node, &mut targets);
    assert!(targets.known.is_empty(), "a target that nothing refers to is forgotten");
}

/// One port with as many instances, each with room for so many connections.
fn tcp_router(endpoints: usize, connections_max: u32) -> Router {
    let node = NodeId::new();
    let endpoint = || route::TcpEndpoint {
        instance: InstanceId::new(),
        node,
        connections_max,
        proxy_protocol: false,
        release: 1,
    };
    let route = route::TcpRoute {
        port: 7000,
        namespace: "default".parse().unwrap(),
        app: "echo".parse().unwrap(),
        endpoints: (0..endpoints).map(|_| endpoint()).collect(),
        counted: false,
    };
    let table = RouteTable { generation: 1, tcp: vec![Arc::new(route)], ..RouteTable::default() };
    Router::build(&table, node, &mut Targets::default())
}

#[test]
fn connections_go_to_the_instance_with_the_fewest_up_to_its_limit() {
    let router = tcp_router(2, 2);
    assert_eq!(router.tcp_ports().collect::<Vec<_>>(), [7000]);
    assert!(router.tcp(7001).is_none());
    let route = router.tcp(7000).unwrap();
    let ids: Vec<_> = route.targets.iter().map(|target| target.target.instance).collect();
    let mut open: Vec<_> = (0..4).map(|_| route.admit(&[]).unwrap()).collect();
    let chosen: Vec<_> = open.iter().map(OpenConnection::instance).collect();
    assert_eq!(chosen, [ids[0], ids[1], ids[0], ids[1]]);
    assert_eq!(route.admit(&[]).unwrap_err(), TcpRefused::Full);
    drop(open.remove(1));
    assert_eq!(route.admit(&[]).unwrap().instance(), ids[1]);
}

#[test]
fn a_release_on_trial_gets_its_share_whatever_the_number_of_its_instances() {
    let node = NodeId::new();
    let mut table = table(&[("a.com/", "a", 5)], node);
    let mut route = route::Route::clone(&table.routes[0]);
    route.endpoints[4].release = 2;
    route.canary = Some(route::Canary { release: 2, share: Ratio::percent(10) });
    let (new, old) = (route.endpoints[4].instance, route.endpoints[0].instance);
    table.routes = vec![Arc::new(route.clone())];
    let router = Router::build(&table, node, &mut Targets::default());
    let Match::Route(found) = router.find("a.com", "/") else { panic!("the route exists") };
    let chosen = |number: usize, tried: &[InstanceId]| {
        let mut first = Some(number);
        found.choose(tried, |below| first.take().unwrap_or(0).min(below - 1)).unwrap().instance
    };
    assert_eq!((chosen(99_999, &[]), chosen(100_000, &[])), (new, old));
    assert_ne!(chosen(0, &[new]), new, "where the trial cannot take it, the old release does");
    route.endpoints.truncate(4);
    table.routes = vec![Arc::new(route)];
    let router = Router::build(&table, node, &mut Targets::default());
    let Match::Route(found) = router.find("a.com", "/") else { panic!("the route exists") };
    assert!(found.choose(&[], |_| 0).is_some());
}

#[test]
fn what_a_namespace_without_routes_has_sent_counts_under_the_next_table_too() {
    let (node, mut targets) = (NodeId::new(), Targets::default());
    let namespace: NamespaceName = "jobs".parse().unwrap();
    let limit =
        route::RateLimit { egress_bytes_per_second: Some(10), ..route::RateLimit::of(namespace.clone()) };
    let table = RouteTable { limits: vec![limit], ..table(&[], node) };
    let first = Router::build(&table, node, &mut targets);
    first.egress(&namespace).unwrap().take(0, 1000);
    let second = Router::build(&table, node, &mut targets);
    assert!(second.egress(&namespace).unwrap().owed(0).is_some());
    assert!(second.egress(&"other".parse().unwrap()).is_none());
}

#[test]
fn an_instance_that_was_tried_is_not_asked_again() {
    let router = tcp_router(2, 10);
    let route = router.tcp(7000).unwrap();
    let first = route.admit(&[]).unwrap().instance();
    let second = route.admit(&[first]).unwrap().instance();
    assert_ne!(first, second);
    assert_eq!(route.admit(&[first, second]).unwrap_err(), TcpRefused::NoneReady);
    assert_eq!(tcp_router(0, 10).tcp(7000).unwrap().admit(&[]).unwrap_err(), TcpRefused::NoneReady);
}

/// A table in which each number is the node of an instance; the first node is that of the router.
fn spread(on: &[usize], nodes: &[NodeId], concurrency: u32) -> RouteTable {
    let mut table = table(&[("a.com/", "a", on.len())], nodes[0]);
    let mut route = route::Route::clone(&table.routes[0]);
    for (endpoint, on) in route.endpoints.iter_mut().zip(on) {
        (endpoint.node, endpoint.concurrency) = (nodes[*on], concurrency);
    }
    table.routes = vec![Arc::new(route)];
    let address = "127.0.0.1:1".parse().unwrap();
    table.nodes = nodes.iter().map(|node| route::RouteNode { node: *node, address }).collect();
    table
}

/// Of a router with a way to other nodes.
fn targets_of_a_cluster() -> Targets {
    let peers = Peers::new(Some(crate::peers::nobodys_tls()), Arc::default());
    Targets::new(Arc::default(), Arc::default(), peers)
}

#[test]
fn without_a_way_to_a_node_its_instances_are_left_out() {
    let nodes = [NodeId::new(), NodeId::new()];
    let mut table = spread(&[0, 1, 1], &nodes, 0);
    let seen = |table: &RouteTable, targets: &mut Targets| {
        let router = Router::build(table, nodes[0], targets);
        let Match::Route(route) = router.find("a.com", "/") else { panic!("the route exists") };
        (route.targets.here.len(), route.targets.elsewhere.len())
    };
    assert_eq!(seen(&table, &mut targets_of_a_cluster()), (1, 2));
    assert_eq!(seen(&table, &mut Targets::default()), (1, 0), "no certificate");
    table.nodes.clear();
    assert_eq!(seen(&table, &mut targets_of_a_cluster()), (1, 0), "no address");
}

#[test]
fn a_node_that_stays_in_the_table_keeps_its_connections_and_counters() {
    let nodes = [NodeId::new(), NodeId::new()];
    let mut targets = targets_of_a_cluster();
    let mut table = spread(&[1], &nodes, 0);
    let old = Router::build(&table, nodes[0], &mut targets);
    let Match::Route(route) = old.find("a.com", "/") else { panic!("the route exists") };
    let before = route.targets.elsewhere[0].clone();
    drop(old);
    table.generation += 1;
    table.nodes[1].address = "127.0.0.1:2".parse().unwrap();
    let new = Router::build(&table, nodes[0], &mut targets);
    let Match::Route(route) = new.find("a.com", "/") else { panic!("the route exists") };
    assert!(Arc::ptr_eq(&before, &route.targets.elsewhere[0]));
}

proptest! {
    #[test]
    fn a_choice_is_of_the_best_there_are_here_with_room_then_elsewhere(
        on in prop::collection::vec(0_usize..4, 0..12),
        open in prop::collection::vec(0_usize..4, 12),
        ejected in prop::collection::vec(any::<bool>(), 4),
        tried in prop::collection::vec(0_usize..12, 0..4),
        seed in any::<[usize; 8]>(),
    ) {
        let nodes: Vec<_> = (0..4).map(|_| NodeId::new()).collect();
        let mut targets = targets_of_a_cluster();
        let router = Router::build(&spread(&on, &nodes, 2), nodes[0], &mut targets);
        let Match::Route(route) = router.find("a.com", "/") else { panic!("the route exists") };
        let all: Vec<_> = route.targets.here.iter().chain(&route.targets.elsewhere).collect();
        for (target, open) in all.iter().zip(&open) {
            target.open.store(*open, Ordering::Relaxed);
            if let Some(peer) = &target.peer {
                let node = nodes.iter().position(|node| *node == peer.node).unwrap();
                peer.set_ejected(ejected[node]);
            }
        }
        let tried: Vec<_> = tried.into_iter().filter_map(|at| all.get(at)).map(|it| it.instance).collect();
        let rank = |target: &Target| match (&target.peer, target.has_room(), target.is_ejected()) {
            (None, true, _) => 0,
            (Some(_), true, false) => 1,
            (None, false, _) => 2,
            (Some(_), false, false) => 3,
            (Some(_), _, true) => 4,
        };
        let best = all.iter().filter(|it| !tried.contains(&it.instance)).map(|it| rank(it)).min();
        let mut seed = seed.into_iter().cycle();
        let chosen = route.choose(&tried, |n| seed.next().unwrap() % n);
        prop_assert_eq!(chosen.map(|target| rank(target)), best);
        prop_assert!(chosen.is_none_or(|target| !tried.contains(&target.instance)));
    }

    #[test]
    fn find_agrees_with_a_search_of_the_whole_table(
        patterns in prop::collection::vec("[ab]\\.com(/[xy]{1,2}){0,3}", 1..12),
        host in "[abAB]\\.(com|COM)\\.?(:80)?",
        path in "(/[xy]{1,2}){0,4}/?",
    ) {
        let names: Vec<String> = (0..patterns.len()).map(|i| format!("app{i}")).collect();
        let routes: Vec<_> = patterns.iter().zip(&names).map(|(p, n)| (p.as_str(), n.as_str(), 0)).collect();
        let path = if path.is_empty() { "/".to_owned() } else { path };
        let name = host.to_ascii_lowercase().replace(":80", "");
        let name = name.trim_end_matches('.');
        let mut best: Option<(usize, &str)> = None;
        for (pattern, app, _) in &routes {
            let pattern: RoutePattern = pattern.parse().unwrap();
            let length = pattern.path_prefix().len();
            let fits = pattern.hostname() == name && pattern.matches_path(&path);
            if fits && best.is_none_or(|(longest, _)| length > longest) {
                best = Some((length, app));
            }
        }
        let found = app_of(&router(&routes), &host, &path);
        prop_assert_eq!(found.as_deref(), best.map(|(_, app)| app));
    }

    #[test]
    fn any_host_and_path_are_survived(host in ".{0,40}", path in ".{0,40}") {
        router(&[("a.com/", "a", 1)]).find(&host, &path);
    }

    #[test]
    fn a_choice_is_never_the_one_that_was_tried(count in 0_usize..5, tried in 0_usize..6, seed in any::<[usize; 2]>()) {
        let router = router(&[("a.com/", "a", count)]);
        let Match::Route(route) = router.find("a.com", "/") else { panic!("the route exists") };
        for (i, target) in route.targets.here.iter().enumerate() {
            target.open.store(i, Ordering::Relaxed);
        }
        let tried: Vec<_> = route.targets.here.get(tried).map(|target| target.instance).into_iter().collect();
        let mut seed = seed.into_iter();
        let chosen = route.choose(&tried, |n| seed.next().unwrap() % n);
        let left = count - tried.len();
        prop_assert_eq!(chosen.is_some(), left > 0);
        if let Some(chosen) = chosen {
            prop_assert!(!tried.contains(&chosen.instance));
            // The most loaded of several is never chosen.
            let most = route.targets.here.iter().rev().find(|target| !tried.contains(&target.instance)).unwrap();
            prop_assert!(left == 1 || chosen.instance != most.instance);
        }
    }
}
