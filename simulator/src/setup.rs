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
        }
    }
}
