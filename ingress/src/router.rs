//! Which app a request or a connection is for, and which instance of it answers.
//!
//! A [`Router`] is built from a whole [`RouteTable`] and never changes. Only the counters of open requests live longer
//! than one generation: they hang on the instance, in [`Targets`].

mod counted;
mod tcp;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::load::{Load, Loads};
use crate::meter::{Meter, Meters};
use wharf_types::route::{self, RoutePattern, RouteTable};
use wharf_types::{AppName, InstanceId, NamespaceName, NodeId};

use crate::limit::{Bucket, Buckets};
use crate::peers::{Peer, Peers};
use counted::Counted;

pub use tcp::{OpenConnection, TcpRefused, TcpRoute, TcpTarget};

/// An instance that requests may go to.
#[derive(Debug)]
pub struct Target {
    pub instance: InstanceId,
    pub namespace: NamespaceName,
    pub app: AppName,
    /// The node that has it. None: this one.
    pub(crate) peer: Option<Arc<Peer>>,
    /// Requests that it works on at once, as far as is known.
    concurrency: usize,
    /// Requests whose response has not ended, and connections to its TCP ports: those that came in here, and where the instance is here
    /// those of peers as well.
    pub(crate) open: AtomicUsize,
    /// Of its release.
    pub(crate) meter: Arc<Meter>,
}

impl Target {
    pub fn open_requests(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        self.open_requests() < self.concurrency
    }

    /// Whether something is better sent to others, because the node has not answered lately.
    fn is_ejected(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.is_ejected())
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
    peers: Peers,
}

/// What a table says of an instance.
struct Place {
    instance: InstanceId,
    node: NodeId,
    release: u64,
    /// 0: not known.
    concurrency: u32,
}

/// Where an instance is.
enum Way {
    Here,
    Peer(Arc<Peer>),
}

impl Targets {
    pub(crate) fn new(meters: Arc<Meters>, loads: Arc<Loads>, peers: Peers) -> Self {
        Self { meters, loads, peers, ..Self::default() }
    }

    /// None: there is no way to that node.
    fn way_to(&self, node: NodeId, this: NodeId) -> Option<Way> {
        if node == this { Some(Way::Here) } else { self.peers.get(node).cloned().map(Way::Peer) }
    }

    /// None: there is no way to the instance.
    fn reach(
        &mut self,
        place: &Place,
        this: NodeId,
        namespace: &NamespaceName,
        app: &AppName,
    ) -> Option<Arc<Target>> {
        let peer = match self.way_to(place.node, this)? {
            Way::Here => None,
            Way::Peer(peer) => Some(peer),
        };
        Some(self.ensure(place, peer, namespace, app))
    }

    fn ensure(
        &mut self,
        place: &Place,
        peer: Option<Arc<Peer>>,
        namespace: &NamespaceName,
        app: &AppName,
    ) -> Arc<Target> {
        let Place { instance, release, .. } = *place;
        let is_same_peer = |target: &Target| match (&target.peer, &peer) {
            (Some(known), Some(peer)) => Arc::ptr_eq(known, peer),
            (None, None) => true,
            _ => false,
        };
        if let Some(target) = self.known.get(&instance).and_then(Weak::upgrade)
            && target.namespace == *namespace
            && target.app == *app
            && is_same_peer(&target)
        {
            return target;
        }
        let concurrency = match place.concurrency {
            0 => usize::MAX,
            known => usize::try_from(known).unwrap_or(usize::MAX),
        };
        let target = Arc::new(Target {
            instance,
            namespace: namespace.clone(),
            app: app.clone(),
            peer,
            concurrency,
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
    /// Apps that scale by their open requests.
    counted: Vec<Counted>,
    /// The instances of this node.
    here: HashMap<InstanceId, Arc<Target>>,
    /// Where among `hosts` a route of each app is.
    apps: HashMap<NamespaceName, HashMap<AppName, (Box<str>, usize)>>,
    /// The ways to other nodes.
    peers: Arc<BTreeMap<NodeId, Arc<Peer>>>,
    /// Nodes that were taken out of the cluster.
    removed: HashSet<NodeId>,
    /// What namespaces may send in a second, also those without a route.
    egress: HashMap<NamespaceName, Arc<Bucket>>,
}

/// Instances that are as good as one another, but for where they are.
#[derive(Debug, Default)]
pub struct Side {
    /// On this node.
    pub here: Vec<Arc<Target>>,
    /// On nodes that this one has a way to.
    pub elsewhere: Vec<Arc<Target>>,
}

/// A request, or a connection, that counts towards an instance until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenAt(Arc<Target>);

/// An app's claim to a part of a hostname.
#[derive(Debug)]
pub struct Route {
    pub pattern: RoutePattern,
    pub namespace: NamespaceName,
    pub app: AppName,
    /// The instances without those of a release on trial.
    pub targets: Side,
    /// A release that gets a part of the requests.
    pub trial: Option<Trial>,
    /// Whether a user has stopped the app.
    pub stopped: bool,
    /// Where requests wait that find no instance. None: they do not wait.
    pub(crate) wakes: Option<Arc<Load>>,
    /// Where its open requests are put down. None: the app does not scale by them.
    counted: Option<Arc<Load>>,
    /// Of requests that no instance could be given to.
    pub(crate) unserved: Arc<Meter>,
    /// What is left of its namespace's requests. None: they have no limit.
    pub limit: Option<Arc<Bucket>>,
    /// The same of octets to clients.
    pub(crate) egress: Option<Arc<Bucket>>,
}

/// A release on trial, with its instances.
#[derive(Debug)]
pub struct Trial {
    /// What it gets of a million requests.
    pub share_millionths: u32,
    pub targets: Side,
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
        targets.peers.follow(&table.nodes, node);
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
        let tcp: BTreeMap<_, _> =
            tcp.map(|route| (route.port, TcpRoute::build(route, node, targets, egress_of(route)))).collect();
        let counted = Counted::build(table, node, targets);
        let mut here = HashMap::new();
        let routes = hosts.values().flatten();
        for target in routes.flat_map(Route::here).chain(tcp.values().flat_map(TcpRoute::here)) {
            here.entry(target.instance).or_insert_with(|| target.clone());
        }
        let mut apps: HashMap<_, HashMap<_, _>> = HashMap::new();
        for (host, claims) in &hosts {
            for (index, claim) in claims.iter().enumerate() {
                let of_namespace = apps.entry(claim.namespace.clone()).or_default();
                of_namespace.entry(claim.app.clone()).or_insert_with(|| (host.clone(), index));
            }
        }
        targets.forget_the_unused();
        let removed = table.removed.iter().copied().collect();
        let peers = targets.peers.all();
        Self { generation: table.generation, hosts, tcp, counted, here, apps, peers, removed, egress }
    }

    /// None: the namespace has no limit.
    pub(crate) fn egress(&self, namespace: &NamespaceName) -> Option<&Bucket> {
        self.egress.get(namespace).map(|bucket| &**bucket)
    }

    /// Whether a node was taken out of the cluster.
    pub(crate) fn has_removed(&self, node: NodeId) -> bool {
        self.removed.contains(&node)
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

    /// Whether it stands for the routes that are still to come: those of a platform begin with 1.
    pub fn is_none_yet(&self) -> bool {
        self.generation == 0
    }

    /// The way to another node.
    pub(crate) fn peer_of(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.peers.get(&node).cloned()
    }

    /// Counts a request of a peer towards an instance of this node. None: the table does not have it, or not any more, and whether it is
    /// there is up to the worker.
    pub(crate) fn open_here(&self, instance: InstanceId) -> Option<OpenAt> {
        self.here.get(&instance).cloned().map(OpenAt::new)
    }

    /// An instance of an app on another node, for a guest of this one. `draw(n)` is a number below `n`.
    pub(crate) fn elsewhere(
        &self,
        namespace: &NamespaceName,
        app: &AppName,
        tried: &[InstanceId],
        draw: impl FnMut(usize) -> usize,
    ) -> Option<Arc<Target>> {
        self.route_of(namespace, app)?.choose_elsewhere(tried, draw).cloned()
    }

    /// Where those wait who call an app that has no instance because it sleeps. None: it does not, or there is no such app.
    pub(crate) fn asleep(&self, namespace: &NamespaceName, app: &AppName) -> Option<&Arc<Load>> {
        let route = self.route_of(namespace, app)?;
        route.wakes.as_ref().filter(|_| !route.stopped && route.choose(&[], |_| 0).is_none())
    }

    /// Where the open requests of an app are put down. None: it does not scale by them, or there is no such app.
    pub(crate) fn counted(&self, namespace: &NamespaceName, app: &AppName) -> Option<&Arc<Load>> {
        self.route_of(namespace, app)?.counted.as_ref()
    }

    /// One of an app's routes, which all lead to the same instances.
    fn route_of(&self, namespace: &NamespaceName, app: &AppName) -> Option<&Route> {
        let (host, index) = self.apps.get(namespace)?.get(app)?;
        self.hosts.get(host)?.get(*index)
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
        let (mut usual, mut on_trial) = (Side::default(), Side::default());
        for endpoint in &route.endpoints {
            let route::Endpoint { instance, node: on, release, concurrency } = *endpoint;
            let place = Place { instance, node: on, release, concurrency };
            let Some(target) = targets.reach(&place, node, namespace, app) else { continue };
            if route.canary.is_some() {
                target.meter.ensure_times();
            }
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
            counted: route.counted.then(|| targets.loads.of(namespace, app)),
            unserved: targets.meters.of(namespace, app, 0),
            limit,
            egress,
        }
    }

    fn here(&self) -> impl Iterator<Item = &Arc<Target>> {
        let trial = self.trial.iter().flat_map(|trial| &trial.targets.here);
        self.targets.here.iter().chain(trial)
    }

    /// The less loaded of two targets drawn at random, leaving out those that were `tried`. One of this node is taken as long as it has room, and
    /// one of a node that is ejected only where there is no other. A release on trial is drawn as often as it should be,
    /// whatever the number of its instances; where one side has none, the other takes the request. `draw(n)` is a number below `n`.
    pub fn choose(&self, tried: &[InstanceId], mut draw: impl FnMut(usize) -> usize) -> Option<&Arc<Target>> {
        let Some(trial) = &self.trial else { return self.targets.choose(tried, draw) };
        let is_for_trial = draw(1_000_000) < trial.share_millionths as usize;
        let (first, second) = match is_for_trial {
            true => (&trial.targets, &self.targets),
            false => (&self.targets, &trial.targets),
        };
        first.choose(tried, &mut draw).or_else(|| second.choose(tried, draw))
    }

    /// Of the instances on other nodes the less loaded of two, those on trial like others, and one of a node that is ejected only where there
    /// is no other.
    fn choose_elsewhere(
        &self,
        tried: &[InstanceId],
        mut draw: impl FnMut(usize) -> usize,
    ) -> Option<&Arc<Target>> {
        let sides = [Some(&self.targets), self.trial.as_ref().map(|trial| &trial.targets)];
        let is_left = |target: &Target| !tried.contains(&target.instance);
        let answering = |target: &Target| is_left(target) && !target.is_ejected();
        let mut among = |is_eligible: &dyn Fn(&Target) -> bool| {
            let mut sides = sides.into_iter().flatten();
            sides.find_map(|side| choose_among(&side.elsewhere, false, is_eligible, &mut draw))
        };
        among(&answering).or_else(|| among(&is_left))
    }
}

impl Side {
    fn push(&mut self, target: Arc<Target>) {
        if target.peer.is_none() { self.here.push(target) } else { self.elsewhere.push(target) }
    }

    fn choose(&self, tried: &[InstanceId], mut draw: impl FnMut(usize) -> usize) -> Option<&Arc<Target>> {
        let is_left = |target: &Target| !tried.contains(&target.instance);
        let here = choose_among(&self.here, tried.is_empty(), is_left, &mut draw);
        if here.is_some_and(|target| target.has_room()) {
            return here;
        }
        let with_room = |target: &Target| is_left(target) && target.has_room();
        let answering = |target: &Target| is_left(target) && !target.is_ejected();
        // Of those here two were looked at, and another may have room.
        choose_among(&self.here, false, with_room, &mut draw)
            .or_else(|| choose_among(&self.elsewhere, false, |it| with_room(it) && answering(it), &mut draw))
            .or(here)
            .or_else(|| choose_among(&self.elsewhere, false, answering, &mut draw))
            .or_else(|| choose_among(&self.elsewhere, false, is_left, &mut draw))
    }
}

/// The less loaded of two of those that are eligible; `all` of them are, or those for which it is said.
fn choose_among(
    targets: &[Arc<Target>],
    all: bool,
    is_eligible: impl Fn(&Target) -> bool,
    mut draw: impl FnMut(usize) -> usize,
) -> Option<&Arc<Target>> {
    let eligible = || targets.iter().filter(|target| is_eligible(target));
    let count = if all { targets.len() } else { eligible().count() };
    let at = |position: usize| if all { targets.get(position) } else { eligible().nth(position) };
    match count {
        0 => None,
        1 => at(0),
        _ => {
            let first = draw(count);
            let second = (first + 1 + draw(count - 1)) % count;
            // One may have been ejected since they were counted.
            match (at(first), at(second)) {
                (Some(first), Some(second)) if second.open_requests() < first.open_requests() => Some(second),
                (first, second) => first.or(second),
            }
        }
    }
}

impl OpenAt {
    pub(crate) fn new(target: Arc<Target>) -> Self {
        target.open.fetch_add(1, Ordering::Relaxed);
        Self(target)
    }

    pub(crate) fn instance(&self) -> InstanceId {
        self.0.instance
    }
}

impl Drop for OpenAt {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
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
