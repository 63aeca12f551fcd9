//! Everything that there is in a seed, and what happens to it, one event after the other.
//!
//! [`control`] is a control plane, [`worker`] a worker with its [`slots`] and its ingress, [`network`] what lies between; [`client`] wants
//! things, [`values`] are their secrets and configs, [`tenants`] what their namespaces may use, [`scaling`] is what they ask of apps, [`admin`]
//! looks after nodes, and [`faults`] break them. Every process has [`clocks`]. Their state stands beside what moves it, and they meet here.

pub(crate) mod client;
pub(crate) mod clocks;
pub(crate) mod control;
pub(crate) mod worker;

mod admin;
mod faults;
mod network;
pub(crate) mod scaling;
mod slots;
mod tenants;
mod values;

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;
use wharf_platform_api::cores::Start;
use wharf_runtime::cores::ChainKey;
use wharf_types::route::RouteTable;
use wharf_types::{NodeId, Timestamp};

use crate::check::Check;
use crate::dice::Dice;
use crate::queue::{Queue, Time};
use crate::setup::{Extras, Setup};
use crate::store::Store;
use crate::trace::Trace;
use clocks::Clock;
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
    /// Of all that is to do with [`crate::setup::Extras`], so that nothing else is thrown differently because of these.
    pub(crate) extra_dice: Dice,
    /// The same of what is to do with scaling.
    pub(crate) scaling_dice: Dice,
    /// And of namespaces.
    pub(crate) tenant_dice: Dice,
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
    /// How far all clocks on the wall are from where they should be.
    clock: SignedDuration,
    /// That of a server that does not lead, and takes wishes.
    other_server: Clock,
    /// The latest time that any of them has shown.
    latest: Timestamp,
    /// When everything has to be as wanted.
    settles_by: Time,
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
    /// Admins or clocks do something.
    Admin,
    /// More or less is asked of an app.
    Demand,
    /// A control plane looks at what is asked of apps.
    Scale(usize),
    /// A cluster admin sets a quota.
    Quota,
    /// A secret or a config changes.
    Value,
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
        let (mut dice, mut extra_dice) = (Dice::new(seed), Extras::dice(seed));
        let setup = Setup::throw(&mut dice).with_extras(seed, &mut extra_dice);
        Self {
            now: Time::ZERO,
            events: 0,
            dice,
            extra_dice,
            scaling_dice: Extras::scaling_dice(seed),
            tenant_dice: Extras::tenant_dice(seed),
            store: Store::new(setup.kept),
            setup,
            controls: Vec::new(),
            workers: Vec::new(),
            network: Network::default(),
            clients: client::Clients::default(),
            check: Check::default(),
            trace,
            queue: Queue::default(),
            began: std::time::Instant::now(),
            clock: SignedDuration::ZERO,
            other_server: Clock::default(),
            latest: began(),
            settles_by: Time::MAX,
        }
    }

    /// Until everything is as wanted, or something does not hold.
    pub(crate) fn run(&mut self) {
        say!(self, "{:?}", self.setup);
        self.other_server = self.throw_clock();
        self.start_control(Start::Anew);
        for index in 0..self.setup.workers {
            self.workers.push(Worker::new(node_id(index), self.setup.memory_mib));
            self.workers[index].clock = self.throw_clock();
            self.label_worker(index);
            let at = self.dice.millis(0..=500);
            self.after(at, Event::Worker(index, 1, Timer::Connect));
        }
        self.set_schedules();
        self.after(Duration::from_millis(100), Event::Wish);
        if let Some(every) = self.setup.fault_every {
            self.after(every, Event::Fault);
        }
        if self.setup.extras.any() {
            self.after(self.setup.extras.every, Event::Admin);
        }
        if self.setup.extras.scaling {
            self.after(Duration::from_secs(1), Event::Demand);
        }
        self.begin_tenants();
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
            Event::Admin => self.admin(),
            Event::Demand => self.demand(),
            Event::Scale(control) => self.look_at_demand(control),
            Event::Quota => self.set_quota(),
            Event::Value => self.change_value(),
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

    /// For code that measures spans, by the clock of the process that it runs in.
    pub(crate) fn instant(&self, clock: Clock) -> std::time::Instant {
        self.began + clock.measures(self.now)
    }

    pub(crate) fn tokio_instant(&self) -> Instant {
        Instant::from_std(self.instant(Clock::default()))
    }

    /// What the clock on the wall of a process shows.
    pub(crate) fn wall(&mut self, clock: Clock) -> Timestamp {
        let shown = self.wall_of(clock);
        self.latest = self.latest.max(shown);
        shown
    }

    /// The same for who only looks.
    pub(crate) fn wall_of(&self, clock: Clock) -> Timestamp {
        let now = SignedDuration::try_from(self.now).expect("it is short");
        began() + now + self.clock + clock.ahead
    }

    /// For how long what was written by other clocks lies in the future of the one that leads.
    fn future(&self) -> Duration {
        let ahead = self.latest.duration_since(self.wall_of(self.controls[self.leader()].clock));
        Duration::try_from(ahead).unwrap_or_default()
    }

    pub(crate) fn leader(&self) -> usize {
        self.controls.len() - 1
    }

    fn calm(&mut self) {
        say!(self, "everything gets well");
        self.let_service_go();
        self.heal();
        self.last_deeds();
        self.last_wishes();
        // What waits for a time that a clock which was ahead has written waits until that has come.
        self.settles_by = self.now + SETTLES_WITHIN + self.future();
        self.after(LOOK, Event::Look);
    }

    fn look(&mut self) {
        let waits = self.check_settled();
        match waits {
            None => self.check.settled_at = Some(self.now),
            Some(what) if self.now > self.settles_by => {
                self.fail("when faults stop, everything becomes as wanted", what);
            }
            Some(_) => self.after(LOOK, Event::Look),
        }
    }
}

/// When virtual time begins, by clocks that are right.
fn began() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("it is a time")
}

pub(crate) fn node_id(index: usize) -> NodeId {
    NodeId::from_uuid(uuid::Uuid::from_u128(index as u128 + 1))
}
