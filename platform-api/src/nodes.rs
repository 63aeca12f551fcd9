//! The workers, as far as this process knows: who is there, what they have been told, what they acknowledged.
//!
//! Nothing here lasts: a heartbeat that brings no news writes nothing to the disk. What whoever leads next has to know is written by [`kept`].

pub(crate) mod kept;
mod load;
mod silence;
#[cfg(test)]
mod tests;
mod told;
mod touches;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedMutexGuard, watch};
use tracing::warn;
use wharf_types::figures::{NodeFigures, VolumeFigures};
use wharf_types::incarnation::Rival;
use wharf_types::node::{AppUsage, InstanceReport, NodeRegistration, NodeReport};
use wharf_types::requests::{RequestCounts, RequestTotals};
use wharf_types::{AppName, Digest, InstanceId, NamespaceName, NodeId, ProcessId, Timestamp, VolumeId};

use crate::plan::autoscale::Demand;
use crate::reconcile::Next;
use crate::store::node::{NodeSettings, StoredNode};
use crate::store::requests::Counter;
use load::Loads;
use silence::{Presence, RELEASED};
use told::{Since, Told};
use touches::Touches;

pub use silence::{Start, Unwritten};

/// How many other nodes are named to one that wants an artifact: each that does not have it costs a round trip.
const SOURCES_MAX: usize = 3;

#[derive(Default)]
pub struct Nodes {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    nodes: BTreeMap<NodeId, Node>,
    /// When somebody last asked who is ready.
    looked: Option<Instant>,
    start: Start,
    /// Since when nodes are awaited that others have heard of. None: there are none.
    began: Option<Instant>,
}

struct Node {
    registration: NodeRegistration,
    settings: NodeSettings,
    /// Whether its process is about to end.
    leaving: bool,
    /// What it was assigned so far: it gets nothing of anything else, and brings nothing.
    touches: Touches,
    /// What it runs that there is to be only one of, as it was told last. Once it may have ended these, it is not to go on with any of them.
    singletons: Arc<BTreeSet<InstanceId>>,
    /// When something of it came last, or since when it is awaited.
    seen: Instant,
    seen_at: Timestamp,
    presence: Presence,
    /// Whether it has registered with this process, or reported to it.
    has_spoken: bool,
    /// Whether the database says that it was given up.
    is_written_off: bool,
    routes_generation: u64,
    /// What the last report said, so that a repetition costs nothing.
    reported: HashMap<InstanceId, InstanceReport>,
    /// That report, by the hash of its octets.
    last: Option<(blake3::Hash, Arc<NodeReport>)>,
    /// In the order of [`key`].
    usage: Vec<AppUsage>,
    figures: NodeFigures,
    loads: Loads,
    told: Told,
    /// Held while a report is taken in.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Debug)]
pub struct NodeStatus {
    pub id: NodeId,
    /// With the labels that admins have set.
    pub registration: NodeRegistration,
    /// Whether its lease lasts, as far as this process can know: one that has not spoken to it yet has the benefit of the doubt for as long,
    /// so that nobody does behind its back what it would have to hear of.
    pub ready: bool,
    /// Whether it has not spoken to this process yet.
    pub awaited: bool,
    /// Whether it may be given more: it has spoken, and others have, too, or have had the time to.
    pub takes_more: bool,
    /// Whether it is to be emptied, because somebody wants that or because its process is about to end.
    pub draining: bool,
    pub given_up: bool,
    /// Whether it has ended by now what there is to be only one of.
    pub released: bool,
    pub seen_at: Timestamp,
    pub routes_generation: u64,
}

impl NodeStatus {
    /// One that is there and has been told nothing yet: what tests and benchmarks begin with.
    pub fn ready(id: NodeId, registration: NodeRegistration) -> Self {
        Self {
            id,
            registration,
            ready: true,
            awaited: false,
            takes_more: true,
            draining: false,
            given_up: false,
            released: false,
            seen_at: Timestamp::UNIX_EPOCH,
            routes_generation: 0,
        }
    }

    /// What people call it.
    pub(crate) fn name(&self) -> String {
        let hostname = &self.registration.hostname;
        if hostname.is_empty() { self.id.to_string() } else { hostname.clone() }
    }

    /// Whether it is known to be there, and not only taken to be.
    pub(crate) fn is_there(&self) -> bool {
        self.ready && !self.awaited
    }
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
    /// The instances of singletons that the node may go on with, or begin with.
    pub holds: Vec<InstanceId>,
}

/// Why a worker is not listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    #[error("node {0} has not registered since the control plane started")]
    Unregistered(NodeId),
    /// Its session has ended, and where it still runs, it is told more when it registers again.
    #[error(
        "another process of the worker of node {0} has registered: what this one sends is not taken in any more"
    )]
    Replaced(NodeId),
    #[error(
        "a later process of node {0} speaks for it at this moment. If both run, one of them has a copy of the other's folder; each worker needs \
         its own: remove `node.json` from the copy, and let it join with a new token; or stop the other worker and wait ten seconds"
    )]
    Superseded(NodeId),
    #[error(
        "another worker speaks for node {0} at this moment, from another folder or host. Each worker needs its own folder: if this one is a \
         copy, remove its `node.json` and join with a new token; or stop the other worker and wait ten seconds"
    )]
    Elsewhere(NodeId),
}

impl Nodes {
    /// A process of the worker of a node begins to speak. `settings` are what was just stored for the node, which nobody is to see it without.
    /// They hold also where the process is refused.
    pub(crate) fn register(
        &self,
        id: NodeId,
        registration: NodeRegistration,
        settings: Option<NodeSettings>,
    ) -> Result<(), Refusal> {
        self.register_with(Instant::now(), id, registration, settings)
    }

    /// Whether this process of the worker would be listened to.
    pub(crate) fn admits(&self, id: NodeId, registration: &NodeRegistration) -> Result<(), Refusal> {
        let known = self.lock();
        known.nodes.get(&id).map_or(Ok(()), |node| node.admits(id, registration, Instant::now()))
    }

    pub fn register_at(
        &self,
        now: Instant,
        id: NodeId,
        registration: NodeRegistration,
    ) -> Result<(), Refusal> {
        self.register_with(now, id, registration, None)
    }

    fn register_with(
        &self,
        now: Instant,
        id: NodeId,
        registration: NodeRegistration,
        settings: Option<NodeSettings>,
    ) -> Result<(), Refusal> {
        let mut known = self.lock();
        if let Some(node) = known.nodes.get_mut(&id) {
            if let Some(settings) = &settings {
                node.settings.clone_from(settings);
            }
            node.admits(id, &registration, now)?;
        }
        known.forgive_standstill(now);
        known.forgive_silence(now);
        let new = || Node { settings: settings.unwrap_or_default(), ..Node::new(now, registration.clone()) };
        let node = known.nodes.entry(id).or_insert_with(new);
        if node.registration.incarnation.process != registration.incarnation.process {
            // Whoever follows the assignments for an earlier process learns that they end.
            node.told.dismiss();
            node.leaving = false;
        }
        node.registration = registration;
        node.hear(now);
        // With its registration the database has that it is back.
        node.is_written_off = false;
        // It may be a new process that has neither routes nor reported anything.
        node.routes_generation = 0;
        node.reported.clear();
        node.last = None;
        Ok(())
    }

    /// Ends what is assigned, and forgets every node, because this process begins to lead.
    pub fn begin(&self, start: Start) {
        *self.lock() = Known { start, ..Known::default() };
    }

    /// Takes note of what the database says of a node: others have heard of it. What has registered here stays as it is, but for what admins
    /// say.
    pub(crate) fn know(&self, stored: StoredNode) {
        self.know_at(Instant::now(), stored);
    }

    pub fn know_at(&self, now: Instant, stored: StoredNode) {
        let mut known = self.lock();
        known.began.get_or_insert(now);
        let StoredNode { id, registration, settings, seen_at, given_up } = stored;
        let unheard = || Node {
            seen_at,
            presence: if given_up { Presence::Gone } else { Presence::Awaited },
            has_spoken: false,
            is_written_off: given_up,
            ..Node::new(now, registration)
        };
        known.nodes.entry(id).or_insert_with(unheard).settings = settings;
    }

    pub(crate) fn ids(&self) -> BTreeSet<NodeId> {
        self.lock().nodes.keys().copied().collect()
    }

    /// Waits until no other report of the node is being taken in. One that came late could else be written after a newer one that
    /// was compared with the state before it, and what it said would stand for good.
    pub(crate) async fn turn(&self, id: NodeId) -> Option<OwnedMutexGuard<()>> {
        let turn = self.lock().nodes.get(&id)?.turn.clone();
        Some(turn.lock_owned().await)
    }

    /// Takes note of a report.
    pub(crate) fn report(&self, id: NodeId, report: &NodeReport) -> Result<News, Refusal> {
        self.report_at(Instant::now(), id, report)
    }

    pub fn report_at(&self, now: Instant, id: NodeId, report: &NodeReport) -> Result<News, Refusal> {
        let mut known = self.lock();
        let process_counts = known.nodes.get(&id).ok_or(Refusal::Unregistered(id))?.hears(id, report.process);
        process_counts?;
        // In this order: who was silent for as long as nobody could be heard has not to be forgiven that twice.
        known.forgive_standstill(now);
        known.forgive_silence(now);
        let node = known.nodes.get_mut(&id).ok_or(Refusal::Unregistered(id))?;
        node.hear(now);
        node.presence = Presence::Reports;
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
        let repeats = node.last.as_ref().is_some_and(|(_, last)| std::ptr::eq(&**last, report));
        let is_news =
            |reported: &&InstanceReport| !repeats && node.reported.get(&reported.id) != Some(*reported);
        let instances = report.instances.iter().filter(is_news).cloned().collect();
        let holds = node.singletons.iter().copied().collect();
        Ok(News { instances, routes, volumes, waiting, holds })
    }

    /// Remembers a report whose news were written.
    pub fn reported(&self, id: NodeId, report: NodeReport) {
        if let Some(node) = self.lock().nodes.get_mut(&id) {
            node.reported = report.instances.into_iter().map(|instance| (instance.id, instance)).collect();
        }
    }

    /// The last report whose news were written, if its octets have this hash: most reports say only that the node is still there.
    pub(crate) fn repeated(&self, id: NodeId, hash: blake3::Hash) -> Option<Arc<NodeReport>> {
        let known = self.lock();
        let (last, report) = known.nodes.get(&id)?.last.as_ref()?;
        (*last == hash).then(|| report.clone())
    }

    /// The same as [`Self::reported`], of a report whose octets have this hash.
    pub(crate) fn reported_as(&self, id: NodeId, hash: blake3::Hash, report: Arc<NodeReport>) {
        let mut known = self.lock();
        let Some(node) = known.nodes.get_mut(&id) else { return };
        if node.last.as_ref().is_some_and(|(_, last)| Arc::ptr_eq(last, &report)) {
            return;
        }
        let instances = report.instances.iter();
        node.reported = instances.map(|instance| (instance.id, instance.clone())).collect();
        node.last = Some((hash, report));
    }

    /// Takes in what admins say of a node.
    pub fn set(&self, id: NodeId, settings: NodeSettings) {
        if let Some(node) = self.lock().nodes.get_mut(&id) {
            node.settings = settings;
        }
    }

    /// What people call a node, or its id where it is not known.
    pub(crate) fn name(&self, id: NodeId) -> String {
        let known = self.lock();
        let hostname = known.nodes.get(&id).map(|node| node.registration.hostname.as_str());
        hostname.filter(|hostname| !hostname.is_empty()).map_or_else(|| id.to_string(), str::to_owned)
    }

    pub(crate) fn settings(&self, id: NodeId) -> Option<NodeSettings> {
        self.lock().nodes.get(&id).map(|node| node.settings.clone())
    }

    /// A process is about to end: its node is emptied until another one registers.
    pub(crate) fn leave(&self, id: NodeId, process: ProcessId) -> Result<(), Refusal> {
        let mut known = self.lock();
        let node = known.nodes.get_mut(&id).ok_or(Refusal::Unregistered(id))?;
        node.hears(id, process)?;
        node.leaving = true;
        Ok(())
    }

    /// It was told to come again after so long: until then its silence says nothing.
    pub(crate) fn told_to_wait(&self, id: NodeId, span: Duration) {
        self.told_to_wait_at(Instant::now(), id, span);
    }

    fn told_to_wait_at(&self, now: Instant, id: NodeId, span: Duration) {
        if let Some(node) = self.lock().nodes.get_mut(&id) {
            node.seen = node.seen.max(now + span);
            // Its worker lives, but has no session in which it could be told of anything new.
            if matches!(node.presence, Presence::Gone | Presence::Awaited) {
                node.presence = Presence::Returning;
            }
        }
    }

    /// Forgets a node; whoever follows its assignments learns that they end.
    pub(crate) fn remove(&self, id: NodeId) {
        self.lock().nodes.remove(&id);
    }

    /// Whether this process has told the node anything yet. Before that nobody can say what the node may have.
    pub(crate) fn has_been_told(&self, id: NodeId) -> bool {
        self.lock().nodes.get(&id).is_some_and(|node| node.told.whole().is_some())
    }

    /// Whether the node was assigned something that is made of this content.
    pub(crate) fn uses(&self, id: NodeId, digest: Digest) -> bool {
        self.lock().nodes.get(&id).is_some_and(|node| node.touches.uses(digest))
    }

    /// Other nodes that were assigned something made of this content, and can be reached by this one: a few, in an order that is another
    /// one for each who asks.
    pub(crate) fn sources(&self, id: NodeId, digest: Digest) -> Vec<NodeId> {
        let now = Instant::now();
        let known = self.lock();
        let has = |(other, node): &(&NodeId, &Node)| {
            **other != id
                && node.registration.address.is_some()
                && node.reports_at(now)
                && node.touches.uses(digest)
        };
        let mut sources: Vec<NodeId> = known.nodes.iter().filter(has).map(|(other, _)| *other).collect();
        sources.sort_by_cached_key(|other| {
            blake3::hash(format!("{id} {other}").as_bytes()).to_hex().to_string()
        });
        sources.truncate(SOURCES_MAX);
        sources
    }

    /// Whether the node was assigned something of this name: of an app, or of a job.
    pub(crate) fn runs(&self, id: NodeId, namespace: &NamespaceName, app: &AppName) -> bool {
        self.lock().nodes.get(&id).is_some_and(|node| node.touches.runs(namespace, app))
    }

    /// Changes whenever there is something newer for the node, until another process of its worker registers.
    pub(crate) fn follow(&self, id: NodeId, process: ProcessId) -> Result<watch::Receiver<u64>, Refusal> {
        let known = self.lock();
        let node = known.nodes.get(&id).ok_or(Refusal::Unregistered(id))?;
        node.hears(id, process)?;
        Ok(node.told.follow())
    }

    /// What a follower has to be sent that has got the generation `at`, or nothing yet: lines of JSON, and the generation that they lead to.
    pub(crate) fn lines(&self, id: NodeId, at: Option<u64>, takes_deltas: bool) -> Option<(Vec<Bytes>, u64)> {
        let since = {
            let known = self.lock();
            let told = &known.nodes.get(&id)?.told;
            let newest = told.whole()?.generation;
            // Whoever takes no deltas has got all or nothing.
            told.since(at.filter(|at| takes_deltas || *at == newest))
        };
        match since {
            Since::Nothing => None,
            Since::Steps(lines, generation) => Some((lines, generation)),
            Since::Whole(whole) => match serde_json::to_vec(&whole.assignment()) {
                Ok(json) => Some((vec![told::line(json)], whole.generation)),
                Err(error) => {
                    warn!(node.id = %id, "an assignment for node {id} cannot be written: {error}");
                    None
                }
            },
        }
    }

    /// Has the nodes told what comes next.
    pub fn publish(&self, all: Vec<Next>) {
        // The routes of one round are the same for all nodes.
        let mut routes = None;
        for Next { whole, delta, is_news } in all {
            // Written while nobody waits for the lock. Whoever begins to follow meanwhile gets the whole.
            let followed = delta.as_ref().filter(|_| self.has_followers(whole.node));
            let line = followed.and_then(|delta| told::step(delta, &mut routes));
            let mut known = self.lock();
            let Some(node) = known.nodes.get_mut(&whole.node) else { continue };
            if is_news {
                match delta.filter(|_| node.told.whole().is_some()) {
                    Some(delta) => {
                        let told = delta.instances.iter().filter_map(|instance| whole.common(instance.id));
                        told.for_each(|common| node.touches.add(common));
                    }
                    None => whole.commons().for_each(|common| node.touches.add(common)),
                }
                node.singletons = whole.singletons().clone();
                node.told.put(whole, line);
            } else {
                node.told.replace(whole);
            }
        }
    }

    fn has_followers(&self, id: NodeId) -> bool {
        self.lock().nodes.get(&id).is_some_and(|node| node.told.has_followers())
    }

    pub(crate) fn list(&self) -> Vec<NodeStatus> {
        self.list_at(Instant::now())
    }

    pub fn list_at(&self, now: Instant) -> Vec<NodeStatus> {
        let mut known = self.lock();
        let moment = known.look(now);
        let status = |(id, node): (&NodeId, &mut Node)| {
            let status = node.status(*id, moment);
            if status.released {
                // Whoever sees this may have others start; what the node says next must not bring these back.
                node.singletons = Arc::default();
            }
            status
        };
        known.nodes.iter_mut().map(status).collect()
    }

    /// Every node with its newest figures.
    pub(crate) fn samples(&self) -> Vec<NodeSample> {
        let mut known = self.lock();
        let moment = known.look(Instant::now());
        let sample = |(id, node): (&NodeId, &Node)| NodeSample {
            status: node.status(*id, moment),
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
    pub(crate) fn requests(&self, namespace: &NamespaceName, app: &AppName) -> Vec<(Counter, RequestCounts)> {
        let known = self.lock();
        let mut found = Vec::new();
        for (id, node) in &known.nodes {
            let front_door = &node.figures.front_door;
            let of_app = front_door
                .releases
                .iter()
                .filter(|totals| totals.namespace == *namespace && totals.app == *app);
            found.extend(of_app.map(|it| ((*id, front_door.run.clone(), it.release), it.counts.clone())));
        }
        found
    }

    /// The newest totals of all requests at one front door, and its run.
    pub(crate) fn requests_at(&self, id: NodeId) -> Option<(String, Vec<RequestTotals>)> {
        let known = self.lock();
        let front_door = &known.nodes.get(&id)?.figures.front_door;
        Some((front_door.run.clone(), front_door.releases.clone()))
    }

    /// What is asked of an app at all front doors. None: none has reported in time.
    pub(crate) fn demand(&self, namespace: &NamespaceName, app: &AppName) -> Option<Demand> {
        let now = Instant::now();
        let known = self.lock();
        let reporting = known.nodes.values().filter(|node| node.reports_at(now));
        reporting.map(|node| node.loads.of(namespace, app)).reduce(|sum, more| Demand {
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

    /// Whether the node may still run something that there is to be only one of.
    pub(crate) fn may_run_singletons(&self, id: NodeId) -> bool {
        self.lock().nodes.get(&id).is_some_and(|node| {
            let is_told = node.told.whole().is_some();
            node.is_seen_within(RELEASED, Instant::now()) && (!is_told || !node.singletons.is_empty())
        })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(usage: &AppUsage) -> (&NamespaceName, &AppName, u64) {
    (&usage.namespace, &usage.app, usage.release)
}

impl Node {
    /// One that has just registered.
    fn new(now: Instant, registration: NodeRegistration) -> Self {
        Self {
            registration,
            settings: NodeSettings::default(),
            leaving: false,
            touches: Touches::default(),
            singletons: Arc::default(),
            seen: now,
            seen_at: Timestamp::now(),
            presence: Presence::Returning,
            has_spoken: true,
            is_written_off: false,
            routes_generation: 0,
            reported: HashMap::new(),
            last: None,
            usage: Vec::new(),
            figures: NodeFigures::default(),
            loads: Loads::default(),
            told: Told::default(),
            turn: Arc::default(),
        }
    }

    fn admits(&self, id: NodeId, registration: &NodeRegistration, now: Instant) -> Result<(), Refusal> {
        // A copy elsewhere takes over what the other has let go of.
        let is_heard = self.is_seen_within(RELEASED, now);
        self.registration.incarnation.yields_to(&registration.incarnation, is_heard).map_err(|rival| {
            match rival {
                Rival::Later => Refusal::Superseded(id),
                Rival::Elsewhere => Refusal::Elsewhere(id),
            }
        })
    }

    /// Whether this process speaks for the node.
    fn hears(&self, id: NodeId, process: ProcessId) -> Result<(), Refusal> {
        let is_it = self.registration.incarnation.process == process;
        if is_it { Ok(()) } else { Err(Refusal::Replaced(id)) }
    }
}
