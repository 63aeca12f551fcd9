//! What `supervisor::Keeper` and `supervisor::slot` do, around the real decisions, with guests that are only a state.

use std::sync::Arc;
use std::time::Duration;

use wharf_runtime::backend::{Ended, Failure};
use wharf_runtime::cores::{
    Attempts, ChainKey, Order, Step, exit_code, final_report, given_up, order_of, plan, report,
    successor_after, waiting,
};
use wharf_types::node::{AssignedInstance, InstanceReport, Reason, ReasonKind, SINGLETON_LEASE};
use wharf_types::state::{Health, InstanceState};
use wharf_types::{InstanceId, VolumeId};

use super::client::Quality;
use super::{Timer, World, say};
use crate::queue::Time;

/// Mirrors `wasm::volumes::CLAIM_TIMEOUT`.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Slot {
    pub(crate) assigned: Arc<AssignedInstance>,
    /// The current member of the chain.
    pub(crate) id: InstanceId,
    order: Order,
    restarts: u32,
    attempts: Attempts,
    phase: Phase,
    pub(crate) health: Health,
    healthy_since: Time,
    /// Of a singleton: until when it may run, and whether the control plane has said so.
    lease: Option<(Time, bool)>,
    turn: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Prepare,
    /// Waits for its volumes since then, and starts.
    Start(Time),
    Run,
    Stop,
    Backoff,
    LetGo,
}

/// The next that is to happen to a slot, unless something else came first.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    chain: ChainKey,
    number: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Prepared,
    Start,
    Probe,
    End(Ended),
    Again,
    Stopped,
    LetGo,
}

impl Slot {
    /// Whether its guest is there, and may write to its volumes.
    pub(crate) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Run | Phase::Stop | Phase::LetGo)
    }

    /// Mirrors `Granter::grant`.
    pub(crate) fn grant(&mut self, now: Time, until: Time) {
        if let Some((known, is_granted)) = &mut self.lease
            && now < *known
            && (until > *known || !*is_granted)
        {
            (*known, *is_granted) = (until, true);
        }
    }

    /// The volumes that nobody else may write to.
    pub(crate) fn exclusive_volumes(&self) -> impl Iterator<Item = VolumeId> {
        let is_exclusive = |name: &wharf_types::VolumeName| {
            self.assigned.spec.volumes.iter().any(|spec| spec.name == *name && spec.is_exclusive())
        };
        self.assigned.volumes.iter().filter(move |volume| is_exclusive(&volume.name)).map(|volume| volume.id)
    }
}

fn trap(message: &str) -> Ended {
    Ended::Failed(Failure::new(ReasonKind::Trap, message))
}

impl World {
    /// Mirrors `Keeper::assign`.
    pub(crate) fn assign(&mut self, index: usize, instances: &[AssignedInstance]) {
        let steps = plan(&self.workers[index].board.members(), instances, |_| false);
        for step in steps {
            match step {
                Step::Run(at) => {
                    let assigned = Arc::new(instances[at].clone());
                    let reports = vec![report(assigned.id, InstanceState::Preparing)];
                    self.workers[index].board.open(ChainKey(assigned.id), reports);
                    self.start_slot(index, assigned.id, assigned);
                }
                Step::Replace(at) => self.replace_lost(index, Arc::new(instances[at].clone())),
                Step::Lose(at) => {
                    let id = instances[at].id;
                    let message = "the worker was restarted while it ran".to_owned();
                    let reason = Some(Reason { kind: ReasonKind::Platform, message });
                    let lost = InstanceReport { reason, ..report(id, InstanceState::Failed) };
                    self.workers[index].board.open(ChainKey(id), vec![lost]);
                }
                Step::Settle(at) => {
                    let id = instances[at].id;
                    self.workers[index].board.open(ChainKey(id), vec![report(id, InstanceState::Stopped)]);
                }
                Step::Keep { chain, wanted } => {
                    self.workers[index].released.remove(&chain);
                    self.order(index, chain, order_of(wanted));
                }
                Step::Prune { chain, before } => self.workers[index].board.prune(chain, before),
                Step::Release(chain) if self.workers[index].slots.contains_key(&chain) => {
                    self.workers[index].released.insert(chain);
                    self.order(index, chain, Order::Stop { drain_max: Duration::MAX });
                }
                Step::Release(chain) => self.workers[index].board.close(chain),
            }
        }
    }

    /// Mirrors `Keeper::replace_lost`.
    fn replace_lost(&mut self, index: usize, assigned: Arc<AssignedInstance>) {
        let (chain, next) = (ChainKey(assigned.id), self.new_instance(index));
        let message = "the worker was restarted".to_owned();
        let board = &self.workers[index].board;
        board.open(chain, vec![report(assigned.id, assigned.observed)]);
        let reason = Some(Reason { kind: ReasonKind::Platform, message });
        board.replace(chain, (InstanceState::Failed, reason), report(next, InstanceState::Preparing));
        self.start_slot(index, next, assigned);
    }

    fn new_instance(&mut self, worker: usize) -> InstanceId {
        let now = self.wall(self.workers[worker].clock);
        InstanceId::from_uuid(self.store.ids(now).next())
    }

    fn start_slot(&mut self, index: usize, id: InstanceId, assigned: Arc<AssignedInstance>) {
        let chain = ChainKey(assigned.id);
        let span = self.workers[index].clock.takes(SINGLETON_LEASE);
        let lease = assigned.spec.scale.singleton.then_some((self.now + span, false));
        let slot = Slot {
            assigned,
            id,
            order: Order::Run,
            restarts: 0,
            attempts: Attempts::default(),
            phase: Phase::Prepare,
            health: Health::Unknown,
            healthy_since: Time::ZERO,
            lease,
            turn: 0,
        };
        self.workers[index].slots.insert(chain, slot);
        if lease.is_some() {
            self.timer(index, span, Timer::Lease(chain));
        }
        self.prepare(index, chain);
    }

    /// The lease of a slot may be over.
    pub(crate) fn lease(&mut self, index: usize, chain: ChainKey) {
        let now = self.now;
        let Some(slot) = self.workers[index].slots.get_mut(&chain) else { return };
        let Some((until, _)) = slot.lease.filter(|_| slot.phase != Phase::LetGo) else { return };
        if now < until {
            return self.timer(index, until - now, Timer::Lease(chain));
        }
        let was_running = slot.is_running();
        slot.phase = if was_running { Phase::LetGo } else { Phase::Backoff };
        // One that stood still finds that it is late, and whatever it does until its guest has ended cannot be held back.
        let wait = if now > until { Time::ZERO } else { self.dice.millis(0..=1500) };
        self.turn(index, chain, wait, What::LetGo);
    }

    fn order(&mut self, index: usize, chain: ChainKey, order: Order) {
        let Some(slot) = self.workers[index].slots.get_mut(&chain) else { return };
        if !order.outranks(&slot.order) {
            return;
        }
        slot.order = order;
        if order.is_stop() && !matches!(slot.phase, Phase::Stop | Phase::LetGo) {
            let drain = slot.assigned.spec.stop.drain.as_duration();
            let was_running = slot.is_running();
            slot.phase = if was_running { Phase::Stop } else { Phase::Backoff };
            self.board_update(index, chain, |current| current.state = InstanceState::Stopping);
            // What is cut short by the end of the lease would be longer, or never end.
            let slow = self.dice.percent(5);
            let wait = self.dice.millis(if slow { 0..=30_000 } else { 0..=50 }).min(drain);
            self.turn(index, chain, wait, What::Stopped);
            self.report_soon(index);
        }
    }

    fn turn(&mut self, index: usize, chain: ChainKey, wait: Duration, what: What) {
        let worker = &mut self.workers[index];
        worker.turns += 1;
        let number = worker.turns;
        if let Some(slot) = worker.slots.get_mut(&chain) {
            slot.turn = number;
            self.timer(index, wait, Timer::Slot(Turn { chain, number, what }));
        }
    }

    pub(crate) fn slot_turn(&mut self, index: usize, turn: Turn) {
        let Turn { chain, number, what } = turn;
        let Some(slot) = self.workers[index].slots.get(&chain).filter(|slot| slot.turn == number) else {
            return;
        };
        match (what, slot.phase) {
            (What::Prepared, _) => {
                self.workers[index].slots.get_mut(&chain).expect("it is there").phase =
                    Phase::Start(self.now);
                self.board_update(index, chain, |current| current.state = InstanceState::Starting);
                self.start(index, chain, self.now);
            }
            (What::Start, Phase::Start(since)) => self.start(index, chain, since),
            (What::Probe, Phase::Run) => self.probe(index, chain),
            (What::End(ended), _) => self.ended(index, chain, ended),
            (What::Again, _) => self.prepare(index, chain),
            (What::Stopped, _) => self.stopped(index, chain),
            (What::LetGo, _) => self.let_go(index, chain),
            (What::Start | What::Probe, _) => {}
        }
    }

    fn prepare(&mut self, index: usize, chain: ChainKey) {
        let slot = self.workers[index].slots.get_mut(&chain).expect("it was started");
        slot.phase = Phase::Prepare;
        slot.health = Health::Unknown;
        self.board_update(index, chain, |current| {
            current.state = current.state.max(InstanceState::Preparing);
        });
        let slow = self.dice.percent(5);
        let wait = self.dice.millis(if slow { 0..=2000 } else { 1..=20 });
        self.turn(index, chain, wait, What::Prepared);
    }

    /// Takes the volumes, of which only one may write at a time, and starts the guest.
    fn start(&mut self, index: usize, chain: ChainKey, since: Time) {
        let worker = &self.workers[index];
        let slot = &worker.slots[&chain];
        let taken = |volume| {
            let others = worker.slots.iter().filter(|(other, slot)| **other != chain && slot.is_running());
            others.flat_map(|(_, slot)| slot.exclusive_volumes()).any(|held| held == volume)
        };
        if slot.exclusive_volumes().any(taken) {
            if self.now > since + CLAIM_TIMEOUT {
                let failure = Failure::new(ReasonKind::Platform, "another instance has the volume");
                return self.ended(index, chain, Ended::Failed(failure));
            }
            return self.turn(index, chain, Duration::from_millis(50), What::Start);
        }
        if slot.lease.is_some_and(|(_, is_granted)| !is_granted) {
            return self.turn(index, chain, Duration::from_millis(10), What::Start);
        }
        let (assigned, id) = (slot.assigned.clone(), slot.id);
        match worker.secrets.environment(&assigned) {
            Ok(environment) => {
                let given =
                    environment.into_iter().map(|(variable, text)| (variable, text.as_str().to_owned()));
                self.check_environment(&assigned, &given.collect());
            }
            Err(failure) => {
                self.check_not_given(&assigned, id, &failure);
                return self.ended(index, chain, Ended::Failed(failure));
            }
        }
        if self.clients.quality(&assigned) == Quality::CannotStart {
            return self.ended(index, chain, trap("it cannot start"));
        }
        self.workers[index].slots.get_mut(&chain).expect("it is there").phase = Phase::Run;
        say!(self, "worker {index} runs {}", self.workers[index].slots[&chain].id);
        self.board_update(index, chain, |current| {
            current.state = InstanceState::Running;
            current.reason = None;
        });
        if assigned.job.is_some() {
            return self.run_to_end(index, chain, &assigned);
        }
        let slow = self.dice.percent(5);
        let wait = self.dice.millis(if slow { 0..=3000 } else { 1..=30 });
        self.turn(index, chain, wait, What::Probe);
    }

    fn run_to_end(&mut self, index: usize, chain: ChainKey, assigned: &AssignedInstance) {
        let wait = self.dice.millis(5..=4000);
        let fails = match self.clients.quality(assigned) {
            Quality::Good => !self.is_calm() && self.setup.crashes && self.dice.percent(20),
            _ => true,
        };
        let failure = Failure { exit_code: Some(1), ..Failure::new(ReasonKind::Exit, "it ended with 1") };
        let ended = if fails { Ended::Failed(failure) } else { Ended::Success };
        self.turn(index, chain, wait, What::End(ended));
    }

    /// The first answer to a health check.
    fn probe(&mut self, index: usize, chain: ChainKey) {
        let now = self.now;
        let slot = self.workers[index].slots.get_mut(&chain).expect("it runs");
        (slot.health, slot.healthy_since) = (Health::Healthy, now);
        let assigned = slot.assigned.clone();
        self.board_update(index, chain, |current| {
            current.health = Health::Healthy;
            current.reason = None;
        });
        if self.clients.quality(&assigned) == Quality::FailsInService && !self.is_calm() {
            let wait = self.dice.millis(100..=6000);
            self.turn(index, chain, wait, What::End(trap("it fails in service")));
        }
    }

    /// An instance of the slot fails its checks for a while.
    pub(crate) fn be_unhealthy(&mut self, index: usize, chain: ChainKey) {
        let Some(slot) = self.workers[index].slots.get_mut(&chain) else { return };
        if slot.phase == Phase::Run && slot.assigned.job.is_none() {
            slot.health = Health::Unhealthy;
            self.board_update(index, chain, |current| {
                current.health = Health::Unhealthy;
                current.reason =
                    Some(Reason { kind: ReasonKind::Probe, message: "it answers 500".to_owned() });
            });
            let wait = self.dice.millis(100..=5000);
            self.turn(index, chain, wait, What::Probe);
        }
    }

    pub(crate) fn crash_guest(&mut self, index: usize, chain: ChainKey) {
        if self.workers[index].slots.get(&chain).is_some_and(|slot| slot.phase == Phase::Run) {
            self.ended(index, chain, trap("boom"));
        }
    }

    /// Mirrors `Slot::ended`.
    fn ended(&mut self, index: usize, chain: ChainKey, ended: Ended) {
        let (instant, now) = (self.tokio_instant(), self.now);
        let slot = self.workers[index].slots.get_mut(&chain).expect("it ran");
        let restart = slot.assigned.spec.restart.clone();
        if slot.health == Health::Healthy && now > slot.healthy_since + restart.reset_after.as_duration() {
            slot.restarts = 0;
            slot.attempts.forgive(&restart);
        }
        let (state, reason) = final_report(&ended);
        let due = successor_after(&ended, &slot.order, &restart, slot.restarts);
        if due.is_some() && !slot.attempts.take(&restart, instant) {
            let (state, reason) = given_up(&restart, reason);
            self.workers[index].board.end(chain, state, Some(reason));
            return self.slot_over(index, chain);
        }
        let Some(wait) = due else {
            let board = &self.workers[index].board;
            board.update(chain, |current| current.exit_code = exit_code(&ended));
            board.end(chain, state, Some(reason));
            return self.slot_over(index, chain);
        };
        let next_id = self.new_instance(index);
        let slot = self.workers[index].slots.get_mut(&chain).expect("it ran");
        slot.restarts += 1;
        slot.id = next_id;
        (slot.phase, slot.health) = (Phase::Backoff, Health::Unknown);
        let mut next = report(next_id, InstanceState::Preparing);
        next.restarts = slot.restarts;
        if !wait.is_zero() {
            next.state = InstanceState::Starting;
            next.reason = Some(waiting(wait, reason.clone()));
        }
        self.workers[index].board.replace(chain, (state, Some(reason)), next);
        self.turn(index, chain, wait, What::Again);
        self.report_soon(index);
    }

    fn let_go(&mut self, index: usize, chain: ChainKey) {
        say!(self, "worker {index} lets go of {}", self.workers[index].slots[&chain].id);
        let reason = Reason { kind: ReasonKind::Platform, message: "its lease ran out".to_owned() };
        self.workers[index].board.end(chain, InstanceState::Failed, Some(reason));
        self.slot_over(index, chain);
    }

    fn stopped(&mut self, index: usize, chain: ChainKey) {
        self.workers[index].board.end(chain, InstanceState::Stopped, None);
        self.slot_over(index, chain);
    }

    /// Mirrors `Keeper::task_ended`.
    fn slot_over(&mut self, index: usize, chain: ChainKey) {
        let worker = &mut self.workers[index];
        worker.slots.remove(&chain);
        if worker.released.remove(&chain) {
            worker.board.close(chain);
        }
        self.report_soon(index);
    }

    fn board_update(&mut self, index: usize, chain: ChainKey, change: impl FnOnce(&mut InstanceReport)) {
        self.workers[index].board.update(chain, change);
        self.report_soon(index);
    }
}
