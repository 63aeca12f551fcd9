//! The supervisor as a whole, over a fake backend and a paused clock.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use wharf_types::node::{AssignedInstance, AssignedJob, InstanceReport, ReasonKind};
use wharf_types::quantity::Span;
use wharf_types::spec::{AppSpec, RestartCondition};
use wharf_types::state::{Health, InstanceState, Wanted};
use wharf_types::world::World;
use wharf_types::{InstanceId, JobId};

use super::{Grace, Shutdown, Supervisor, Until};
use crate::backend::{Ended, Failure};
use crate::fake::{Call, FakeBackend, assigned, becomes};

type Reports = watch::Receiver<Vec<InstanceReport>>;

fn supervisor(backend: &Arc<FakeBackend>) -> (Supervisor, Reports) {
    let supervisor = Supervisor::spawn_with(backend.clone(), None);
    let reports = supervisor.reports();
    (supervisor, reports)
}

fn grace(guests: u64, containers: u64) -> Grace {
    Grace { guests: Duration::from_secs(guests), containers: Duration::from_secs(containers) }
}

fn trap() -> Failure {
    Failure::new(ReasonKind::Trap, "unreachable")
}

fn with_spec(id: InstanceId, change: impl FnOnce(&mut AppSpec)) -> AssignedInstance {
    let mut spec = AppSpec::default();
    change(&mut spec);
    AssignedInstance { spec: Arc::new(spec), ..assigned(id) }
}

async fn healthy(reports: &mut Reports, count: usize) -> Vec<InstanceReport> {
    let all = |reports: &Vec<InstanceReport>| {
        reports.iter().filter(|report| report.health == Health::Healthy && !report.state.is_final()).count()
            == count
    };
    becomes(reports, all).await
}

fn states(reports: &[InstanceReport]) -> Vec<InstanceState> {
    reports.iter().map(|report| report.state).collect()
}

#[tokio::test(start_paused = true)]
async fn a_new_instance_runs_and_is_healthy_at_its_first_answer() {
    let backend = FakeBackend::new();
    let (supervisor, mut reports) = supervisor(&backend);
    let id = InstanceId::new();
    let began = Instant::now();
    supervisor.assign(vec![assigned(id)]).await;
    let seen = healthy(&mut reports, 1).await;
    assert_eq!((seen[0].id, seen[0].state, seen[0].restarts), (id, InstanceState::Running, 0));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_assignment_is_in_the_reports_when_assign_returns() {
    let backend = FakeBackend::new();
    let (supervisor, reports) = supervisor(&backend);
    let id = InstanceId::new();
    supervisor.assign(vec![assigned(id)]).await;
    assert_eq!(reports.borrow()[0].id, id);
}

#[tokio::test(start_paused = true)]
async fn an_instance_of_a_process_that_is_gone_is_replaced_at_once() {
    let backend = FakeBackend::new();
    let (supervisor, mut reports) = supervisor(&backend);
    let lost = AssignedInstance { observed: InstanceState::Running, ..assigned(InstanceId::new()) };
    let began = Instant::now();
    supervisor.assign(vec![lost.clone()]).await;
    let seen = healthy(&mut reports, 1).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(states(&seen), [InstanceState::Failed, InstanceState::Running]);
    assert_eq!((seen[0].id, seen[1].replaces), (lost.id, Some(lost.id)));
    assert_eq!(seen[0].reason.as_ref().unwrap().message, "the worker was restarted");
    assert_eq!(backend.starts_reach(1).await.1.replaces, [lost.id]);
}

/// A run of a job of a command.
fn run_of_job() -> AssignedInstance {
    let once = with_spec(InstanceId::new(), |spec| spec.restart.condition = RestartCondition::Never);
    let job = Some(AssignedJob { id: JobId::new(), index: None, attempt: 1 });
    AssignedInstance { world: World::CommandP2, job, ..once }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_run_goes_only_when_its_end_is_known() {
    let backend = FakeBackend::adopting();
    let (supervisor, mut reports) = supervisor(&backend);
    let run = run_of_job();
    supervisor.assign(vec![run.clone()]).await;
    backend.starts_reach(1).await;
    settle().await;
    let failure = Failure { exit_code: Some(3), ..Failure::new(ReasonKind::Exit, "exit code 3") };
    backend.end(run.id, Ended::Failed(failure));
    let seen = becomes(&mut reports, |reports| reports[0].state.is_final()).await;
    assert_eq!((seen[0].state, seen[0].exit_code), (InstanceState::Failed, Some(3)));
    settle().await;
    assert!(!backend.calls().contains(&Call::Remove(run.id)), "{:?}", backend.calls());
    supervisor.assign(Vec::new()).await;
    settle().await;
    assert!(backend.calls().contains(&Call::Remove(run.id)), "{:?}", backend.calls());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ended_before_it_was_told_to_stop_is_told_as_it_ended_and_another_is_stopped() {
    let backend = FakeBackend::adopting();
    let (supervisor, mut reports) = supervisor(&backend);
    let of = || AssignedInstance { observed: InstanceState::Running, wanted: Wanted::Stop, ..run_of_job() };
    let (ended, running) = (of(), of());
    supervisor.assign(vec![ended.clone(), running.clone()]).await;
    backend.starts_reach(2).await;
    settle().await;
    backend.end(ended.id, Ended::Success);
    let seen = becomes(&mut reports, |reports| reports.iter().all(|report| report.state.is_final())).await;
    let code = |id| seen.iter().find(|report| report.id == id).unwrap().exit_code;
    assert_eq!((code(ended.id), code(running.id)), (Some(0), None));
    assert!(backend.calls().iter().any(|call| matches!(call, Call::Stop(id, _) if *id == running.id)));
}

#[tokio::test(start_paused = true)]
async fn one_that_may_have_outlived_its_process_is_reported_stopped_when_it_has_ended() {
    let backend = FakeBackend::adopting();
    backend.stops_take(seconds(3));
    let (supervisor, mut reports) = supervisor(&backend);
    let id = InstanceId::new();
    let ending = AssignedInstance { observed: InstanceState::Running, wanted: Wanted::Stop, ..assigned(id) };
    let began = Instant::now();
    supervisor.assign(vec![ending]).await;
    assert!(!reports.borrow()[0].state.is_final());
    becomes(&mut reports, |reports| reports[0].state == InstanceState::Stopped).await;
    assert_eq!(began.elapsed(), seconds(3));
    let drain = AppSpec::default().stop.drain.as_duration();
    assert_eq!(backend.calls(), [Call::Stop(id, drain), Call::Remove(id)]);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_out_of_the_routes_goes_on_until_it_is_stopped() {
    let backend = FakeBackend::adopting();
    let (supervisor, mut reports) = supervisor(&backend);
    let id = InstanceId::new();
    let unrouted =
        AssignedInstance { observed: InstanceState::Running, wanted: Wanted::Unroute, ..assigned(id) };
    supervisor.assign(vec![unrouted.clone()]).await;
    healthy(&mut reports, 1).await;
    supervisor.assign(vec![AssignedInstance { wanted: Wanted::Stop, ..unrouted }]).await;
    becomes(&mut reports, |reports| reports[0].state == InstanceState::Stopped).await;
    assert_eq!(reports.borrow().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_replaced_at_once_and_the_next_ones_after_a_growing_wait() {
    let backend = FakeBackend::new();
    let (supervisor, _) = supervisor(&backend);
    supervisor.assign(vec![assigned(InstanceId::new())]).await;
    let (mut before, mut run) = backend.starts_reach(1).await;
    let mut chain = Vec::new();
    for (start, wait) in [(2, 0), (3, 100), (4, 200), (5, 400)] {
        settle().await;
        chain.push(run.id);
        backend.end(run.id, Ended::Failed(trap()));
        let time;
        (time, run) = backend.starts_reach(start).await;
        assert_eq!((time - before).as_millis(), wait, "start {start}");
        assert_eq!(run.replaces, chain);
        before = time;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_has_used_up_its_attempts_has_failed_and_says_so() {
    let backend = FakeBackend::new();
    let (supervisor, mut reports) = supervisor(&backend);
    supervisor.assign(vec![with_spec(InstanceId::new(), |spec| spec.restart.attempts = Some(1))]).await;
    for start in [1, 2] {
        let (_, run) = backend.starts_reach(start).await;
        settle().await;
        backend.end(run.id, Ended::Failed(trap()));
    }
    let gave_up = |seen: &Vec<InstanceReport>| seen.len() == 2 && seen.iter().all(|it| it.state.is_final());
    let seen = becomes(&mut reports, gave_up).await;
    assert_eq!(seen[1].state, InstanceState::Failed);
    assert_eq!(seen[1].reason.as_ref().unwrap().message, "gave up after 1 restart: unreachable");
}

/// Lets every task run until it waits for a clock or for the test.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_that_fails_is_reported_with_its_reason_and_tried_again() {
    let backend = FakeBackend::failing_to_start(trap());
    let (supervisor, mut reports) = supervisor(&backend);
    supervisor.assign(vec![assigned(InstanceId::new())]).await;
    let seen = becomes(&mut reports, |seen| seen.len() == 3).await;
    assert_eq!(states(&seen), [InstanceState::Failed, InstanceState::Failed, InstanceState::Starting]);
    assert_eq!(seen[0].reason, Some(trap().reason));
    assert_eq!(seen[2].reason.as_ref().unwrap().message, "waits 100ms before the next try: unreachable");
    assert_eq!((seen[1].replaces, seen[2].replaces), (Some(seen[0].id), Some(seen[1].id)));
    assert_eq!(seen[2].restarts, 2);
}

#[tokio::test(start_paused = true)]
async fn what_fails_for_an_hour_while_nobody_takes_note_does_not_make_the_reports_longer() {
    let backend = FakeBackend::failing_to_start(trap());
    let (supervisor, reports) = supervisor(&backend);
    supervisor.assign(vec![assigned(InstanceId::new())]).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let told = reports.borrow().clone();
    assert!(told.len() <= 16, "{} instances are told of", told.len());
    // Whoever has taken note of these lists the newest.
    let newest = told.last().unwrap();
    supervisor
        .assign(vec![AssignedInstance { observed: InstanceState::Starting, ..assigned(newest.id) }])
        .await;
    let seen = reports.borrow().clone();
    assert_eq!((seen[0].id, seen[0].state), (newest.id, InstanceState::Failed));
    assert_eq!((seen.len(), seen[1].replaces), (2, Some(newest.id)));
    assert!(seen[1].restarts > 100, "{} restarts", seen[1].restarts);
}

#[tokio::test(start_paused = true)]
async fn good_health_for_long_enough_forgets_the_restarts() {
    let backend = FakeBackend::new();
    let (supervisor, mut reports) = supervisor(&backend);
    supervisor.assign(vec![assigned(InstanceId::new())]).await;
    healthy(&mut reports, 1).await;
    backend.end(backend.starts_reach(1).await.1.id, Ended::Failed(trap()));
    let (began, _) = backend.starts_reach(2).await;
    becomes(&mut reports, |seen| seen.last().is_some_and(|report| report.restarts == 1)).await;
    becomes(&mut reports, |seen| seen.last().is_some_and(|report| report.restarts == 0)).await;
    assert_eq!(began.elapsed(), Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn a_broken_artifact_is_final() {
    let backend = FakeBackend::failing_to_prepare(Failure::new(ReasonKind::Artifact, "not Wasm"));
    let (supervisor, mut reports) = supervisor(&backend);
    supervisor.assign(vec![assigned(InstanceId::new())]).await;
    let seen = becomes(&mut reports, |seen| seen[0].state.is_final()).await;
    assert_eq!((seen.len(), seen[0].state), (1, InstanceState::Failed));
    assert_eq!(seen[0].reason.as_ref().unwrap().message, "not Wasm");
}

#[tokio::test(start_paused = true)]
async fn a_final_state_is_reported_until_it_is_no_longer_listed() {
    let backend = FakeBackend::failing_to_prepare(Failure::new(ReasonKind::Artifact, "not Wasm"));
    let (supervisor, mut reports) = supervisor(&backend);
    let id = InstanceId::new();
    supervisor.assign(vec![assigned(id)]).await;
    becomes(&mut reports, |seen| seen[0].state.is_final()).await;
    supervisor.assign(vec![assigned(id)]).await;
    assert_eq!(states(&reports.borrow()), [InstanceState::Failed]);
    supervisor.assign(vec![]).await;
    assert_eq!(*reports.borrow(), []);
}

#[tokio::test(start_paused = true)]
async fn listing_the_replacement_prunes_its_ancestors_and_restarts_nothing() {
    let backend = FakeBackend::new();
    let (supervisor, mut reports) = supervisor(&backend);
    let id = InstanceId::new();
    supervisor.assign(vec![assigned(id)]).await;
    healthy(&mut reports, 1).await;
    backend.end(id, Ended::Failed(trap()));
    let (_, run) = backend.starts_reach(2).await;
    supervisor.assign(vec![assigned(id)]).await;
    assert_eq!(reports.borrow().len(), 2);
    let next = AssignedInstance { observed: InstanceState::Running, ..assigned(run.id) };
    supervisor.assign(vec![next]).await;
    let seen = healthy(&mut reports, 1).await;
    assert_eq!((seen.len(), seen[0].id, seen[0].replaces), (1, run.id, Some(id)));
    settle().await;
    assert_eq!(backend.calls().iter().filter(|call| matches!(call, Call::Start(_))).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn unroute_keeps_running_and_stop_drains() {
    let backend = FakeBackend::new();
    let (supervisor, mut reports) = supervisor(&backend);
    let id = InstanceId::new();
    supervisor.assign(vec![assigned(id)]).await;
    healthy(&mut reports, 1).await;
    supervisor.assign(vec![AssignedInstance { wanted: Wanted::Unroute, ..assigned(id) }]).await;
    settle().await;
    assert_eq!(states(&reports.borrow()), [InstanceState::Running]);

    backend.stops_take(Duration::from_secs(7));
    let stop = AssignedInstance { wanted: Wanted::Stop, ..assigned(id) };
    supervisor.assign(vec![stop.clone()]).await;
    becomes(&mut reports, |seen| seen[0].state == InstanceState::Stopping).await;
    let began = Instant::now();
    becomes(&mut reports, |seen| seen[0].state == InstanceState::Stopped).await;
    assert_eq!(began.elapsed(), Duration::from_secs(7));
    let calls = backend.calls();
    assert_eq!(calls[calls.len() - 2..], [Call::Stop(id, Duration::from_secs(30)), Call::Remove(id)]);
    supervisor.assign(vec![]).await;
    assert_eq!(*reports.borrow(), []);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_not_listed_is_stopped_and_then_forgotten() {
    let backend = FakeBackend::new();
    let (supervisor, mut reports) = supervisor(&backend);
    let id = InstanceId::new();
    supervisor.assign(vec![assigned(id)]).await;
    healthy(&mut reports, 1).await;
    supervisor.assign(vec![]).await;
    becomes(&mut reports, Vec::is_empty).await;
    assert!(backend.calls().contains(&Call::Remove(id)));
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_the_backoff_ends_it_at_once() {
    let backend = FakeBackend::failing_to_start(trap());
    let (supervisor, mut reports) = supervisor(&backend);
    let id = InstanceId::new();
    let instance = with_spec(id, |spec| spec.restart.delay = Span::from_secs(100));
    supervisor.assign(vec![instance.clone()]).await;
    becomes(&mut reports, |seen| seen.len() == 2).await;
    let began = Instant::now();
    supervisor.assign(vec![AssignedInstance { wanted: Wanted::Stop, ..instance }]).await;
    let seen = becomes(&mut reports, |seen| seen[1].state.is_final()).await;
    assert_eq!(states(&seen), [InstanceState::Failed, InstanceState::Stopped]);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_trap_before_the_first_good_answer_fails_the_instance() {
    let backend = FakeBackend::new();
    backend.answer("/", [Err(trap())]);
    let (supervisor, mut reports) = supervisor(&backend);
    supervisor.assign(vec![assigned(InstanceId::new())]).await;
    let seen = becomes(&mut reports, |seen| seen[0].state.is_final()).await;
    assert_eq!((seen[0].state, seen[0].reason.clone()), (InstanceState::Failed, Some(trap().reason)));
}

#[tokio::test(start_paused = true)]
async fn startup_is_probed_quickly_until_the_first_good_answer() {
    let backend = FakeBackend::new();
    backend.answer("/", [Ok(503), Ok(503), Ok(200)]);
    let (supervisor, mut reports) = supervisor(&backend);
    let began = Instant::now();
    supervisor.assign(vec![assigned(InstanceId::new())]).await;
    let seen = becomes(&mut reports, |seen| seen[0].health == Health::Unhealthy).await;
    assert_eq!(seen[0].reason.as_ref().unwrap().message, "GET / answered 503");
    let seen = healthy(&mut reports, 1).await;
    assert_eq!((began.elapsed(), &seen[0].reason), (Duration::from_millis(200), &None));
}

#[tokio::test(start_paused = true)]
async fn a_readiness_that_is_lost_keeps_the_instance_running() {
    let backend = FakeBackend::new();
    backend.answer("/healthz", [Ok(200), Ok(503)]);
    let (supervisor, mut reports) = supervisor(&backend);
    let began = Instant::now();
    let instance = with_spec(InstanceId::new(), |spec| spec.http.health.path = Some("/healthz".into()));
    supervisor.assign(vec![instance]).await;
    healthy(&mut reports, 1).await;
    let seen = becomes(&mut reports, |seen| seen[0].health == Health::Unhealthy).await;
    assert_eq!((seen.len(), seen[0].state), (1, InstanceState::Running));
    assert_eq!(seen[0].reason.as_ref().unwrap().message, "GET /healthz answered 503");
    assert_eq!(began.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_dead_instance_is_removed_and_replaced() {
    let backend = FakeBackend::new();
    backend.answer("/live", [Ok(500)]);
    let (supervisor, mut reports) = supervisor(&backend);
    let id = InstanceId::new();
    supervisor
        .assign(vec![with_spec(id, |spec| spec.http.health.liveness_path = Some("/live".into()))])
        .await;
    let seen = becomes(&mut reports, |seen| seen.len() == 2).await;
    assert_eq!(seen[0].state, InstanceState::Failed);
    assert!(seen[0].reason.as_ref().unwrap().message.starts_with("GET /live failed 3 times in a row"));
    backend.starts_reach(2).await;
    let calls = backend.calls();
    assert!(calls.contains(&Call::Stop(id, Duration::ZERO)) && calls.contains(&Call::Remove(id)));
}

#[tokio::test(start_paused = true)]
async fn a_command_that_succeeds_is_stopped_and_healthy() {
    let backend = FakeBackend::new();
    let (supervisor, mut reports) = supervisor(&backend);
    let id = InstanceId::new();
    let instance = AssignedInstance {
        world: World::CommandP2,
        ..with_spec(id, |spec| spec.restart.condition = RestartCondition::OnFailure)
    };
    supervisor.assign(vec![instance]).await;
    becomes(&mut reports, |seen| seen[0].state == InstanceState::Running).await;
    settle().await;
    backend.end(id, Ended::Success);
    let seen = becomes(&mut reports, |seen| seen[0].state.is_final()).await;
    assert_eq!((seen.len(), seen[0].state, seen[0].health), (1, InstanceState::Stopped, Health::Healthy));
}

#[tokio::test(start_paused = true)]
async fn shutdown_drains_every_instance() {
    let backend = FakeBackend::new();
    backend.stops_take(Duration::from_secs(5));
    let (mut supervisor, mut reports) = supervisor(&backend);
    let ids: Vec<InstanceId> = (0..3).map(|_| InstanceId::new()).collect();
    supervisor.assign(ids.iter().copied().map(assigned).collect()).await;
    healthy(&mut reports, 3).await;
    let began = Instant::now();
    assert_eq!(supervisor.shutdown(grace(10, 0)).await, Shutdown::Clean);
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    let calls = backend.calls();
    assert!(ids.iter().all(|id| calls.contains(&Call::Stop(*id, Duration::from_secs(9)))), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn shutdown_gives_up_after_the_grace_period() {
    let backend = FakeBackend::new();
    backend.stops_take(Duration::from_secs(100));
    let (mut supervisor, mut reports) = supervisor(&backend);
    supervisor.assign(vec![assigned(InstanceId::new())]).await;
    healthy(&mut reports, 1).await;
    assert_eq!(supervisor.shutdown(grace(1, 0)).await, Shutdown::Forced);
}

#[tokio::test(start_paused = true)]
async fn how_far_a_preparation_is_is_told_until_it_ends() {
    let backend = FakeBackend::new();
    backend.prepares_take(Duration::from_secs(5), "pulling redis:7");
    let (supervisor, mut reports) = supervisor(&backend);
    supervisor.assign(vec![assigned(InstanceId::new())]).await;
    let seen = becomes(&mut reports, |seen| seen[0].reason.is_some()).await;
    let told = seen[0].reason.as_ref().unwrap();
    assert_eq!((seen[0].state, told.kind), (InstanceState::Preparing, ReasonKind::Platform));
    assert_eq!(told.message, "pulling redis:7");
    let seen = healthy(&mut reports, 1).await;
    assert_eq!(seen[0].reason, None);
}

fn container(id: InstanceId, drain: u64) -> AssignedInstance {
    let instance = with_spec(id, |spec| spec.stop.drain = Span::from_secs(drain));
    AssignedInstance { world: World::Container, ..instance }
}

#[tokio::test(start_paused = true)]
async fn a_container_has_the_time_that_its_app_declares_and_guests_end_before() {
    let backend = FakeBackend::new();
    backend.stops_take(Duration::from_secs(12));
    let (mut supervisor, mut reports) = supervisor(&backend);
    let (patient, other, guest) = (InstanceId::new(), InstanceId::new(), InstanceId::new());
    supervisor.assign(vec![container(patient, 25), container(other, 600), assigned(guest)]).await;
    becomes(&mut reports, |seen| seen.iter().all(|it| it.state == InstanceState::Running)).await;
    let began = Instant::now();
    assert_eq!(supervisor.shutdown(grace(5, 60)).await, Shutdown::Clean);
    assert_eq!(began.elapsed(), Duration::from_secs(12), "nobody waits for longer than there is need");
    let calls = backend.calls();
    for (id, drain) in [(patient, 25_000), (other, 60_000), (guest, 4500)] {
        assert!(calls.contains(&Call::Stop(id, Duration::from_millis(drain))), "{calls:?}");
        assert!(calls.contains(&Call::Remove(id)), "{calls:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_never_ends_is_given_up_some_time_after_its_drain() {
    let backend = FakeBackend::new();
    backend.stops_take(Duration::from_secs(3600));
    let (mut supervisor, mut reports) = supervisor(&backend);
    let id = InstanceId::new();
    supervisor.assign(vec![container(id, 25)]).await;
    becomes(&mut reports, |seen| seen[0].state == InstanceState::Running).await;
    let began = Instant::now();
    // The slot itself goes on without its backend, and removes what is left.
    assert_eq!(supervisor.shutdown(grace(5, 60)).await, Shutdown::Clean);
    assert_eq!(began.elapsed(), Duration::from_secs(30));
    assert!(backend.calls().contains(&Call::Remove(id)));
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_want_to_wait_lets_go() {
    let backend = FakeBackend::new();
    backend.stops_take(Duration::from_secs(3600));
    let (mut supervisor, mut reports) = supervisor(&backend);
    supervisor.assign(vec![container(InstanceId::new(), 600)]).await;
    becomes(&mut reports, |seen| seen[0].state == InstanceState::Running).await;
    let began = Instant::now();
    let waited = tokio::time::timeout(Duration::from_secs(2), supervisor.shutdown(grace(5, 600))).await;
    assert!(waited.is_err());
    supervisor.abort().await;
    assert_eq!(began.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_command_with_a_port_is_healthy_once_it_accepts_connections() {
    let backend = FakeBackend::new();
    backend.refuse_connections(vec![Failure::new(ReasonKind::Probe, "nobody listens"); 3]);
    let (supervisor, mut reports) = supervisor(&backend);
    let id = InstanceId::new();
    let server = with_spec(id, |spec| spec.tcp.ports = vec![7000]);
    let began = Instant::now();
    supervisor.assign(vec![AssignedInstance { world: World::CommandP2, ..server }]).await;
    let unhealthy = |reports: &Vec<InstanceReport>| reports[0].health == Health::Unhealthy;
    let seen = becomes(&mut reports, unhealthy).await;
    assert_eq!(seen[0].reason.as_ref().map(|reason| reason.message.as_str()), Some("nobody listens"));
    healthy(&mut reports, 1).await;
    assert_eq!(began.elapsed(), Duration::from_millis(300), "it is asked every 100 ms");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let asked = backend.calls().iter().filter(|call| **call == Call::Accepts(id)).count();
    assert_eq!(asked, 4, "and never again");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_with_success_before_it_listens_was_never_healthy() {
    let backend = FakeBackend::new();
    backend.refuse_connections([Failure::new(ReasonKind::Probe, "nobody listens")]);
    let (supervisor, mut reports) = supervisor(&backend);
    let id = InstanceId::new();
    let server = with_spec(id, |spec| {
        spec.tcp.ports = vec![7000];
        spec.restart.condition = RestartCondition::Never;
    });
    supervisor.assign(vec![AssignedInstance { world: World::CommandP2, ..server }]).await;
    becomes(&mut reports, |reports| reports[0].health == Health::Unhealthy).await;
    backend.end(id, Ended::Success);
    let seen = becomes(&mut reports, |reports| reports[0].state == InstanceState::Stopped).await;
    assert_eq!(seen[0].health, Health::Unhealthy);
}

fn singleton(id: InstanceId) -> AssignedInstance {
    with_spec(id, |spec| spec.scale.singleton = true)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_singleton_waits_for_its_lease_and_ends_with_it_for_good() {
    let backend = FakeBackend::new();
    let (supervisor, mut reports) = supervisor(&backend);
    let (id, other) = (InstanceId::new(), InstanceId::new());
    supervisor.assign(vec![singleton(id), assigned(other)]).await;
    healthy(&mut reports, 1).await;
    assert!(!backend.calls().contains(&Call::Start(id)));
    let began = Instant::now();
    supervisor.handle().hold(vec![id], Until::at(began + seconds(8))).await;
    healthy(&mut reports, 2).await;
    let state = |reports: &Vec<InstanceReport>| reports.iter().find(|report| report.id == id).unwrap().state;
    becomes(&mut reports, |reports| state(reports) == InstanceState::Failed).await;
    assert_eq!(began.elapsed(), seconds(8));
    assert!(backend.calls().contains(&Call::Stop(id, Duration::ZERO)));
    assert!(backend.calls().contains(&Call::Remove(id)));
    // It is not revived by what comes late, and what is no singleton goes on.
    supervisor.handle().hold(vec![id], Until::at(Instant::now() + seconds(8))).await;
    supervisor.assign(vec![singleton(id), assigned(other)]).await;
    settle().await;
    let starts = backend.calls().iter().filter(|call| matches!(call, Call::Start(_))).count();
    assert_eq!(starts, 2);
    let seen = healthy(&mut reports, 1).await;
    let failed = seen.iter().find(|report| report.id == id).unwrap();
    assert_eq!(failed.reason.as_ref().unwrap().kind, ReasonKind::Platform);
}

#[tokio::test(start_paused = true)]
async fn a_singleton_that_crashes_within_its_lease_is_replaced_in_its_slot() {
    let backend = FakeBackend::new();
    let (supervisor, mut reports) = supervisor(&backend);
    let id = InstanceId::new();
    supervisor.assign(vec![singleton(id)]).await;
    supervisor.handle().hold(vec![id], Until::at(Instant::now() + seconds(8))).await;
    healthy(&mut reports, 1).await;
    backend.end(id, Ended::Failed(trap()));
    let (_, run) = backend.starts_reach(2).await;
    assert_eq!(run.replaces, [id]);
    // The control plane may know it by either name.
    let began = Instant::now();
    supervisor.handle().hold(vec![run.id], Until::at(began + seconds(9))).await;
    becomes(&mut reports, |reports| reports.iter().all(|report| report.state.is_final())).await;
    assert_eq!(began.elapsed(), seconds(9));
}

#[tokio::test(start_paused = true)]
async fn a_singleton_drains_no_longer_than_its_lease() {
    let backend = FakeBackend::new();
    let (supervisor, mut reports) = supervisor(&backend);
    let id = InstanceId::new();
    supervisor.assign(vec![singleton(id)]).await;
    let began = Instant::now();
    supervisor.handle().hold(vec![id], Until::at(began + seconds(8))).await;
    healthy(&mut reports, 1).await;
    backend.stops_take(seconds(4));
    supervisor.assign(vec![AssignedInstance { wanted: Wanted::Stop, ..singleton(id) }]).await;
    becomes(&mut reports, |reports| reports[0].state == InstanceState::Stopped).await;
    assert_eq!(began.elapsed(), seconds(4));

    let id = InstanceId::new();
    supervisor.assign(vec![singleton(id)]).await;
    let began = Instant::now();
    supervisor.handle().hold(vec![id], Until::at(began + seconds(8))).await;
    healthy(&mut reports, 1).await;
    backend.stops_take(seconds(20));
    supervisor.assign(vec![AssignedInstance { wanted: Wanted::Stop, ..singleton(id) }]).await;
    let stopped = |reports: &Vec<InstanceReport>| {
        reports.iter().any(|report| report.id == id && report.state == InstanceState::Stopped)
    };
    becomes(&mut reports, stopped).await;
    assert!(backend.calls().contains(&Call::Stop(id, Duration::ZERO)));
    assert_eq!(began.elapsed(), seconds(8) + Duration::from_millis(500), "whatever does not stop is removed");
}
