//! The life of one slot: a task that runs an instance, and after it its successors, until it is told to stop.
//!
//! One `async fn` per state; each returns the next state. Decisions are in [`super::restart`] and [`crate::health`].

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::select;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};
use wharf_types::InstanceId;
use wharf_types::node::{AssignedInstance, Reason, ReasonKind};
use wharf_types::state::{Health, InstanceState};

use super::board::{Board, report};
use super::lease::Lease;
use super::plan::ChainKey;
use super::restart::{Attempts, Order, exit_code, final_report, given_up, successor_after, waiting};
use crate::backend::{Backend, Ended, Failure, Run};
use crate::backoff::Jitter;
use crate::health::{Check, Checks, Verdict};

/// How much longer than it was asked to a backend may take, before the supervisor goes on without it.
const BACKEND_GRACE: Duration = Duration::from_secs(5);
/// What the end of an instance may take beside its drain: to stop it, and to remove it.
pub(super) const END_LIMIT: Duration = Duration::from_secs(2 * BACKEND_GRACE.as_secs() + 1);
/// How often it is looked how far the preparation of an instance is. Each time that has changed the control plane is told.
const PROGRESS_LOOK: Duration = Duration::from_secs(2);
/// How long an instance waits for room to start in, and how often it asks. Then it has failed to start, so that its owner learns why it does not serve.
const ROOM_PATIENCE: Duration = Duration::from_secs(10);
const ROOM_LOOK: Duration = Duration::from_millis(500);
/// How long it may take to find out that an adopted run had ended before it was told to stop.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// The same for what another instance may replace in two seconds.
const CUT_GRACE: Duration = Duration::from_millis(500);

pub(super) struct Slot {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) board: Arc<Board>,
    pub(super) chain: ChainKey,
    pub(super) assigned: Arc<AssignedInstance>,
    /// The current member of the chain.
    pub(super) id: InstanceId,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) lease: Lease,
    pub(super) restarts: u32,
    pub(super) attempts: Attempts,
    pub(super) jitter: Jitter,
}

enum State {
    Prepare,
    Start,
    Run,
    Ended(Ended),
    Backoff(Duration),
    Stop,
    /// Another may start elsewhere.
    LetGo,
    Over,
}

impl Slot {
    pub(super) async fn live(mut self) {
        let mut state = State::Prepare;
        loop {
            state = match state {
                State::Prepare => self.prepare().await,
                State::Start => self.start().await,
                State::Run => self.run().await,
                State::Ended(ended) => self.ended(ended).await,
                State::Backoff(wait) => self.backoff(wait).await,
                State::Stop => self.stop().await,
                State::LetGo => self.let_go().await,
                State::Over => return,
            }
        }
    }

    async fn prepare(&mut self) -> State {
        self.reached(InstanceState::Preparing);
        let (run, is_adopted) = (self.as_run(), self.is_adopted());
        select! {
            biased;
            () = stop_is_ordered(&mut self.orders), if !is_adopted => State::Stop,
            () = self.lease.over() => State::LetGo,
            prepared = prepare(&*self.backend, &self.board, self.chain, &run) => match prepared {
                Ok(()) => State::Start,
                Err(failure) => State::Ended(Ended::Failed(failure)),
            },
        }
    }

    async fn start(&mut self) -> State {
        self.reached(InstanceState::Starting);
        let (run, is_adopted) = (self.as_run(), self.is_adopted());
        let mut lease = self.lease.clone();
        let started = async {
            lease.granted().await;
            start(&*self.backend, &run).await
        };
        select! {
            biased;
            () = stop_is_ordered(&mut self.orders), if !is_adopted => State::Stop,
            () = self.lease.over() => State::LetGo,
            started = started => match started {
                Ok(()) => State::Run,
                Err(failure) => State::Ended(Ended::Failed(failure)),
            },
        }
    }

    async fn run(&mut self) -> State {
        let spec = self.assigned.spec.clone();
        let command = self.backend.health_command(self.id).await;
        let checks = Checks::new(self.assigned.world, &spec, command, Instant::now());
        self.board.update(self.chain, |current| {
            current.state = InstanceState::Running;
            current.reason = None;
        });
        let backend = self.backend.clone();
        let mut wait = pin!(backend.wait(self.id));
        let is_adopted = self.is_adopted();
        let (mut orders, mut lease) = (self.orders.clone(), self.lease.clone());
        select! {
            biased;
            () = stop_is_ordered(&mut orders) => {
                let looked = if is_adopted { timeout(LOOK_LIMIT, &mut wait).await.ok() } else { None };
                match looked {
                    Some(ended) => State::Ended(ended),
                    // What it printed last is read for a while at most.
                    None if self.backend.has_ended(self.id) => State::Ended(wait.await),
                    None => State::Stop,
                }
            }
            () = lease.over() => State::LetGo,
            ended = &mut wait => {
                if ended == Ended::Success && spec.tcp.ports.is_empty() {
                    // However short it was, it has done what it was there for, unless that was to listen.
                    self.board.update(self.chain, |current| current.health = Health::Healthy);
                }
                State::Ended(ended)
            }
            failure = self.keep_checking(checks) => {
                self.stop_within(Duration::ZERO).await;
                State::Ended(Ended::Failed(failure))
            }
        }
    }

    /// Checks the health for as long as the instance may live; returns why it must be replaced.
    async fn keep_checking(&mut self, mut checks: Checks) -> Failure {
        let reset_after = self.assigned.spec.restart.reset_after.as_duration();
        loop {
            // An idle app that has nothing left to check waits for neither, and costs nothing.
            let reset_at =
                checks.healthy_since().filter(|_| self.restarts > 0).map(|since| since + reset_after);
            let next = checks.next();
            select! {
                biased;
                () = until(reset_at) => {
                    self.restarts = 0;
                    self.attempts.forgive(&self.assigned.spec.restart);
                    self.board.update(self.chain, |current| current.restarts = 0);
                    continue;
                }
                () = until(next.map(|(due, _)| due)) => {}
            }
            let Some((_, check)) = next else { continue };
            match self.check(&mut checks, check).await {
                Verdict::Same => {}
                Verdict::Changed => self.board.update(self.chain, |current| {
                    current.health = checks.health();
                    current.reason = checks.reason().cloned();
                }),
                Verdict::End(failure) => return failure,
            }
        }
    }

    async fn check(&self, checks: &mut Checks, check: Check) -> Verdict {
        let began = Instant::now();
        if check == Check::Settled {
            return checks.settle(began);
        }
        let limit = checks.timeout();
        let no_answer = || {
            let message = format!("no answer, not even a failure, within {limit:?}");
            Failure::new(ReasonKind::Platform, message)
        };
        if check == Check::Listening {
            let connect = self.backend.accepts(self.id, limit);
            let outcome = timeout(limit + BACKEND_GRACE, connect).await.unwrap_or_else(|_| Err(no_answer()));
            return checks.accepted(began, Instant::now(), outcome);
        }
        if let Some((command, limit)) = checks.command(check) {
            let run = self.backend.run_check(self.id, command, limit);
            let outcome = timeout(limit + BACKEND_GRACE, run).await.unwrap_or_else(|_| Err(no_answer()));
            return checks.commanded(check, began, Instant::now(), outcome);
        }
        let probe = self.backend.probe(self.id, checks.path(check), limit);
        let answer = timeout(limit + BACKEND_GRACE, probe).await.unwrap_or_else(|_| Err(no_answer()));
        checks.answered(check, began, Instant::now(), answer)
    }

    /// Reports the end, and the successor if there is to be one.
    async fn ended(&mut self, ended: Ended) -> State {
        let order = *self.orders.borrow();
        let (state, reason) = final_report(&ended);
        let id = self.id;
        let app = &self.assigned.app;
        let restart = &self.assigned.spec.restart;
        let due = successor_after(&ended, &order, restart, self.restarts);
        if due.is_some() && !self.attempts.take(restart, Instant::now()) {
            let (state, reason) = given_up(restart, reason);
            info!(instance.id = %id, "instance {id} of {app} ended: {}", reason.message);
            self.board.end(self.chain, state, Some(reason));
            self.remove(id).await;
            return State::Over;
        }
        let Some(wait) = due else {
            info!(instance.id = %id, "instance {id} of {app} ended and is not replaced: {}", reason.message);
            self.board.update(self.chain, |current| current.exit_code = exit_code(&ended));
            self.board.end(self.chain, state, Some(reason));
            // What a later process could not find any more would count as lost, so a run stays until its end is known.
            if !stays(&*self.backend, &self.assigned) {
                self.remove(id).await;
            }
            return State::Over;
        };
        let wait = self.jitter.apply(wait);
        info!(instance.id = %id, "instance {id} of {app} ended, the next try is in {wait:?}: {}", reason.message);
        self.restarts = self.restarts.saturating_add(1);
        self.id = InstanceId::new();
        let mut next = report(self.id, InstanceState::Preparing);
        next.restarts = self.restarts;
        if !wait.is_zero() {
            next.state = InstanceState::Starting;
            next.reason = Some(waiting(wait, reason.clone()));
        }
        self.board.replace(self.chain, (state, Some(reason)), next);
        self.remove(id).await;
        if wait.is_zero() { State::Prepare } else { State::Backoff(wait) }
    }

    async fn backoff(&mut self, wait: Duration) -> State {
        select! {
            biased;
            () = stop_is_ordered(&mut self.orders) => State::Stop,
            () = self.lease.over() => State::LetGo,
            () = sleep(wait) => State::Prepare,
        }
    }

    async fn stop(&mut self) -> State {
        let drain_max = match *self.orders.borrow() {
            Order::Stop { drain_max } => drain_max,
            Order::Run | Order::Unroute => Duration::MAX,
        };
        self.reached(InstanceState::Stopping);
        let drain = drain_max.min(self.assigned.spec.stop.drain.as_duration());
        let mut lease = self.lease.clone();
        let is_over = select! {
            biased;
            () = lease.over() => true,
            () = self.stop_within(drain) => false,
        };
        if is_over {
            self.cut().await;
        }
        self.remove(self.id).await;
        self.board.end(self.chain, InstanceState::Stopped, None);
        State::Over
    }

    /// Ends at once: what it is doing may be begun elsewhere in two seconds.
    async fn let_go(&mut self) -> State {
        let id = self.id;
        self.cut().await;
        self.remove(id).await;
        let message = "the control plane had not confirmed it for 8 s, and another instance of an app with `scale.singleton` may start elsewhere after \
                       that"
            .to_owned();
        info!(instance.id = %id, "instance {id} of {} ended: {message}", self.assigned.app);
        self.board.end(
            self.chain,
            InstanceState::Failed,
            Some(Reason { kind: ReasonKind::Platform, message }),
        );
        State::Over
    }

    /// Stops without a drain, and does not wait for long: [`Self::remove`] takes what does not stop.
    async fn cut(&self) {
        let _ = timeout(CUT_GRACE, self.backend.stop(self.id, Duration::ZERO)).await;
    }

    async fn stop_within(&self, drain: Duration) {
        let limit = drain.saturating_add(BACKEND_GRACE);
        if timeout(limit, self.backend.stop(self.id, drain)).await.is_err() {
            warn!(instance.id = %self.id, "instance {} did not stop within {limit:?}, it is removed", self.id);
        }
    }

    async fn remove(&self, id: InstanceId) {
        if timeout(BACKEND_GRACE, self.backend.remove(id)).await.is_err() {
            warn!(instance.id = %id, "instance {id} could not be removed within {BACKEND_GRACE:?}");
        }
    }

    /// Whether it is a run that a process before this one has started. It may have come to its end before it was told to stop, while nobody
    /// looked, so that is found out first.
    fn is_adopted(&self) -> bool {
        self.assigned.observed >= InstanceState::Starting && stays(&*self.backend, &self.assigned)
    }

    fn reached(&self, state: InstanceState) {
        self.board.update(self.chain, |current| current.state = current.state.max(state));
    }

    fn as_run(&self) -> Run {
        Run { id: self.id, replaces: self.board.ancestors(self.chain), assigned: self.assigned.clone() }
    }
}

/// Starts an instance, and waits for a while where there is no room: what others take of a node is no fault of this one.
async fn start(backend: &dyn Backend, run: &Run) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        match backend.start(run).await {
            Err(failure) if !failure.is_telling && begun.elapsed() < ROOM_PATIENCE => sleep(ROOM_LOOK).await,
            started => return started,
        }
    }
}

/// Prepares an instance, and says how far that is for as long as it takes.
async fn prepare(backend: &dyn Backend, board: &Board, chain: ChainKey, run: &Run) -> Result<(), Failure> {
    let mut prepared = pin!(backend.prepare(run));
    let mut is_told = false;
    loop {
        select! {
            biased;
            outcome = &mut prepared => {
                if is_told {
                    board.update(chain, |current| current.reason = None);
                }
                return outcome;
            }
            () = sleep(PROGRESS_LOOK) => {
                if let Some(message) = backend.progress(run.id) {
                    is_told = true;
                    let reason = Reason { kind: ReasonKind::Platform, message };
                    board.update(chain, |current| current.reason = Some(reason));
                }
            }
        }
    }
}

/// Whether what has ended of an instance is there until the control plane has taken it out of the assignment: a run of a job that a later
/// process would adopt.
pub(super) fn stays(backend: &dyn Backend, assigned: &AssignedInstance) -> bool {
    assigned.job.is_some() && backend.adopts(assigned)
}

/// Returns when the slot is told to stop, also by the end of whoever gives the orders.
async fn stop_is_ordered(orders: &mut watch::Receiver<Order>) {
    let _ = orders.wait_for(Order::is_stop).await;
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
