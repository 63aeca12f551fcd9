//! Everything that there is in a seed, and what happens to it, one event after the other.
//!
//! [`control`] is a control plane, [`worker`] a worker with its [`slots`] and its ingress, [`network`] what lies between; [`client`] wants
//! things, and [`faults`] break them. Their state stands beside what moves it, and they meet here.

pub(crate) mod client;
pub(crate) mod control;
pub(crate) mod worker;

mod faults;
mod network;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;
use wharf_runtime::cores::ChainKey;
use wharf_types::route::RouteTable;
use wharf_types::{NodeId, Timestamp};

use crate::check::Check;
use crate::dice::Dice;
use crate::queue::{Queue, Time};
use crate::setup::Setup;
use crate::store::Store;
use crate::trace::Trace;
use control::Control;
use network::{Down, Network, Up};
use slots::Turn;
use worker::Worker;

/// Longest time from the moment when everything gets well until everything is as wanted.
const SETTLES_WITHIN: Duration = Duration::from_secs(240);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A seed that has more to do runs in circles.
const EVENTS_MAX: u64 = 400_000;

pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) events: u64,
    pub(crate) dice: Dice,
    pub(crate) setup: Setup,
    pub(crate) store: Store,
    /// All that ever ran. The last one leads.
    pub(crate) controls: Vec<Control>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) network: Network,
    pub(crate) clients: client::Clients,
    pub(crate) check: Check,
    pub(crate) trace: Trace,
    queue: Queue<Event>,
    /// Where virtual time begins for code that measures spans.
    began: std::time::Instant,
    /// How far the clock on the wall is from where it should be.
    clock: SignedDuration,
}

#[derive(Debug)]
pub(crate) enum Event {
    /// A control plane's reconciler may have something to do.
    Pass(usize),
    /// What it was about to write.
    Write(usize),
    /// A report is taken in.
    Observe(usize, Box<control::Observed>),
    ToControl(usize, usize, Up),
    ToWorker(usize, usize, Down),
    /// Of a worker's process.
    Worker(usize, u64, Timer),
    Wish,
    Fault,
    /// The end of a fault.
    Mend(faults::Mend),
    Calm,
    Look,
}

#[derive(Debug)]
pub(crate) enum Timer {
    Connect,
    /// The session is as good as dead.
    Broken(u64),
    /// Whether the other end still answers.
    KeepAlive(u64),
    Report,
    /// No answer to this report came.
    Unanswered(u64),
    /// The ingress takes up routes.
    Route(Arc<RouteTable>),
    Slot(Turn),
    /// A slot may have to end, because nobody has said for long that it may go on.
    Lease(ChainKey),
}

macro_rules! say {
    ($world:expr, $($what:tt)*) => {
        $world.trace.say($world.now, format_args!($($what)*))
    };
}
pub(crate) use say;

impl World {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        let mut dice = Dice::new(seed);
        let setup = Setup::throw(&mut dice);
        Self {
            now: Time::ZERO,
            events: 0,
            dice,
            setup,
            store: Store::default(),
            controls: Vec::new(),
            workers: Vec::new(),
            network: Network::default(),
            clients: client::Clients::default(),
            check: Check::default(),
            trace,
            queue: Queue::default(),
            began: std::time::Instant::now(),
            clock: SignedDuration::ZERO,
        }
    }

    /// Until everything is as wanted, or something does not hold.
    pub(crate) fn run(&mut self) {
        say!(self, "{:?}", self.setup);
        self.start_control();
        for index in 0..self.setup.workers {
            self.workers.push(Worker::new(node_id(index), self.setup.memory_mib));
            let at = self.dice.millis(0..=500);
            self.after(at, Event::Worker(index, 1, Timer::Connect));
        }
        self.set_schedules();
        self.after(Duration::from_millis(100), Event::Wish);
        if let Some(every) = self.setup.fault_every {
            self.after(every, Event::Fault);
        }
        self.after(self.setup.calm_at, Event::Calm);
        while self.check.violation.is_none() && self.check.settled_at.is_none() {
            let Some((at, event)) = self.queue.pop() else { return };
            self.now = at;
            self.events += 1;
            self.happen(event);
            self.check_always();
            if self.events > EVENTS_MAX {
                self.fail("it ends", format!("more than {EVENTS_MAX} events"));
            }
        }
    }

    fn happen(&mut self, event: Event) {
        if let Event::Worker(worker, ..) | Event::ToWorker(_, worker, _) = &event {
            let until = self.workers[*worker].stalled_until;
            if self.now < until {
                return self.after(until - self.now, event);
            }
        }
        match event {
            Event::Pass(control) => self.pass(control),
            Event::Write(control) => self.write(control),
            Event::Observe(control, observed) => self.observe(control, *observed),
            Event::ToControl(worker, control, message) => self.arrive_at_control(worker, control, message),
            Event::ToWorker(control, worker, message) => self.arrive_at_worker(control, worker, message),
            Event::Worker(worker, process, timer) => {
                let known = &self.workers[worker];
                if known.is_up && known.process == process {
                    self.worker_timer(worker, timer);
                }
            }
            Event::Wish => self.wish(),
            Event::Fault => self.fault(),
            Event::Mend(mend) => self.mend(mend),
            Event::Calm => self.calm(),
            Event::Look => self.look(),
        }
    }

    pub(crate) fn after(&mut self, wait: Duration, event: Event) {
        self.queue.push(self.now + wait, event);
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.now >= self.setup.calm_at
    }

    /// For code that measures spans.
    pub(crate) fn instant(&self) -> std::time::Instant {
        self.began + self.now
    }

    pub(crate) fn tokio_instant(&self) -> Instant {
        Instant::from_std(self.instant())
    }

    /// What the clock on the wall shows.
    pub(crate) fn wall(&self) -> Timestamp {
        let began: Timestamp = "2026-01-01T00:00:00Z".parse().expect("it is a time");
        began + SignedDuration::try_from(self.now).expect("it is short") + self.clock
    }

    pub(crate) fn leader(&self) -> usize {
        self.controls.len() - 1
    }

    fn calm(&mut self) {
        say!(self, "everything gets well");
        self.heal();
        self.last_wishes();
        self.after(LOOK, Event::Look);
    }

    fn look(&mut self) {
        let waits = self.check_settled();
        match waits {
            None => self.check.settled_at = Some(self.now),
            Some(what) if self.now > self.setup.calm_at + SETTLES_WITHIN => {
                self.fail("when faults stop, everything becomes as wanted", what);
            }
            Some(_) => self.after(LOOK, Event::Look),
        }
    }
}

pub(crate) fn node_id(index: usize) -> NodeId {
    NodeId::from_uuid(uuid::Uuid::from_u128(index as u128 + 1))
}
