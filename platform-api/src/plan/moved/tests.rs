use std::collections::HashSet;

use super::super::fixture::{Fixture, node};
use super::super::ids::CountingIds;
use super::super::{Changes, plan};
use super::*;

fn told(changes: &Changes) -> Vec<(&'static str, String)> {
    let event = |change: &Change| match change {
        Change::Event { kind, message } => Some((*kind, message.clone())),
        _ => None,
    };
    changes.changes.iter().filter_map(event).collect()
}

/// Plans with node 1 to be emptied.
fn plan_draining(fixture: &Fixture) -> Changes {
    let mut cluster = fixture.cluster();
    cluster.set_draining(HashSet::from([fixture.nodes[0].id]));
    plan(fixture.now, &fixture.app, &mut cluster, &mut CountingIds::starting_at(1 << 80))
}

#[test]
fn what_is_lost_with_a_node_is_one_event_and_where_it_goes_another() {
    let mut fixture = Fixture::serving(1, 4);
    let mut cluster = fixture.cluster();
    cluster.remove_node(fixture.nodes[0].id);
    fixture.nodes = vec![node(2, 1000), node(3, 2000)];
    for node in fixture.cluster().node_ids() {
        let registration = wharf_types::node::NodeRegistration {
            hostname: format!("n{}", node.as_uuid().as_u128()),
            memory_bytes: 1 << 30,
            cpus: 4,
            ..Default::default()
        };
        cluster.set_node(node, &registration, true);
    }
    let changes = plan(fixture.now, &fixture.app, &mut cluster, &mut CountingIds::starting_at(1 << 80));
    assert_eq!(
        told(&changes),
        [
            ("instance.lost", "n1 is gone, and with it what ran in slots 1, 2, 3, 4".to_owned()),
            ("instance.moved", "from n1, which is gone: slots 1, 3 to n2, slots 2, 4 to n3".to_owned()),
        ]
    );
}

#[test]
fn what_leaves_a_node_that_is_drained_is_told_from_what_gives_another_its_share() {
    let mut fixture = Fixture::serving(1, 2);
    fixture.nodes[0].ready = false;
    fixture.nodes.push(node(2, 1000));
    fixture.app.instances.iter_mut().for_each(|instance| instance.moves = true);
    assert_eq!(
        told(&plan_draining(&fixture)),
        [("instance.moved", "from n1, which is being drained: slots 1, 2 to n2".to_owned())]
    );

    let mut fixture = Fixture::serving(1, 2);
    fixture.nodes.push(node(2, 1000));
    fixture.app.instances[1].moves = true;
    let share = "from n1, so that another node gets its share: slot 2 to n2".to_owned();
    assert_eq!(told(&fixture.plan()), [("instance.moved", share)]);
}

#[test]
fn what_there_is_to_be_only_one_of_moves_when_the_one_before_has_ended() {
    let mut fixture = Fixture::empty(1);
    fixture.ask_to_be_alone(true);
    fixture.deploy(1);
    fixture.plan();
    fixture.make_all_ready(1);
    fixture.plan();
    fixture.app.rollout = None;
    fixture.app.stable = fixture.app.target.clone();
    fixture.nodes[0].ready = false;
    fixture.nodes.push(node(2, 1000));
    let old = &mut fixture.app.instances[0];
    (old.moves, old.wanted, old.state) = (true, wharf_types::state::Wanted::Stop, InstanceState::Stopped);
    old.ended_at = Some(fixture.now);
    fixture.wait(10);
    assert_eq!(
        told(&plan_draining(&fixture)),
        [("instance.moved", "from n1, which is being drained: slot 1 to n2".to_owned())]
    );
}

#[test]
fn a_failure_and_a_rollout_move_nothing() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.nodes.push(node(2, 1000));
    fixture.deploy(2);
    let changes = fixture.plan();
    assert!(told(&changes).iter().all(|(kind, _)| *kind != "instance.moved"), "{changes:?}");
}
