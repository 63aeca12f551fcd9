//! The workers, as far as this process knows: who is there, what they have been told, what they acknowledged.
//!
//! Nothing here lasts: a heartbeat that brings no news writes nothing to the disk.

mod load;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedMutexGuard, watch};
use tracing::warn;
use wharf_types::figures::{NodeFigures, VolumeFigures};
use wharf_types::node::{AppUsage, Assignment, InstanceReport, NodeRegistration, NodeReport};
use wharf_types::{AppName, InstanceId, NamespaceName, NodeId, Timestamp, VolumeId};
use zeroize::Zeroizing;

use crate::plan::autoscale::Demand;
use crate::store::requests::Counter;
use load::Loads;

/// A node that has not reported for this long is not ready: nothing new is placed on it. Workers report every 500 ms, and
/// a connection alone proves nothing: that of a worker that hangs, or of a host without power, stays open for minutes.
const LEASE: Duration = Duration::from_millis(2500);
/// A node that has not reported for this long is given up, with all that ran on it. That is later than the lease, because nobody
/// may be there to take over: on a single node, giving up a worker that was only busy would stop apps that serve, and a
/// worker that is started again is back within milliseconds and keeps its instances.
const GIVEN_UP: Duration = Duration::from_secs(10);
/// The reconciler looks at the nodes several times a second. If nobody looked for longer than this, the whole process stood
/// still, and could not have heard of anybody.
const STOOD_STILL: Duration = Duration::from_secs(1);

/// An assignment as it goes over the wire: one JSON document and the end of its line.
pub(crate) type Line = Option<Bytes>;

#[derive(Default)]
pub struct Nodes {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    nodes: BTreeMap<NodeId, Node>,
    /// When somebody last asked who is ready.
    looked: Option<Instant>,
}

struct Node {
    registration: NodeRegistration,
    seen: Instant,
    seen_at: Timestamp,
    routes_generation: u64,
    /// What the last report said, so that a repetition costs nothing.
    reported: HashMap<InstanceId, InstanceReport>,
    /// In the order of [`key`].
    usage: Vec<AppUsage>,
    figures: NodeFigures,
    loads: Loads,
    assignment: watch::Sender<Line>,
    /// Held while a report is taken in.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Debug)]
pub struct NodeStatus {
    pub id: NodeId,
    pub registration: NodeRegistration,
    pub ready: bool,
    pub given_up: bool,
    pub seen_at: Timestamp,
    pub routes_generation: u64,
}

/// A node with what it has used.
#[derive(Clone, Debug)]
pub(crate) struct NodeSample {
    pub(crate) status: NodeStatus,
    pub(crate) usage: Vec<AppUsage>,
    pub(crate) figures: NodeFigures,
}

/// What a report brought.
pub struct News {
    /// Reports that differ from the last ones, in their order.
    pub instances: Vec<InstanceReport>,
    /// Whether a newer route table is in use.
    pub routes: bool,
    /// Volumes that have become full, or have room again.
    pub volumes: Vec<VolumeFigures>,
    /// Whether requests wait for a first instance of an app.
    pub waiting: bool,
}

impl Nodes {
    pub(crate) fn register(&self, id: NodeId, registration: NodeRegistration) {
        self.register_at(Instant::now(), id, registration);
    }

    pub fn register_at(&self, now: Instant, id: NodeId, registration: NodeRegistration) {
        let mut known = self.lock();
        let node = known.nodes.entry(id).or_insert_with(|| Node {
            registration: registration.clone(),
            seen: now,
            seen_at: Timestamp::now(),
            routes_generation: 0,
            reported: HashMap::new(),
            usage: Vec::new(),
            figures: NodeFigures::default(),
            loads: Loads::default(),
            assignment: watch::Sender::new(None),
            turn: Arc::default(),
        });
        node.registration = registration;
        node.seen = now;
        node.seen_at = Timestamp::now();
        // It may be a new process that has neither routes nor reported anything.
        node.routes_generation = 0;
        node.reported.clear();
    }

    /// Ends what is assigned, and forgets every node.
    pub(crate) fn forget_all(&self) {
        *self.lock() = Known::default();
    }

    /// Takes note of a node that has registered with another process. One that is known here stays as it is.
    pub(crate) fn hear_of(&self, id: NodeId, registration: NodeRegistration) {
        let is_known = self.lock().nodes.contains_key(&id);
        if !is_known {
            self.register(id, registration);
        }
    }

    /// Waits until no other report of the node is being taken in. One that came late could else be written after a newer one that
    /// was compared with the state before it, and what it said would stand for good.
    pub(crate) async fn turn(&self, id: NodeId) -> Option<OwnedMutexGuard<()>> {
        let turn = self.lock().nodes.get(&id)?.turn.clone();
        Some(turn.lock_owned().await)
    }

    /// Takes note of a report. None: the node has not registered with this process.
    pub(crate) fn report(&self, id: NodeId, report: &NodeReport) -> Option<News> {
        self.report_at(Instant::now(), id, report)
    }

    pub fn report_at(&self, now: Instant, id: NodeId, report: &NodeReport) -> Option<News> {
        let mut known = self.lock();
        let node = known.nodes.get_mut(&id)?;
        node.seen = now;
        node.seen_at = Timestamp::now();
        node.usage.clone_from(&report.usage);
        node.usage.sort_by(|a, b| key(a).cmp(&key(b)));
        let was_full = |id| node.figures.volumes.iter().any(|before| before.id == id && before.full);
        let volumes = report.figures.volumes.iter();
        let volumes = volumes.filter(|volume| volume.full != was_full(volume.id)).cloned().collect();
        node.figures.clone_from(&report.figures);
        node.loads.take_in(&report.figures.front_door);
        let waiting = report.figures.front_door.loads.iter().any(|load| load.waiting > 0);
        let routes = node.routes_generation != report.routes_generation;
        node.routes_generation = report.routes_generation;
        let is_news = |reported: &&InstanceReport| node.reported.get(&reported.id) != Some(*reported);
        let instances = report.instances.iter().filter(is_news).cloned().collect();
        Some(News { instances, routes, volumes, waiting })
    }

    /// Remembers a report whose news were written.
    pub fn reported(&self, id: NodeId, report: NodeReport) {
        if let Some(node) = self.lock().nodes.get_mut(&id) {
            node.reported = report.instances.into_iter().map(|instance| (instance.id, instance)).collect();
        }
    }

    /// What is assigned to the node: the newest at once, then each newer one. None: it has not registered.
    pub(crate) fn assignments(&self, id: NodeId) -> Option<watch::Receiver<Line>> {
        let mut assignments = self.lock().nodes.get(&id)?.assignment.subscribe();
        assignments.mark_changed();
        Some(assignments)
    }

    /// Sends an assignment to its node.
    pub(crate) fn publish(&self, assignment: &Assignment) {
        let node = assignment.node;
        match serde_json::to_vec(assignment) {
            Ok(mut line) => {
                line.push(b'\n');
                // It may hold secrets: its memory is overwritten when it is no longer the newest.
                let line = Bytes::from_owner(Zeroizing::new(line));
                if let Some(node) = self.lock().nodes.get_mut(&node) {
                    node.assignment.send_replace(Some(line));
                }
            }
            Err(error) => warn!(node.id = %node, "an assignment for node {node} cannot be written: {error}"),
        }
    }

    pub(crate) fn list(&self) -> Vec<NodeStatus> {
        self.list_at(Instant::now())
    }

    pub fn list_at(&self, now: Instant) -> Vec<NodeStatus> {
        let mut known = self.lock();
        known.forgive_standstill(now);
        known.nodes.iter().map(|(id, node)| node.status(*id, now)).collect()
    }

    /// Every node with its newest figures.
    pub(crate) fn samples(&self) -> Vec<NodeSample> {
        let now = Instant::now();
        let mut known = self.lock();
        known.forgive_standstill(now);
        let sample = |(id, node): (&NodeId, &Node)| NodeSample {
            status: node.status(*id, now),
            usage: node.usage.clone(),
            figures: node.figures.clone(),
        };
        known.nodes.iter().map(sample).collect()
    }

    /// The newest totals of a namespace's releases on all nodes, one entry each.
    pub(crate) fn usage(&self, namespace: &NamespaceName) -> Vec<AppUsage> {
        let mut sums: BTreeMap<(AppName, u64), AppUsage> = BTreeMap::new();
        let known = self.lock();
        let of_namespace = |usage: &&AppUsage| usage.namespace == *namespace;
        for usage in known.nodes.values().flat_map(|node| &node.usage).filter(of_namespace) {
            match sums.entry((usage.app.clone(), usage.release)) {
                Entry::Vacant(entry) => {
                    entry.insert(usage.clone());
                }
                Entry::Occupied(mut entry) => entry.get_mut().add(usage),
            }
        }
        sums.into_values().collect()
    }

    /// The newest totals of one release on all nodes. None: no node has counted any.
    pub(crate) fn usage_of(
        &self,
        namespace: &NamespaceName,
        app: &AppName,
        release: u64,
    ) -> Option<AppUsage> {
        let known = self.lock();
        let mut found = known.nodes.values().filter_map(|node| {
            let at = node.usage.binary_search_by(|usage| key(usage).cmp(&(namespace, app, release))).ok()?;
            node.usage.get(at)
        });
        let mut sum = found.next()?.clone();
        found.for_each(|usage| sum.add(usage));
        Some(sum)
    }

    /// The newest totals of the requests to an app.
    pub(crate) fn requests(
        &self,
        namespace: &NamespaceName,
        app: &AppName,
    ) -> Vec<(Counter, wharf_types::requests::RequestCounts)> {
        let known = self.lock();
        let mut found = Vec::new();
        for (id, node) in &known.nodes {
            let front_door = &node.figures.front_door;
            let of_app = front_door
                .releases
                .iter()
                .filter(|totals| totals.namespace == *namespace && totals.app == *app);
            found.extend(of_app.map(|it| ((*id, front_door.run.clone(), it.release), it.counts)));
        }
        found
    }

    /// What is asked of an app at all front doors. None: none has reported in time.
    pub(crate) fn demand(&self, namespace: &NamespaceName, app: &AppName) -> Option<Demand> {
        let now = Instant::now();
        let known = self.lock();
        let ready = known.nodes.values().filter(|node| node.is_seen_within(LEASE, now));
        ready.map(|node| node.loads.of(namespace, app)).reduce(|sum, more| Demand {
            open: sum.open + more.open,
            waiting: sum.waiting.saturating_add(more.waiting),
            requests: sum.requests.saturating_add(more.requests),
        })
    }

    /// Counts the reports of all nodes: as long as it is the same, nothing else is known than before.
    pub(crate) fn reports(&self) -> u64 {
        self.lock().nodes.values().fold(0, |sum, node| sum.wrapping_add(node.loads.reports()))
    }

    /// How full a volume is, as its node has reported last.
    pub(crate) fn volume(&self, id: VolumeId) -> Option<VolumeFigures> {
        let known = self.lock();
        let mut volumes = known.nodes.values().flat_map(|node| &node.figures.volumes);
        volumes.find(|volume| volume.id == id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Holds against no node that it was silent while this process stood still.
    fn forgive_standstill(&mut self, now: Instant) {
        let before = self.looked.replace(now).unwrap_or(now);
        let gap = now.saturating_duration_since(before);
        if gap > STOOD_STILL {
            for node in self.nodes.values_mut() {
                node.seen = now.min(node.seen + gap);
            }
        }
    }
}

fn key(usage: &AppUsage) -> (&NamespaceName, &AppName, u64) {
    (&usage.namespace, &usage.app, usage.release)
}

impl Node {
    fn status(&self, id: NodeId, now: Instant) -> NodeStatus {
        NodeStatus {
            id,
            registration: self.registration.clone(),
            ready: self.is_seen_within(LEASE, now),
            given_up: !self.is_seen_within(GIVEN_UP, now),
            seen_at: self.seen_at,
            routes_generation: self.routes_generation,
        }
    }

    fn is_seen_within(&self, span: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) < span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration() -> NodeRegistration {
        NodeRegistration { hostname: "a".into(), memory_bytes: 1, cpus: 1, ..NodeRegistration::default() }
    }

    fn report(instances: Vec<InstanceReport>, usage: Vec<AppUsage>) -> NodeReport {
        let figures = NodeFigures::default();
        NodeReport { assignment_generation: 1, routes_generation: 1, instances, usage, figures }
    }

    /// Whether the only node is ready, and whether it is given up, to somebody who looks as often as the reconciler.
    fn seen(nodes: &Nodes, from: Instant, span: Duration) -> (bool, bool) {
        let mut now = from;
        while now < from + span {
            nodes.list_at(now);
            now += Duration::from_millis(250);
        }
        let status = nodes.list_at(from + span).remove(0);
        (status.ready, status.given_up)
    }

    #[test]
    fn a_silent_node_is_first_not_ready_and_then_given_up_also_with_its_session_open() {
        let nodes = Nodes::default();
        let id = NodeId::new();
        nodes.register(id, registration());
        let _session = nodes.assignments(id).unwrap();
        let now = Instant::now();
        assert_eq!(seen(&nodes, now, Duration::ZERO), (true, false));
        assert_eq!(seen(&nodes, now, Duration::from_secs(2)), (true, false));
        assert_eq!(seen(&nodes, now, Duration::from_secs(3)), (false, false));
        assert_eq!(seen(&nodes, now, Duration::from_secs(9)), (false, false));
        assert_eq!(seen(&nodes, now, Duration::from_secs(11)), (false, true));
        let report = report(vec![], vec![]);
        nodes.report(id, &report).unwrap();
        assert_eq!(seen(&nodes, Instant::now(), Duration::ZERO), (true, false));
    }

    #[test]
    fn a_node_that_nobody_could_listen_to_is_not_given_up() {
        let nodes = Nodes::default();
        nodes.register(NodeId::new(), registration());
        let now = Instant::now();
        assert_eq!(seen(&nodes, now, Duration::from_secs(1)), (true, false));
        let later = now + Duration::from_secs(3600);
        assert_eq!(seen(&nodes, later, Duration::ZERO), (true, false));
        assert_eq!(seen(&nodes, later, Duration::from_secs(3)), (false, false));
    }

    #[test]
    fn a_release_that_runs_on_two_nodes_has_used_what_it_used_on_both() {
        let nodes = Nodes::default();
        let usage = |app: &str, release, sent_bytes| AppUsage {
            sent_bytes,
            ..AppUsage::new("default".parse().unwrap(), app.parse().unwrap(), release)
        };
        for usage in [vec![usage("hello", 1, 3), usage("crash", 2, 50)], vec![usage("hello", 1, 4)]] {
            let id = NodeId::new();
            nodes.register(id, registration());
            nodes.report(id, &report(vec![], usage)).unwrap();
        }
        let namespace = "default".parse().unwrap();
        assert_eq!(nodes.usage(&namespace), [usage("crash", 2, 50), usage("hello", 1, 7)]);
        let of = |app: &str, release| nodes.usage_of(&namespace, &app.parse().unwrap(), release);
        assert_eq!(of("hello", 1), Some(usage("hello", 1, 7)));
        assert_eq!(of("crash", 2), Some(usage("crash", 2, 50)));
        assert_eq!(of("crash", 1), None);
        assert!(nodes.usage(&"other".parse().unwrap()).is_empty());
    }

    #[test]
    fn a_repeated_report_is_no_news_until_the_worker_starts_anew() {
        let nodes = Nodes::default();
        let id = NodeId::new();
        let registration = registration();
        let instance = InstanceReport {
            id: InstanceId::new(),
            replaces: None,
            state: wharf_types::state::InstanceState::Running,
            health: wharf_types::state::Health::Healthy,
            reason: None,
            restarts: 0,
            exit_code: None,
        };
        let report = report(vec![instance], vec![]);
        assert!(nodes.report(id, &report).is_none(), "nobody knows the node");
        nodes.register(id, registration.clone());
        assert_eq!(nodes.report(id, &report).unwrap().instances.len(), 1);
        assert_eq!(nodes.report(id, &report).unwrap().instances.len(), 1, "it was not written yet");
        nodes.reported(id, report.clone());
        assert!(nodes.report(id, &report).unwrap().instances.is_empty());
        nodes.register(id, registration);
        assert_eq!(nodes.report(id, &report).unwrap().instances.len(), 1);
    }
}
