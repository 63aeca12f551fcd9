//! A control plane: what `reconcile::Reconciler` and the handlers of a worker's session do, around the real decisions.
//!
//! Between a plan and its writing other things happen, as they do while a transaction waits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use wharf_platform_api::cores::{
    Beside, Deliveries, Fleet, History, Next, NodeSettings, NodeStatus, Nodes, Publisher, Settled, Start,
    StoredNode, acknowledged,
};
use wharf_platform_api::plan::job::{self, JobChange, JobView};
use wharf_platform_api::plan::schedule::{self, ScheduleChange, ScheduleView};
use wharf_platform_api::plan::{Change, Unplaced};
use wharf_types::node::{Assignment, NodeRegistration, NodeReport};
use wharf_types::{AppId, JobId, NamespaceName, NodeId, ScheduleId, Timestamp};

use super::clocks::Clock;
use super::network::{Down, Up};
use super::worker::incarnation;
use super::{Event, World, node_id, say};
use crate::check::placed::Seen;
use crate::check::rows::Silence;
use crate::queue::Time;
use crate::store::Applied;

/// Mirrors `reconcile::FULL_PASS`.
const FULL_PASS: Duration = Duration::from_secs(30);
/// Mirrors `reconcile::LEASES`.
const LEASES: Duration = Duration::from_millis(250);
/// Assignments of a process are below those of the next: `Context::generation_base`.
const EPOCH_BITS: u32 = 32;

pub(crate) struct Control {
    pub(crate) epoch: u64,
    pub(crate) clock: Clock,
    pub(crate) is_up: bool,
    /// Until then it stands still.
    pub(crate) stalled_until: Time,
    nodes: Nodes,
    fleet: Fleet,
    publisher: Publisher,
    deliveries: Deliveries,
    acknowledged: u64,
    settled: Settled,
    dirty: BTreeSet<AppId>,
    /// What was planned last is read again before anything else is planned.
    again: Option<AppId>,
    wakes: BTreeMap<AppId, Timestamp>,
    unread: Option<BTreeSet<AppId>>,
    unplanned: BTreeSet<AppId>,
    jobs: HashMap<JobId, JobView>,
    due_jobs: BTreeSet<JobId>,
    job_wakes: BTreeMap<JobId, Timestamp>,
    changed_jobs: BTreeSet<JobId>,
    are_jobs_read: bool,
    schedule_wakes: BTreeMap<ScheduleId, Timestamp>,
    /// What was asked of apps that scale by it.
    pub(super) histories: BTreeMap<AppId, History>,
    pub(crate) unplaced: BTreeMap<AppId, Vec<Unplaced>>,
    full_pass_at: Time,
    /// The newest assignment of each node.
    newest: BTreeMap<NodeId, Arc<Assignment>>,
    /// Who follows the assignments: worker, process and session.
    streams: BTreeSet<(usize, u64, u64)>,
    writing: Option<Writing>,
    pass_at: Option<Time>,
    /// Only the checks look at it.
    pub(crate) heard: BTreeMap<NodeId, Heard>,
    /// Likewise: the labels with which each node's worker has registered here.
    pub(crate) labels: BTreeMap<NodeId, BTreeMap<String, String>>,
}

/// When something came from a node last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    /// Else it was there under the control plane before, and the rest counts from when this one began.
    pub(crate) has_spoken: bool,
    /// Later by as long as the control plane has stood still since.
    pub(crate) at: Time,
    /// How often it has: each time forgives a little more.
    pub(crate) standstills: u32,
    /// For how long, in times too short to be noticed.
    pub(crate) unforgiven: Duration,
}

#[derive(Debug)]
enum Writing {
    App { app: AppId, revision: i64, changes: Vec<Change>, now: Timestamp, seen: BTreeMap<NodeId, Seen> },
    Job { job: JobId, revision: i64, changes: Vec<JobChange>, now: Timestamp, seen: BTreeMap<NodeId, Seen> },
    Schedule { seen: Box<ScheduleView>, changes: Vec<ScheduleChange>, until: Timestamp, now: Timestamp },
}

/// A report that has arrived: those of a node are taken in one after the other (`Nodes::turn`).
#[derive(Debug)]
pub(crate) struct Observed {
    worker: usize,
    process: u64,
    request: u64,
    report: NodeReport,
}

impl Control {
    fn nudge_at(&self, at: Time) -> bool {
        self.pass_at.is_none_or(|known| at < known)
    }

    fn are_apps_read(&self) -> bool {
        self.unread.as_ref().is_some_and(BTreeSet::is_empty)
    }

    fn next_wake(&self) -> Option<Timestamp> {
        let apps = self.wakes.values().min();
        let jobs = self.job_wakes.values().min();
        [apps, jobs, self.schedule_wakes.values().min()].into_iter().flatten().min().copied()
    }

    pub(crate) fn mark(&mut self, app: AppId) {
        self.dirty.insert(app);
    }

    pub(crate) fn mark_job(&mut self, job: JobId) {
        self.due_jobs.insert(job);
    }

    /// Mirrors `Context::owner_changed`.
    fn mark_owner(&mut self, owner: AppId) {
        self.mark(owner);
        self.mark_job(JobId::from_uuid(owner.as_uuid()));
    }

    /// Mirrors `api::nodes::patch`.
    pub(crate) fn set_node(&mut self, node: NodeId, settings: NodeSettings) {
        self.nodes.set(node, settings);
    }

    pub(crate) fn look_at_schedules(&mut self, schedules: &[ScheduleId]) {
        self.schedule_wakes.extend(schedules.iter().map(|schedule| (*schedule, Timestamp::MIN)));
    }
}

impl Heard {
    fn at(at: Time) -> Self {
        Self { has_spoken: true, at, standstills: 0, unforgiven: Duration::ZERO }
    }

    /// By the clock of who has heard.
    fn silence(self, now: Time, clock: Clock) -> Silence {
        Silence {
            span: clock.measures(now.saturating_sub(self.at)),
            standstills: self.standstills,
            unforgiven: clock.measures(self.unforgiven),
        }
    }
}

impl World {
    /// Another process begins, with what is stored and nothing else.
    pub(crate) fn start_control(&mut self, start: Start) {
        let clock = self.throw_clock();
        let now = self.wall(clock);
        let epoch = self.store.bootstrap(now);
        let nodes = Nodes::default();
        nodes.begin(start);
        let (mut heard, mut labels) = (BTreeMap::new(), BTreeMap::new());
        for (id, registration) in &self.store.nodes {
            let given_up = self.store.given_up.contains(id);
            let (registration, settings) = (registration.clone(), self.store.settings_of(*id));
            labels.insert(*id, registration.labels.clone());
            nodes.know_at(
                self.instant(clock),
                StoredNode { id: *id, registration, settings, given_up, seen_at: now },
            );
            // To whoever follows, one that was given up is as good as none.
            if !given_up {
                heard.insert(*id, Heard { has_spoken: false, ..Heard::at(self.now) });
            }
        }
        self.controls.push(Control {
            epoch,
            clock,
            is_up: true,
            stalled_until: Time::ZERO,
            nodes,
            fleet: Fleet::default(),
            publisher: Publisher::new(epoch << EPOCH_BITS),
            deliveries: Deliveries::default(),
            acknowledged: 0,
            settled: Settled::default(),
            dirty: BTreeSet::new(),
            again: None,
            wakes: BTreeMap::new(),
            unread: None,
            unplanned: BTreeSet::new(),
            jobs: HashMap::new(),
            due_jobs: BTreeSet::new(),
            job_wakes: BTreeMap::new(),
            changed_jobs: BTreeSet::new(),
            are_jobs_read: false,
            schedule_wakes: self.store.schedules.keys().map(|id| (*id, Timestamp::MIN)).collect(),
            histories: BTreeMap::new(),
            unplaced: BTreeMap::new(),
            full_pass_at: self.now,
            newest: BTreeMap::new(),
            streams: BTreeSet::new(),
            writing: None,
            pass_at: None,
            heard,
            labels,
        });
        say!(self, "control plane {epoch} starts");
        self.nudge(self.leader());
        self.begin_to_scale();
    }

    pub(crate) fn nudge(&mut self, control: usize) {
        self.pass_in(control, Duration::from_micros(100));
    }

    fn pass_in(&mut self, control: usize, wait: Duration) {
        let at = (self.now + wait).max(self.controls[control].stalled_until);
        if self.controls[control].nudge_at(at) {
            self.controls[control].pass_at = Some(at);
            self.after(at - self.now, Event::Pass(control));
        }
    }

    /// Takes the next step of `Reconciler::pass`.
    pub(crate) fn pass(&mut self, index: usize) {
        let clock = self.controls[index].clock;
        let (now, wall, instant) = (self.now, self.wall(clock), self.instant(clock));
        let control = &mut self.controls[index];
        if control.pass_at.is_some_and(|at| at <= now) {
            control.pass_at = None;
        }
        if !control.is_up || control.writing.is_some() {
            return;
        }
        if now < control.stalled_until {
            return self.nudge(index);
        }
        if control.full_pass_at <= now {
            control.full_pass_at = now + FULL_PASS;
            control.unread.get_or_insert_with(|| self.store.apps.keys().copied().collect());
            let stored: Vec<(AppId, i64)> =
                self.store.apps.iter().map(|(id, app)| (*id, app.revision())).collect();
            control.dirty.extend(control.settled.others(&stored));
            let open = |job: &&Arc<crate::store::Job>| {
                !job.view.state.is_final() || job.view.expires_at.is_some_and(|at| at <= wall)
            };
            control.due_jobs.extend(self.store.jobs.values().filter(open).map(|job| job.view.id));
        }
        let statuses = control.nodes.list_at(instant);
        // Mirrors `nodes::kept`.
        if control.epoch == self.store.epoch {
            for unwritten in control.nodes.unwritten_at(instant) {
                self.store.set_given_up(unwritten.node, unwritten.given_up);
                control.nodes.wrote(&unwritten);
            }
        }
        control.look_at_nodes(&statuses);
        control.dirty.extend(control.wakes.extract_if(.., |_, at| *at <= wall).map(|(app, _)| app));
        control.due_jobs.extend(control.job_wakes.extract_if(.., |_, at| *at <= wall).map(|(job, _)| job));
        if let Some(app) = control.again.take().or_else(|| control.dirty.pop_first()) {
            self.plan_app(index, app, &statuses);
            return self.nudge(index);
        }
        let due = control.schedule_wakes.iter().find(|(_, at)| **at <= wall).map(|(id, _)| *id);
        if let Some(schedule) = due {
            self.plan_schedule(index, schedule);
            return self.nudge(index);
        }
        if !control.are_jobs_read {
            control.are_jobs_read = true;
            let open: Vec<JobView> = control
                .due_jobs
                .iter()
                .filter_map(|job| Some(self.store.jobs.get(job)?.view.clone()))
                .collect();
            open.into_iter().for_each(|job| control.put_job(job));
            control.dirty.extend(std::mem::take(&mut control.unplanned));
            return self.nudge(index);
        }
        if let Some(job) = control.due_jobs.pop_first() {
            self.plan_job(index, job);
            return self.nudge(index);
        }
        let moves = self.controls[index].fleet.rebalance();
        if !moves.is_empty() {
            say!(self, "rebalances {moves:?}");
            self.controls[index].dirty.extend(moves);
            self.nudge(index);
        }
        self.publish(index, &statuses);
        let next = self.controls[index].next_wake().map(|at| at.duration_since(wall));
        let next = next.map_or(LEASES, |wait| Duration::try_from(wait).unwrap_or_default());
        self.pass_in(index, next.clamp(Duration::from_millis(1), LEASES));
    }

    /// Mirrors one round of `Reconciler::reconcile`.
    fn plan_app(&mut self, index: usize, id: AppId, statuses: &[NodeStatus]) {
        let wall = self.wall(self.controls[index].clock);
        let control = &mut self.controls[index];
        control.wakes.remove(&id);
        if let Some(unread) = &mut control.unread {
            unread.remove(&id);
        }
        let Some(mut loaded) = self.store.apps.get(&id).map(|app| app.load()) else {
            control.fleet.remove(id);
            control.settled.forget(id);
            control.unplaced.remove(&id);
            return;
        };
        let now = loaded.view.time(wall);
        control.publisher.mark_acknowledged(&mut loaded.view, &loaded.releases, control.acknowledged);
        control.fleet.mark_moving(&mut loaded.view, &loaded.releases);
        control.fleet.put(loaded.view, loaded.releases);
        if !control.are_apps_read() || !control.are_jobs_read {
            control.unplanned.insert(id);
            return;
        }
        let Some(changes) = control.fleet.plan(now, id, self.store.ids(now)) else { return };
        control.unplaced.insert(id, changes.unplaced);
        control.wakes.extend(changes.wake_at.map(|at| (id, at)));
        if changes.changes.is_empty() {
            control.settled.settle(id, loaded.revision);
        } else {
            let (revision, changes) = (loaded.revision, changes.changes);
            let seen = self.seen(index);
            // Who was deposed may not know any more what there is.
            if self.controls[index].epoch == self.store.epoch {
                self.check_planned(id, &changes, &seen, statuses);
            }
            self.will_write(index, Writing::App { app: id, revision, changes, now, seen });
        }
    }

    /// What a control plane knows of the nodes at this moment, for the checks.
    pub(crate) fn seen(&self, index: usize) -> BTreeMap<NodeId, Seen> {
        let control = &self.controls[index];
        let seen = |(node, heard): (&NodeId, &Heard)| {
            let settings = self.store.settings_of(*node);
            let mut labels = control.labels.get(node).cloned().unwrap_or_default();
            labels.extend(settings.labels);
            let silence = heard.silence(self.now, control.clock);
            let (is_drained, has_spoken) = (settings.draining, heard.has_spoken);
            (*node, Seen { silence, labels, is_drained, has_spoken })
        };
        control.heard.iter().map(seen).collect()
    }

    /// Mirrors one round of `Jobs::reconcile`.
    fn plan_job(&mut self, index: usize, id: JobId) {
        let now = self.wall(self.controls[index].clock);
        let control = &mut self.controls[index];
        control.job_wakes.remove(&id);
        let Some((view, revision)) = self.store.load_job(id) else {
            control.forget_job(id);
            return;
        };
        control.put_job(view.clone());
        let cluster = control.fleet.cluster();
        cluster.set_claims(id.as_owner(), Vec::new());
        let changes = job::plan(now, &view, cluster, self.store.ids(now));
        cluster.set_claims(id.as_owner(), changes.claims.clone());
        control.job_wakes.extend(changes.wake_at.map(|at| (id, at)));
        if !changes.changes.is_empty() {
            let seen = self.seen(index);
            self.will_write(index, Writing::Job { job: id, revision, changes: changes.changes, now, seen });
        }
    }

    fn plan_schedule(&mut self, index: usize, id: ScheduleId) {
        let now = self.wall(self.controls[index].clock);
        let control = &mut self.controls[index];
        control.schedule_wakes.remove(&id);
        let Some(row) = self.store.schedules.get(&id) else { return };
        let seen = ScheduleView { active: self.store.active_jobs(id), ..row.clone() };
        let changes = schedule::plan(now, &seen);
        control.schedule_wakes.extend(changes.wake_at.map(|at| (id, at)));
        if let Some(until) = changes.decided_until {
            let seen = Box::new(seen);
            self.will_write(index, Writing::Schedule { seen, changes: changes.changes, until, now });
        }
    }

    fn will_write(&mut self, index: usize, writing: Writing) {
        self.controls[index].writing = Some(writing);
        let mut wait = self.dice.millis(0..=3);
        if !self.is_calm() && self.dice.percent(1) {
            wait += self.dice.millis(0..=800);
        }
        self.after(wait, Event::Write(index));
    }

    pub(crate) fn write(&mut self, index: usize) {
        let control = &mut self.controls[index];
        if !control.is_up {
            return;
        }
        if self.now < control.stalled_until {
            let wait = control.stalled_until - self.now;
            return self.after(wait, Event::Write(index));
        }
        let Some(writing) = control.writing.take() else { return };
        let epoch = control.epoch;
        self.check_before_write();
        let applied = match writing {
            Writing::App { app, revision, changes, now, seen } => {
                let applied = self.store.apply(app, (epoch, revision), &changes, now);
                self.controls[index].again = Some(app);
                if applied == Applied::Done {
                    say!(self, "control plane {epoch} writes of {app}: {changes:?}");
                    self.check_changes(app, &changes, &seen);
                    self.controls[index].fleet.tell_to_leave(&changes);
                }
                for change in &changes {
                    if let Change::Preempt { app, .. } = change {
                        self.controls[index].mark_owner(*app);
                    }
                }
                applied
            }
            Writing::Job { job, revision, changes, now, seen } => {
                let applied = self.store.apply_job(job, (epoch, revision), &changes, now);
                let control = &mut self.controls[index];
                control.mark_job(job);
                if let Some((view, _)) = self.store.load_job(job) {
                    control.put_job(view);
                }
                if applied == Applied::Done {
                    say!(self, "control plane {epoch} writes of job {job}: {changes:?}");
                    self.check_job_changes(job, &changes, &seen);
                    for change in &changes {
                        if let JobChange::Preempt { instance, .. } = change {
                            self.controls[index].fleet.cluster().leave(*instance);
                        }
                    }
                }
                for change in &changes {
                    if let JobChange::Preempt { owner, .. } = change {
                        self.controls[index].mark_owner(*owner);
                    }
                }
                applied
            }
            Writing::Schedule { seen, changes, until, now } => {
                let before = self.begin(&NamespaceName::default_namespace());
                let (applied, touched) = self.store.decide(&seen, epoch, (&changes, until), now);
                if applied == Applied::Done {
                    self.check_growth(&before, &"a schedule");
                    say!(self, "control plane {epoch} decides until {until}: {changes:?}");
                    self.check_decided(&seen, &changes, until, now);
                }
                self.controls[index].due_jobs.extend(touched);
                self.controls[index].schedule_wakes.insert(seen.id, Timestamp::MIN);
                applied
            }
        };
        self.check_after_write();
        if applied == Applied::Deposed {
            say!(self, "control plane {epoch} learns that it is deposed");
            self.stop_control(index);
        }
        self.nudge(index);
    }

    /// Its sessions end with it.
    pub(crate) fn stop_control(&mut self, index: usize) {
        let control = &mut self.controls[index];
        control.is_up = false;
        control.writing = None;
        for (worker, process, session) in std::mem::take(&mut control.streams) {
            let notices = self.dice.millis(0..=50);
            self.after(notices, Event::Worker(worker, process, super::Timer::Broken(session)));
        }
    }

    fn publish(&mut self, index: usize, statuses: &[NodeStatus]) {
        let control = &mut self.controls[index];
        let is_news = control.fleet.has_changed()
            || !control.changed_jobs.is_empty()
            || control.publisher.lacks_any_of(statuses);
        if !is_news || !control.are_apps_read() {
            return;
        }
        let apps = control.fleet.take_changed();
        control.publisher.take_in(&control.fleet, apps);
        control.publisher.take_in_jobs(&control.jobs, std::mem::take(&mut control.changed_jobs));
        let missing = control.deliveries.missing(&control.publisher).into_iter();
        let opened = missing.map(|id| (id, self.store.open(id))).collect();
        control.deliveries.take_in(opened, &mut control.publisher);
        let deliveries = &control.deliveries;
        let beside =
            Beside { doomed: &BTreeMap::new(), rates: &[], removed: &[], secrets: &|id| deliveries.get(id) };
        let assignments = control.publisher.publish(statuses, beside);
        let checked = control.publisher.check(&control.fleet, &control.jobs, statuses, beside);
        control.dirty.extend(control.publisher.take_acknowledged(control.acknowledged));
        let mut sent = Vec::new();
        control.nodes.publish(assignments.clone());
        for Next { whole, delta, is_news } in assignments {
            let streams = control.streams.iter().filter(|(worker, ..)| node_id(*worker) == whole.node);
            let whole = Arc::new(whole.assignment());
            if is_news {
                let delta = delta.map(Arc::new);
                sent.extend(streams.map(|stream| (*stream, whole.clone(), delta.clone())));
            }
            control.newest.insert(whole.node, whole);
        }
        for ((worker, process, session), assignment, delta) in sent {
            // Whoever lags behind gets the whole.
            let message = match delta.filter(|_| self.dice.percent(80)) {
                Some(delta) => Down::Delta { process, session, delta },
                None => Down::Assignment { process, session, assignment },
            };
            self.send_down(index, worker, message);
        }
        if let Err(what) = checked {
            self.fail("nodes are told just what all apps and jobs make of it", what);
        }
        if !self.controls[index].dirty.is_empty() {
            self.nudge(index);
        }
    }

    pub(crate) fn arrive_at_control(&mut self, worker: usize, index: usize, message: Up) {
        let node = node_id(worker);
        let control = &mut self.controls[index];
        if !control.is_up {
            return;
        }
        if self.now < control.stalled_until {
            let wait = control.stalled_until - self.now;
            return self.after(wait, Event::ToControl(worker, index, message));
        }
        match message {
            Up::Connect { process, session } => {
                let registration = NodeRegistration {
                    incarnation: incarnation(worker, process),
                    ..self.workers[worker].registration.clone()
                };
                let instant = self.instant(self.controls[index].clock);
                let control = &mut self.controls[index];
                if control.nodes.register_at(instant, node, registration.clone()).is_err() {
                    return;
                }
                // Who has not heard of the node from its own worker has it from the database, with what admins say.
                control.nodes.set(node, self.store.settings_of(node));
                control.labels.insert(node, registration.labels.clone());
                self.store.nodes.insert(node, registration);
                if control.epoch == self.store.epoch {
                    self.store.set_given_up(node, false);
                }
                control.streams.retain(|(other, earlier, _)| *other != worker || *earlier >= process);
                control.heard.insert(node, Heard::at(self.now));
                control.streams.insert((worker, process, session));
                let newest = control.newest.get(&node).cloned();
                self.send_down(index, worker, Down::Connected { process, session });
                if let Some(assignment) = newest {
                    self.send_down(index, worker, Down::Assignment { process, session, assignment });
                }
                self.nudge(index);
            }
            Up::Report { process, request, report } => {
                let observed = Box::new(Observed { worker, process, request, report: *report });
                let wait = self.dice.millis(0..=2);
                self.after(wait, Event::Observe(index, observed));
            }
        }
    }

    /// The rest of the handler of a report.
    pub(crate) fn observe(&mut self, index: usize, observed: Observed) {
        let Observed { worker, process, request, report } = observed;
        let clock = self.controls[index].clock;
        let (node, instant) = (node_id(worker), self.instant(clock));
        let control = &mut self.controls[index];
        if !control.is_up {
            return;
        }
        if self.now < control.stalled_until {
            let wait = control.stalled_until - self.now;
            let observed = Observed { worker, process, request, report };
            return self.after(wait, Event::Observe(index, Box::new(observed)));
        }
        if control.epoch != self.store.epoch {
            return self.stop_control(index);
        }
        let Ok(news) = control.nodes.report_at(instant, node, &report) else {
            return self.send_down(
                index,
                worker,
                Down::Answer { process, request, taken: false, holds: Vec::new() },
            );
        };
        control.heard.insert(node, Heard::at(self.now));
        if news.routes {
            self.nudge(index);
        }
        let (news, holds) = (news.instances, news.holds);
        self.check_before_write();
        let now = self.wall(clock);
        let (apps, jobs) = self.store.observe(node_id(worker), &news, now);
        self.check_after_write();
        if !news.is_empty() {
            say!(self, "node {worker} reports {news:?}");
        }
        let control = &mut self.controls[index];
        control.nodes.reported(node_id(worker), report);
        if !apps.is_empty() || !jobs.is_empty() {
            control.dirty.extend(apps);
            control.due_jobs.extend(jobs);
            self.nudge(index);
        }
        self.send_down(index, worker, Down::Answer { process, request, taken: true, holds });
    }
}

impl Control {
    /// Mirrors `Reconciler::look_at_nodes`.
    fn look_at_nodes(&mut self, statuses: &[NodeStatus]) {
        let acknowledged = acknowledged(statuses, self.acknowledged);
        if let Some(apps) = self.fleet.observe(statuses) {
            self.dirty.extend(apps);
            self.due_jobs.extend(self.jobs.keys());
        }
        if acknowledged != self.acknowledged {
            self.acknowledged = acknowledged;
            self.dirty.extend(self.publisher.take_acknowledged(acknowledged));
        }
    }

    /// Mirrors `Jobs::put`.
    fn put_job(&mut self, view: JobView) {
        if self.jobs.get(&view.id) == Some(&view) {
            return;
        }
        self.changed_jobs.insert(view.id);
        for run in &view.runs {
            match view.held(run) {
                Some(held) => self.fleet.cluster().put(run.id, held),
                None => self.fleet.cluster().remove(run.id),
            }
        }
        if view.state.is_final() {
            self.jobs.remove(&view.id);
        } else {
            self.jobs.insert(view.id, view);
        }
    }

    /// Mirrors `Jobs::forget`.
    fn forget_job(&mut self, id: JobId) {
        self.job_wakes.remove(&id);
        self.fleet.cluster().set_claims(id.as_owner(), Vec::new());
        if let Some(view) = self.jobs.remove(&id) {
            self.changed_jobs.insert(id);
            view.runs.iter().for_each(|run| self.fleet.cluster().remove(run.id));
        }
    }
}
