//! The worker's session with the control plane: assignments come in, reports go out.
//!
//! Two loops share nothing but the accepted generation. One registers the node and follows its assignments, and hands
//! instances to the supervisor and routes to the ingress. The other reports what changed, and that the node lives. When the
//! control plane is away, both try again and everything that runs goes on.

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
use wharf_types::figures::NodeFigures;
use wharf_types::node::{AppUsage, Assignment, InstanceReport, NodeRegistration};
use wharf_types::route::RouteTable;
use wharf_types::{NodeId, ProcessId, VolumeId};

use self::report::{Acknowledged, Reporter};
use crate::backoff::{Jitter, Reconnect};
use crate::control::{ControlClient, ControlError};
use crate::secrets::SecretStore;
use crate::supervisor::SupervisorHandle;

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
    /// Set whenever newer routes come.
    pub routes: watch::Sender<Arc<RouteTable>>,
    /// Set whenever other volumes are to be removed.
    pub removed_volumes: watch::Sender<Vec<VolumeId>>,
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
            reporter: Reporter::default(),
        };
        let follower = Follower { control: control.clone(), registration, takers, progress };
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
    takers: Takers,
    progress: watch::Sender<Progress>,
}

impl Follower {
    async fn run(self) {
        let mut reconnect = Reconnect::new(Jitter::seeded(self.control.node().as_uuid().as_u64_pair().1));
        loop {
            let outcome = self.follow(&mut reconnect).await;
            retry(&mut reconnect, "the session with the control plane ended", outcome.err()).await;
        }
    }

    async fn follow(&self, reconnect: &mut Reconnect) -> Result<(), ControlError> {
        self.control.register(&self.registration).await?;
        self.progress.send_modify(|progress| progress.registered = true);
        let assignments = self.control.assignments(self.registration.incarnation.process).await?;
        pin_mut!(assignments);
        while let Some(assignment) = assignments.next().await {
            let assignment = assignment?;
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

    async fn accept(&self, assignment: Assignment) {
        let Assignment { node: _, generation, instances, secrets, routes, removed_volumes } = assignment;
        self.takers.routes.send_if_modified(|current| {
            let newer = routes.generation > current.generation;
            if newer {
                *current = Arc::new(routes);
            }
            newer
        });
        self.takers.secrets.replace(secrets);
        self.takers.removed_volumes.send_if_modified(|current| {
            let is_other = *current != removed_volumes;
            *current = removed_volumes;
            is_other
        });
        // Acknowledged only when the reports speak of every instance of it: otherwise the control plane would miss
        // those that it has just assigned.
        self.takers.supervisor.assign(instances).await;
        self.progress.send_modify(|progress| progress.generation = Some(generation));
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
            match control.send_report(body).await {
                Ok(()) => reconnect.reset(),
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
            routes,
            removed_volumes: watch::Sender::default(),
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
            routes: RouteTable { generation, ..RouteTable::default() },
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
            routes: RouteTable::default(),
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
}
