//! What a seed's world is like: its nodes, its network, and which faults happen in it.

use std::time::Duration;

use crate::dice::Dice;
use crate::queue::Time;

#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) workers: usize,
    /// Of each node, in MiB.
    pub(crate) memory_mib: u64,
    pub(crate) apps: usize,
    pub(crate) schedules: usize,
    /// When everything gets well, and nobody wants anything new any more.
    pub(crate) calm_at: Time,
    /// Faults happen this far apart at most. None: there are none.
    pub(crate) fault_every: Option<Duration>,
    pub(crate) kinds: Vec<Fault>,
    /// Of a hundred messages so many are lost, come late, or twice.
    pub(crate) lost: u32,
    pub(crate) late: u32,
    pub(crate) doubled: u32,
    pub(crate) wish_every: Duration,
    /// Whether guests end by themselves although their release is good.
    pub(crate) crashes: bool,
    /// How many releases of an app are kept. None: all that there are time for.
    pub(crate) kept: Option<u64>,
    pub(crate) extras: Extras,
}

/// Seeds from here on have [`Extras`]. Those before were there first, and stay the courses of events that they were.
pub const EXTRAS_FROM: u64 = 1_000_000;
/// Seeds from here on may scale, too.
pub const SCALING_FROM: u64 = 2_000_000;
/// Seeds from here on may have quotas and values of namespaces, too.
pub const TENANTS_FROM: u64 = 3_000_000;
/// Makes the dice of the extras other ones than those of everything else.
const EXTRAS_SALT: u64 = 0x5eed_0000_c10c_d5a1;
/// The same for those of scaling.
const SCALING_SALT: u64 = 0x5eed_0000_5ca1_ab1e;
/// The same for those of namespaces.
const TENANTS_SALT: u64 = 0x5eed_0000_7e4a_4775;
/// How many releases are kept. The platform keeps 20, and younger ones up to 100, which are more than a seed has time for.
const KEPT: [u64; 4] = [2, 3, 5, 20];

/// What a world may have beside: all that is to do with these is thrown with dice of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extras {
    /// Each process has clocks of its own, of which the one on the wall is put forward and back, and the other is fast or slow.
    pub(crate) clocks: bool,
    /// Apps and jobs have priorities.
    pub(crate) priorities: bool,
    /// Nodes have labels that change; apps and jobs ask for some, spread over them, and bound what is on one node.
    pub(crate) labels: bool,
    /// Nodes are drained and resumed.
    pub(crate) drains: bool,
    /// Open requests decide how many instances some apps have.
    pub(crate) scaling: bool,
    /// Cluster admins set quotas.
    pub(crate) quotas: bool,
    /// Apps and jobs name secrets and configs, which change.
    pub(crate) values: bool,
    /// Admins and clocks do something half as often as this, or more often.
    pub(crate) every: Duration,
}

impl Extras {
    pub(crate) fn dice(seed: u64) -> Dice {
        Dice::new(seed ^ EXTRAS_SALT)
    }

    pub(crate) fn scaling_dice(seed: u64) -> Dice {
        Dice::new(seed ^ SCALING_SALT)
    }

    pub(crate) fn tenant_dice(seed: u64) -> Dice {
        Dice::new(seed ^ TENANTS_SALT)
    }

    pub(crate) fn any(&self) -> bool {
        self.clocks || self.priorities || self.labels || self.drains || self.scaling || self.has_tenants()
    }

    /// Whether there is more than one namespace.
    pub(crate) fn has_tenants(&self) -> bool {
        self.quotas || self.values
    }

    fn throw(dice: &mut Dice) -> Self {
        let share = dice.pick(&[25, 50, 100]);
        Self {
            clocks: dice.percent(share),
            priorities: dice.percent(share),
            labels: dice.percent(share),
            drains: dice.percent(share),
            scaling: false,
            quotas: false,
            values: false,
            every: dice.millis(300..=8_000),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    WorkerCrash,
    NodeDown,
    Partition,
    OneWay,
    ControlCrash,
    /// Another process takes over while the one before goes on.
    LeaderFlip,
    /// A control plane stands still for a while.
    Stall,
    /// A worker does, with all that runs in it.
    WorkerStall,
    ClockJump,
    GuestCrash,
    Unhealthy,
}

const FAULTS: [Fault; 11] = [
    Fault::WorkerCrash,
    Fault::NodeDown,
    Fault::Partition,
    Fault::OneWay,
    Fault::ControlCrash,
    Fault::LeaderFlip,
    Fault::Stall,
    Fault::WorkerStall,
    Fault::ClockJump,
    Fault::GuestCrash,
    Fault::Unhealthy,
];

impl Setup {
    pub(crate) fn throw(dice: &mut Dice) -> Self {
        let is_faulty = dice.percent(75);
        // A world with few kinds of faults goes deeper into each than one with all of them.
        let share = dice.pick(&[20, 50, 100]);
        let mut kinds: Vec<Fault> = FAULTS.into_iter().filter(|_| dice.percent(share)).collect();
        if kinds.is_empty() {
            kinds.push(dice.pick(&FAULTS));
        }
        let mut some =
            |percent, most| if is_faulty && dice.percent(percent) { dice.number(1..=most) } else { 0 };
        let (lost, late, doubled) = (some(50, 8), some(50, 15), some(50, 15));
        let memory_mib = if dice.percent(80) { 64 } else { dice.number(4..=10).into() };
        Self {
            workers: dice.number(1..=4) as usize,
            memory_mib,
            apps: dice.number(1..=3) as usize,
            schedules: dice.number(0..=1) as usize,
            calm_at: Duration::from_secs(dice.number(20..=60).into()),
            fault_every: is_faulty.then(|| dice.millis(500..=12_000)),
            kinds,
            lost,
            late,
            doubled,
            wish_every: dice.millis(500..=8_000),
            crashes: is_faulty,
            kept: None,
            extras: Extras::default(),
        }
    }

    /// Has what a later seed has beside, which wants more than one node and less room than there is else.
    pub(crate) fn with_extras(self, seed: u64, dice: &mut Dice) -> Self {
        if seed < EXTRAS_FROM {
            return self;
        }
        let scaling = seed >= SCALING_FROM && Extras::scaling_dice(seed).percent(75);
        let mut tenant_dice = Extras::tenant_dice(seed);
        let mut has_tenants = || seed >= TENANTS_FROM && tenant_dice.percent(75);
        let (quotas, values) = (has_tenants(), has_tenants());
        let extras = Extras { scaling, quotas, values, ..Extras::throw(dice) };
        let kept = values.then(|| tenant_dice.pick(&KEPT));
        let mut setup = Self { extras, kept, ..self };
        if (extras.labels || extras.drains) && setup.workers == 1 {
            setup.workers = dice.number(2..=4) as usize;
        }
        if extras.priorities && dice.percent(80) {
            setup.memory_mib = dice.number(4..=12).into();
            setup.apps = dice.number(2..=4) as usize;
        }
        setup
    }
}
