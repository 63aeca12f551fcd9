use wharf_types::node::ReasonKind;
use wharf_types::quantity::Span;
use wharf_types::state::{Health, InstanceState, RolloutState, Wanted};
use wharf_types::world::World;

use crate::plan::fixture::{Fixture, SECOND, events, release_id};
use crate::plan::view::after;
use crate::plan::{Change, Changes, ReleaseView};

fn states(changes: &Changes) -> Vec<RolloutState> {
    let state = |change: &Change| match change {
        Change::SetRollout { state, .. } => Some(*state),
        _ => None,
    };
    changes.changes.iter().filter_map(state).collect()
}

fn failure(changes: &Changes) -> String {
    let reason = |change: &Change| match change {
        Change::SetRollout { state: RolloutState::Failed, reason, .. } => reason.clone(),
        _ => None,
    };
    changes.changes.iter().find_map(reason).expect("the rollout failed").message
}

fn rolls_back_to(changes: &Changes) -> Option<u64> {
    changes.changes.iter().find_map(|change| match change {
        Change::RollBack { to, .. } => (1..10).find(|number| release_id(*number) == *to),
        _ => None,
    })
}

/// Release 2 in place of release 1, in service and monitored.
fn monitored(replicas: u32) -> Fixture {
    let mut fixture = Fixture::serving(1, replicas);
    fixture.deploy_with(2, |release| {
        let mut spec = (*release.spec).clone();
        spec.update.parallelism_percent = 100;
        release.spec = spec.into();
    });
    fixture.plan();
    fixture.make_all_ready(2);
    assert_eq!(states(&fixture.plan()), [RolloutState::Monitoring]);
    fixture
}

#[test]
fn a_first_deploy_starts_serves_and_succeeds() {
    let mut fixture = Fixture::empty(3);
    fixture.deploy(1);
    let started = fixture.plan();
    assert_eq!((states(&started), events(&started)), (vec![RolloutState::Running], vec!["rollout.started"]));
    assert_eq!(fixture.wanted(1), 3, "with nothing to protect, every slot starts at once");
    assert_eq!(started.wake_at, Some(after(fixture.now, SECOND * 60)));

    fixture.make_all_ready(1);
    let served = fixture.plan();
    assert_eq!(events(&served), ["rollout.serving"]);
    assert!(served.changes.contains(&Change::SetStable { release: Some(release_id(1)) }));
    assert_eq!(served.wake_at, Some(after(fixture.now, SECOND * 5)));

    fixture.wait(4);
    assert_eq!(fixture.plan().changes, []);
    fixture.wait(1);
    let succeeded = fixture.plan();
    assert_eq!(
        (states(&succeeded), events(&succeeded)),
        (vec![RolloutState::Succeeded], vec!["rollout.succeeded"])
    );
    assert!(fixture.app.rollout.is_none());
}

#[test]
fn a_release_serves_only_when_every_ingress_knows_the_way() {
    let tcp_server = |release: &mut ReleaseView| {
        let mut spec = (*release.spec).clone();
        spec.tcp.ports = vec![7000];
        (release.world, release.spec) = (World::CommandP2, spec.into());
    };
    let http_app = |_: &mut ReleaseView| ();
    for edit in [&http_app as &dyn Fn(&mut ReleaseView), &tcp_server] {
        let mut fixture = Fixture::empty(1);
        fixture.deploy_with(1, edit);
        fixture.plan();
        fixture.make_ready(0);
        fixture.app.instances[0].routed = false;
        assert_eq!(states(&fixture.plan()), []);
        fixture.app.instances[0].routed = true;
        assert_eq!(states(&fixture.plan()), [RolloutState::Monitoring]);
    }
}

#[test]
fn an_ingress_that_takes_up_no_routes_is_named_as_what_is_waited_for() {
    let mut fixture = Fixture::empty(1);
    fixture.deploy(1);
    fixture.plan();
    fixture.make_ready(0);
    fixture.app.instances[0].routed = false;
    fixture.plan();
    fixture.wait(60);
    assert_eq!(
        failure(&fixture.plan()),
        "no further instance became ready within 1m: every slot is ready, but an ingress has not taken up the routes to it yet"
    );
}

#[test]
fn the_time_that_compiling_takes_is_not_held_against_a_release() {
    let mut fixture = Fixture::empty(1);
    fixture.deploy(1);
    fixture.plan();
    fixture.app.instances[0].state = InstanceState::Preparing;
    fixture.wait(61);
    let changes = fixture.plan();
    assert!(matches!(changes.changes[..], [Change::Progress { ready: 0, .. }]), "{changes:?}");
    fixture.app.instances[0].state = InstanceState::Starting;
    fixture.wait(59);
    assert_eq!(states(&fixture.plan()), []);
    fixture.wait(2);
    assert_eq!(states(&fixture.plan()), [RolloutState::Failed]);
}

#[test]
fn an_app_scaled_to_zero_serves_its_new_release_at_once() {
    let mut fixture = Fixture::empty(0);
    fixture.deploy_with(1, |release| {
        let mut spec = (*release.spec).clone();
        spec.update.monitor = Span::from_secs(0);
        release.spec = spec.into();
    });
    let changes = fixture.plan();
    assert_eq!(states(&changes), [RolloutState::Running, RolloutState::Monitoring, RolloutState::Succeeded]);
    assert_eq!(fixture.app.stable.map(|stable| stable.number), Some(1));
}

#[test]
fn each_further_ready_instance_is_progress() {
    let mut fixture = Fixture::empty(2);
    fixture.deploy(1);
    fixture.plan();
    fixture.wait(50);
    fixture.make_ready(0);
    let changes = fixture.plan();
    assert!(matches!(changes.changes[..], [Change::Progress { ready: 1, .. }]), "{changes:?}");
    assert_eq!(changes.wake_at, Some(after(fixture.now, SECOND * 60)));
    fixture.app.instances[0].health = Health::Unhealthy;
    fixture.plan();
    fixture.make_ready(0);
    assert_eq!(fixture.plan().changes, [], "coming back is no progress");
}

#[test]
fn a_guest_that_cannot_start_fails_the_rollout_at_once_in_its_own_words() {
    let mut fixture = Fixture::serving(1, 2);
    fixture.deploy(2);
    fixture.plan();
    fixture.fail(2, ReasonKind::Trap, "panicked: no DATABASE_URL");
    let changes = fixture.plan();
    assert_eq!(failure(&changes), "panicked: no DATABASE_URL");
    assert_eq!(rolls_back_to(&changes), Some(1));
    assert_eq!(events(&changes), ["rollout.failed", "rollback.started", "rollout.rolled_back"]);
    let told = changes.changes.iter().any(|change| {
        matches!(change, Change::Event { message, .. }
        if message == "release 2 failed: panicked: no DATABASE_URL; going back to release 1")
    });
    assert!(told, "{changes:?}");
}

#[test]
fn going_back_reuses_the_old_instances_that_still_serve() {
    let mut fixture = Fixture::serving(1, 4);
    fixture.deploy(2);
    fixture.plan();
    fixture.make_all_ready(2);
    fixture.plan();
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (3, 2), "slot 0 moved, slot 1 is moving");
    fixture.fail(5, ReasonKind::Trap, "boom");
    fixture.plan();
    assert_eq!(fixture.wanted(1), 4, "only slot 0 gets a new instance of the old release");
    assert_eq!(fixture.instances(1).count(), 5);
    assert_eq!(fixture.wanted(2), 1, "which is started before the new release's is unrouted");
    fixture.make_all_ready(1);
    assert_eq!(events(&fixture.plan()), ["rollout.rolled_back"]);
    assert_eq!(fixture.wanted(2), 0);
}

#[test]
fn a_failure_of_the_platform_does_not_fail_the_rollout() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.deploy(2);
    fixture.plan();
    fixture.fail(1, ReasonKind::Platform, "disk full");
    assert_eq!(states(&fixture.plan()), []);
}

#[test]
fn an_instance_that_failed_before_the_rollout_does_not_fail_it() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.fail(0, ReasonKind::Trap, "boom");
    fixture.app.instances[0].was_healthy = false;
    fixture.wait(1);
    fixture.deploy(1);
    assert_eq!(states(&fixture.plan()), [RolloutState::Running]);
    assert_eq!(fixture.wanted(1), 1, "and its slot is tried again");
}

#[test]
fn a_rollout_without_progress_fails_and_says_what_it_waited_for() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.deploy(2);
    fixture.plan();
    fixture.app.instances[1].state = InstanceState::Running;
    fixture.wait(59);
    assert_eq!(fixture.plan().changes, []);
    fixture.wait(1);
    let changes = fixture.plan();
    assert_eq!(
        failure(&changes),
        "no further instance became ready within 1m: the instance in slot 1 runs, but has not passed its health check"
    );
    assert_eq!(rolls_back_to(&changes), Some(1));
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (1, 0));
}

#[test]
fn a_rollout_that_fits_on_no_node_fails_with_the_schedulers_words() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.nodes[0].memory_free_bytes = 512 << 10;
    fixture.deploy(2);
    let waiting = fixture.plan();
    assert_eq!(waiting.unplaced.len(), 1);
    fixture.wait(60);
    let message = failure(&fixture.plan());
    assert!(
        message.ends_with("0 of 1 nodes fit: 1 has too little free memory (needs 1MiB, 512KiB free on n1: set reserve.memory to 512KiB or less, or free 512KiB there)"),
        "{message}"
    );
}

#[test]
fn a_failure_while_monitored_goes_back_to_the_release_before() {
    let mut fixture = monitored(2);
    fixture.fail(3, ReasonKind::Limit, "out of memory");
    let changes = fixture.plan();
    assert_eq!(failure(&changes), "out of memory");
    assert_eq!(rolls_back_to(&changes), Some(1));
    assert!(changes.changes.contains(&Change::SetStable { release: Some(release_id(1)) }));
    assert!(changes.changes.contains(&Change::SetTarget { release: Some(release_id(1)) }));
    assert_eq!(fixture.wanted(1), 1, "the old ones were unrouted, so a new one is made where nothing serves");
    fixture.make_all_ready(1);
    fixture.plan();
    fixture.make_all_ready(1);
    fixture.plan();
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (2, 0));
}

#[test]
fn a_failure_that_the_supervisor_already_made_good_still_counts_while_monitored() {
    let mut fixture = monitored(1);
    fixture.wait(1);
    fixture.fail(1, ReasonKind::Trap, "boom");
    fixture.app.instances[1].replaced = true;
    let successor = fixture.add(2, 0);
    fixture.app.instances[successor].restarts = 1;
    fixture.make_ready(successor);
    assert_eq!(failure(&fixture.plan()), "boom");
}

#[test]
fn a_failure_before_the_monitoring_does_not_count_in_it() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.deploy(2);
    fixture.plan();
    fixture.wait(1);
    fixture.fail(1, ReasonKind::Trap, "boom");
    fixture.app.instances[1].was_healthy = true;
    fixture.app.instances[1].replaced = true;
    let successor = fixture.add(2, 0);
    fixture.app.instances[successor].restarts = 1;
    fixture.wait(1);
    fixture.make_ready(successor);
    assert_eq!(states(&fixture.plan()), [RolloutState::Monitoring]);
}

#[test]
fn an_unhealthy_instance_while_monitored_fails_the_rollout() {
    let mut fixture = monitored(1);
    fixture.app.instances[1].health = Health::Unhealthy;
    assert_eq!(failure(&fixture.plan()), "the instance in slot 1 stopped answering its health check");
}

#[test]
fn a_worker_that_was_killed_while_monitored_does_not_fail_the_rollout() {
    let mut fixture = monitored(1);
    fixture.wait(1);
    fixture.app.instances[1].state = InstanceState::Failed;
    fixture.app.instances[1].replaced = true;
    let successor = fixture.add(2, 0);
    fixture.app.instances[successor].restarts = 1;
    fixture.make_ready(successor);
    assert_eq!(states(&fixture.plan()), []);
}

#[test]
fn a_first_release_that_fails_stops_everything() {
    let mut fixture = Fixture::empty(2);
    fixture.deploy(1);
    fixture.plan();
    fixture.fail(0, ReasonKind::Artifact, "not a component");
    let changes = fixture.plan();
    assert!(changes.changes.contains(&Change::SetTarget { release: None }));
    assert_eq!(events(&changes), ["rollout.failed"]);
    assert_eq!(fixture.wanted(1), 0);
    assert_eq!(fixture.app.instances[1].wanted, Wanted::Unroute);
}

#[test]
fn a_first_release_that_fails_while_monitored_is_nowhere_to_go_back_to() {
    let mut fixture = Fixture::empty(1);
    fixture.deploy(1);
    fixture.plan();
    fixture.make_all_ready(1);
    fixture.plan();
    assert_eq!(fixture.app.stable.as_ref().map(|stable| stable.number), Some(1));
    fixture.fail(0, ReasonKind::Trap, "boom");
    fixture.plan();
    assert!(fixture.app.target.is_none() && fixture.app.stable.is_none());

    fixture.deploy(2);
    fixture.plan();
    let newest = fixture.app.instances.len() - 1;
    fixture.fail(newest, ReasonKind::Trap, "boom again");
    assert_eq!(rolls_back_to(&fixture.plan()), None);
    assert!(fixture.app.target.is_none());
}

/// What a plan says of whether releases may be come back to.
fn served(changes: &Changes) -> Vec<(u64, bool)> {
    let of = |change: &Change| match change {
        Change::SetServed { release, served } => {
            (1..10).find(|number| release_id(*number) == *release).map(|number| (number, *served))
        }
        _ => None,
    };
    changes.changes.iter().filter_map(of).collect()
}

#[test]
fn a_release_that_failed_while_monitored_does_not_count_as_one_that_served() {
    let mut fixture = monitored(1);
    fixture.fail(1, ReasonKind::Trap, "boom");
    assert_eq!(served(&fixture.plan()), [(2, false)]);
    fixture.make_all_ready(1);
    assert_eq!(served(&fixture.plan()), [(1, true)]);
}

#[test]
fn a_release_that_found_no_room_is_not_to_blame() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.nodes[0].memory_free_bytes = 0;
    fixture.deploy(2);
    fixture.plan();
    fixture.wait(60);
    let changes = fixture.plan();
    assert_eq!(rolls_back_to(&changes), Some(1));
    assert!(!served(&changes).contains(&(2, false)), "{changes:?}");
}

#[test]
fn a_rollback_that_fails_starts_no_further_one() {
    let mut fixture = monitored(1);
    fixture.fail(1, ReasonKind::Trap, "boom");
    fixture.plan();
    let created = fixture.app.instances.len() - 1;
    fixture.fail(created, ReasonKind::Trap, "also broken by now");
    let changes = fixture.plan();
    assert_eq!(states(&changes), [RolloutState::Failed]);
    assert_eq!(rolls_back_to(&changes), None);
    assert_eq!(fixture.app.target.as_ref().map(|target| target.number), Some(1));
    assert!(fixture.app.rollout.is_none());
}

#[test]
fn a_release_that_was_never_in_service_is_no_way_back() {
    let mut fixture = Fixture::empty(1);
    fixture.deploy(1);
    fixture.plan();
    fixture.deploy(2);
    fixture.app.rollout.as_mut().unwrap().from = Some(release_id(1));
    fixture.plan();
    let newest = fixture.app.instances.len() - 1;
    fixture.fail(newest, ReasonKind::Trap, "boom");
    assert!(fixture.plan().changes.contains(&Change::SetTarget { release: None }));
}
