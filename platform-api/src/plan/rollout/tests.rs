use wharf_types::node::{Reason, ReasonKind};
use wharf_types::quantity::Span;
use wharf_types::spec::{CanarySpec, OnFailure, Portion, Ratio, UpdateOrder, UpdateSpec};
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
        spec.update.parallelism = Portion::Percent(100);
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
        message.ends_with("0 of 1 nodes fit: 1 has too little free memory (needs 1MiB, 512KiB free on n1); lower `reserve.memory` from 1MiB to 512KiB, or free 512KiB on n1"),
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
fn a_new_instance_that_fails_after_it_was_healthy_fails_the_rollout() {
    let mut fixture = Fixture::serving(1, 2);
    fixture.deploy(2);
    fixture.plan();
    fixture.make_ready(2);
    fixture.plan();
    fixture.wait(1);
    fixture.fail(2, ReasonKind::Trap, "boom");
    fixture.app.instances[2].replaced = true;
    assert_eq!(failure(&fixture.plan()), "boom");
}

/// Release 2 is to take over from release 1.
fn rolling(replicas: u32, update: UpdateSpec) -> Fixture {
    let mut fixture = Fixture::serving(1, replicas);
    fixture.deploy_by(2, replicas, update);
    fixture.plan();
    fixture
}

#[test]
fn a_share_of_the_instances_may_fail() {
    let update = UpdateSpec {
        max_failure_ratio: Ratio::percent(50),
        parallelism: Portion::Count(4),
        ..UpdateSpec::default()
    };
    let mut fixture = rolling(4, update);
    for index in [4, 5] {
        fixture.fail(index, ReasonKind::Trap, "boom");
        assert_eq!(events(&fixture.plan()), ["rollout.tolerated"]);
    }
    fixture.make_ready(6);
    fixture.make_ready(7);
    assert_eq!(events(&fixture.plan()), ["rollout.serving"]);
    assert_eq!(fixture.wanted(1), 2, "where the new one failed, the old one goes on meanwhile");
    fixture.wait(5);
    assert_eq!(events(&fixture.plan()), ["rollout.succeeded"]);
    assert_eq!(fixture.wanted(1), 0);
}

#[test]
fn one_failure_too_many_is_told_with_its_figures() {
    let update = UpdateSpec {
        max_failure_ratio: Ratio::percent(25),
        parallelism: Portion::Count(4),
        ..UpdateSpec::default()
    };
    let mut fixture = rolling(4, update);
    fixture.fail(4, ReasonKind::Trap, "boom");
    fixture.plan();
    fixture.fail(5, ReasonKind::Trap, "crash");
    assert_eq!(failure(&fixture.plan()), "2 of 4 instances failed, more than 25% of them: crash");
}

#[test]
fn a_failure_may_pause_the_rollout_until_somebody_resumes_it() {
    let mut fixture = rolling(2, UpdateSpec { on_failure: OnFailure::Pause, ..UpdateSpec::default() });
    fixture.fail(2, ReasonKind::Trap, "boom");
    let changes = fixture.plan();
    assert_eq!(events(&changes), ["rollout.paused"]);
    assert!(fixture.app.rollout.as_ref().unwrap().paused.is_some());
    fixture.wait(3600);
    assert_eq!(fixture.plan().changes, [], "no deadline ends a pause");
    fixture.app.instances[2].replaced = true;
    fixture.resume();
    fixture.add(2, 0);
    assert_eq!(events(&fixture.plan()), Vec::<&str>::new(), "what had failed is forgiven");
    fixture.make_all_ready(2);
    fixture.plan();
    fixture.make_all_ready(2);
    assert_eq!(states(&fixture.plan()), [RolloutState::Monitoring]);
}

#[test]
fn a_rollout_that_is_to_continue_goes_back_only_if_nothing_serves() {
    let update = UpdateSpec {
        on_failure: OnFailure::Continue,
        parallelism: Portion::Count(2),
        ..UpdateSpec::default()
    };
    let mut fixture = rolling(2, update.clone());
    fixture.fail(2, ReasonKind::Trap, "boom");
    fixture.make_ready(3);
    assert_eq!(events(&fixture.plan()), ["rollout.tolerated", "rollout.serving"]);

    let mut fixture = rolling(2, update);
    for index in [2, 3] {
        fixture.fail(index, ReasonKind::Trap, "boom");
    }
    assert_eq!(failure(&fixture.plan()), "not one of 2 instances came into service");
}

#[test]
fn batches_keep_their_distance_and_the_deadline_does_not_run_meanwhile() {
    let update = UpdateSpec {
        parallelism: Portion::Count(2),
        delay: Span::from_secs(100),
        progress_deadline: Span::from_secs(10),
        ..UpdateSpec::default()
    };
    let mut fixture = rolling(4, update);
    assert_eq!(fixture.wanted(2), 2);
    fixture.make_ready(4);
    fixture.plan();
    assert_eq!(fixture.wanted(2), 2, "a batch ends as a whole");
    fixture.make_ready(5);
    let changes = fixture.plan();
    assert_eq!(changes.wake_at, Some(after(fixture.now, SECOND * 100)));
    fixture.wait(99);
    assert_eq!(fixture.plan().changes, []);
    let waits = crate::plan::waits(fixture.now, &fixture.app).unwrap();
    assert!(waits.contains("`update.delay` is 1m 40s"), "{waits}");
    fixture.wait(1);
    fixture.plan();
    assert_eq!(fixture.wanted(2), 4);
    fixture.wait(10);
    assert_eq!(states(&fixture.plan())[0], RolloutState::Failed);
}

#[test]
fn a_rollout_says_how_far_the_preparation_of_its_instances_is() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.deploy(2);
    fixture.plan();
    assert_eq!(crate::plan::waits(fixture.now, &fixture.app), None);
    for instance in fixture.app.instances.iter_mut().filter(|it| it.release == release_id(2)) {
        instance.state = InstanceState::Preparing;
        let message = "pulling redis:7: 34 of 120 MB".to_owned();
        instance.reason = Some(Box::new(Reason { kind: ReasonKind::Platform, message }));
    }
    let told = crate::plan::waits(fixture.now, &fixture.app);
    assert_eq!(told.as_deref(), Some("pulling redis:7: 34 of 120 MB"));
}

#[test]
fn stopping_first_ends_an_instance_before_its_successor_is_made() {
    let update =
        UpdateSpec { order: UpdateOrder::StopFirst, parallelism: Portion::Count(1), ..UpdateSpec::default() };
    let mut fixture = rolling(3, update);
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (2, 0));
    assert_eq!(fixture.app.instances[0].wanted, Wanted::Unroute);
    fixture.app.instances[0].let_go = true;
    fixture.plan();
    assert_eq!((fixture.app.instances[0].wanted, fixture.wanted(2)), (Wanted::Stop, 0));
    // However long its requests take: that is not the new release's fault.
    fixture.wait(600);
    assert_eq!(states(&fixture.plan()), []);
    fixture.app.instances[0].state = InstanceState::Stopped;
    fixture.plan();
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (2, 1));
    fixture.make_all_ready(2);
    fixture.plan();
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (1, 1), "the next one gives way");
}

#[test]
fn a_paused_rollout_brings_back_what_is_lost_as_the_old_release() {
    let mut fixture = rolling(3, UpdateSpec::default());
    fixture.make_all_ready(2);
    fixture.plan();
    fixture.pause();
    fixture.plan();
    fixture.app.instances[2].state = InstanceState::Lost;
    fixture.plan();
    assert_eq!(fixture.instances(1).filter(|it| it.slot == 2 && it.is_wanted()).count(), 1);
    fixture.wait(3600);
    fixture.make_all_ready(2);
    assert_eq!(states(&fixture.plan()), []);
    assert_eq!(fixture.wanted(2), 2, "no further slot moves");
    fixture.resume();
    fixture.plan();
    assert_eq!(fixture.wanted(2), 3);
}

#[test]
fn an_abort_goes_back_at_once_also_while_paused_and_says_by_whom() {
    let mut fixture = rolling(2, UpdateSpec::default());
    fixture.pause();
    fixture.abort();
    let changes = fixture.plan();
    assert_eq!(failure(&changes), "it was aborted by ann");
    assert_eq!(rolls_back_to(&changes), Some(1));
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (2, 0));
    assert!(!served(&changes).contains(&(2, false)), "nothing bad is known of it");
}

#[test]
fn a_stopped_app_runs_nothing_and_its_rollout_waits() {
    let mut fixture = rolling(1, UpdateSpec::default());
    fixture.app.stopped = Some(wharf_types::api::Stopped { since: fixture.now, by: "ann".into() });
    fixture.plan();
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (0, 0));
    fixture.wait(3600);
    assert_eq!(states(&fixture.plan()), []);
    fixture.app.stopped = None;
    fixture.begin_anew();
    fixture.plan();
    assert_eq!(fixture.wanted(2), 1);
}

fn canary() -> UpdateSpec {
    let canary = CanarySpec { min_requests: 10, ..CanarySpec::default() };
    UpdateSpec { canary: Some(canary), ..UpdateSpec::default() }
}

fn requests(fixture: &mut Fixture, release: u64, ok: u64, failed: u64) {
    use wharf_types::requests::{ReleaseRequests, RequestCounts};
    let counts = RequestCounts { ok, failed, ..RequestCounts::default() };
    fixture.app.rollout.as_mut().unwrap().requests.push(ReleaseRequests { release, counts });
}

#[test]
fn a_trial_runs_beside_the_whole_old_set_and_then_the_rollout_goes_on() {
    let mut fixture = rolling(3, canary());
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (3, 1));
    fixture.make_all_ready(2);
    assert_eq!(events(&fixture.plan()), ["rollout.canary"]);
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (3, 1));
    let table = crate::plan::routes::build(1, std::slice::from_ref(&fixture.app));
    assert_eq!(
        table.routes[0].canary.map(|canary| (canary.release, canary.share)),
        Some((2, Ratio::percent(10)))
    );
    assert_eq!(
        table.routes[1].pattern.to_string(),
        "hello.example.com/r1",
        "the old release says where the app is"
    );
    // What is lost of the old set comes back, and so does the new instance.
    fixture.app.instances[0].state = InstanceState::Lost;
    fixture.plan();
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (3, 1));
    requests(&mut fixture, 1, 900, 0);
    requests(&mut fixture, 2, 100, 0);
    fixture.wait(60);
    assert_eq!(events(&fixture.plan()), ["rollout.canary_passed"]);
    assert_eq!(fixture.app.rollout.as_ref().unwrap().state, RolloutState::Running);
}

#[test]
fn there_is_no_trial_of_what_cannot_run_beside_the_release_before() {
    let mut fixture = Fixture::empty(1);
    fixture.ask_for_volume(false);
    fixture.deploy(1);
    fixture.plan();
    fixture.make_all_ready(1);
    fixture.plan();
    fixture.ask_for_volume(true);
    fixture.deploy_by(2, 1, canary());
    fixture.plan();
    assert_eq!(fixture.app.rollout.as_ref().unwrap().state, RolloutState::Running);
}

#[test]
fn a_trial_that_goes_badly_goes_back_with_the_figures() {
    let mut fixture = rolling(3, canary());
    fixture.make_all_ready(2);
    fixture.plan();
    requests(&mut fixture, 1, 999, 1);
    requests(&mut fixture, 2, 88, 12);
    let changes = fixture.plan();
    assert_eq!(
        failure(&changes),
        "release 2 failed 12 % of 100 requests, release 1 0.1 %; at most 1% more may"
    );
    assert_eq!(rolls_back_to(&changes), Some(1));
    assert_eq!((fixture.wanted(1), fixture.wanted(2)), (3, 0));
    assert_eq!(served(&changes), [(2, false), (1, true)]);
}

#[test]
fn a_release_that_gets_ill_on_trial_has_not_passed_it() {
    let mut fixture = rolling(3, canary());
    fixture.make_all_ready(2);
    fixture.plan();
    fixture.app.instances[3].health = Health::Unhealthy;
    assert_eq!(failure(&fixture.plan()), "the instance in slot 1 stopped answering its health check");
}

#[test]
fn there_is_no_trial_without_something_to_compare_with() {
    let mut fixture = Fixture::empty(1);
    fixture.deploy_by(1, 1, canary());
    assert_eq!(states(&fixture.plan()), [RolloutState::Running]);
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
fn an_instance_that_serves_nobody_does_not_keep_the_room_that_its_successor_needs() {
    let mut fixture = Fixture::serving(1, 1);
    fixture.nodes[0].memory_free_bytes = 0;
    fixture.deploy(2);
    fixture.plan();
    assert_eq!(fixture.app.instances[0].wanted, wharf_types::state::Wanted::Run, "it serves");
    fixture.app.instances[0].health = wharf_types::state::Health::Unhealthy;
    fixture.plan();
    assert_eq!(fixture.app.instances[0].wanted, wharf_types::state::Wanted::Unroute);
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
