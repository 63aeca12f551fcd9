//! The workers, as far as this process knows: who is there, what they have been told, what they acknowledged.
//!
//! Nothing here lasts: a heartbeat that brings no news writes nothing to the disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;
use wharf_types::node::{AppUsage, InstanceReport, NodeRegistration, NodeReport};
use wharf_types::{InstanceId, NodeId, Timestamp};

/// A node that neither reported nor held a session for this long is not ready.
const LEASE: Duration = Duration::from_millis(2500);
/// A node that has not been ready for this long is given up, with all that ran on it. Until then a worker may come back, as it
/// does within milliseconds after a restart, and keep its instances.
const GIVEN_UP: Duration = Duration::from_secs(10);

/// An assignment as it goes over the wire: one JSON document and the end of its line.
pub(crate) type Line = Option<Bytes>;

#[derive(Default)]
pub(crate) struct Nodes {
    nodes: Mutex<BTreeMap<NodeId, Node>>,
}

struct Node {
    registration: NodeRegistration,
    seen: Instant,
    seen_at: Timestamp,
    /// Open assignment streams.
    sessions: u32,
    routes_generation: u64,
    /// What the last report said, so that a repetition costs nothing.
    reported: HashMap<InstanceId, InstanceReport>,
    usage: Vec<AppUsage>,
    assignment: watch::Sender<Line>,
}

#[derive(Clone, Debug)]
pub(crate) struct NodeStatus {
    pub(crate) id: NodeId,
    pub(crate) registration: NodeRegistration,
    pub(crate) ready: bool,
    pub(crate) given_up: bool,
    pub(crate) seen_at: Timestamp,
    pub(crate) routes_generation: u64,
}

/// What a report brought.
pub(crate) struct News {
    /// Reports that differ from the last ones, in their order.
    pub(crate) instances: Vec<InstanceReport>,
    /// Whether a newer route table is in use.
    pub(crate) routes: bool,
}

impl Nodes {
    pub(crate) fn register(&self, id: NodeId, registration: NodeRegistration) {
        let mut nodes = self.lock();
        let node = nodes.entry(id).or_insert_with(|| Node {
            registration: registration.clone(),
            seen: Instant::now(),
            seen_at: Timestamp::now(),
            sessions: 0,
            routes_generation: 0,
            reported: HashMap::new(),
            usage: Vec::new(),
            assignment: watch::Sender::new(None),
        });
        node.registration = registration;
        node.seen = Instant::now();
        node.seen_at = Timestamp::now();
        // It may be a new process that has neither routes nor reported anything.
        node.routes_generation = 0;
        node.reported.clear();
    }

    /// Takes note of a report. None: the node has not registered with this process.
    pub(crate) fn report(&self, id: NodeId, report: &NodeReport) -> Option<News> {
        let mut nodes = self.lock();
        let node = nodes.get_mut(&id)?;
        node.seen = Instant::now();
        node.seen_at = Timestamp::now();
        node.usage.clone_from(&report.usage);
        let routes = node.routes_generation != report.routes_generation;
        node.routes_generation = report.routes_generation;
        let is_news = |reported: &&InstanceReport| node.reported.get(&reported.id) != Some(*reported);
        Some(News { instances: report.instances.iter().filter(is_news).cloned().collect(), routes })
    }

    /// Remembers a report whose news were written.
    pub(crate) fn reported(&self, id: NodeId, report: NodeReport) {
        if let Some(node) = self.lock().get_mut(&id) {
            node.reported = report.instances.into_iter().map(|instance| (instance.id, instance)).collect();
        }
    }

    /// Opens an assignment stream; the node counts as ready as long as the session lives.
    pub(crate) fn open_session(&self, id: NodeId) -> Option<watch::Receiver<Line>> {
        let mut nodes = self.lock();
        let node = nodes.get_mut(&id)?;
        node.sessions += 1;
        let mut assignment = node.assignment.subscribe();
        assignment.mark_changed();
        Some(assignment)
    }

    pub(crate) fn close_session(&self, id: NodeId) {
        if let Some(node) = self.lock().get_mut(&id) {
            node.sessions = node.sessions.saturating_sub(1);
            node.seen = Instant::now();
        }
    }

    pub(crate) fn publish(&self, id: NodeId, assignment: Bytes) {
        if let Some(node) = self.lock().get_mut(&id) {
            node.assignment.send_replace(Some(assignment));
        }
    }

    pub(crate) fn list(&self) -> Vec<NodeStatus> {
        self.list_at(Instant::now())
    }

    fn list_at(&self, now: Instant) -> Vec<NodeStatus> {
        let status = |(id, node): (&NodeId, &Node)| NodeStatus {
            id: *id,
            registration: node.registration.clone(),
            ready: node.is_seen_within(LEASE, now),
            given_up: !node.is_seen_within(GIVEN_UP, now),
            seen_at: node.seen_at,
            routes_generation: node.routes_generation,
        };
        self.lock().iter().map(status).collect()
    }

    /// The newest totals of every node.
    pub(crate) fn usage(&self) -> Vec<AppUsage> {
        self.lock().values().flat_map(|node| node.usage.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    fn is_seen_within(&self, span: Duration, now: Instant) -> bool {
        self.sessions > 0 || now.saturating_duration_since(self.seen) < span
    }
}

/// An open session. Dropping it closes it.
pub(crate) struct Session {
    pub(crate) context: Arc<crate::context::Context>,
    pub(crate) node: NodeId,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.context.nodes.close_session(self.node);
        self.context.dirty.nudge();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_node_is_first_not_ready_and_then_given_up_but_never_while_its_session_is_open() {
        let nodes = Nodes::default();
        let id = NodeId::new();
        let registration =
            NodeRegistration { hostname: "a".into(), memory_bytes: 1, cpus: 1, version: "0".into() };
        nodes.register(id, registration);
        let after = |span: Duration| {
            let status = nodes.list_at(Instant::now() + span).remove(0);
            (status.ready, status.given_up)
        };
        assert_eq!(after(Duration::ZERO), (true, false));
        assert_eq!(after(LEASE * 2), (false, false));
        assert_eq!(after(GIVEN_UP * 2), (false, true));
        let _session = nodes.open_session(id).unwrap();
        assert_eq!(after(GIVEN_UP * 2), (true, false));
        nodes.close_session(id);
        assert_eq!(after(GIVEN_UP * 2), (false, true));
    }

    #[test]
    fn a_repeated_report_is_no_news_until_the_worker_starts_anew() {
        let nodes = Nodes::default();
        let id = NodeId::new();
        let registration =
            NodeRegistration { hostname: "a".into(), memory_bytes: 1, cpus: 1, version: "0".into() };
        let instance = InstanceReport {
            id: InstanceId::new(),
            replaces: None,
            state: wharf_types::state::InstanceState::Running,
            health: wharf_types::state::Health::Healthy,
            reason: None,
            restarts: 0,
        };
        let report = NodeReport {
            assignment_generation: 1,
            routes_generation: 1,
            instances: vec![instance],
            usage: vec![],
        };
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
