//! What changes one assignment into the next, so that a node with a thousand instances is not told of all of them when one changes.
//!
//! A delta names the generation that it follows. Whoever has accepted another asks for the whole again; nothing is guessed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{InstanceId, NodeId, SecretVersionId, VolumeId};
use crate::name::{AppName, NamespaceName};
use crate::node::{AssignedInstance, Assignment};
use crate::route::{ContainerRoute, RateLimit, Route, RouteNode, RoutePattern, RouteTable, TcpRoute};
use crate::secret::DeliveredSecret;

/// How a stream of assignments begins where a worker takes deltas: the value of its request's `Accept` header.
pub const DELTAS: &str = "application/vnd.wharf.deltas+x-ndjson";

/// From one assignment to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentDelta {
    pub node: NodeId,
    /// The generation that it changes.
    pub after: u64,
    pub generation: u64,
    /// Those that are new, or of which something else is wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<AssignedInstance>,
    /// Those that are not listed any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_instances: Vec<InstanceId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<DeliveredSecret>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_secrets: Vec<SecretVersionId>,
    /// None: they are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_volumes: Option<Vec<VolumeId>>,
    /// None: they are the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Arc<RoutesDelta>>,
}

/// From one route table to the next. It is the same for every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutesDelta {
    /// The generation that it changes.
    pub after: u64,
    pub generation: u64,
    /// Those that are new or lead elsewhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Arc<Route>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_routes: Vec<RoutePattern>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tcp: Vec<Arc<TcpRoute>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_tcp: Vec<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<Arc<ContainerRoute>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped_containers: Vec<(NamespaceName, AppName)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Vec<RateLimit>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<RouteNode>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<Vec<NodeId>>,
}

/// A line of the stream of assignments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Whole(Box<Assignment>),
    Delta(Box<AssignmentDelta>),
}

/// How a line with a delta begins. A whole assignment has no such field.
const DELTA_LINE: &[u8] = b"{\"delta\":";
/// Room that the line of a delta has without its routes, and for each of its instances, so that it need not grow while it is written: with other
/// routes there is one for each node.
const LINE_BYTES: usize = 192;
const INSTANCE_BYTES: usize = 1024;

#[derive(Deserialize)]
struct DeltaLine {
    delta: Box<AssignmentDelta>,
}

impl Told {
    /// Reads one line.
    pub fn read(line: &[u8]) -> Result<Self, serde_json::Error> {
        if line.starts_with(DELTA_LINE) {
            serde_json::from_slice::<DeltaLine>(line).map(|line| Self::Delta(line.delta))
        } else {
            serde_json::from_slice(line).map(|whole| Self::Whole(Box::new(whole)))
        }
    }
}

impl AssignmentDelta {
    /// The line of the stream, with its end. `routes` are the JSON of [`Self::routes`], which is written once for all nodes.
    pub fn line(&self, routes: Option<&[u8]>) -> Result<Vec<u8>, serde_json::Error> {
        let mut line = self.line_before_routes(routes.is_some())?;
        if let Some(routes) = routes {
            line.extend_from_slice(routes);
            line.extend_from_slice(Self::AFTER_ROUTES);
        }
        Ok(line)
    }

    /// How a line goes on after its routes.
    pub const AFTER_ROUTES: &[u8] = b"}}\n";

    /// The line up to the JSON of its routes, or all of it where it has none: so that these need not be copied for each node.
    pub fn line_before_routes(&self, has_routes: bool) -> Result<Vec<u8>, serde_json::Error> {
        let rest = Self { routes: None, ..self.clone() };
        let mut line = Vec::with_capacity(LINE_BYTES + self.instances.len() * INSTANCE_BYTES);
        line.extend_from_slice(DELTA_LINE);
        serde_json::to_writer(&mut line, &rest)?;
        if has_routes {
            line.pop();
            line.extend_from_slice(b",\"routes\":");
        } else {
            line.extend_from_slice(b"}\n");
        }
        Ok(line)
    }

    /// Between two assignments of a node. Whether an instance was observed to get further is no change: only a worker's new process asks, and that
    /// gets the whole.
    pub fn between(before: &Assignment, after: &Assignment, routes: Option<Arc<RoutesDelta>>) -> Self {
        let known: HashMap<InstanceId, &AssignedInstance> =
            before.instances.iter().map(|instance| (instance.id, instance)).collect();
        let is_same = |instance: &&AssignedInstance| {
            known.get(&instance.id).is_some_and(|known| known.is_as_wanted(instance))
        };
        let stay: HashSet<InstanceId> = after.instances.iter().map(|instance| instance.id).collect();
        let (secrets, dropped_secrets) = changed(&before.secrets, &after.secrets, |secret| secret.id);
        let is_other = before.removed_volumes != after.removed_volumes;
        Self {
            node: after.node,
            after: before.generation,
            generation: after.generation,
            instances: after.instances.iter().filter(|instance| !is_same(instance)).cloned().collect(),
            dropped_instances: known.keys().copied().filter(|id| !stay.contains(id)).collect(),
            secrets,
            dropped_secrets,
            removed_volumes: is_other.then(|| after.removed_volumes.clone()),
            routes,
        }
    }
}

impl RoutesDelta {
    /// Between two tables.
    pub fn between(before: &RouteTable, after: &RouteTable) -> Self {
        let (routes, dropped_routes) = changed(&before.routes, &after.routes, |route| route.pattern.clone());
        let (tcp, dropped_tcp) = changed(&before.tcp, &after.tcp, |route| route.port);
        let (containers, dropped_containers) =
            changed(&before.containers, &after.containers, |route| name_of(route));
        Self {
            after: before.generation,
            generation: after.generation,
            routes,
            dropped_routes,
            tcp,
            dropped_tcp,
            containers,
            dropped_containers,
            limits: (before.limits != after.limits).then(|| after.limits.clone()),
            nodes: (before.nodes != after.nodes).then(|| after.nodes.clone()),
            removed: (before.removed != after.removed).then(|| after.removed.clone()),
        }
    }
}

impl Assignment {
    /// What it becomes with a delta. None: the delta changes another one.
    pub fn with(&self, delta: &AssignmentDelta) -> Option<Self> {
        if (delta.node, delta.after) != (self.node, self.generation) {
            return None;
        }
        let routes = match &delta.routes {
            Some(routes) => Arc::new(self.routes.with(routes)?),
            None => self.routes.clone(),
        };
        Some(Self {
            node: self.node,
            generation: delta.generation,
            instances: merged(&self.instances, &delta.instances, &delta.dropped_instances, |it| it.id),
            secrets: merged(&self.secrets, &delta.secrets, &delta.dropped_secrets, |it| it.id),
            routes,
            removed_volumes: delta.removed_volumes.clone().unwrap_or_else(|| self.removed_volumes.clone()),
        })
    }
}

impl RouteTable {
    /// The same of routes.
    pub fn with(&self, delta: &RoutesDelta) -> Option<Self> {
        (delta.after == self.generation).then(|| Self {
            generation: delta.generation,
            routes: merged(&self.routes, &delta.routes, &delta.dropped_routes, |it| it.pattern.clone()),
            tcp: merged(&self.tcp, &delta.tcp, &delta.dropped_tcp, |it| it.port),
            containers: merged(&self.containers, &delta.containers, &delta.dropped_containers, |it| {
                name_of(it)
            }),
            limits: delta.limits.clone().unwrap_or_else(|| self.limits.clone()),
            nodes: delta.nodes.clone().unwrap_or_else(|| self.nodes.clone()),
            removed: delta.removed.clone().unwrap_or_else(|| self.removed.clone()),
        })
    }
}

fn name_of(route: &ContainerRoute) -> (NamespaceName, AppName) {
    (route.namespace.clone(), route.app.clone())
}

/// What is new or different, and the keys of what is gone.
fn changed<T: Clone + PartialEq, K: Clone + Eq + Hash + Ord>(
    before: &[T],
    after: &[T],
    key: impl Fn(&T) -> K,
) -> (Vec<T>, Vec<K>) {
    let mut known: BTreeMap<K, &T> = before.iter().map(|it| (key(it), it)).collect();
    let new = after.iter().filter(|it| known.remove(&key(it)) != Some(it)).cloned().collect();
    (new, known.into_keys().collect())
}

/// In the order of the keys.
fn merged<T: Clone, K: Clone + Ord>(before: &[T], new: &[T], dropped: &[K], key: impl Fn(&T) -> K) -> Vec<T> {
    let mut all: BTreeMap<K, &T> = before.iter().chain(new).map(|it| (key(it), it)).collect();
    for key in dropped {
        all.remove(key);
    }
    all.into_values().cloned().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::digest::Digest;
    use crate::route::ContainerEndpoint;
    use crate::secret::SecretContent;
    use crate::state::{InstanceState, Wanted};
    use crate::world::World;

    fn instance(id: u8, wanted: u8, observed: bool) -> AssignedInstance {
        AssignedInstance {
            id: InstanceId::from_uuid(Uuid::from_u128(id.into())),
            wanted: [Wanted::Run, Wanted::Unroute, Wanted::Stop][usize::from(wanted)],
            observed: if observed { InstanceState::Running } else { InstanceState::Assigned },
            namespace: "default".parse().unwrap(),
            app: "hello".parse().unwrap(),
            release: 1,
            slot: 0,
            artifact: Digest::of(b"hello"),
            world: World::HttpProxy,
            spec: Arc::default(),
            secrets: Arc::default(),
            volumes: Vec::new(),
            job: None,
        }
    }

    fn route(name: u8, stopped: bool) -> Arc<Route> {
        Arc::new(Route {
            pattern: format!("a{name}.example.com").parse().unwrap(),
            namespace: "default".parse().unwrap(),
            app: "hello".parse().unwrap(),
            endpoints: Vec::new(),
            stopped,
            counted: false,
            wakes: false,
            canary: None,
        })
    }

    fn container(name: u8, is_ready: bool) -> Arc<ContainerRoute> {
        let endpoint = ContainerEndpoint {
            instance: InstanceId::from_uuid(Uuid::from_u128(name.into())),
            node: NodeId::from_uuid(Uuid::nil()),
        };
        Arc::new(ContainerRoute {
            namespace: "default".parse().unwrap(),
            app: format!("a{name}").parse().unwrap(),
            networks: BTreeMap::new(),
            apart: false,
            endpoints: is_ready.then_some(endpoint).into_iter().collect(),
        })
    }

    prop_compose! {
        fn assignments()(
            instances in proptest::collection::btree_map(0..6_u8, (0..3_u8, any::<bool>()), 0..6),
            secrets in proptest::collection::btree_set(0..4_u8, 0..4),
            routes in proptest::collection::btree_map(0..6_u8, any::<bool>(), 0..6),
            containers in proptest::collection::btree_map(0..6_u8, any::<bool>(), 0..6),
            limited in any::<bool>(),
            removed in proptest::collection::vec(0..3_u8, 0..2),
        ) -> Assignment {
            let secret = |id: u8| DeliveredSecret {
                id: SecretVersionId::from_uuid(Uuid::from_u128(id.into())),
                content: SecretContent::Unreadable("why".into()),
            };
            let limit = RateLimit { requests_per_second: Some(3), ..RateLimit::of("default".parse().unwrap()) };
            Assignment {
                node: NodeId::from_uuid(Uuid::nil()),
                generation: 0,
                instances: instances.into_iter().map(|(id, (wanted, observed))| instance(id, wanted, observed)).collect(),
                secrets: secrets.into_iter().map(secret).collect(),
                routes: Arc::new(RouteTable {
                    routes: routes.into_iter().map(|(name, stopped)| route(name, stopped)).collect(),
                    containers: containers.into_iter().map(|(name, is_ready)| container(name, is_ready)).collect(),
                    limits: limited.then_some(limit).into_iter().collect(),
                    ..RouteTable::default()
                }),
                removed_volumes: removed.into_iter().map(|id| VolumeId::from_uuid(Uuid::from_u128(id.into()))).collect(),
            }
        }
    }

    fn at(generation: u64, mut assignment: Assignment) -> Assignment {
        assignment.generation = generation;
        Arc::make_mut(&mut assignment.routes).generation = generation;
        assignment
    }

    fn without_observed(assignment: &Assignment) -> Assignment {
        let mut assignment = assignment.clone();
        for instance in &mut assignment.instances {
            instance.observed = InstanceState::Assigned;
        }
        assignment
    }

    proptest! {
        #[test]
        fn a_delta_and_what_it_changes_make_the_next(first in assignments(), second in assignments()) {
            let (first, second) = (at(3, first), at(7, second));
            let routes = Arc::new(RoutesDelta::between(&first.routes, &second.routes));
            let delta = AssignmentDelta::between(&first, &second, Some(routes.clone()));
            let line = delta.line(Some(&serde_json::to_vec(&routes).unwrap())).unwrap();
            let Told::Delta(read) = Told::read(&line).unwrap() else { panic!("it is a delta") };
            prop_assert_eq!(&*read, &delta);
            let made = first.with(&read).unwrap();
            prop_assert_eq!(without_observed(&made), without_observed(&second));
        }

        #[test]
        fn what_does_not_change_is_not_said(first in assignments()) {
            let first = at(3, first);
            let delta = AssignmentDelta::between(&first, &Assignment { generation: 4, ..first.clone() }, None);
            prop_assert!(delta.instances.is_empty() && delta.dropped_instances.is_empty());
            prop_assert!(delta.secrets.is_empty() && delta.dropped_secrets.is_empty() && delta.removed_volumes.is_none());
        }
    }

    #[test]
    fn a_delta_of_another_assignment_is_refused() {
        let empty = Assignment {
            node: NodeId::from_uuid(Uuid::nil()),
            generation: 3,
            instances: Vec::new(),
            secrets: Vec::new(),
            routes: Arc::default(),
            removed_volumes: Vec::new(),
        };
        let next = Assignment { generation: 4, ..empty.clone() };
        let delta = AssignmentDelta::between(&empty, &next, None);
        assert!(empty.with(&delta).is_some());
        assert!(next.with(&delta).is_none(), "it was applied before");
        assert!(Assignment { node: NodeId::from_uuid(Uuid::max()), ..empty.clone() }.with(&delta).is_none());
        let routes =
            RoutesDelta::between(&RouteTable { generation: 9, ..RouteTable::default() }, &empty.routes);
        assert!(empty.with(&AssignmentDelta { routes: Some(Arc::new(routes)), ..delta }).is_none());
    }

    #[test]
    fn a_whole_assignment_is_read_as_that_and_nonsense_as_nothing() {
        let whole = at(
            3,
            Assignment {
                node: NodeId::from_uuid(Uuid::nil()),
                generation: 3,
                instances: vec![instance(1, 0, false)],
                secrets: Vec::new(),
                routes: Arc::default(),
                removed_volumes: Vec::new(),
            },
        );
        let line = serde_json::to_vec(&whole).unwrap();
        assert_eq!(Told::read(&line).unwrap(), Told::Whole(Box::new(whole)));
        for nonsense in [&b"{\"delta\":3}"[..], b"{\"delta\":{}}", b"{}", b"[", b"\xff"] {
            Told::read(nonsense).unwrap_err();
        }
    }
}
