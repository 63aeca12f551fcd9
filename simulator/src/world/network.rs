//! What lies between workers and control planes: it loses, delays, doubles and reorders.
//!
//! What is sent while the way is cut is sent again for a while, as TCP does, and so may arrive long after it was true.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use wharf_types::InstanceId;
use wharf_types::delta::AssignmentDelta;
use wharf_types::node::{Assignment, NodeReport};

use super::{Event, Timer, World};
use crate::queue::Time;

/// How long something is sent again that finds the way cut.
const PATIENCE: Duration = Duration::from_secs(8);
const AGAIN: Duration = Duration::from_millis(200);

#[derive(Debug, Default)]
pub(crate) struct Network {
    /// Until when nothing comes from a worker, and until when nothing comes to it.
    cut: BTreeMap<(usize, Way), Time>,
    /// Times at which a way was cut, both ways together counted once.
    pub(crate) cuts: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    Up,
    Down,
}

#[derive(Clone, Debug)]
pub(crate) enum Up {
    /// Registers, and follows the assignments from now on.
    Connect {
        process: u64,
        session: u64,
    },
    Report {
        process: u64,
        request: u64,
        report: Box<NodeReport>,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum Down {
    Connected {
        process: u64,
        session: u64,
    },
    Assignment {
        process: u64,
        session: u64,
        assignment: Arc<Assignment>,
    },
    Delta {
        process: u64,
        session: u64,
        delta: Arc<AssignmentDelta>,
    },
    /// Whether the report was taken.
    Answer {
        process: u64,
        request: u64,
        taken: bool,
        /// The singletons that may run on.
        holds: Vec<InstanceId>,
    },
}

impl Network {
    pub(crate) fn cut(&mut self, worker: usize, way: Way, until: Time) {
        let cut = self.cut.entry((worker, way)).or_default();
        *cut = until.max(*cut);
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(crate) fn is_cut(&self, worker: usize, way: Way, now: Time) -> bool {
        self.cut.get(&(worker, way)).is_some_and(|until| now < *until)
    }
}

impl World {
    pub(crate) fn send_up(&mut self, worker: usize, control: usize, message: Up) {
        let Some(waits) = self.passage(worker, Way::Up) else { return };
        for wait in waits {
            self.after(wait, Event::ToControl(worker, control, message.clone()));
        }
    }

    pub(crate) fn send_down(&mut self, control: usize, worker: usize, message: Down) {
        match self.passage(worker, Way::Down) {
            Some(waits) => {
                for wait in waits {
                    self.after(wait, Event::ToWorker(control, worker, message.clone()));
                }
            }
            // A stream that lacks something is no stream any more.
            None => {
                if let Down::Assignment { process, session, .. } | Down::Delta { process, session, .. } =
                    message
                {
                    let notices = self.dice.millis(10..=3000);
                    self.after(notices, Event::Worker(worker, process, Timer::Broken(session)));
                }
            }
        }
    }

    /// After which time it arrives, each time that it does. None: it is lost.
    fn passage(&mut self, worker: usize, way: Way) -> Option<Vec<Duration>> {
        let mut wait = self.dice.millis(0..=4);
        if self.is_calm() {
            return Some(vec![wait]);
        }
        let mut held = Duration::ZERO;
        while self.network.is_cut(worker, way, self.now + held) {
            held += AGAIN;
            if held > PATIENCE {
                return None;
            }
        }
        let Self { dice, setup, .. } = self;
        if dice.percent(setup.lost) {
            return None;
        }
        if dice.percent(setup.late) {
            wait += dice.millis(0..=3000);
        }
        let mut waits = vec![held + wait];
        if dice.percent(setup.doubled) {
            waits.push(held + wait + dice.millis(0..=2000));
        }
        Some(waits)
    }
}
