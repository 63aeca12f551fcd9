//! Which app a request or a connection is for, and which instance of it answers.
//!
//! A [`Router`] is built from a whole [`RouteTable`] and never changes. Only the counters of open requests live longer
//! than one generation: they hang on the instance, in [`Targets`].

mod counted;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::load::{Load, Loads};
use crate::meter::{Meter, Meters};
use wharf_types::route::{self, RoutePattern, RouteTable};
use wharf_types::{AppName, InstanceId, NamespaceName, NodeId};

use crate::limit::{Bucket, Buckets};
use counted::Counted;

/// An instance of this node that requests may go to.
#[derive(Debug)]
pub struct Target {
    pub instance: InstanceId,
    pub namespace: NamespaceName,
    pub app: AppName,
    /// Requests whose response has not ended, and connections to its TCP ports.
    pub(crate) open: AtomicUsize,
    /// Of its release.
    pub(crate) meter: Arc<Meter>,
}

impl Target {
    pub fn open_requests(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts one more, unless there are `max`.
    fn try_open(&self, max: usize) -> bool {
        let one_more = |open| (open < max).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }
}

/// The targets that any live router or open request refers to, so that a new table takes over the counters of the old; and so of what
/// is left of requests.
#[derive(Debug, Default)]
pub struct Targets {
    known: HashMap<InstanceId, Weak<Target>>,
    buckets: Buckets,
    meters: Arc<Meters>,
    loads: Arc<Loads>,
}

impl Targets {
    pub(crate) fn new(meters: Arc<Meters>, loads: Arc<Loads>) -> Self {
        Self { meters, loads, ..Self::default() }
    }

    fn ensure(
        &mut self,
        instance: InstanceId,
        namespace: &NamespaceName,
        app: &AppName,
        release: u64,
    ) -> Arc<Target> {
        if let Some(target) = self.known.get(&instance).and_then(Weak::upgrade)
            && target.namespace == *namespace
            && target.app == *app
        {
            return target;
        }
        let target = Arc::new(Target {
            instance,
            namespace: namespace.clone(),
            app: app.clone(),
            open: AtomicUsize::new(0),
            meter: self.meters.of(namespace, app, release),
        });
        self.known.insert(instance, Arc::downgrade(&target));
        target
    }

    fn forget_the_unused(&mut self) {
        self.known.retain(|_, target| target.strong_count() > 0);
        self.meters.retire_the_unused();
        self.loads.forget_the_unused();
    }
}

/// One generation of routes, ready to be asked.
#[derive(Debug, Default)]
pub struct Router {
    generation: u64,
    /// By hostname in lower case; the longest prefix first.
    hosts: HashMap<Box<str>, Vec<Route>>,
    /// By public port.
    tcp: BTreeMap<u16, TcpRoute>,
    /// Apps that scale by their open requests, and have instances on this node.
    counted: Vec<Counted>,
}

/// An app's claim to a part of a hostname.
#[derive(Debug)]
pub struct Route {
    pub pattern: RoutePattern,
    pub namespace: NamespaceName,
    pub app: AppName,
    /// The instances on this node, without those of a release on trial.
    pub targets: Vec<Arc<Target>>,
    /// A release that gets a part of the requests.
    pub trial: Option<Trial>,
    /// Whether a user has stopped the app.
    pub stopped: bool,
    /// Where requests wait that find no instance. None: they do not wait.
    pub(crate) wakes: Option<Arc<Load>>,
    /// Of requests that no instance could be given to.
    pub(crate) unserved: Arc<Meter>,
    /// What is left of its namespace's requests. None: they have no limit.
    pub limit: Option<Arc<Bucket>>,
}

/// A release on trial, with its instances on this node.
#[derive(Debug)]
pub struct Trial {
    /// What it gets of a million requests.
    pub share_millionths: u32,
    pub targets: Vec<Arc<Target>>,
}

/// An app's public port.
#[derive(Debug)]
pub struct TcpRoute {
    pub namespace: NamespaceName,
    pub app: AppName,
    /// The instances on this node.
    pub targets: Vec<TcpTarget>,
}

#[derive(Debug)]
pub struct TcpTarget {
    pub target: Arc<Target>,
    pub connections_max: usize,
    pub proxy_protocol: bool,
}

/// A connection that counts towards its instance until this is dropped.
#[derive(Debug)]
pub struct OpenConnection {
    target: Arc<Target>,
    proxy_protocol: bool,
}

/// Why no instance takes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpRefused {
    NoneReady,
    /// Each has as many as it may.
    Full,
}

/// The answer of [`Router::find`].
#[derive(Debug)]
pub enum Match<'a> {
    Route(&'a Route),
    /// Apps have the hostname, but none has this path.
    UnknownPath,
    UnknownHost,
}

impl Router {
    /// Builds the router of `node`. Of two routes with the same pattern the first in the table counts.
    pub fn build(table: &RouteTable, node: NodeId, targets: &mut Targets) -> Self {
        let mut hosts: HashMap<Box<str>, Vec<Route>> = HashMap::with_capacity(table.routes.len());
        let buckets = targets.buckets.of(&table.limits);
        for route in &table.routes {
            let claims = match hosts.get_mut(route.pattern.hostname()) {
                Some(claims) => claims,
                None => hosts.entry(route.pattern.hostname().into()).or_default(),
            };
            if claims.iter().any(|claim| claim.pattern == route.pattern) {
                continue;
            }
            claims.push(Route::build(route, node, targets, buckets.get(&route.namespace).cloned()));
        }
        for claims in hosts.values_mut() {
            claims.sort_by_key(|claim| std::cmp::Reverse(claim.pattern.path_prefix().len()));
        }
        let tcp = table.tcp.iter().map(|route| (route.port, TcpRoute::build(route, node, targets))).collect();
        let counted = Counted::build(table, node, targets);
        targets.forget_the_unused();
        Self { generation: table.generation, hosts, tcp, counted }
    }

    /// Puts down for each app that is counted what is open now. False: there is none.
    pub(crate) fn count_open(&self, now: Instant) -> bool {
        self.counted.iter().for_each(|app| app.count_open(now));
        !self.counted.is_empty()
    }

    /// The public ports that apps have.
    pub fn tcp_ports(&self) -> impl Iterator<Item = u16> {
        self.tcp.keys().copied()
    }

    /// Whose a public port is.
    pub fn tcp(&self, port: u16) -> Option<&TcpRoute> {
        self.tcp.get(&port)
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Finds the route with the longest prefix of `path`. Port, trailing dot and case of `host` do not matter.
    pub fn find(&self, host: &str, path: &str) -> Match<'_> {
        let Some(claims) = self.hosts.get(canonical_hostname(host).as_ref()) else {
            return Match::UnknownHost;
        };
        match claims.iter().find(|claim| claim.pattern.matches_path(path)) {
            Some(route) => Match::Route(route),
            None => Match::UnknownPath,
        }
    }
}

impl Route {
    fn build(route: &route::Route, node: NodeId, targets: &mut Targets, limit: Option<Arc<Bucket>>) -> Self {
        let (namespace, app) = (&route.namespace, &route.app);
        let (mut usual, mut on_trial) = (Vec::new(), Vec::new());
        for endpoint in route.endpoints.iter().filter(|endpoint| endpoint.node == node) {
            let target = targets.ensure(endpoint.instance, namespace, app, endpoint.release);
            let is_canary = route.canary.is_some_and(|canary| canary.release == endpoint.release);
            if is_canary { on_trial.push(target) } else { usual.push(target) }
        }
        Self {
            pattern: route.pattern.clone(),
            namespace: namespace.clone(),
            app: app.clone(),
            targets: usual,
            trial: route
                .canary
                .map(|canary| Trial { share_millionths: canary.share.as_millionths(), targets: on_trial }),
            stopped: route.stopped,
            wakes: route.wakes.then(|| targets.loads.of(namespace, app)),
            unserved: targets.meters.of(namespace, app, 0),
            limit,
        }
    }

    /// The less loaded of two targets drawn at random, leaving out `tried`. A release on trial is drawn as often as it should be,
    /// whatever the number of its instances; where one side has none, the other takes the request. `draw(n)` is a number below `n`.
    pub fn choose(
        &self,
        tried: Option<InstanceId>,
        mut draw: impl FnMut(usize) -> usize,
    ) -> Option<&Arc<Target>> {
        let Some(trial) = &self.trial else { return choose_among(&self.targets, tried, draw) };
        let is_for_trial = draw(1_000_000) < trial.share_millionths as usize;
        let (first, second) = match is_for_trial {
            true => (&trial.targets, &self.targets),
            false => (&self.targets, &trial.targets),
        };
        choose_among(first, tried, &mut draw).or_else(|| choose_among(second, tried, draw))
    }
}

fn choose_among(
    targets: &[Arc<Target>],
    tried: Option<InstanceId>,
    mut draw: impl FnMut(usize) -> usize,
) -> Option<&Arc<Target>> {
    let skip = tried.and_then(|tried| targets.iter().position(|target| target.instance == tried));
    let count = targets.len() - usize::from(skip.is_some());
    // Positions are numbered as if the one that was tried were not there.
    let at = |position: usize| match skip {
        Some(skip) if position >= skip => &targets[position + 1],
        _ => &targets[position],
    };
    match count {
        0 => None,
        1 => Some(at(0)),
        _ => {
            let first = draw(count);
            let second = (first + 1 + draw(count - 1)) % count;
            let (first, second) = (at(first), at(second));
            Some(if second.open_requests() < first.open_requests() { second } else { first })
        }
    }
}

impl TcpRoute {
    fn build(route: &route::TcpRoute, node: NodeId, targets: &mut Targets) -> Self {
        let local = route.endpoints.iter().filter(|endpoint| endpoint.node == node);
        Self {
            namespace: route.namespace.clone(),
            app: route.app.clone(),
            targets: local
                .map(|endpoint| TcpTarget {
                    target: targets.ensure(endpoint.instance, &route.namespace, &route.app, endpoint.release),
                    connections_max: usize::try_from(endpoint.connections_max).unwrap_or(usize::MAX),
                    proxy_protocol: endpoint.proxy_protocol,
                })
                .collect(),
        }
    }

    /// Opens a connection to the instance that has the fewest, leaving out those that were `tried`; the first of equals.
    pub fn admit(&self, tried: &[InstanceId]) -> Result<OpenConnection, TcpRefused> {
        let left = || self.targets.iter().filter(|target| !tried.contains(&target.target.instance));
        loop {
            let room = |target: &&TcpTarget| target.target.open_requests() < target.connections_max;
            let Some(best) = left().filter(room).min_by_key(|target| target.target.open_requests()) else {
                return Err(if left().next().is_some() { TcpRefused::Full } else { TcpRefused::NoneReady });
            };
            // Where others came first and took the last place, the next look leaves the instance out.
            if best.target.try_open(best.connections_max) {
                return Ok(OpenConnection {
                    target: best.target.clone(),
                    proxy_protocol: best.proxy_protocol,
                });
            }
        }
    }
}

impl OpenConnection {
    pub fn instance(&self) -> InstanceId {
        self.target.instance
    }

    /// The connection was broken off.
    pub(crate) fn was_cut(&self) {
        self.target.meter.cut();
    }

    pub fn wants_proxy_header(&self) -> bool {
        self.proxy_protocol
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.target.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A hostname as route patterns have it. Allocates only where the client wrote capitals.
fn canonical_hostname(host: &str) -> Cow<'_, str> {
    let name = match host.rfind(':') {
        // A colon inside brackets belongs to an IPv6 address.
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wharf_types::spec::Ratio;

    fn table(routes: &[(&str, &str, usize)], node: NodeId) -> RouteTable {
        let routes = routes.iter().map(|(pattern, app, endpoints)| {
            Arc::new(route::Route {
                pattern: pattern.parse().unwrap(),
                namespace: "default".parse().unwrap(),
                app: app.parse().unwrap(),
                endpoints: (0..*endpoints)
                    .map(|_| route::Endpoint { instance: InstanceId::new(), node, release: 1 })
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
        for host in
            ["hello.example.com", "HELLO.example.COM:8080", "hello.example.com.", "hello.example.com.:80"]
        {
            assert_eq!(app_of(&router, host, "/").as_deref(), Some("hello"), "{host}");
        }
    }

    #[test]
    fn an_unknown_host_never_gets_another_apps_answer() {
        let router = router(&[("a.com/", "a", 1), ("b.com/only", "b", 1)]);
        for host in
            ["", ".", ":", "com", "aa.com", "a.com.evil", "x.a.com", "[::1]:80", "127.0.0.1", "a.com.."]
        {
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
        assert!(route.targets.is_empty() && route.choose(None, |_| 0).is_none());
    }

    #[test]
    fn counters_outlive_the_table() {
        let node = NodeId::new();
        let mut table = table(&[("a.com/", "a", 1)], node);
        let mut targets = Targets::default();
        let old = Router::build(&table, node, &mut targets);
        let Match::Route(route) = old.find("a.com", "/") else { panic!("the route exists") };
        route.targets[0].open.fetch_add(5, Ordering::Relaxed);
        table.generation += 1;
        let new = Router::build(&table, node, &mut targets);
        drop(old);
        let Match::Route(route) = new.find("a.com", "/") else { panic!("the route exists") };
        assert_eq!(route.targets[0].open_requests(), 5);
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
        let chosen = |number: usize, tried| {
            let mut first = Some(number);
            found.choose(tried, |below| first.take().unwrap_or(0).min(below - 1)).unwrap().instance
        };
        assert_eq!((chosen(99_999, None), chosen(100_000, None)), (new, old));
        assert_ne!(chosen(0, Some(new)), new, "where the trial cannot take it, the old release does");
        route.endpoints.truncate(4);
        table.routes = vec![Arc::new(route)];
        let router = Router::build(&table, node, &mut Targets::default());
        let Match::Route(found) = router.find("a.com", "/") else { panic!("the route exists") };
        assert!(found.choose(None, |_| 0).is_some());
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

    proptest! {
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
            for (i, target) in route.targets.iter().enumerate() {
                target.open.store(i, Ordering::Relaxed);
            }
            let tried = route.targets.get(tried).map(|target| target.instance);
            let mut seed = seed.into_iter();
            let chosen = route.choose(tried, |n| seed.next().unwrap() % n);
            let left = count - usize::from(tried.is_some());
            prop_assert_eq!(chosen.is_some(), left > 0);
            if let Some(chosen) = chosen {
                prop_assert!(Some(chosen.instance) != tried);
                // The most loaded of several is never chosen.
                let most = route.targets.iter().rev().find(|target| Some(target.instance) != tried).unwrap();
                prop_assert!(left == 1 || chosen.instance != most.instance);
            }
        }
    }
}
