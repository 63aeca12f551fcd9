//! What a node is told, so that the next thing it is told shares with it whatever stays the same.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wharf_types::node::{AssignedInstance, AssignedJob, AssignedVolume, Assignment};
use wharf_types::route::{ContainerRoute, RateLimit, Route, RouteNode, RoutePattern, RouteTable, TcpRoute};
use wharf_types::secret::DeliveredSecret;
use wharf_types::spec::AppSpec;
use wharf_types::state::{InstanceState, Wanted};
use wharf_types::world::World;
use wharf_types::{AppId, AppName, Digest, InstanceId, NamespaceName, NodeId, SecretVersionId, VolumeId};

use super::sorted::{Keyed, Sorted};
use crate::plan::job::{JobView, RunView};
use crate::plan::{AppView, InstanceView, ReleaseView, VolumeView};

/// An [`Assignment`] before anybody asks for all of it.
#[derive(Clone, Debug)]
pub struct Whole {
    pub node: NodeId,
    pub generation: u64,
    pub(super) instances: Sorted<Assigned>,
    pub(super) secrets: Sorted<DeliveredSecret>,
    pub(super) singletons: Arc<BTreeSet<InstanceId>>,
    pub(super) routes: Arc<Routes>,
    pub(super) removed_volumes: Vec<VolumeId>,
}

/// A [`RouteTable`] before anybody asks for all of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    pub(super) generation: u64,
    pub(super) http: Sorted<Claim<Route>>,
    pub(super) tcp: Sorted<Claim<TcpRoute>>,
    pub(super) containers: Sorted<Claim<ContainerRoute>>,
    pub(super) limits: Vec<RateLimit>,
    pub(super) nodes: Vec<RouteNode>,
    pub(super) removed: Vec<NodeId>,
}

/// A route, and the app that it leads to.
#[derive(Clone, Debug)]
pub(super) struct Claim<T> {
    pub(super) app: AppId,
    pub(super) route: Arc<T>,
}

/// An [`AssignedInstance`]; there may be a million of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Assigned {
    pub(super) id: InstanceId,
    pub(super) common: Arc<Common>,
    job: Option<Arc<AssignedJob>>,
    slot: u32,
    wanted: Wanted,
    observed: InstanceState,
}

/// What all instances of a release, or all runs of a job, are told alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Common {
    pub(crate) namespace: NamespaceName,
    pub(crate) app: AppName,
    /// Number of the release.
    release: u64,
    pub(crate) artifact: Arc<Digest>,
    world: World,
    pub(crate) spec: Arc<AppSpec>,
    pub(super) secrets: Arc<BTreeMap<String, SecretVersionId>>,
    volumes: Vec<AssignedVolume>,
}

impl Whole {
    /// All of it: this takes as long as there is much.
    pub fn assignment(&self) -> Assignment {
        Assignment {
            node: self.node,
            generation: self.generation,
            instances: self.instances.iter().map(Assigned::told).collect(),
            secrets: self.secrets.iter().cloned().collect(),
            routes: Arc::new(self.routes.table()),
            removed_volumes: self.removed_volumes.clone(),
        }
    }

    /// What each of its instances is told that others are told, too.
    pub(crate) fn commons(&self) -> impl Iterator<Item = &Common> {
        self.instances.iter().map(|assigned| &*assigned.common)
    }

    /// The same of one of them.
    pub(crate) fn common(&self, id: InstanceId) -> Option<&Common> {
        self.instances.get(&id).map(|assigned| &*assigned.common)
    }

    /// Those of its instances of which there is to be only one each.
    pub(crate) fn singletons(&self) -> &Arc<BTreeSet<InstanceId>> {
        &self.singletons
    }
}

impl Routes {
    pub(super) fn table(&self) -> RouteTable {
        RouteTable {
            generation: self.generation,
            routes: self.http.iter().map(|claim| claim.route.clone()).collect(),
            tcp: self.tcp.iter().map(|claim| claim.route.clone()).collect(),
            containers: self.containers.iter().map(|claim| claim.route.clone()).collect(),
            limits: self.limits.clone(),
            nodes: self.nodes.clone(),
            removed: self.removed.clone(),
        }
    }
}

impl Assigned {
    pub(super) fn of_app(instance: &InstanceView, common: &Arc<Common>) -> Self {
        Self {
            id: instance.id,
            common: common.clone(),
            job: None,
            slot: instance.slot,
            wanted: instance.wanted,
            observed: instance.state,
        }
    }

    pub(super) fn of_job(view: &JobView, run: &RunView, common: &Arc<Common>) -> Self {
        let job =
            AssignedJob { id: view.id, index: view.spec.indexed.then_some(run.index), attempt: run.attempt };
        Self {
            id: run.id,
            common: common.clone(),
            job: Some(Arc::new(job)),
            slot: run.index,
            wanted: run.wanted(),
            observed: run.state,
        }
    }

    /// Like [`AssignedInstance::is_as_wanted`].
    pub(super) fn is_as_wanted(&self, other: &Self) -> bool {
        *self == Self { observed: self.observed, ..other.clone() }
    }

    pub(super) fn is_singleton(&self) -> bool {
        self.common.spec.scale.singleton
    }

    /// As the node is told.
    pub(super) fn told(&self) -> AssignedInstance {
        let common = &*self.common;
        AssignedInstance {
            id: self.id,
            wanted: self.wanted,
            observed: self.observed,
            namespace: common.namespace.clone(),
            app: common.app.clone(),
            release: common.release,
            slot: self.slot,
            artifact: *common.artifact,
            world: common.world,
            spec: common.spec.clone(),
            secrets: common.secrets.clone(),
            volumes: common.volumes.clone(),
            job: self.job.as_deref().cloned(),
        }
    }
}

impl Common {
    pub(super) fn of_app(view: &AppView, release: &ReleaseView) -> Self {
        Self {
            namespace: view.namespace.clone(),
            app: view.name.clone(),
            release: release.number,
            artifact: Arc::new(release.artifact),
            world: release.world,
            spec: release.spec.clone(),
            secrets: release.secrets.clone(),
            volumes: volumes_of(view, release),
        }
    }

    pub(super) fn of_job(view: &JobView) -> Self {
        let command = &view.command;
        Self {
            namespace: view.namespace.clone(),
            app: command.app.clone(),
            release: command.release,
            artifact: Arc::new(command.artifact),
            world: command.world,
            spec: command.spec.clone(),
            secrets: command.secrets.clone(),
            volumes: Vec::new(),
        }
    }
}

fn volumes_of(view: &AppView, release: &ReleaseView) -> Vec<AssignedVolume> {
    let has = |volume: &&VolumeView| release.spec.volumes.iter().any(|spec| spec.name == volume.name);
    let assigned = |volume: &VolumeView| AssignedVolume { name: volume.name.clone(), id: volume.id };
    view.volumes.iter().filter(has).map(assigned).collect()
}

impl Keyed for Assigned {
    type Key = InstanceId;

    fn key(&self) -> InstanceId {
        self.id
    }

    fn compare(&self, key: &InstanceId) -> Ordering {
        self.id.cmp(key)
    }
}

impl Keyed for DeliveredSecret {
    type Key = SecretVersionId;

    fn key(&self) -> SecretVersionId {
        self.id
    }

    fn compare(&self, key: &SecretVersionId) -> Ordering {
        self.id.cmp(key)
    }
}

impl Keyed for Claim<Route> {
    type Key = RoutePattern;

    fn key(&self) -> RoutePattern {
        self.route.pattern.clone()
    }

    fn compare(&self, key: &RoutePattern) -> Ordering {
        self.route.pattern.cmp(key)
    }
}

impl Keyed for Claim<TcpRoute> {
    type Key = u16;

    fn key(&self) -> u16 {
        self.route.port
    }

    fn compare(&self, key: &u16) -> Ordering {
        self.route.port.cmp(key)
    }
}

impl Keyed for Claim<ContainerRoute> {
    type Key = (NamespaceName, AppName);

    fn key(&self) -> (NamespaceName, AppName) {
        (self.route.namespace.clone(), self.route.app.clone())
    }

    fn compare(&self, (namespace, app): &(NamespaceName, AppName)) -> Ordering {
        (&self.route.namespace, &self.route.app).cmp(&(namespace, app))
    }
}

#[cfg(test)]
impl Whole {
    /// One with these instances and nothing else.
    pub(crate) fn of(node: NodeId, generation: u64, instances: &[AssignedInstance]) -> Self {
        let instances: Sorted<Assigned> = instances.iter().map(Assigned::from_told).collect();
        let singletons = instances.iter().filter(|it| it.is_singleton()).map(|it| it.id).collect();
        Self {
            node,
            generation,
            instances,
            secrets: Sorted::default(),
            singletons: Arc::new(singletons),
            routes: Arc::default(),
            removed_volumes: Vec::new(),
        }
    }
}

#[cfg(test)]
impl Assigned {
    fn from_told(instance: &AssignedInstance) -> Self {
        let common = Common {
            namespace: instance.namespace.clone(),
            app: instance.app.clone(),
            release: instance.release,
            artifact: Arc::new(instance.artifact),
            world: instance.world,
            spec: instance.spec.clone(),
            secrets: instance.secrets.clone(),
            volumes: instance.volumes.clone(),
        };
        Self {
            id: instance.id,
            common: Arc::new(common),
            job: instance.job.clone().map(Arc::new),
            slot: instance.slot,
            wanted: instance.wanted,
            observed: instance.observed,
        }
    }
}
