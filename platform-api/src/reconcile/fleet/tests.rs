use uuid::Uuid;
use wharf_types::node::NodeRegistration;
use wharf_types::spec::{AppSpec, Replicas};
use wharf_types::state::{Health, InstanceState, Wanted};
use wharf_types::world::World;
use wharf_types::{Digest, NamespaceName, ReleaseId};

use super::*;
use crate::plan::{Places, RandomIds, alone, numbers};

fn node(number: u128) -> NodeId {
    NodeId::from_uuid(Uuid::from_u128(number))
}

fn status(number: u128, ready: bool) -> NodeStatus {
    let registration = NodeRegistration {
        hostname: format!("node-{number}"),
        memory_bytes: 1 << 30,
        cpus: 4,
        ..NodeRegistration::default()
    };
    NodeStatus { ready, takes_more: ready, ..NodeStatus::ready(node(number), registration) }
}

/// An app with an instance on each of these nodes, put into the fleet.
fn put(fleet: &mut Fleet, number: u128, nodes: &[u128], replicas: Replicas) -> AppId {
    let mut spec = AppSpec::default();
    spec.scale.replicas = replicas;
    let release = Arc::new(ReleaseView {
        id: ReleaseId::from_uuid(Uuid::from_u128(number)),
        number: 1,
        artifact: Digest::of(b"app"),
        world: World::HttpProxy,
        spec: Arc::new(spec),
        secrets: Arc::default(),
        routes: Vec::new(),
    });
    let releases = [release.clone()];
    let instance = |(slot, node_number): (u32, &u128)| InstanceView {
        id: InstanceId::from_uuid(Uuid::from_u128(number << 64 | u128::from(slot))),
        release: release.id,
        slot,
        node: Some(node(*node_number)),
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
    };
    let id = AppId::from_uuid(Uuid::from_u128(number));
    let view = AppView {
        id,
        namespace: NamespaceName::default_namespace(),
        name: format!("app-{number}").parse().unwrap(),
        deleting: false,
        stopped: None,
        scaled_to: None,
        autoscaled_to: None,
        places: Places::default(),
        target: Some(release.clone()),
        stable: Some(release.clone()),
        latest: Some(release.clone()),
        rollout: None,
        volumes: Vec::new(),
        instances: (0..).zip(nodes).map(instance).collect(),
        numbers: numbers(&releases),
        alone: alone(&releases),
    };
    fleet.put(view, releases);
    id
}

#[test]
fn a_node_concerns_those_who_have_something_there_wait_for_room_or_want_to_be_everywhere() {
    let mut fleet = Fleet::default();
    assert_eq!(fleet.observe(&[status(1, true), status(2, true)]), Some(BTreeSet::new()));
    assert_eq!(fleet.observe(&[status(1, true), status(2, true)]), None);
    let first = put(&mut fleet, 1, &[1], Replicas::Fixed(1));
    let second = put(&mut fleet, 2, &[2], Replicas::Fixed(1));
    let both = put(&mut fleet, 3, &[1, 2], Replicas::Fixed(2));
    let everywhere = put(&mut fleet, 4, &[], Replicas::GLOBAL);
    let silent = [status(1, false), status(2, true)];
    assert_eq!(fleet.observe(&silent), Some(BTreeSet::from([first, both, everywhere])));
    let gone =
        [status(1, false), NodeStatus { given_up: true, ready: false, takes_more: false, ..status(2, true) }];
    assert_eq!(fleet.observe(&gone), Some(BTreeSet::from([second, both, everywhere])));
    let waiting = put(&mut fleet, 5, &[], Replicas::Fixed(1));
    let changes = fleet.plan(Timestamp::UNIX_EPOCH, waiting, &mut RandomIds).unwrap();
    assert!(!changes.unplaced.is_empty(), "no node is ready");
    let new = [gone[0].clone(), gone[1].clone(), status(3, true)];
    assert_eq!(fleet.observe(&new), Some(BTreeSet::from([waiting, everywhere])));
    let changes = fleet.plan(Timestamp::UNIX_EPOCH, waiting, &mut RandomIds).unwrap();
    assert!(changes.unplaced.is_empty());
    fleet.remove(everywhere);
    assert_eq!(fleet.observe(&new[..2]), Some(BTreeSet::new()), "nothing is there or waits");
}

#[test]
fn a_node_that_is_given_up_long_after_it_fell_silent_concerns_who_is_there() {
    let mut fleet = Fleet::default();
    fleet.observe(&[status(1, true), status(2, true)]);
    let second = put(&mut fleet, 2, &[2], Replicas::Fixed(1));
    // All are silent, so none is given up for now, and by and by they have let go of what there is only one of.
    let released = |number| NodeStatus { released: true, ..status(number, false) };
    fleet.observe(&[status(1, false), status(2, false)]);
    fleet.observe(&[released(1), released(2)]);
    let given_up = [status(1, true), NodeStatus { given_up: true, ..released(2) }];
    assert!(fleet.observe(&given_up).is_some_and(|apps| apps.contains(&second)));
    assert_eq!(fleet.observe(&given_up), None);
}

#[test]
fn a_node_that_says_something_else_of_itself_concerns_who_is_there() {
    let mut fleet = Fleet::default();
    fleet.observe(&[status(1, true), status(2, true)]);
    let first = put(&mut fleet, 1, &[1], Replicas::Fixed(1));
    put(&mut fleet, 2, &[2], Replicas::Fixed(1));
    let mut labelled = status(1, true);
    labelled.registration.labels.insert("zone".to_owned(), "a".to_owned());
    assert_eq!(fleet.observe(&[labelled, status(2, true)]), Some(BTreeSet::from([first])));
}

#[test]
fn what_changed_is_said_once() {
    let mut fleet = Fleet::default();
    let app = put(&mut fleet, 1, &[1], Replicas::Fixed(1));
    assert!(fleet.has_changed());
    assert_eq!(fleet.take_changed(), BTreeSet::from([app]));
    put(&mut fleet, 1, &[1], Replicas::Fixed(1));
    assert!(!fleet.has_changed(), "it is the same");
    fleet.remove(app);
    assert_eq!(fleet.take_changed(), BTreeSet::from([app]));
}
