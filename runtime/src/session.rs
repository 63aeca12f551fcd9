//! The worker's session with the control plane: assignments come in, reports go out.
//!
//! Two loops share nothing but the accepted generation. One registers the node and follows its assignments, and hands
//! instances to the supervisor and routes to the ingress. The other reports what changed, and that the node lives. When the
//! control plane is away, both try again and everything that runs goes on; a process that starts meanwhile goes by what is [`kept`].

mod kept;
mod report;

#[cfg(test)]
pub(crate) mod fake_control;

use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use tokio::select;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use wharf_types::delta::Told;
use wharf_types::figures::NodeFigures;
use wharf_types::node::{
    AppUsage, Assignment, InstanceReport, NodeRegistration, ReportAnswer, SINGLETON_LEASE,
};
use wharf_types::route::RouteTable;
use wharf_types::{NodeId, ProcessId, VolumeId};

pub use self::kept::{Kept, KeptError, after_a_restart};
use self::report::{Acknowledged, Reporter};
use crate::backoff::{Jitter, Reconnect};
use crate::control::{ControlClient, ControlError};
use crate::secrets::SecretStore;
use crate::space::Space;
use crate::supervisor::{SupervisorHandle, Until};

/// The node's lease is renewed by reports at least this often.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long news that nobody waits for may be held back, to go out together with what follows.
const GATHER: Duration = Duration::from_millis(5);

/// What this node has used so far, by release and as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub apps: Vec<AppUsage>,
    pub node: NodeFigures,
}

/// Returns the newest figures.
pub type ReadFigures = Arc<dyn Fn() -> Figures + Send + Sync>;

/// The task that speaks with the control plane.
#[derive(Debug)]
pub struct Session {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

/// Who takes which part of an assignment.
pub struct Takers {
    pub supervisor: SupervisorHandle,
    pub secrets: Arc<SecretStore>,
    /// Keeps what is assigned from being dropped.
    pub space: Arc<Space>,
    /// Set whenever newer routes come.
    pub routes: watch::Sender<Arc<RouteTable>>,
    /// Set whenever other volumes are to be removed.
    pub removed_volumes: watch::Sender<Vec<VolumeId>>,
    /// What lasts of all that. None: nothing has to, because the control plane is in the same process.
    pub kept: Option<Kept>,
}

impl Session {
    /// `routes_applied` is the generation that the ingress uses; `calls` changes when a request begins to wait for an app that sleeps.
    pub fn spawn(
        control: ControlClient,
        registration: NodeRegistration,
        takers: Takers,
        (routes_applied, calls): (watch::Receiver<u64>, watch::Receiver<u64>),
        figures: ReadFigures,
    ) -> Self {
        let cancel = CancellationToken::new();
        let progress = watch::Sender::new(Progress::default());
        let process = registration.incarnation.process;
        let news = News {
            process,
            reports: takers.supervisor.reports(),
            routes_applied,
            calls,
            progress: progress.subscribe(),
            supervisor: takers.supervisor.clone(),
            reporter: Reporter::default(),
        };
        let kept = takers.kept.map(Arc::new);
        let (newest, to_keep) = watch::channel(None);
        if let Some(kept) = &kept {
            // It ends after the session, when the last assignment is written.
            tokio::spawn(kept.clone().follow(to_keep));
        }
        let follower = Follower {
            control: control.clone(),
            registration,
            supervisor: takers.supervisor,
            secrets: takers.secrets,
            space: takers.space,
            routes: takers.routes,
            removed_volumes: takers.removed_volumes,
            current: None,
            kept,
            newest,
            progress,
        };
        let cancelled = cancel.clone();
        let task = tokio::spawn(async move {
            select! {
                () = cancelled.cancelled_owned() => {}
                () = follower.run() => {}
                () = news.run(control, figures) => {}
            }
        });
        Self { cancel, task }
    }

    /// Ends both loops at once. The control plane keeps what was reported last.
    pub async fn shutdown(self) {
        self.cancel.cancel();
        let _ = self.task.await;
    }
}

/// What one loop tells the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// Before that, the control plane knows no such node and refuses its reports.
    registered: bool,
    /// The newest assignment that was accepted.
    generation: Option<u64>,
}

struct Follower {
    control: ControlClient,
    registration: NodeRegistration,
    supervisor: SupervisorHandle,
    secrets: Arc<SecretStore>,
    space: Arc<Space>,
    routes: watch::Sender<Arc<RouteTable>>,
    removed_volumes: watch::Sender<Vec<VolumeId>>,
    /// The newest that was accepted, which deltas change.
    current: Option<Arc<Assignment>>,
    /// Not read yet.
    kept: Option<Arc<Kept>>,
    /// What is to be kept.
    newest: watch::Sender<Option<Arc<Assignment>>>,
    progress: watch::Sender<Progress>,
}

impl Follower {
    async fn run(mut self) {
        let mut reconnect = Reconnect::new(Jitter::seeded(self.control.node().as_uuid().as_u64_pair().1));
        let mut refused_for = None::<String>;
        loop {
            let outcome = self.follow(&mut reconnect).await;
            if outcome.as_ref().is_err_and(ControlError::is_retryable) {
                self.go_by_what_is_kept().await;
            }
            match &outcome {
                Ok(()) => refused_for = None,
                // Somebody has to do something about it, so it is said also where the session had ended for another reason before.
                Err(error) if !error.is_retryable() => {
                    let why = chain(error).to_string();
                    if refused_for.as_ref() != Some(&why) && !reconnect.is_reset() {
                        warn!("this node is refused by the control plane: {why}");
                    }
                    refused_for = Some(why);
                }
                Err(_) => {}
            }
            retry(&mut reconnect, "the session with the control plane ended", outcome.err()).await;
        }
    }

    async fn follow(&mut self, reconnect: &mut Reconnect) -> Result<(), ControlError> {
        let agreed = self.control.register(&self.registration).await?;
        if agreed < self.control.speaks().newest() {
            warn!(
                "the control plane is of an older version: this node speaks version {agreed} of the node protocol with it"
            );
        }
        self.progress.send_modify(|progress| progress.registered = true);
        let assignments = self.control.assignments(self.registration.incarnation.process).await?;
        pin_mut!(assignments);
        while let Some(told) = assignments.next().await {
            let assignment = match told? {
                Told::Whole(whole) => *whole,
                Told::Delta(delta) => {
                    let next = self.current.as_ref().and_then(|current| current.with(&delta));
                    let (after, generation) = (delta.after, delta.generation);
                    next.ok_or(ControlError::Gap { after, generation })?
                }
            };
            reconnect.reset();
            let accepted = self.progress.borrow().generation;
            match judge(self.control.node(), accepted, &assignment) {
                Verdict::Accept => self.accept(assignment).await,
                Verdict::Known => {}
                Verdict::Older => warn!(
                    "refused assignment {}: {} was accepted before",
                    assignment.generation,
                    accepted.unwrap_or_default()
                ),
                Verdict::Foreign => warn!("refused an assignment of another node, {}", assignment.node),
            }
        }
        Ok(())
    }

    /// Where nobody has said anything to this process yet, what the one before was told last holds.
    async fn go_by_what_is_kept(&mut self) {
        let Some(kept) = self.kept.take().filter(|_| self.progress.borrow().generation.is_none()) else {
            return;
        };
        let node = self.control.node();
        match tokio::task::spawn_blocking(move || kept.read(node)).await {
            Ok(Ok(Some((assignment, written)))) => {
                info!(
                    "no control plane answers; this node runs what it was told last, assignment {} of {written}",
                    assignment.generation
                );
                self.accept(after_a_restart(assignment)).await;
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => warn!("what this node was told last is of no use: {}", chain(&error)),
            Err(error) => warn!("what this node was told last cannot be read: {error}"),
        }
    }

    async fn accept(&mut self, assignment: Assignment) {
        let assignment = Arc::new(assignment);
        self.current = Some(assignment.clone());
        if self.newest.receiver_count() > 0 {
            self.newest.send_replace(Some(assignment.clone()));
        }
        self.routes.send_if_modified(|current| {
            let newer = assignment.routes.generation > current.generation;
            if newer {
                *current = assignment.routes.clone();
            }
            newer
        });
        self.secrets.replace(assignment.secrets.clone());
        self.space.assign(&assignment.instances);
        self.removed_volumes.send_if_modified(|current| {
            let is_other = *current != assignment.removed_volumes;
            current.clone_from(&assignment.removed_volumes);
            is_other
        });
        // Acknowledged only when the reports speak of every instance of it: otherwise the control plane would miss
        // those that it has just assigned.
        self.supervisor.assign(assignment.instances.clone()).await;
        self.progress.send_modify(|progress| progress.generation = Some(assignment.generation));
    }
}

/// What to do with an assignment that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    /// It comes again after a reconnect.
    Known,
    Older,
    Foreign,
}

/// An assignment never takes the place of a newer one.
pub fn judge(node: NodeId, accepted: Option<u64>, assignment: &Assignment) -> Verdict {
    if assignment.node != node {
        return Verdict::Foreign;
    }
    match accepted {
        Some(accepted) if assignment.generation < accepted => Verdict::Older,
        Some(accepted) if assignment.generation == accepted => Verdict::Known,
        _ => Verdict::Accept,
    }
}

/// Everything that a report is made of.
struct News {
    process: ProcessId,
    reports: watch::Receiver<Vec<InstanceReport>>,
    routes_applied: watch::Receiver<u64>,
    calls: watch::Receiver<u64>,
    progress: watch::Receiver<Progress>,
    supervisor: SupervisorHandle,
    reporter: Reporter,
}

impl News {
    async fn run(mut self, control: ControlClient, figures: ReadFigures) {
        if self.progress.wait_for(|progress| progress.registered).await.is_err() {
            return;
        }
        let mut reconnect = Reconnect::new(Jitter::seeded(control.node().as_uuid().as_u64_pair().1 ^ 1));
        loop {
            let heartbeat = Instant::now() + HEARTBEAT;
            let generation = self.progress.borrow_and_update().generation.unwrap_or_default();
            let routes = *self.routes_applied.borrow_and_update();
            self.calls.borrow_and_update();
            let acknowledged = Acknowledged { assignment_generation: generation, routes_generation: routes };
            let body = self.reporter.compose(
                self.process,
                acknowledged,
                &self.reports.borrow_and_update(),
                figures(),
            );
            // The control plane cannot have heard of this node before that.
            let until = Until::after(SINGLETON_LEASE);
            match control.send_report(body).await {
                Ok(ReportAnswer { holds }) => {
                    reconnect.reset();
                    if !holds.is_empty() {
                        self.supervisor.hold(holds, until).await;
                    }
                }
                Err(error) => {
                    retry(&mut reconnect, "a report did not arrive", Some(error)).await;
                    // The next one is composed anew: only the newest state matters.
                    continue;
                }
            }
            select! {
                () = sleep_until(heartbeat) => {}
                () = self.come() => {}
            }
        }
    }

    /// Waits for something worth a report. What a deploy waits for is reported at once; the steps on the way there may wait
    /// a moment, and usually never become a report of their own.
    async fn come(&mut self) {
        let mut deadline = None;
        loop {
            select! {
                biased;
                () = changed(&mut self.routes_applied) => return,
                () = changed(&mut self.calls) => return,
                () = changed(&mut self.reports) => {
                    if self.reporter.is_urgent(&self.reports.borrow_and_update()) {
                        return;
                    }
                }
                () = changed(&mut self.progress) => {}
                () = until(deadline) => return,
            }
            deadline = deadline.or_else(|| Some(Instant::now() + GATHER));
        }
    }
}

/// Says why something has to be tried again, and waits. Only the first of several failures is worth a warning.
async fn retry(reconnect: &mut Reconnect, what: &str, error: Option<ControlError>) {
    let first = reconnect.is_reset();
    let told = error.as_ref().and_then(ControlError::wait);
    let wait = match told {
        Some(told) => reconnect.around(told),
        None => reconnect.next_wait(),
    };
    match error {
        Some(error) if first => warn!("{what}, trying again: {}", chain(&error)),
        Some(error) => debug!("{what} again, the next try is in {wait:?}: {}", chain(&error)),
        None => info!("{what}, connecting again"),
    }
    sleep(wait).await;
}

/// The error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> impl fmt::Display {
    let causes: Vec<String> =
        std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect();
    causes.join(": ")
}

/// Never returns once the sender is gone.
async fn changed<T>(values: &mut watch::Receiver<T>) {
    if values.changed().await.is_err() {
        pending().await
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::fake_control::FakeControl;
    use super::*;
    use crate::fake::{FakeBackend, assigned, becomes};
    use crate::supervisor::Supervisor;
    use wharf_types::InstanceId;
    use wharf_types::node::NodeReport;
    use wharf_types::state::{Health, InstanceState};

    struct Worker {
        backend: Arc<FakeBackend>,
        /// Ends with the test.
        _supervisor: Supervisor,
        session: Session,
        routes: watch::Receiver<Arc<RouteTable>>,
        applied: watch::Sender<u64>,
        /// Changes when a request begins to wait.
        calls: watch::Sender<u64>,
    }

    fn worker(control: &FakeControl) -> Worker {
        worker_with(control, None)
    }

    fn worker_with(control: &FakeControl, kept: Option<Kept>) -> Worker {
        let backend = FakeBackend::new();
        let supervisor = Supervisor::spawn(backend.clone(), 1);
        let (routes, watched_routes) = watch::channel(Arc::default());
        let (applied, watched_applied) = watch::channel(0);
        let (calls, called) = watch::channel(0);
        let registration = NodeRegistration {
            hostname: "laptop".into(),
            memory_bytes: 1 << 30,
            cpus: 2,
            version: "0.1.0".into(),
            ..NodeRegistration::default()
        };
        let takers = Takers {
            supervisor: supervisor.handle(),
            secrets: Arc::default(),
            space: Space::new(std::env::temp_dir(), None),
            routes,
            removed_volumes: watch::Sender::default(),
            kept,
        };
        let figures = Arc::new(Figures::default);
        let session =
            Session::spawn(control.client(), registration, takers, (watched_applied, called), figures);
        Worker { backend, _supervisor: supervisor, session, routes: watched_routes, applied, calls }
    }

    fn reported(report: &NodeReport, id: InstanceId) -> Option<(InstanceState, Health)> {
        let found = report.instances.iter().find(|report| report.id == id)?;
        Some((found.state, found.health))
    }

    fn assignment(
        control: &FakeControl,
        generation: u64,
        ids: impl IntoIterator<Item = InstanceId>,
    ) -> Assignment {
        Assignment {
            node: control.node(),
            generation,
            instances: ids.into_iter().map(assigned).collect(),
            secrets: Vec::new(),
            routes: Arc::new(RouteTable { generation, ..RouteTable::default() }),
            removed_volumes: Vec::new(),
        }
    }

    #[test]
    fn only_a_newer_assignment_of_this_node_is_accepted() {
        let (node, other) = (NodeId::new(), NodeId::new());
        let assignment = |node, generation| Assignment {
            node,
            generation,
            instances: Vec::new(),
            secrets: Vec::new(),
            routes: Arc::default(),
            removed_volumes: Vec::new(),
        };
        assert_eq!(judge(node, None, &assignment(node, 0)), Verdict::Accept);
        assert_eq!(judge(node, Some(3), &assignment(node, 4)), Verdict::Accept);
        assert_eq!(judge(node, Some(3), &assignment(node, 3)), Verdict::Known);
        assert_eq!(judge(node, Some(3), &assignment(node, 2)), Verdict::Older);
        assert_eq!(judge(node, None, &assignment(other, 1)), Verdict::Foreign);
    }

    #[tokio::test]
    async fn an_assigned_instance_is_reported_healthy_and_the_routes_are_passed_on() {
        let control = FakeControl::start().await;
        let mut worker = worker(&control);
        let id = InstanceId::new();
        control.assign(assignment(&control, 7, [id]));
        let healthy = Some((InstanceState::Running, Health::Healthy));
        let report = becomes(&mut control.reports(), |report| reported(report, id) == healthy).await;
        assert_eq!(report.assignment_generation, 7);
        assert_eq!(becomes(&mut worker.routes, |routes| routes.generation == 7).await.generation, 7);
        worker.applied.send_replace(7);
        becomes(&mut control.reports(), |report| report.routes_generation == 7).await;
        worker.session.shutdown().await;
    }

    #[tokio::test]
    async fn who_is_told_to_come_later_comes_later() {
        let control = FakeControl::start().await;
        control.put_off(1);
        let began = Instant::now();
        let _worker = worker(&control);
        becomes(&mut control.registrations(), |count| *count >= 1).await;
        assert!(began.elapsed() >= Duration::from_millis(750), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn the_node_is_reported_even_when_nothing_changes() {
        let control = FakeControl::start().await;
        let _worker = worker(&control);
        becomes(&mut control.report_count(), |count| *count >= 3).await;
    }

    #[tokio::test]
    async fn a_request_that_begins_to_wait_is_reported_at_once() {
        let control = FakeControl::start().await;
        let worker = worker(&control);
        let mut count = control.report_count();
        becomes(&mut count, |count| *count >= 1).await;
        let began = Instant::now();
        for _ in 0..10 {
            let before = *count.borrow();
            worker.calls.send_modify(|calls| *calls += 1);
            becomes(&mut count, |count| *count > before).await;
        }
        assert!(began.elapsed() < HEARTBEAT * 8, "it waited for heartbeats");
    }

    #[tokio::test]
    async fn after_a_reconnect_an_assignment_that_is_known_restarts_nothing() {
        let control = FakeControl::start().await;
        let worker = worker(&control);
        let id = InstanceId::new();
        control.assign(assignment(&control, 1, [id]));
        worker.backend.starts_reach(1).await;
        control.cut();
        becomes(&mut control.registrations(), |count| *count >= 2).await;
        let next = InstanceId::new();
        control.assign(assignment(&control, 2, [id, next]));
        let (_, run) = worker.backend.starts_reach(2).await;
        assert_eq!(run.id, next);
    }

    #[tokio::test]
    async fn reports_that_failed_come_again() {
        let control = FakeControl::start().await;
        control.refuse_reports(3);
        let _worker = worker(&control);
        let id = InstanceId::new();
        control.assign(assignment(&control, 1, [id]));
        let healthy = Some((InstanceState::Running, Health::Healthy));
        becomes(&mut control.reports(), |report| reported(report, id) == healthy).await;
    }

    #[tokio::test]
    async fn a_singleton_starts_when_the_answer_to_a_report_lists_it() {
        let control = FakeControl::start().await;
        let worker = worker(&control);
        let id = InstanceId::new();
        let mut only = assignment(&control, 7, [id]);
        let singleton: wharf_types::spec::AppSpec =
            serde_json::from_str(r#"{"scale":{"singleton":true}}"#).unwrap();
        only.instances[0].spec = Arc::new(singleton);
        control.assign(only);
        let mut reports = control.reports();
        becomes(&mut reports, |report| reported(report, id).is_some()).await;
        let heard = *control.report_count().borrow();
        becomes(&mut control.report_count(), |count| *count > heard + 1).await;
        assert!(worker.backend.calls().iter().all(|call| !matches!(call, crate::fake::Call::Start(_))));
        control.hold([id]);
        let healthy = Some((InstanceState::Running, Health::Healthy));
        becomes(&mut reports, |report| reported(report, id) == healthy).await;
    }

    #[tokio::test]
    async fn a_worker_that_starts_while_nobody_answers_runs_what_it_was_told_last() {
        let folder = tempfile::tempdir().unwrap();
        let kept = || Some(Kept::new(folder.path().join("assignment"), &[3; 32]));
        let control = FakeControl::start().await;
        let id = InstanceId::new();
        let first = worker_with(&control, kept());
        control.assign(assignment(&control, 7, [id]));
        becomes(&mut control.reports(), |report| reported(report, id).is_some()).await;
        first.session.shutdown().await;
        let written = async {
            while kept().unwrap().read(control.node()).unwrap().is_none() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), written).await.expect("it is written");
        control.go_away(true);
        let mut second = worker_with(&control, kept());
        let (_, run) = second.backend.starts_reach(1).await;
        assert!(run.id != id && run.replaces == [id], "nothing is revived");
        assert_eq!(becomes(&mut second.routes, |routes| routes.generation == 7).await.generation, 7);
        control.go_away(false);
        let report = becomes(&mut control.reports(), |report| reported(report, run.id).is_some()).await;
        assert_eq!(reported(&report, id).unwrap().0, InstanceState::Failed);
        assert_eq!(report.assignment_generation, 7);
        control.assign(assignment(&control, 6, [InstanceId::new()]));
        control.assign(assignment(&control, 8, []));
        becomes(&mut control.reports(), |report| report.instances.is_empty()).await;
    }

    #[tokio::test]
    async fn a_worker_that_is_refused_runs_nothing_of_before() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path().join("assignment"), &[3; 32]);
        let control = FakeControl::start().await;
        kept.write_now(&assignment(&control, 7, [InstanceId::new()]));
        control.expel();
        let worker = worker_with(&control, Some(kept));
        becomes(&mut control.registrations(), |count| *count >= 3).await;
        assert!(worker.backend.calls().is_empty());
    }
}
