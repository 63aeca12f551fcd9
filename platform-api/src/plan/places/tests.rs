//! Nodes that come and go under a global app, by example. What holds for every course of events is in `plan/simulation`.

use wharf_types::NodeId;
use wharf_types::node::ReasonKind;
use wharf_types::state::{InstanceState, RolloutState, Wanted};

use crate::plan::fixture::{Fixture, events, node};
use crate::plan::ids::CountingIds;
use crate::plan::{Change, Places, plan};

const ROOM: u64 = 100;

/// A global app that serves on the nodes from 1 on.
fn serving(nodes: u128) -> Fixture {
    let mut fixture = Fixture::empty(0);
    fixture.nodes = (1..=nodes).map(|number| node(number, ROOM)).collect();
    fixture.ask_for_every_node(true);
    fixture.deploy(1);
    settle(&mut fixture, 1);
    fixture
}

/// Plans until the newest rollout has come through.
fn settle(fixture: &mut Fixture, release: u64) {
    for _ in 0..40 {
        fixture.plan();
        fixture.make_all_ready(release);
        let_go(fixture);
        fixture.wait(5);
    }
    fixture.plan();
    assert_eq!(fixture.app.rollout, None);
}

/// What was unrouted ends.
fn let_go(fixture: &mut Fixture) {
    for instance in &mut fixture.app.instances {
        instance.let_go |= !instance.is_wanted();
        if instance.wanted == Wanted::Stop {
            instance.state = instance.state.advance(InstanceState::Stopped);
        }
    }
}

/// The nodes on which instances of a release are wanted, by number, with their slots.
fn on(fixture: &Fixture, release: u64) -> Vec<(u128, u32)> {
    let wanted = fixture.instances(release).filter(|instance| instance.is_wanted());
    let mut on: Vec<_> = wanted.map(|it| (it.node.unwrap().as_uuid().as_u128(), it.slot)).collect();
    on.sort_unstable();
    on
}

fn id(number: u128) -> NodeId {
    node(number, 0).id
}

#[test]
fn every_node_gets_one_and_one_that_joins_too() {
    let mut fixture = serving(3);
    assert_eq!(on(&fixture, 1), [(1, 0), (2, 1), (3, 2)]);
    assert_eq!(fixture.app.replicas(), 3);
    fixture.nodes.push(node(4, ROOM));
    fixture.plan();
    assert_eq!(on(&fixture, 1), [(1, 0), (2, 1), (3, 2), (4, 3)]);
}

#[test]
fn a_node_that_goes_leaves_nothing_to_others_and_gets_one_again_when_it_is_back() {
    let mut fixture = serving(3);
    let gone = fixture.nodes.remove(1);
    fixture.plan();
    assert_eq!(on(&fixture, 1), [(1, 0), (3, 2)]);
    assert_eq!(fixture.app.replicas(), 2);
    assert!(!fixture.app.is_slot(1) && fixture.app.is_slot(2));
    fixture.nodes.push(gone);
    fixture.plan();
    assert_eq!(on(&fixture, 1), [(1, 0), (2, 1), (3, 2)]);
}

#[test]
fn a_silent_node_keeps_its_instance_until_it_is_given_up() {
    let mut fixture = serving(2);
    fixture.nodes[1].ready = false;
    let changes = fixture.plan();
    assert_eq!((changes.changes, on(&fixture, 1).len()), (vec![], 2));
}

#[test]
fn a_node_that_is_drained_loses_its_instance_without_a_successor() {
    let fixture = serving(2);
    let mut cluster = fixture.cluster();
    cluster.set_draining([id(1)].into());
    let mut ids = CountingIds::starting_at(1 << 80);
    let changes = plan(fixture.now, &fixture.app, &mut cluster, &mut ids).changes;
    let creates = |change: &Change| matches!(change, Change::CreateInstance { .. });
    assert!(!changes.iter().any(creates), "{changes:?}");
    let ends = changes.iter().filter(|change| matches!(change, Change::SetWanted { .. })).count();
    assert_eq!(ends, 1, "{changes:?}");
}

#[test]
fn one_that_has_no_room_waits_with_a_reason_and_the_others_are_served() {
    let mut fixture = serving(2);
    fixture.nodes.push(node(3, 0));
    let changes = fixture.plan();
    assert_eq!(on(&fixture, 1), [(1, 0), (2, 1)]);
    let message = &changes.unplaced[0].message;
    assert!(
        message.starts_with("0 of 1 nodes fit, as it is for n3 alone: 1 has too little free memory"),
        "{message}"
    );
}

#[test]
fn a_rollout_moves_from_node_to_node_and_takes_in_one_that_joins() {
    let mut fixture = serving(3);
    fixture.deploy(2);
    fixture.plan();
    assert_eq!(on(&fixture, 2), [(1, 0)], "one at a time, where the old one is");
    fixture.nodes.push(node(4, ROOM));
    fixture.plan();
    assert_eq!(on(&fixture, 2), [(1, 0), (4, 3)], "there is nothing to protect on a new one");
    settle(&mut fixture, 2);
    assert_eq!(on(&fixture, 2), [(1, 0), (2, 1), (3, 2), (4, 3)]);
    assert_eq!(on(&fixture, 1), []);
}

#[test]
fn a_paused_rollout_gives_a_node_that_joins_the_release_before() {
    let mut fixture = serving(2);
    fixture.deploy(2);
    fixture.plan();
    fixture.pause();
    fixture.nodes.push(node(3, ROOM));
    fixture.plan();
    assert!(on(&fixture, 1).contains(&(3, 2)) && !on(&fixture, 2).contains(&(3, 2)));
}

#[test]
fn where_nothing_may_run_a_release_is_in_service_at_once_and_says_so() {
    let mut fixture = Fixture::empty(0);
    fixture.nodes.clear();
    fixture.ask_for_every_node(true);
    fixture.deploy(1);
    let changes = fixture.plan();
    assert!(events(&changes).contains(&"rollout.serving"), "{changes:?}");
    assert_eq!(fixture.app.rollout.as_ref().map(|rollout| rollout.state), Some(RolloutState::Monitoring));
    fixture.nodes.push(node(1, ROOM));
    fixture.plan();
    assert_eq!(on(&fixture, 1), [(1, 0)]);
}

#[test]
fn an_app_that_had_a_number_keeps_its_slots_and_gets_them_back() {
    let mut fixture = Fixture::empty(0);
    fixture.ask_for_every_node(false);
    fixture.deploy_scaled(1, 3);
    settle(&mut fixture, 1);
    fixture.nodes.push(node(2, ROOM));
    fixture.ask_for_every_node(true);
    fixture.deploy(2);
    fixture.plan();
    assert_eq!(fixture.app.places.at(0).map(|place| place.node), Some(id(1)), "where one runs already");
    assert_eq!(fixture.wanted(1), 3, "nothing is taken away before the release has proved itself");
    settle(&mut fixture, 2);
    assert_eq!((on(&fixture, 2).len(), fixture.wanted(1)), (2, 0));
    fixture.ask_for_every_node(false);
    fixture.deploy_scaled(3, 3);
    settle(&mut fixture, 3);
    assert_eq!((fixture.wanted(3), fixture.wanted(2)), (3, 0));
    assert_eq!(fixture.app.places, Places::default());
}

#[test]
fn what_failed_on_a_node_is_not_held_against_the_next_one_in_its_slot() {
    let mut fixture = serving(2);
    let index = fixture.app.instances.iter().position(|it| it.slot == 1).unwrap();
    fixture.fail(index, ReasonKind::Trap, "boom");
    fixture.plan();
    assert_eq!(on(&fixture, 1), [(1, 0)], "its supervisor gave up");
    fixture.nodes = vec![node(1, ROOM), node(3, ROOM)];
    fixture.plan();
    assert_eq!(on(&fixture, 1), [(1, 0), (3, 1)]);
}
