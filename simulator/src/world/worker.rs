//! A worker: what `session::Follower`, `session::News` and the ingress do, around the real decisions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use wharf_runtime::backoff::{Jitter, Reconnect};
use wharf_runtime::cores::{Board, ChainKey, Verdict, after_a_restart, judge};
use wharf_runtime::secrets::SecretStore;
use wharf_types::figures::NodeFigures;
use wharf_types::incarnation::Incarnation;
use wharf_types::node::{Assignment, InstanceReport, NodeRegistration, NodeReport, SINGLETON_LEASE};
use wharf_types::route::RouteTable;
use wharf_types::state::Health;
use wharf_types::{InstanceId, NodeId, ProcessId};

use super::clocks::Clock;
use super::network::{Down, Up, Way};
use super::slots::Slot;
use super::{Event, Timer, World, say};
use crate::queue::Time;

/// Mirrors `session::HEARTBEAT`.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Mirrors `session::GATHER`.
const GATHER: Duration = Duration::from_millis(5);
/// How long a worker waits for the answer to a report: a part of it where the connection breaks.
const ANSWER: Duration = Duration::from_secs(10);
/// How often a connection is asked whether it lives; twice without an answer is an end.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

pub(crate) struct Worker {
    pub(crate) node: NodeId,
    pub(crate) registration: NodeRegistration,
    pub(crate) is_up: bool,
    pub(crate) clock: Clock,
    /// Until then it stands still, with all that runs in it.
    pub(crate) stalled_until: Time,
    /// The assignment that was accepted last.
    current: Option<Arc<Assignment>>,
    /// What is on its disk.
    kept: Option<Arc<Assignment>>,
    /// Counts the processes that ran here.
    pub(crate) process: u64,
    /// The newest session, with whom, and whether it is established.
    session: u64,
    pub(crate) control: usize,
    is_connected: bool,
    silent: u32,
    reconnect: Reconnect,
    /// The newest assignment that was accepted.
    pub(crate) accepted: Option<u64>,
    pub(crate) board: Board,
    pub(crate) secrets: SecretStore,
    pub(crate) slots: BTreeMap<ChainKey, Slot>,
    pub(crate) released: BTreeSet<ChainKey>,
    /// Counts what slots wait for, so that what was given up is told from what is still to come.
    pub(crate) turns: u64,
    taken_routes: Arc<RouteTable>,
    /// What the ingress uses.
    pub(crate) routes: Arc<RouteTable>,
    /// The report that is under way.
    asking: Option<u64>,
    requests: u64,
    /// When the report under way was sent.
    asked_at: Time,
    retry: Reconnect,
    report_at: Option<Duration>,
    reported: Vec<InstanceReport>,
}

/// How a process of a worker calls itself.
pub(crate) fn incarnation(worker: usize, process: u64) -> Incarnation {
    let id = Uuid::from_u128(u128::from(process) << 64 | worker as u128);
    Incarnation { number: process, process: ProcessId::from_uuid(id), home: worker.to_string() }
}

impl Worker {
    pub(crate) fn new(node: NodeId, memory_mib: u64) -> Self {
        let registration = NodeRegistration {
            hostname: format!("n{}", node.as_uuid().as_u128()),
            memory_bytes: memory_mib << 20,
            cpus: 4,
            ..NodeRegistration::default()
        };
        Self {
            node,
            registration,
            is_up: true,
            clock: Clock::default(),
            process: 1,
            session: 0,
            control: 0,
            is_connected: false,
            silent: 0,
            reconnect: Reconnect::new(Jitter::seeded(1)),
            accepted: None,
            board: Board::default(),
            secrets: SecretStore::default(),
            slots: BTreeMap::new(),
            released: BTreeSet::new(),
            turns: 0,
            taken_routes: Arc::default(),
            routes: Arc::default(),
            asking: None,
            requests: 0,
            asked_at: Time::ZERO,
            stalled_until: Time::ZERO,
            current: None,
            kept: None,
            retry: Reconnect::new(Jitter::seeded(2)),
            report_at: None,
            reported: Vec::new(),
        }
    }
}

impl World {
    /// What ran in the process is gone, and so is all that it knew.
    pub(crate) fn kill_worker(&mut self, index: usize, back_in: Duration) {
        let known = &self.workers[index];
        let fresh = Worker::new(known.node, self.setup.memory_mib);
        let (process, kept, clock) = (known.process + 1, known.kept.clone(), known.clock);
        let registration = known.registration.clone();
        self.workers[index] = Worker { is_up: false, process, kept, clock, registration, ..fresh };
        self.relabel_worker(index);
        self.touch_node(index, self.now + back_in);
        self.after(back_in, Event::Mend(super::faults::Mend::Worker(index)));
    }

    pub(crate) fn start_worker(&mut self, index: usize) {
        let known = &mut self.workers[index];
        if !known.is_up {
            known.is_up = true;
            let process = known.process;
            say!(self, "worker {index} starts as process {process}");
            self.timer(index, Duration::ZERO, Timer::Connect);
        }
    }

    pub(crate) fn timer(&mut self, worker: usize, wait: Duration, timer: Timer) {
        let process = self.workers[worker].process;
        self.after(wait, Event::Worker(worker, process, timer));
    }

    pub(crate) fn worker_timer(&mut self, index: usize, timer: Timer) {
        match timer {
            Timer::Connect => self.connect(index),
            Timer::Broken(session) => self.broken(index, session),
            Timer::KeepAlive(session) => self.keep_alive(index, session),
            Timer::Report => self.report(index),
            Timer::Unanswered(request) => {
                if self.workers[index].asking == Some(request) {
                    self.report_again(index);
                }
            }
            Timer::Route(table) => {
                // The newest is taken up, and nothing older after it.
                if table.generation > self.workers[index].routes.generation {
                    self.workers[index].routes = table;
                    self.report_soon(index);
                }
            }
            Timer::Slot(turn) => self.slot_turn(index, turn),
            Timer::Lease(chain) => self.lease(index, chain),
        }
    }

    fn connect(&mut self, index: usize) {
        let alive: Vec<usize> =
            (0..self.controls.len()).filter(|control| self.controls[*control].is_up).collect();
        let Some(newest) = alive.last().copied() else {
            self.go_by_what_is_kept(index);
            return self.timer(index, Duration::from_millis(200), Timer::Connect);
        };
        // One that was deposed and does not know it yet answers, too.
        let control = if self.dice.percent(25) { self.dice.pick(&alive) } else { newest };
        let worker = &mut self.workers[index];
        worker.session += 1;
        (worker.control, worker.is_connected, worker.silent) = (control, false, 0);
        let (process, session) = (worker.process, worker.session);
        self.send_up(index, control, Up::Connect { process, session });
        self.timer(index, KEEP_ALIVE, Timer::KeepAlive(session));
    }

    fn broken(&mut self, index: usize, session: u64) {
        let worker = &mut self.workers[index];
        if worker.session == session {
            worker.is_connected = false;
            // Nothing of it counts any more, even before there is another.
            worker.session += 1;
            let wait = worker.reconnect.next_wait();
            self.go_by_what_is_kept(index);
            self.timer(index, wait, Timer::Connect);
        }
    }

    /// Mirrors `Follower::go_by_what_is_kept`.
    fn go_by_what_is_kept(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        if worker.accepted.is_none()
            && let Some(kept) = worker.kept.take()
        {
            say!(self, "worker {index} goes by what it was told last");
            self.assigned(index, &after_a_restart(Assignment::clone(&kept)));
        }
    }

    fn keep_alive(&mut self, index: usize, session: u64) {
        let worker = &self.workers[index];
        if worker.session != session {
            return;
        }
        let is_cut = [Way::Up, Way::Down].into_iter().any(|way| self.network.is_cut(index, way, self.now));
        let control = &self.controls[worker.control];
        let answers = worker.is_connected && control.is_up && !is_cut && control.stalled_until <= self.now;
        let worker = &mut self.workers[index];
        worker.silent = if answers { 0 } else { worker.silent + 1 };
        if worker.silent >= 2 {
            say!(self, "worker {index} gives session {session} up");
            return self.broken(index, session);
        }
        self.timer(index, KEEP_ALIVE, Timer::KeepAlive(session));
    }

    pub(crate) fn arrive_at_worker(&mut self, control: usize, index: usize, message: Down) {
        let worker = &mut self.workers[index];
        if !worker.is_up {
            return;
        }
        match message {
            Down::Connected { process, session } => {
                if (worker.process, worker.session) == (process, session) {
                    worker.is_connected = true;
                    self.report_soon(index);
                }
            }
            // One of a session before may come late: only its generation tells.
            Down::Assignment { process, session, assignment } => {
                if worker.process == process && session <= worker.session {
                    worker.reconnect.reset();
                    self.assigned(index, &assignment);
                }
            }
            Down::Delta { process, session, delta } => {
                if worker.process != process || session > worker.session {
                    return;
                }
                match worker.current.as_ref().and_then(|current| current.with(&delta)) {
                    Some(next) => {
                        worker.reconnect.reset();
                        self.assigned(index, &next);
                    }
                    // It came twice.
                    None if worker.accepted.is_some_and(|accepted| accepted >= delta.generation) => {}
                    None => {
                        say!(self, "worker {index} misses what comes before {:#x}", delta.generation);
                        self.broken(index, session);
                    }
                }
            }
            Down::Answer { process, request, taken, holds } => {
                if (worker.process, worker.asking, worker.control) != (process, Some(request), control) {
                    return;
                }
                if !taken {
                    return self.report_again(index);
                }
                worker.asking = None;
                worker.retry.reset();
                self.hold(index, &holds);
                self.timer(index, HEARTBEAT, Timer::Report);
                if self.workers[index].reported != self.workers[index].board.reports() {
                    self.report_soon(index);
                }
            }
        }
    }

    fn assigned(&mut self, index: usize, assignment: &Assignment) {
        let worker = &mut self.workers[index];
        if judge(worker.node, worker.accepted, assignment) != Verdict::Accept {
            return;
        }
        say!(
            self,
            "worker {index} accepts assignment {:#x} with routes {:#x}",
            assignment.generation,
            assignment.routes.generation
        );
        self.check_accepted(index, assignment);
        // Of several that come soon after each other the last is written, so an older one may be on the disk.
        let is_written = self.dice.percent(90);
        let worker = &mut self.workers[index];
        let current = Arc::new(assignment.clone());
        worker.current = Some(current.clone());
        if is_written {
            worker.kept = Some(current);
        }
        if assignment.routes.generation > worker.taken_routes.generation {
            worker.taken_routes = assignment.routes.clone();
            let table = worker.taken_routes.clone();
            let slow = !self.is_calm() && self.dice.percent(5);
            let wait = self.dice.millis(if slow { 0..=1500 } else { 0..=5 });
            self.timer(index, wait, Timer::Route(table));
        }
        self.workers[index].secrets.replace(assignment.secrets.clone());
        self.assign(index, &assignment.instances);
        self.workers[index].accepted = Some(assignment.generation);
        self.report_soon(index);
    }

    /// Mirrors `Keeper::hold`.
    fn hold(&mut self, index: usize, held: &[InstanceId]) {
        let now = self.now;
        let worker = &mut self.workers[index];
        let until = worker.asked_at + worker.clock.takes(SINGLETON_LEASE);
        for (chain, members) in worker.board.members() {
            if let Some(slot) = worker.slots.get_mut(&chain)
                && members.iter().any(|member| held.contains(member))
            {
                slot.grant(now, until);
            }
        }
    }

    /// There are news: a report goes out after a moment, unless one is under way.
    pub(crate) fn report_soon(&mut self, index: usize) {
        let at = self.now + GATHER;
        let worker = &mut self.workers[index];
        if worker.asking.is_none() && worker.report_at.is_none_or(|known| known > at || known < self.now) {
            worker.report_at = Some(at);
            self.timer(index, GATHER, Timer::Report);
        }
    }

    fn report(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        worker.report_at = None;
        if worker.asking.is_some() || !worker.is_connected {
            return;
        }
        worker.requests += 1;
        let (process, request, control) = (worker.process, worker.requests, worker.control);
        worker.asking = Some(request);
        worker.asked_at = self.now;
        worker.reported = worker.board.reports();
        let report = Box::new(NodeReport {
            process: incarnation(index, process).process,
            assignment_generation: worker.accepted.unwrap_or_default(),
            routes_generation: worker.routes.generation,
            instances: worker.reported.clone(),
            usage: Vec::new(),
            figures: NodeFigures::default(),
        });
        self.send_up(index, control, Up::Report { process, request, report });
        // Most failures are known at once, because the connection breaks.
        let wait = if self.dice.percent(80) { self.dice.millis(300..=1500) } else { ANSWER };
        self.timer(index, wait, Timer::Unanswered(request));
    }

    fn report_again(&mut self, index: usize) {
        let worker = &mut self.workers[index];
        worker.asking = None;
        let wait = worker.retry.next_wait();
        self.timer(index, wait, Timer::Report);
    }

    /// Whether requests for an app that come to this node's ingress reach an instance that serves.
    pub(crate) fn reaches(&self, index: usize, app: &str) -> bool {
        self.serving(index, app).next().is_some()
    }

    /// On which nodes the instances are that they reach.
    pub(crate) fn serving(&self, index: usize, app: &str) -> impl Iterator<Item = usize> {
        let of_app = |route: &&Arc<wharf_types::route::Route>| route.app.as_str() == app;
        let endpoints = self.workers[index].routes.routes.iter().find(of_app).map(|route| &route.endpoints);
        endpoints.into_iter().flatten().filter_map(|endpoint| {
            let at = self.workers.iter().position(|worker| worker.node == endpoint.node)?;
            self.workers[at].serves(endpoint.instance).then_some(at)
        })
    }
}

impl Worker {
    /// Whether an instance, or its successor in the slot, is healthy here.
    fn serves(&self, id: InstanceId) -> bool {
        self.is_up
            && self.slots.iter().any(|(chain, slot)| {
                let is_it = slot.id == id || self.board.ancestors(*chain).contains(&id);
                is_it && slot.is_running() && slot.health == Health::Healthy
            })
    }
}
