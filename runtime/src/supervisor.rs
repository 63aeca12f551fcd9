//! Keeps running what is assigned to this node.
//!
//! The supervisor turns the full set of assigned instances into one task per slot ([`slot`]), and collects what these
//! report. Restarts happen here, within milliseconds and without the control plane; moving to another node is the control
//! plane's. It does not know what executes an instance (see [`crate::backend`]) nor who asks for it (see
//! [`crate::session`]).

mod board;
mod lease;
mod plan;
mod restart;
mod slot;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::select;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tracing::error;
use wharf_types::InstanceId;
use wharf_types::node::{AssignedInstance, InstanceReport, Reason, ReasonKind};
use wharf_types::state::InstanceState;

use self::lease::Granter;
use self::slot::Slot;
use crate::backend::Backend;
use crate::backoff::Jitter;

pub use self::board::{Board, report};
pub use self::lease::Until;
pub use self::plan::{ChainKey, Step, plan};
pub use self::restart::{
    Attempts, Order, exit_code, final_report, given_up, order_of, successor_after, waiting,
};

/// Owner of the task that runs the assigned instances.
#[derive(Debug)]
pub struct Supervisor {
    handle: SupervisorHandle,
    /// Returns whether all instances have ended.
    task: JoinHandle<bool>,
}

/// Speaks to the supervisor; cheap to clone. After the supervisor's end it does nothing.
#[derive(Clone, Debug)]
pub struct SupervisorHandle {
    commands: mpsc::Sender<Command>,
    reports: watch::Receiver<Vec<InstanceReport>>,
}

/// How a shutdown went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    Clean,
    Panicked,
    /// The grace period was over before everything had stopped.
    Forced,
}

/// How long instances may take to end when this process does.
#[derive(Clone, Copy, Debug)]
pub struct Grace {
    /// Guests within this process, all in all.
    pub guests: Duration,
    /// Each container at most, which has data of its own to put in order: it gets what its app declares (`stop.drain`) where that is less.
    pub containers: Duration,
}

impl Grace {
    /// What an instance may take from its order to stop.
    fn drain_max(&self, instance: &AssignedInstance) -> Duration {
        match instance.world.is_container() {
            true => self.containers,
            // A little is kept back for the end after the drain.
            false => self.guests.mul_f64(0.9),
        }
    }

    /// When nothing of an instance may be left.
    fn limit(&self, instance: &AssignedInstance) -> Duration {
        match instance.world.is_container() {
            true => {
                let drain = self.containers.min(instance.spec.stop.drain.as_duration());
                self.guests.max(drain.saturating_add(slot::END_LIMIT))
            }
            false => self.guests,
        }
    }
}

#[derive(Debug)]
enum Command {
    Assign { instances: Vec<AssignedInstance>, done: oneshot::Sender<()> },
    Hold { held: Vec<InstanceId>, until: Until },
    Drain { grace: Grace },
}

impl Supervisor {
    /// `seed` is where the jitter of restarts comes from.
    pub fn spawn(backend: Arc<dyn Backend>, seed: u64) -> Self {
        Self::spawn_with(backend, Some(seed))
    }

    fn spawn_with(backend: Arc<dyn Backend>, seed: Option<u64>) -> Self {
        let (commands, inbox) = mpsc::channel(16);
        let (publish, reports) = watch::channel(Vec::new());
        let keeper = Keeper {
            backend,
            seed,
            board: Arc::default(),
            publish,
            slots: HashMap::new(),
            leases: HashMap::new(),
            released: HashSet::new(),
            kept: HashSet::new(),
            tasks: JoinSet::new(),
            chains: HashMap::new(),
        };
        let task = tokio::spawn(keeper.run(inbox));
        Self { handle: SupervisorHandle { commands, reports }, task }
    }

    pub fn handle(&self) -> SupervisorHandle {
        self.handle.clone()
    }

    /// See [`SupervisorHandle::assign`].
    pub async fn assign(&self, instances: Vec<AssignedInstance>) {
        self.handle.assign(instances).await;
    }

    /// See [`SupervisorHandle::reports`].
    pub fn reports(&self) -> watch::Receiver<Vec<InstanceReport>> {
        self.handle.reports()
    }

    /// Drains every instance, each for no longer than `grace` says. End the session before: the control plane should not
    /// take these ends for what was wanted, so that the next start serves every app again. Whoever gives this up calls [`Self::abort`].
    pub async fn shutdown(&mut self, grace: Grace) -> Shutdown {
        let _ = self.handle.commands.send(Command::Drain { grace }).await;
        match (&mut self.task).await {
            Ok(true) => Shutdown::Clean,
            Ok(false) => Shutdown::Forced,
            Err(_) => Shutdown::Panicked,
        }
    }

    /// Lets go of every instance as it is.
    pub async fn abort(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl SupervisorHandle {
    /// Takes the full set of instances of this node. On return, the reports speak of each of them.
    pub async fn assign(&self, instances: Vec<AssignedInstance>) {
        let (done, is_done) = oneshot::channel();
        if self.commands.send(Command::Assign { instances, done }).await.is_ok() {
            let _ = is_done.await;
        }
    }

    /// Lets the singletons among these instances, or what has replaced them, run until then.
    pub async fn hold(&self, held: Vec<InstanceId>, until: Until) {
        // After the supervisor's end nothing runs.
        let _ = self.commands.send(Command::Hold { held, until }).await;
    }

    /// What is known of every instance; those of one slot stand in order, the oldest first.
    pub fn reports(&self) -> watch::Receiver<Vec<InstanceReport>> {
        self.reports.clone()
    }
}

/// The task's own state.
struct Keeper {
    backend: Arc<dyn Backend>,
    /// None: no jitter.
    seed: Option<u64>,
    board: Arc<Board>,
    publish: watch::Sender<Vec<InstanceReport>>,
    /// The chains whose task still lives.
    slots: HashMap<ChainKey, Running>,
    /// Of those of singletons, until when they may run.
    leases: HashMap<ChainKey, Granter>,
    /// Chains to be forgotten once their task has ended.
    released: HashSet<ChainKey>,
    /// Runs of jobs that stay after their end, until they are released.
    kept: HashSet<ChainKey>,
    tasks: JoinSet<()>,
    chains: HashMap<Id, ChainKey>,
}

/// A chain whose task lives.
struct Running {
    orders: watch::Sender<Order>,
    assigned: Arc<AssignedInstance>,
}

impl Keeper {
    /// Returns whether all instances have ended.
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) -> bool {
        loop {
            select! {
                biased;
                command = inbox.recv() => match command {
                    Some(Command::Assign { instances, done }) => {
                        self.assign(instances);
                        self.publish_reports();
                        let _ = done.send(());
                    }
                    Some(Command::Hold { held, until }) => self.hold(&held, until),
                    Some(Command::Drain { grace }) => {
                        let limits = self.slots.values().map(|slot| grace.limit(&slot.assigned));
                        let limit = limits.fold(grace.guests, Duration::max);
                        return timeout(limit, self.drain(grace)).await.is_ok();
                    }
                    None => {
                        self.drain(Grace { guests: Duration::ZERO, containers: Duration::ZERO }).await;
                        return true;
                    }
                },
                () = self.board.changed() => self.publish_reports(),
                Some(ended) = self.tasks.join_next_with_id() => self.task_ended(ended),
            }
        }
    }

    fn assign(&mut self, instances: Vec<AssignedInstance>) {
        let steps = plan(&self.board.members(), &instances, |instance| self.backend.adopts(instance));
        if self.backend.is_to_be_swept() {
            // What a slot is about to stop is left to it.
            let of_slots = steps.iter().filter_map(|step| match step {
                Step::Run(index) => Some(instances[*index].id),
                _ => None,
            });
            let to_run = instances.iter().filter(|it| it.wanted == wharf_types::state::Wanted::Run);
            let wanted = to_run.map(|it| it.id).chain(of_slots).collect();
            let backend = self.backend.clone();
            self.tasks.spawn(async move { backend.sweep(wanted).await });
        }
        let instances: Vec<Arc<AssignedInstance>> = instances.into_iter().map(Arc::new).collect();
        for step in steps {
            match step {
                Step::Run(index) => self.run_assigned(&instances[index]),
                Step::Replace(index) => self.replace_lost(&instances[index]),
                Step::Lose(index) => {
                    let id = instances[index].id;
                    let message = "the worker was restarted while it ran".to_owned();
                    let reason = Some(Reason { kind: ReasonKind::Platform, message });
                    let lost = InstanceReport { reason, ..report(id, InstanceState::Failed) };
                    self.board.open(ChainKey(id), vec![lost]);
                }
                Step::Settle(index) => {
                    let id = instances[index].id;
                    self.board.open(ChainKey(id), vec![report(id, InstanceState::Stopped)]);
                }
                Step::Keep { chain, wanted } => {
                    self.released.remove(&chain);
                    self.order(chain, order_of(wanted));
                }
                Step::Prune { chain, before } => self.board.prune(chain, before),
                Step::Release(chain) if self.slots.contains_key(&chain) => {
                    self.released.insert(chain);
                    self.order(chain, Order::Stop { drain_max: Duration::MAX });
                }
                Step::Release(chain) => {
                    self.remove_kept(chain);
                    self.board.close(chain);
                }
            }
        }
    }

    fn run_assigned(&mut self, assigned: &Arc<AssignedInstance>) {
        let id = assigned.id;
        self.board.open(ChainKey(id), vec![report(id, InstanceState::Preparing)]);
        if slot::stays(&*self.backend, assigned) {
            self.kept.insert(ChainKey(id));
        }
        self.spawn_slot(ChainKey(id), id, assigned, order_of(assigned.wanted));
    }

    /// The end of a run is known to the control plane, so what is left of it may go.
    fn remove_kept(&mut self, chain: ChainKey) {
        if self.kept.remove(&chain) {
            let backend = self.backend.clone();
            self.tasks.spawn(async move { backend.remove(chain.0).await });
        }
    }

    fn replace_lost(&mut self, assigned: &Arc<AssignedInstance>) {
        let (chain, next) = (ChainKey(assigned.id), InstanceId::new());
        let message = "the worker was restarted".to_owned();
        self.board.open(chain, vec![report(assigned.id, assigned.observed)]);
        self.board.replace(
            chain,
            (InstanceState::Failed, Some(Reason { kind: ReasonKind::Platform, message })),
            report(next, InstanceState::Preparing),
        );
        self.spawn_slot(chain, next, assigned, Order::Run);
    }

    fn spawn_slot(
        &mut self,
        chain: ChainKey,
        id: InstanceId,
        assigned: &Arc<AssignedInstance>,
        order: Order,
    ) {
        let (orders, receiver) = watch::channel(order);
        // The chain's own part of the seed is random, but the same for the whole life of the chain.
        let own = chain.0.as_uuid().as_u64_pair().1;
        let (granter, lease) = lease::of(&assigned.spec, Instant::now());
        self.leases.extend(granter.map(|granter| (chain, granter)));
        let slot = Slot {
            lease,
            backend: self.backend.clone(),
            board: self.board.clone(),
            chain,
            assigned: assigned.clone(),
            id,
            orders: receiver,
            restarts: 0,
            attempts: restart::Attempts::default(),
            jitter: self.seed.map_or_else(Jitter::none, |seed| Jitter::seeded(seed ^ own)),
        };
        let task = self.tasks.spawn(slot.live());
        self.chains.insert(task.id(), chain);
        self.slots.insert(chain, Running { orders, assigned: assigned.clone() });
    }

    fn hold(&self, held: &[InstanceId], until: Until) {
        if self.leases.is_empty() {
            return;
        }
        for (chain, members) in self.board.members() {
            if let Some(granter) = self.leases.get(&chain)
                && members.iter().any(|member| held.contains(member))
            {
                granter.grant(until);
            }
        }
    }

    fn order(&self, chain: ChainKey, order: Order) {
        if let Some(slot) = self.slots.get(&chain) {
            slot.orders.send_if_modified(|current| {
                let grows = order.outranks(current);
                if grows {
                    *current = order;
                }
                grows
            });
        }
    }

    fn task_ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(chain) = self.chains.remove(&id) else { return };
        self.slots.remove(&chain);
        self.leases.remove(&chain);
        if let Err(error) = ended {
            error!(instance.id = %chain.0, "the task of the slot of instance {} panicked: {error}", chain.0);
            let message = "the worker failed inside; its own log says more".to_owned();
            self.board.end(
                chain,
                InstanceState::Failed,
                Some(Reason { kind: ReasonKind::Platform, message }),
            );
            if let Some(id) = self.board.current(chain) {
                let backend = self.backend.clone();
                self.tasks.spawn(async move { backend.remove(id).await });
            }
        }
        if self.released.remove(&chain) {
            self.remove_kept(chain);
            self.board.close(chain);
        }
    }

    fn publish_reports(&self) {
        let reports = self.board.reports();
        self.publish.send_if_modified(|published| {
            let differs = *published != reports;
            if differs {
                *published = reports;
            }
            differs
        });
    }

    async fn drain(mut self, grace: Grace) {
        for (chain, slot) in &self.slots {
            self.order(*chain, Order::Stop { drain_max: grace.drain_max(&slot.assigned) });
        }
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.task_ended(ended);
            self.publish_reports();
        }
    }
}
