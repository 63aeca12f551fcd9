//! Says what every node is told to run and how to route, and knows which routes they have let go of. Sending it is up to others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use wharf_types::delta::{AssignmentDelta, RoutesDelta};
use wharf_types::node::{AssignedInstance, AssignedJob, AssignedVolume, Assignment};
use wharf_types::route::{RateLimit, RouteNode, RouteTable};
use wharf_types::secret::DeliveredSecret;
use wharf_types::state::Wanted;
use wharf_types::{AppId, InstanceId, JobId, NodeId, ReleaseId, VolumeId};

use super::fleet::Fleet;
use crate::nodes::NodeStatus;
use crate::plan::job::JobView;
use crate::plan::{self, AppView, ReleaseView, VolumeView};

pub struct Publisher {
    /// The newest generation that was given to a route table or an assignment.
    generation: u64,
    routes: Arc<RouteTable>,
    assignments: BTreeMap<NodeId, Arc<Assignment>>,
    /// Live instances that no route leads to any more: the generation of the first table without them, and their app.
    unrouted: HashMap<InstanceId, (u64, AppId)>,
    /// Instances that routes lead to: the generation of the first table with them, and their app.
    routed: HashMap<InstanceId, (u64, AppId)>,
}

/// What nodes are told beside what the apps' views say.
#[derive(Clone, Copy)]
pub struct Beside<'a> {
    pub jobs: &'a HashMap<JobId, JobView>,
    /// The volumes that each node is to remove.
    pub doomed: &'a BTreeMap<NodeId, Vec<VolumeId>>,
    pub rates: &'a [RateLimit],
    /// Nodes that were taken out of the cluster.
    pub removed: &'a [NodeId],
    /// Opens the secrets that some instances use.
    pub secrets: &'a dyn Fn(&[AssignedInstance]) -> Vec<DeliveredSecret>,
}

/// What has changed with a round of publishing.
pub struct Published {
    /// To be sent, each to its node.
    pub assignments: Vec<Next>,
    /// The instances that have become routed or unrouted.
    pub changed: Vec<InstanceId>,
}

/// What a node is told next.
#[derive(Clone, Debug)]
pub struct Next {
    pub whole: Arc<Assignment>,
    /// From what it was told before. None: nothing.
    pub delta: Option<AssignmentDelta>,
    /// Whether a worker that follows has to know: it does not matter to it how far its own instances have got.
    pub is_news: bool,
}

/// The newest routes that every ready node uses.
pub fn acknowledged(nodes: &[NodeStatus], before: u64) -> u64 {
    let ready = nodes.iter().filter(|node| node.ready);
    // While nobody is there, nobody acknowledges anything.
    ready.map(|node| node.routes_generation).min().unwrap_or(before)
}

impl Publisher {
    /// Generations begin above `base`, so that they also grow over restarts.
    pub fn new(base: u64) -> Self {
        Self {
            generation: base,
            routes: Arc::default(),
            assignments: BTreeMap::new(),
            unrouted: HashMap::new(),
            routed: HashMap::new(),
        }
    }

    /// Whether one of the nodes has not been told anything yet, or the others have not been told of one.
    pub fn lacks_any_of(&self, nodes: &[NodeStatus]) -> bool {
        nodes.iter().any(|node| !self.assignments.contains_key(&node.id))
            || self.routes.nodes != reached(nodes)
    }

    /// Rebuilds what changed, to be sent to the nodes.
    pub fn publish(&mut self, fleet: &Fleet, nodes: &[NodeStatus], beside: Beside<'_>) -> Published {
        let routes = plan::routes::build(self.generation + 1, fleet.views());
        let (limits, removed) = (beside.rates.to_vec(), beside.removed.to_vec());
        let before = self.routes.clone();
        let generation = before.generation;
        let table = RouteTable { generation, limits, nodes: reached(nodes), removed, ..routes };
        let is_same = table == *before;
        let mut delta = None;
        if !is_same || self.routes.generation == 0 {
            self.generation += 1;
            self.routes = Arc::new(RouteTable { generation: self.generation, ..table });
            delta = Some(Arc::new(RoutesDelta::between(&before, &self.routes)));
        }
        let changed = self.track_routes(fleet);
        let mut instances = assigned(fleet, beside.jobs);
        let mut assignments = Vec::new();
        for node in nodes {
            let instances = instances.remove(&node.id).unwrap_or_default();
            let removed = beside.doomed.get(&node.id).cloned().unwrap_or_default();
            let secrets = beside.secrets;
            let next =
                self.assign(node.id, (instances, removed), delta.as_ref(), |instances| secrets(instances));
            assignments.extend(next);
        }
        Published { assignments, changed }
    }

    /// None: the node was told just that before.
    fn assign(
        &mut self,
        node: NodeId,
        (instances, removed_volumes): (Vec<AssignedInstance>, Vec<VolumeId>),
        routes: Option<&Arc<RoutesDelta>>,
        secrets: impl Fn(&[AssignedInstance]) -> Vec<DeliveredSecret>,
    ) -> Option<Next> {
        let known = self.assignments.get(&node).cloned();
        let is_same = |known: &Assignment| {
            known.routes.generation == self.routes.generation
                && known.removed_volumes == removed_volumes
                && known.instances.len() == instances.len()
                && known.instances.iter().zip(&instances).all(|(known, new)| known.is_as_wanted(new))
        };
        if let Some(known) = known.as_deref().filter(|known| is_same(known)) {
            if known.instances == instances {
                return None;
            }
            let whole = Arc::new(Assignment { instances, ..known.clone() });
            self.assignments.insert(node, whole.clone());
            return Some(Next { whole, delta: None, is_news: false });
        }
        self.generation += 1;
        let whole = Arc::new(Assignment {
            node,
            generation: self.generation,
            secrets: secrets(&instances),
            instances,
            routes: self.routes.clone(),
            removed_volumes,
        });
        // Whenever the routes change, every node is told.
        let routes =
            |known: &Assignment| routes.filter(|routes| known.routes.generation == routes.after).cloned();
        let delta = known
            .filter(|known| known.routes.generation == whole.routes.generation || routes(known).is_some());
        let delta = delta.map(|known| AssignmentDelta::between(&known, &whole, routes(&known)));
        self.assignments.insert(node, whole.clone());
        Some(Next { whole, delta, is_news: true })
    }

    fn track_routes(&mut self, fleet: &Fleet) -> Vec<InstanceId> {
        let by_http =
            self.routes.routes.iter().flat_map(|route| &route.endpoints).map(|endpoint| endpoint.instance);
        let by_tcp =
            self.routes.tcp.iter().flat_map(|route| &route.endpoints).map(|endpoint| endpoint.instance);
        let routed: HashSet<InstanceId> = by_http.chain(by_tcp).collect();
        let mut live = HashSet::new();
        let mut new = Vec::new();
        for (view, _, instance) in fleet.instances() {
            if routed.contains(&instance.id) {
                self.routed.entry(instance.id).or_insert_with(|| {
                    new.push(instance.id);
                    (self.routes.generation, view.id)
                });
                continue;
            }
            if instance.wanted < Wanted::Unroute {
                continue;
            }
            live.insert(instance.id);
            self.unrouted.entry(instance.id).or_insert_with(|| {
                new.push(instance.id);
                (self.routes.generation, view.id)
            });
        }
        self.unrouted.retain(|instance, _| live.contains(instance));
        self.routed.retain(|instance, _| routed.contains(instance));
        new
    }

    /// The apps with instances that every ready node has let go of, or has come to know since `before`.
    pub fn acknowledged_since(&self, before: u64, acknowledged: u64) -> Vec<AppId> {
        let let_go = self.unrouted.values().filter(|(generation, _)| *generation <= acknowledged);
        let known = self
            .routed
            .values()
            .filter(|(generation, _)| (before.saturating_add(1)..=acknowledged).contains(generation));
        let_go.chain(known).map(|(_, app)| *app).collect()
    }

    /// Of these instances, the apps of those whose routes the nodes have acknowledged already.
    pub fn acknowledged_among(&self, instances: &[InstanceId], acknowledged: u64) -> Vec<AppId> {
        let of = |instance: &InstanceId| self.unrouted.get(instance).or_else(|| self.routed.get(instance));
        instances
            .iter()
            .filter_map(of)
            .filter(|(generation, _)| *generation <= acknowledged)
            .map(|(_, app)| *app)
            .collect()
    }

    /// Fills in what only this process knows: what every ingress has acknowledged of an instance.
    pub fn mark_acknowledged(
        &self,
        view: &mut AppView,
        releases: &HashMap<ReleaseId, Arc<ReleaseView>>,
        acknowledged: u64,
    ) {
        for instance in &mut view.instances {
            let is_unroutable = releases.get(&instance.release).is_some_and(|release| !release.is_routed());
            let unrouted = self.unrouted.get(&instance.id);
            instance.let_go =
                is_unroutable || unrouted.is_some_and(|(generation, _)| *generation <= acknowledged);
            let routed = self.routed.get(&instance.id);
            instance.routed =
                is_unroutable || routed.is_some_and(|(generation, _)| *generation <= acknowledged);
        }
    }
}

/// Where the ingresses of nodes find one another.
fn reached(nodes: &[NodeStatus]) -> Vec<RouteNode> {
    let alive = nodes.iter().filter(|node| !node.given_up);
    alive.filter_map(|node| Some(RouteNode { node: node.id, address: node.registration.address? })).collect()
}

fn volumes_of(view: &AppView, release: &ReleaseView) -> Vec<AssignedVolume> {
    let has = |volume: &&VolumeView| release.spec.volumes.iter().any(|spec| spec.name == volume.name);
    let assigned = |volume: &VolumeView| AssignedVolume { name: volume.name.clone(), id: volume.id };
    view.volumes.iter().filter(has).map(assigned).collect()
}

/// What each node has to run. Instances that ended are left out, which tells the worker that its report has arrived.
fn assigned(fleet: &Fleet, jobs: &HashMap<JobId, JobView>) -> HashMap<NodeId, Vec<AssignedInstance>> {
    let mut by_node: HashMap<NodeId, Vec<AssignedInstance>> = HashMap::new();
    for (view, release, instance) in fleet.instances() {
        let Some(node) = instance.node else { continue };
        by_node.entry(node).or_default().push(AssignedInstance {
            id: instance.id,
            wanted: instance.wanted,
            observed: instance.state,
            namespace: view.namespace.clone(),
            app: view.name.clone(),
            release: release.number,
            slot: instance.slot,
            artifact: release.artifact,
            world: release.world,
            spec: release.spec.clone(),
            secrets: release.secrets.clone(),
            volumes: volumes_of(view, release),
            job: None,
        });
    }
    jobs.values().for_each(|job| assign_runs(job, &mut by_node));
    for instances in by_node.values_mut() {
        instances.sort_by_key(|instance| instance.id);
    }
    by_node
}

/// Adds the live runs of a job to what each node has to run.
fn assign_runs(view: &JobView, by_node: &mut HashMap<NodeId, Vec<AssignedInstance>>) {
    for run in view.runs.iter().filter(|run| run.is_live()) {
        let job =
            AssignedJob { id: view.id, index: view.spec.indexed.then_some(run.index), attempt: run.attempt };
        by_node.entry(run.node).or_default().push(AssignedInstance {
            id: run.id,
            wanted: run.wanted(),
            observed: run.state,
            namespace: view.namespace.clone(),
            app: view.command.app.clone(),
            release: view.command.release,
            slot: run.index,
            artifact: view.command.artifact,
            world: view.command.world,
            spec: view.command.spec.clone(),
            secrets: view.command.secrets.clone(),
            volumes: Vec::new(),
            job: Some(job),
        });
    }
}
