use std::sync::Arc;

use uuid::Uuid;
use wharf_types::node::NodeRegistration;
use wharf_types::spec::AppSpec;
use wharf_types::state::{Health, InstanceState, Wanted};
use wharf_types::world::World;
use wharf_types::{Digest, NamespaceName, ReleaseId, RolloutId, Timestamp};

use super::*;
use crate::nodes::NodeStatus;
use crate::plan::{AppView, InstanceView, Places, ReleaseView, RolloutView};

/// An app on the nodes 2 and 3, and node 1, which joins.
struct Trio {
    fleet: Fleet,
    app: AppView,
    release: Arc<ReleaseView>,
    last: u128,
}

fn node_id(number: u128) -> NodeId {
    NodeId::from_uuid(Uuid::from_u128(number))
}

fn node(number: u128) -> NodeStatus {
    let registration = NodeRegistration {
        hostname: format!("n{number}"),
        memory_bytes: 1 << 30,
        cpus: 4,
        ..NodeRegistration::default()
    };
    NodeStatus::ready(node_id(number), registration)
}

fn instance(number: u128, release: ReleaseId, slot: u32, node: NodeId) -> InstanceView {
    InstanceView {
        id: InstanceId::from_uuid(Uuid::from_u128(number)),
        release,
        slot,
        node: Some(node),
        wanted: Wanted::Run,
        state: InstanceState::Running,
        health: Health::Healthy,
        restarts: 0,
        reason: None,
        created_at: Timestamp::UNIX_EPOCH,
        ended_at: None,
        replaced: false,
        was_healthy: true,
        let_go: false,
        routed: true,
        moves: false,
    }
}

impl Trio {
    fn new(spec: AppSpec, count: u32) -> Self {
        let id = ReleaseId::from_uuid(Uuid::from_u128(1));
        let release = Arc::new(ReleaseView {
            id,
            number: 1,
            artifact: Digest::of(b"1"),
            world: World::HttpProxy,
            spec: Arc::new(spec),
            secrets: Arc::default(),
            routes: Vec::new(),
        });
        let instances = (0..count)
            .map(|slot| instance(u128::from(slot) + 1, id, slot, node_id(if slot % 2 == 0 { 2 } else { 3 })));
        let app = AppView {
            id: AppId::from_uuid(Uuid::from_u128(7)),
            namespace: NamespaceName::default_namespace(),
            name: "hello".parse().unwrap(),
            deleting: false,
            stopped: None,
            scaled_to: Some(count),
            autoscaled_to: None,
            places: Places::default(),
            target: Some(release.clone()),
            stable: Some(release.clone()),
            latest: Some(release.clone()),
            rollout: None,
            volumes: Vec::new(),
            instances: instances.collect(),
            numbers: Box::new([(id, 1)]),
            alone: BTreeSet::new(),
        };
        let mut trio = Self { fleet: Fleet::default(), app, release, last: 1000 };
        trio.fleet.observe(&[node(2), node(3)]);
        trio.read();
        assert_eq!(trio.fleet.rebalance(), [], "nobody is new");
        trio
    }

    fn read(&mut self) {
        self.fleet.put(self.app.clone(), [self.release.clone()]);
    }

    fn join(&mut self) {
        self.fleet.observe(&[node(1), node(2), node(3)]);
    }

    fn begin_rollout(&mut self) {
        let id = RolloutId::from_uuid(Uuid::from_u128(1));
        let rollout = RolloutView::new(Timestamp::UNIX_EPOCH, id, None, self.release.id);
        self.app.rollout = Some(Box::new(rollout));
        self.read();
    }

    fn end_rollout(&mut self) {
        self.app.rollout = None;
        self.read();
    }

    /// Moves whatever is to move, until nothing is any more. Returns how many instances each node has.
    fn settle(&mut self) -> [usize; 3] {
        for _ in 0..20 {
            if self.fleet.rebalance().is_empty() {
                break;
            }
            for slot in 0..self.app.instances.len() {
                let old = &self.app.instances[slot];
                if self.fleet.rebalance.moves(old.id) {
                    self.last += 1;
                    self.app.instances[slot] = instance(self.last, old.release, old.slot, node_id(1));
                }
            }
            self.read();
        }
        [1, 2, 3].map(|number| {
            self.app.instances.iter().filter(|instance| instance.node == Some(node_id(number))).count()
        })
    }
}

#[test]
fn a_node_that_joins_gets_its_share() {
    let mut trio = Trio::new(AppSpec::default(), 10);
    trio.join();
    let counts = trio.settle();
    assert_eq!((counts[0], counts.iter().sum::<usize>()), (3, 10), "{counts:?}");
    assert!(trio.fleet.rebalance.shares.is_empty());
}

#[test]
fn a_node_that_joins_during_a_rollout_gets_its_share_when_the_rollout_has_ended() {
    let mut trio = Trio::new(AppSpec::default(), 10);
    trio.begin_rollout();
    trio.join();
    assert_eq!(trio.settle(), [0, 5, 5]);
    assert!(!trio.fleet.rebalance.has_work(), "nobody looks again before something has changed");
    // An instance of it is started anew meanwhile.
    trio.app.instances[0].restarts = 1;
    trio.read();
    assert_eq!(trio.settle(), [0, 5, 5]);
    trio.end_rollout();
    let counts = trio.settle();
    assert_eq!((counts[0], counts.iter().sum::<usize>()), (3, 10), "{counts:?}");
}

#[test]
fn what_has_only_been_started_is_waited_for() {
    let mut trio = Trio::new(AppSpec::default(), 6);
    for instance in &mut trio.app.instances {
        (instance.state, instance.health, instance.was_healthy) =
            (InstanceState::Starting, Health::Unknown, false);
    }
    trio.read();
    trio.join();
    assert_eq!(trio.settle(), [0, 3, 3]);
    for instance in &mut trio.app.instances {
        (instance.state, instance.health, instance.was_healthy) =
            (InstanceState::Running, Health::Healthy, true);
    }
    trio.read();
    assert_eq!(trio.settle()[0], 2);
}

#[test]
fn what_can_never_move_is_not_waited_for() {
    let mut spec = AppSpec::default();
    spec.scale.singleton = true;
    let mut trio = Trio::new(spec, 10);
    trio.begin_rollout();
    trio.join();
    assert_eq!(trio.settle(), [0, 5, 5]);
    assert!(trio.fleet.rebalance.shares.is_empty());
}
