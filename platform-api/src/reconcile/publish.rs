//! Tells every node what to run and how to route, and knows which routes they have let go of.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use tracing::warn;
use wharf_types::node::{AssignedInstance, AssignedVolume, Assignment};
use wharf_types::route::{RateLimit, RouteTable};
use wharf_types::state::Wanted;
use wharf_types::{AppId, InstanceId, NodeId, VolumeId};
use zeroize::Zeroizing;

use super::deliveries::Deliveries;
use super::fleet::Fleet;
use super::jobs::Jobs;
use crate::context::Context;
use crate::nodes::NodeStatus;
use crate::plan::{self, AppView, ReleaseView, VolumeView};
use crate::view::Loaded;

pub(super) struct Publisher {
    /// The newest generation that was given to a route table or an assignment.
    generation: u64,
    routes: RouteTable,
    assignments: BTreeMap<NodeId, Assignment>,
    /// Live instances that no route leads to any more: the generation of the first table without them, and their app.
    unrouted: HashMap<InstanceId, (u64, AppId)>,
    /// Instances that routes lead to: the generation of the first table with them, and their app.
    routed: HashMap<InstanceId, (u64, AppId)>,
}

impl Publisher {
    /// Generations begin above `base`, so that they also grow over restarts.
    pub(super) fn new(base: u64) -> Self {
        Self {
            generation: base,
            routes: RouteTable::default(),
            assignments: BTreeMap::new(),
            unrouted: HashMap::new(),
            routed: HashMap::new(),
        }
    }

    /// Whether one of the nodes has not been told anything yet.
    pub(super) fn lacks_any_of(&self, nodes: &[NodeStatus]) -> bool {
        nodes.iter().any(|node| !self.assignments.contains_key(&node.id))
    }

    /// Rebuilds what changed and sends it. Returns the instances that have become routed or unrouted with this.
    pub(super) fn publish(
        &mut self,
        context: &Context,
        (fleet, jobs): (&Fleet, &Jobs),
        deliveries: &Deliveries,
        nodes: &[NodeStatus],
        (doomed, rates): (&BTreeMap<NodeId, Vec<VolumeId>>, &[RateLimit]),
    ) -> Vec<InstanceId> {
        let routes = plan::routes::build(self.generation + 1, fleet.views());
        let table = RouteTable { limits: rates.to_vec(), ..routes };
        let before = &self.routes;
        let is_same =
            (&table.routes, &table.tcp, &table.limits) == (&before.routes, &before.tcp, &before.limits);
        if !is_same || self.routes.generation == 0 {
            self.generation += 1;
            self.routes = table;
        }
        let changed = self.track_routes(fleet);
        let mut instances = assigned(fleet, jobs);
        for node in nodes {
            let instances = instances.remove(&node.id).unwrap_or_default();
            let removed = doomed.get(&node.id).cloned().unwrap_or_default();
            self.publish_to(context, deliveries, node.id, instances, removed);
        }
        changed
    }

    fn publish_to(
        &mut self,
        context: &Context,
        deliveries: &Deliveries,
        node: NodeId,
        instances: Vec<AssignedInstance>,
        removed_volumes: Vec<VolumeId>,
    ) {
        let known = self.assignments.get(&node);
        if known.is_some_and(|known| {
            known.routes.generation == self.routes.generation
                && known.instances == instances
                && known.removed_volumes == removed_volumes
        }) {
            return;
        }
        self.generation += 1;
        let assignment = Assignment {
            node,
            generation: self.generation,
            secrets: deliveries.to(&instances),
            instances,
            routes: self.routes.clone(),
            removed_volumes,
        };
        match serde_json::to_vec(&assignment) {
            Ok(mut line) => {
                line.push(b'\n');
                // It may hold secrets: its memory is overwritten when it is no longer the newest.
                context.nodes.publish(node, Bytes::from_owner(Zeroizing::new(line)));
                self.assignments.insert(node, assignment);
            }
            Err(error) => warn!(node.id = %node, "an assignment for node {node} cannot be written: {error}"),
        }
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
    pub(super) fn acknowledged_since(&self, before: u64, acknowledged: u64) -> Vec<AppId> {
        let let_go = self.unrouted.values().filter(|(generation, _)| *generation <= acknowledged);
        let known = self
            .routed
            .values()
            .filter(|(generation, _)| (before.saturating_add(1)..=acknowledged).contains(generation));
        let_go.chain(known).map(|(_, app)| *app).collect()
    }

    /// Of these instances, the apps of those whose routes the nodes have acknowledged already.
    pub(super) fn acknowledged_among(&self, instances: &[InstanceId], acknowledged: u64) -> Vec<AppId> {
        let of = |instance: &InstanceId| self.unrouted.get(instance).or_else(|| self.routed.get(instance));
        instances
            .iter()
            .filter_map(of)
            .filter(|(generation, _)| *generation <= acknowledged)
            .map(|(_, app)| *app)
            .collect()
    }

    /// Fills in what only this process knows: what every ingress has acknowledged of an instance.
    pub(super) fn mark_acknowledged(&self, loaded: &mut Loaded, acknowledged: u64) {
        for instance in &mut loaded.view.instances {
            let is_unroutable =
                loaded.releases.get(&instance.release).is_some_and(|release| !release.is_routed());
            let unrouted = self.unrouted.get(&instance.id);
            instance.let_go =
                is_unroutable || unrouted.is_some_and(|(generation, _)| *generation <= acknowledged);
            let routed = self.routed.get(&instance.id);
            instance.routed =
                is_unroutable || routed.is_some_and(|(generation, _)| *generation <= acknowledged);
        }
    }
}

fn volumes_of(view: &AppView, release: &ReleaseView) -> Vec<AssignedVolume> {
    let has = |volume: &&VolumeView| release.spec.volumes.iter().any(|spec| spec.name == volume.name);
    let assigned = |volume: &VolumeView| AssignedVolume { name: volume.name.clone(), id: volume.id };
    view.volumes.iter().filter(has).map(assigned).collect()
}

/// What each node has to run. Instances that ended are left out, which tells the worker that its report has arrived.
fn assigned(fleet: &Fleet, jobs: &Jobs) -> HashMap<NodeId, Vec<AssignedInstance>> {
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
    jobs.assign(&mut by_node);
    for instances in by_node.values_mut() {
        instances.sort_by_key(|instance| instance.id);
    }
    by_node
}
