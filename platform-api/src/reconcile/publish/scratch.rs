//! What has to be published, found by looking at everything: what the simulator and the tests compare with.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use wharf_types::node::{AssignedInstance, Assignment};
use wharf_types::route::RouteTable;
use wharf_types::secret::DeliveredSecret;
use wharf_types::state::Wanted;
use wharf_types::{InstanceId, JobId, NodeId, SecretVersionId};

use super::ways::Way;
use super::whole::{Assigned, Common};
use super::{Beside, Publisher, reached};
use crate::nodes::NodeStatus;
use crate::plan;
use crate::plan::job::JobView;
use crate::reconcile::Fleet;

impl Publisher {
    /// Whether nodes were told just what apps and jobs as they are make of it. Call it when everything was taken in and published.
    pub fn check(
        &self,
        fleet: &Fleet,
        jobs: &HashMap<JobId, JobView>,
        nodes: &[NodeStatus],
        beside: Beside<'_>,
    ) -> Result<(), String> {
        let generation = self.routing.told().generation;
        let table = RouteTable {
            limits: beside.rates.to_vec(),
            nodes: reached(nodes),
            removed: beside.removed.to_vec(),
            ..plan::routes::build(generation, fleet.views())
        };
        let told = self.routing.told().table();
        if told != table {
            return Err(format!("the routes are {told:?}, and should be {table:?}"));
        }
        let table = Arc::new(table);
        let mut by_node = assigned(fleet, jobs);
        for node in nodes {
            let told = self.told.get(&node.id).ok_or_else(|| format!("node {} was told nothing", node.id))?;
            let instances = by_node.remove(&node.id).unwrap_or_default();
            let singletons = instances.iter().filter(|instance| instance.spec.scale.singleton);
            let singletons: BTreeSet<InstanceId> = singletons.map(|instance| instance.id).collect();
            let assignment = Assignment {
                node: node.id,
                generation: told.generation,
                secrets: secrets(&instances, beside.secrets),
                instances,
                routes: table.clone(),
                removed_volumes: beside.doomed.get(&node.id).cloned().unwrap_or_default(),
            };
            if told.assignment() != assignment || *told.singletons != singletons {
                return Err(format!("node {} was told {told:?}, and should be {assignment:?}", node.id));
            }
        }
        self.check_ways(fleet, &table)
    }

    /// Whether just those instances count as routed and as unrouted that are.
    fn check_ways(&self, fleet: &Fleet, table: &RouteTable) -> Result<(), String> {
        let http = table.routes.iter().flat_map(|route| &route.endpoints).map(|endpoint| endpoint.instance);
        let tcp = table.tcp.iter().flat_map(|route| &route.endpoints).map(|endpoint| endpoint.instance);
        let routed: BTreeSet<InstanceId> = http.chain(tcp).collect();
        let mut known: BTreeMap<InstanceId, Way> = BTreeMap::new();
        for own in self.apps.values().flat_map(|app| &app.own) {
            if !own.is_live && !routed.contains(&own.id) {
                return Err(format!("instance {} has ended and is not routed, and is still known", own.id));
            }
            known.insert(own.id, own.way);
        }
        for (_, _, instance) in fleet.instances() {
            let way = known.get(&instance.id).copied();
            let is_right = match way {
                Some(Way::Routed(since)) => routed.contains(&instance.id) && since <= table.generation,
                Some(Way::Unrouted(since)) => {
                    !routed.contains(&instance.id)
                        && instance.wanted >= Wanted::Unroute
                        && since <= table.generation
                }
                Some(Way::Unknown) => !routed.contains(&instance.id) && instance.wanted < Wanted::Unroute,
                None => false,
            };
            if !is_right {
                return Err(format!("of instance {} is known: {way:?}", instance.id));
            }
        }
        Ok(())
    }
}

fn secrets(
    instances: &[AssignedInstance],
    open: &dyn Fn(SecretVersionId) -> Option<DeliveredSecret>,
) -> Vec<DeliveredSecret> {
    let used: BTreeSet<SecretVersionId> =
        instances.iter().flat_map(|instance| instance.secrets.values().copied()).collect();
    used.into_iter().filter_map(open).collect()
}

/// What each node has to run.
fn assigned(fleet: &Fleet, jobs: &HashMap<JobId, JobView>) -> HashMap<NodeId, Vec<AssignedInstance>> {
    let mut by_node: HashMap<NodeId, Vec<AssignedInstance>> = HashMap::new();
    for (view, release, instance) in fleet.instances() {
        let Some(node) = instance.node else { continue };
        let common = Arc::new(Common::of_app(view, release));
        by_node.entry(node).or_default().push(Assigned::of_app(instance, &common).told());
    }
    for view in jobs.values() {
        let common = Arc::new(Common::of_job(view));
        for run in view.runs.iter().filter(|run| run.is_live()) {
            by_node.entry(run.node).or_default().push(Assigned::of_job(view, run, &common).told());
        }
    }
    for instances in by_node.values_mut() {
        instances.sort_by_key(|instance| instance.id);
    }
    by_node
}
