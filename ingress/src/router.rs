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
    requests: Buckets,
    egress: Buckets,
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
    /// The same of octets to clients.
    pub(crate) egress: Option<Arc<Bucket>>,
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
    /// What is left of its namespace's octets to clients. None: they have no limit.
    pub(crate) egress: Option<Arc<Bucket>>,
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
    /// Of its namespace.
    pub(crate) egress: Option<Arc<Bucket>>,
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
        let requests = targets.requests.of(&table.limits, |limit| limit.requests_per_second);
        let egress = targets.egress.of(&table.limits, |limit| limit.egress_bytes_per_second);
        for route in &table.routes {
            let claims = match hosts.get_mut(route.pattern.hostname()) {
                Some(claims) => claims,
                None => hosts.entry(route.pattern.hostname().into()).or_default(),
            };
            if claims.iter().any(|claim| claim.pattern == route.pattern) {
                continue;
            }
            let limits = (requests.get(&route.namespace).cloned(), egress.get(&route.namespace).cloned());
            claims.push(Route::build(route, node, targets, limits));
        }
        for claims in hosts.values_mut() {
            claims.sort_by_key(|claim| std::cmp::Reverse(claim.pattern.path_prefix().len()));
        }
        let egress_of = |route: &route::TcpRoute| egress.get(&route.namespace).cloned();
        let tcp = table.tcp.iter();
        let tcp =
            tcp.map(|route| (route.port, TcpRoute::build(route, node, targets, egress_of(route)))).collect();
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
    fn build(
        route: &route::Route,
        node: NodeId,
        targets: &mut Targets,
        (limit, egress): (Option<Arc<Bucket>>, Option<Arc<Bucket>>),
    ) -> Self {
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
            egress,
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
    fn build(
        route: &route::TcpRoute,
        node: NodeId,
        targets: &mut Targets,
        egress: Option<Arc<Bucket>>,
    ) -> Self {
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
            egress,
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
                    egress: self.egress.clone(),
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
mod tests;
