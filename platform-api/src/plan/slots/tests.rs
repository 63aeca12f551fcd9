use std::sync::Arc;

use wharf_types::Timestamp;
use wharf_types::node::ReasonKind;
use wharf_types::spec::RestartCondition;
use wharf_types::state::{Health, InstanceState, RolloutState, Wanted};
use wharf_types::world::World;

use crate::plan::fixture::{Fixture, SECOND, node};
use crate::plan::view::after;
use crate::plan::{Change, Changes, ReleaseView};

fn command(condition: RestartCondition) -> impl FnOnce(&mut ReleaseView) {
    move |release| {
        let mut spec = (*release.spec).clone();
        spec.restart.condition = condition;
        release.spec = Arc::new(spec);
        release.world = World::CommandP2;
        release.routes.clear();
    }
}

fn wanted_of(fixture: &Fixture, index: usize) -> Wanted {
    fixture.app.instances[index].wanted
}

#[test]
fn an_app_that_serves_needs_no_change() {
    let changes = Fixture::serving(1, 5).plan();
    assert_eq!((changes.changes, changes.wake_at), (vec![], None));
}

#[test]
fn a_new_instance_starts_beside_the_old_which_then_is_unrouted_and_stopped() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.deploy(2);
    fixture.plan();
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (1, 1));
    fixture.app.instances[1].state = InstanceState::Running;
    assert_eq!(fixture.plan().changes, [], "running is not yet healthy");
    fixture.make_ready(1);
    fixture.plan();
    assert_eq!(wanted_of(&fixture, 0), Wanted::Unroute);
    fixture.wait(60);
    fixture.plan();
    assert_eq!(wanted_of(&fixture, 0), Wanted::Unroute, "an ingress still uses it");
    fixture.app.instances[0].let_go = true;
    fixture.plan();
    assert_eq!(wanted_of(&fixture, 0), Wanted::Stop);
}

#[test]
fn whoever_writes_to_a_volume_ends_before_the_next_starts() {
    let mut fixture = Fixture::empty(1);
    fixture.ask_for_volume(false);
    fixture.deploy(1);
    fixture.plan();
    fixture.make_all_ready(1);
    fixture.plan();
    fixture.wait(10);
    fixture.plan();
    fixture.deploy(2);
    fixture.plan();
    assert_eq!((wanted_of(&fixture, 0), fixture.wanted(2)), (Wanted::Unroute, 0));
    fixture.app.instances[0].let_go = true;
    fixture.plan();
    assert_eq!((wanted_of(&fixture, 0), fixture.wanted(2)), (Wanted::Stop, 0), "it may still write");
    // However long its last requests take.
    fixture.wait(3600);
    fixture.plan();
    assert_eq!(fixture.app.rollout.as_ref().unwrap().state, RolloutState::Running);
    fixture.app.instances[0].state = InstanceState::Stopped;
    fixture.plan();
    assert_eq!(fixture.wanted(2), 1);
    fixture.fail(1, ReasonKind::Trap, "cannot start");
    fixture.plan();
    assert_eq!(fixture.wanted(1), 1, "the way back needs no other order");
}

#[test]
fn a_singleton_ends_before_another_starts_also_where_only_one_of_the_two_releases_is_to_be_alone() {
    for (before, after) in [(true, true), (true, false), (false, true)] {
        let mut fixture = Fixture::empty(1);
        fixture.ask_to_be_alone(before);
        fixture.deploy(1);
        fixture.plan();
        fixture.make_all_ready(1);
        fixture.plan();
        fixture.wait(10);
        fixture.plan();
        fixture.ask_to_be_alone(after);
        fixture.deploy(2);
        fixture.plan();
        assert_eq!((wanted_of(&fixture, 0), fixture.wanted(2)), (Wanted::Unroute, 0));
        fixture.app.instances[0].let_go = true;
        fixture.plan();
        assert_eq!((wanted_of(&fixture, 0), fixture.wanted(2)), (Wanted::Stop, 0), "it may still run");
        fixture.app.instances[0].state = InstanceState::Stopped;
        fixture.plan();
        assert_eq!(fixture.wanted(2), 1);
    }
}

#[test]
fn a_singleton_of_a_silent_node_is_replaced_when_the_node_has_let_go_and_others_at_once() {
    for singleton in [true, false] {
        let mut fixture = Fixture::empty(1);
        fixture.nodes.push(node(2, 1 << 20));
        fixture.ask_to_be_alone(singleton);
        fixture.deploy(1);
        fixture.plan();
        fixture.make_all_ready(1);
        fixture.plan();
        let home = fixture.app.instances[0].node.unwrap();
        fixture.nodes.retain(|node| node.id != home);
        let plan = |fixture: &Fixture, lingers: bool| {
            let mut cluster = fixture.cluster();
            cluster.set_lingering(lingers.then_some(home).into_iter().collect());
            let ids = &mut crate::plan::ids::RandomIds;
            let changes = crate::plan::plan(fixture.now, &fixture.app, &mut cluster, ids).changes;
            let is_lost =
                |change: &Change| matches!(change, Change::EndInstance { state: InstanceState::Lost, .. });
            let is_made = |change: &Change| matches!(change, Change::CreateInstance { .. });
            (changes.iter().any(is_lost), changes.iter().any(is_made))
        };
        assert_eq!(plan(&fixture, true), (!singleton, !singleton));
        assert_eq!(plan(&fixture, false), (true, true));
    }
}

#[test]
fn a_volume_stays_where_it_was_placed_first() {
    let mut fixture = Fixture::empty(2);
    fixture.nodes = vec![node(1, 1000), node(2, 1000)];
    fixture.ask_for_volume(true);
    fixture.deploy(1);
    fixture.plan();
    let home = fixture.app.volumes[0].node;
    assert_eq!(home, Some(fixture.nodes[0].id));
    assert!(fixture.app.instances.iter().all(|instance| instance.node == home));
    // The data is nowhere else, so nothing is gained by starting elsewhere.
    for instance in &mut fixture.app.instances {
        instance.state = InstanceState::Lost;
    }
    fixture.nodes[0].ready = false;
    let changes = fixture.plan();
    assert_eq!(fixture.wanted(1), 0);
    assert!(changes.unplaced[0].message.contains("1 does not have the app's volumes"), "{changes:?}");
    fixture.nodes[0].ready = true;
    fixture.plan();
    assert_eq!(fixture.wanted(1), 2);
}

#[test]
fn only_one_slot_of_an_app_that_must_not_write_twice_is_filled() {
    let mut fixture = Fixture::empty(3);
    fixture.ask_for_volume(false);
    fixture.deploy(1);
    fixture.plan();
    assert_eq!(fixture.wanted(1), 1);
}

#[test]
fn instances_that_share_a_volume_start_beside_the_old() {
    let mut fixture = Fixture::empty(1);
    fixture.ask_for_volume(true);
    fixture.deploy(1);
    fixture.plan();
    fixture.make_all_ready(1);
    fixture.plan();
    fixture.deploy(2);
    fixture.plan();
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (1, 1));
}

#[test]
fn a_quarter_of_the_slots_moves_at_once() {
    let mut fixture = Fixture::serving(1, 6);
    fixture.deploy(2);
    fixture.plan();
    assert_eq!(fixture.wanted(2), 2);
    fixture.make_ready(6);
    fixture.plan();
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (5, 3));
}

#[test]
fn a_new_release_that_got_ill_holds_the_rollout_up() {
    let mut fixture = Fixture::serving(1, 4);
    fixture.deploy(2);
    fixture.plan();
    fixture.make_ready(4);
    fixture.plan();
    fixture.app.instances[4].health = Health::Unhealthy;
    fixture.make_ready(5);
    fixture.plan();
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (2, 2), "slots 2 and 3 stay on the old release");
}

#[test]
fn scaling_up_starts_all_at_once_and_scaling_down_unroutes_the_highest_slots() {
    let mut fixture = Fixture::serving(1, 2);
    fixture.app.scaled_to = Some(9);
    fixture.plan();
    assert_eq!(fixture.wanted(1), 9);
    fixture.app.scaled_to = Some(1);
    fixture.plan();
    assert_eq!(fixture.wanted(1), 1);
    assert_eq!(wanted_of(&fixture, 0), Wanted::Run);
    fixture.app.scaled_to = Some(2);
    fixture.plan();
    assert_eq!(fixture.wanted(1), 2, "what was unrouted is not wanted again");
    assert_eq!(fixture.instances(1).count(), 10);
}

/// Release 1 asks for four slots and serves them.
fn four_slots() -> Fixture {
    let mut fixture = Fixture::empty(0);
    fixture.app.scaled_to = None;
    fixture.deploy_scaled(1, 4);
    fixture.plan();
    fixture.make_all_ready(1);
    fixture.plan();
    fixture.wait(5);
    fixture.plan();
    assert_eq!((fixture.app.rollout.is_none(), fixture.wanted(1)), (true, 4));
    fixture
}

#[test]
fn a_release_that_asks_for_fewer_slots_takes_none_away_before_it_serves() {
    let mut fixture = four_slots();
    fixture.deploy_scaled(2, 1);
    fixture.plan();
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (4, 1));
    fixture.make_all_ready(2);
    fixture.plan();
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (0, 1));
}

#[test]
fn a_release_whose_number_sinks_takes_no_slot_away_that_it_took_over() {
    let mut fixture = four_slots();
    fixture.app.scaled_to = Some(4);
    fixture.deploy_scaled(2, 1);
    for _ in 0..3 {
        fixture.plan();
        fixture.make_all_ready(2);
    }
    let serving = |fixture: &Fixture| fixture.app.instances.iter().filter(|it| it.is_healthy()).count();
    fixture.plan();
    assert_eq!(
        (serving(&fixture), fixture.wanted(1), fixture.wanted(2)),
        (4, 1, 4),
        "one slot is to move yet"
    );

    // It has not come through as long as the ingresses do not know the way to its only slot.
    fixture.app.instances.iter_mut().for_each(|instance| instance.routed = false);
    fixture.app.scaled_to = None;
    fixture.plan();
    assert_eq!((fixture.app.replicas(), serving(&fixture)), (1, 4));
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (1, 3), "what does not serve yet is of no use");

    fixture.make_all_ready(2);
    fixture.plan();
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (0, 1));
}

#[test]
fn going_back_brings_the_slots_of_the_release_before() {
    let mut fixture = four_slots();
    fixture.deploy_scaled(2, 1);
    fixture.plan();
    let newest = fixture.app.instances.len() - 1;
    fixture.fail(newest, ReasonKind::Trap, "boom");
    fixture.plan();
    assert_eq!((fixture.app.replicas(), fixture.wanted(1)), (4, 4), "not one of them was touched");
    assert_eq!(fixture.instances(1).count(), 4);

    fixture.deploy_scaled(3, 0);
    fixture.plan();
    assert_eq!(fixture.wanted(1), 0, "a release that asks for no slot has nothing to prove");
    fixture.deploy(1);
    fixture.plan();
    assert_eq!((fixture.app.replicas(), fixture.wanted(1)), (4, 4));
}

#[test]
fn what_scale_set_stands_over_every_release() {
    let mut fixture = four_slots();
    fixture.app.scaled_to = Some(2);
    fixture.plan();
    assert_eq!(fixture.wanted(1), 2);
    fixture.deploy_scaled(2, 1);
    fixture.plan();
    fixture.make_all_ready(2);
    fixture.plan();
    assert_eq!(fixture.app.replicas(), 2);
    fixture.app.scaled_to = None;
    fixture.plan();
    assert_eq!(fixture.app.replicas(), 1);
}

#[test]
fn a_restart_replaces_every_instance_start_first() {
    let mut fixture = Fixture::serving(1, 4);
    fixture.restart();
    fixture.plan();
    assert_eq!(fixture.wanted(1), 5, "a quarter at once");
    assert_eq!(fixture.app.slots_served(&fixture.app.target.clone().unwrap()), [true; 4]);
    for _ in 0..4 {
        fixture.make_all_ready(1);
        fixture.plan();
    }
    assert_eq!(fixture.app.rollout.as_ref().map(|rollout| rollout.state), Some(RolloutState::Monitoring));
    for index in 0..4 {
        assert_eq!(
            (wanted_of(&fixture, index), wanted_of(&fixture, index + 4)),
            (Wanted::Unroute, Wanted::Run)
        );
    }
}

#[test]
fn a_restart_that_fails_keeps_the_instances_that_serve() {
    let mut fixture = Fixture::serving(1, 2);
    fixture.restart();
    fixture.plan();
    fixture.fail(2, ReasonKind::Trap, "boom");
    fixture.plan();
    assert!(fixture.app.rollout.is_none());
    assert_eq!((fixture.wanted(1), fixture.instances(1).count()), (2, 3));
    assert!(fixture.app.stable.is_some());
}

#[test]
fn a_superseded_rollout_leaves_one_old_instance_in_each_slot() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.deploy(2);
    fixture.plan();
    fixture.deploy(3);
    fixture.plan();
    assert_eq!((fixture.wanted(1), fixture.wanted(2), fixture.wanted(3)), (1, 0, 1));
}

#[test]
fn thousands_of_idle_http_apps_fit_where_few_commands_do() {
    let mut fixture = Fixture::empty(1000);
    fixture.nodes = vec![node(1, 1024)];
    fixture.deploy(1);
    assert_eq!(fixture.plan().unplaced, []);

    let mut fixture = Fixture::empty(9);
    fixture.nodes = vec![node(1, 1024)];
    fixture.deploy_with(1, command(RestartCondition::Any));
    let unplaced = &fixture.plan().unplaced[0];
    assert!(unplaced.message.ends_with("(needs 128MiB, 0B free on n1)"), "{unplaced:?}");
    assert_eq!(unplaced.change.as_deref(), Some("free 128MiB on n1"));
}

/// Without what users are told of them.
fn steps(changes: &Changes) -> Vec<&Change> {
    changes.changes.iter().filter(|change| !matches!(change, Change::Event { .. })).collect()
}

#[test]
fn a_lost_instance_gets_a_successor_at_once() {
    let mut fixture = Fixture::serving(1, 2);
    fixture.app.instances[1].state = InstanceState::Lost;
    let changes = fixture.plan();
    assert!(matches!(steps(&changes)[..], [Change::CreateInstance { slot: 1, .. }]), "{changes:?}");
}

#[test]
fn an_instance_whose_node_is_unknown_is_lost_but_one_whose_lease_expired_is_waited_for() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.nodes[0].ready = false;
    assert_eq!(fixture.plan().changes, []);
    fixture.nodes = vec![node(2, 4096)];
    let changes = fixture.plan();
    assert!(matches!(
        steps(&changes)[..],
        [Change::EndInstance { state: InstanceState::Lost, .. }, Change::CreateInstance { slot: 0, .. }]
    ));
}

#[test]
fn a_platform_failure_is_tried_again_after_a_second() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.app.instances.clear();
    fixture.plan();
    fixture.fail(0, ReasonKind::Platform, "disk full");
    let waiting = fixture.plan();
    assert_eq!((waiting.changes, waiting.wake_at), (vec![], Some(after(fixture.now, SECOND))));
    fixture.wait(1);
    fixture.plan();
    assert_eq!(fixture.wanted(1), 1);
}

#[test]
fn what_the_supervisor_gave_up_waits_for_a_new_rollout() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.fail(0, ReasonKind::Artifact, "import `x` is not provided");
    fixture.wait(100);
    assert_eq!(fixture.plan().changes, []);
    fixture.deploy(1);
    fixture.plan();
    assert_eq!(fixture.wanted(1), 1);
}

#[test]
fn a_failure_that_the_supervisor_replaced_is_left_to_it() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.fail(0, ReasonKind::Platform, "boom");
    fixture.app.instances[0].replaced = true;
    fixture.add(1, 0);
    assert_eq!(fixture.plan().changes, []);
}

#[test]
fn a_command_with_a_port_takes_over_only_once_it_accepts_connections() {
    let server = |release: &mut ReleaseView| {
        command(RestartCondition::Any)(release);
        let mut spec = (*release.spec).clone();
        spec.tcp.ports = vec![7000];
        release.spec = Arc::new(spec);
    };
    let mut fixture = Fixture::empty(1);
    fixture.deploy_with(1, server);
    fixture.plan();
    fixture.make_ready(0);
    fixture.plan();
    fixture.deploy_with(2, server);
    fixture.plan();
    fixture.app.instances[1].state = InstanceState::Running;
    fixture.plan();
    assert_eq!(wanted_of(&fixture, 0), Wanted::Run, "that the new one runs is not enough");
    fixture.make_ready(1);
    fixture.plan();
    assert_eq!(wanted_of(&fixture, 0), Wanted::Unroute);
}

#[test]
fn a_command_that_is_done_completes_its_slot() {
    let mut fixture = Fixture::empty(1);
    fixture.deploy_with(1, command(RestartCondition::OnFailure));
    fixture.plan();
    fixture.app.instances[0].state = InstanceState::Stopped;
    fixture.plan();
    assert_eq!(fixture.app.rollout.as_ref().map(|rollout| rollout.state), Some(RolloutState::Monitoring));
    fixture.wait(5);
    fixture.plan();
    fixture.wait(1000);
    assert_eq!(fixture.plan().changes, []);
    assert_eq!(fixture.instances(1).count(), 1);
}

#[test]
fn a_command_is_ready_when_it_has_started_well_and_then_takes_over() {
    let mut fixture = Fixture::empty(1);
    let run = |fixture: &mut Fixture, index: usize, health| {
        fixture.app.instances[index].state = InstanceState::Running;
        fixture.app.instances[index].health = health;
        fixture.plan();
    };
    fixture.deploy_with(1, command(RestartCondition::Any));
    fixture.plan();
    run(&mut fixture, 0, Health::Unknown);
    assert_eq!(fixture.app.stable, None, "it may end in the next moment");
    run(&mut fixture, 0, Health::Healthy);
    assert_eq!(fixture.app.stable.as_ref().map(|stable| stable.number), Some(1));
    fixture.deploy_with(2, command(RestartCondition::Any));
    fixture.plan();
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (1, 1));
    run(&mut fixture, 1, Health::Healthy);
    assert_eq!(wanted_of(&fixture, 0), Wanted::Unroute);
}

#[test]
fn an_http_app_that_its_worker_stopped_is_started_again() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.app.instances[0].state = InstanceState::Stopped;
    fixture.plan();
    assert_eq!(fixture.wanted(1), 1);
}

#[test]
fn a_deleted_app_goes_when_its_last_instance_has() {
    let mut fixture = Fixture::serving(1, 2);
    fixture.deploy(2);
    fixture.app.deleting = true;
    fixture.plan();
    assert!(fixture.app.instances.iter().all(|instance| instance.wanted == Wanted::Unroute));
    for instance in &mut fixture.app.instances {
        instance.let_go = true;
    }
    fixture.plan();
    assert!(fixture.app.instances.iter().all(|instance| instance.wanted == Wanted::Stop));
    for instance in &mut fixture.app.instances {
        instance.state = InstanceState::Stopped;
    }
    let ids = &mut crate::plan::RandomIds;
    assert_eq!(
        crate::plan::plan(fixture.now, &fixture.app, &mut fixture.cluster(), ids).changes,
        [Change::DeleteApp]
    );
}

/// The fixture's node is to be emptied: it takes nothing, and its only instance is to go.
fn drain(fixture: &mut Fixture) {
    fixture.nodes[0].ready = false;
    fixture.app.instances[0].moves = true;
}

#[test]
fn a_singleton_that_fits_nowhere_else_stays_on_a_node_that_is_drained() {
    let mut fixture = Fixture::empty(1);
    fixture.ask_to_be_alone(true);
    fixture.deploy(1);
    fixture.plan();
    fixture.make_all_ready(1);
    fixture.plan();
    fixture.wait(60);
    fixture.plan();
    drain(&mut fixture);
    let changes = fixture.plan();
    assert_eq!(changes.changes, []);
    assert!(changes.wake_at.is_some(), "it is looked at again");
    fixture.nodes.push(node(2, 64));
    fixture.plan();
    assert_eq!(fixture.wanted(1), 0, "it ends before another starts");
}

#[test]
fn what_never_served_leaves_a_node_that_is_drained_at_once() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.app.instances[0].health = Health::Unhealthy;
    fixture.app.instances[0].was_healthy = false;
    fixture.nodes.push(node(2, 64));
    drain(&mut fixture);
    fixture.plan();
    assert_eq!(wanted_of(&fixture, 0), Wanted::Unroute);
    assert_eq!(fixture.wanted(1), 1, "there is another elsewhere");
}

#[test]
fn what_has_served_leaves_a_node_that_is_drained_once_another_serves() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.app.instances[0].health = Health::Unhealthy;
    fixture.nodes.push(node(2, 64));
    drain(&mut fixture);
    fixture.plan();
    assert_eq!(wanted_of(&fixture, 0), Wanted::Run);
    fixture.make_ready(1);
    fixture.plan();
    assert_eq!(wanted_of(&fixture, 0), Wanted::Unroute);
}

#[test]
fn a_clock_that_was_put_back_makes_the_instances_of_a_restart_once() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.restart();
    fixture.now = fixture.app.time(Timestamp::UNIX_EPOCH);
    fixture.plan();
    assert_eq!(fixture.wanted(1), 2, "the one before it, and its successor");
}
