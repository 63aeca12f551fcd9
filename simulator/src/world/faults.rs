//! What goes wrong, and how it gets well again.

use jiff::SignedDuration;
use wharf_platform_api::cores::Start;
use wharf_runtime::cores::ChainKey;

use super::network::Way;
use super::{Event, World, say};
use crate::check::rows::UNFORGIVEN;
use crate::setup::Fault;

#[derive(Debug)]
pub(crate) enum Mend {
    Worker(usize),
    Control,
    /// One that was deposed ends.
    Depose(usize),
}

impl World {
    pub(crate) fn fault(&mut self) {
        let Some(every) = self.setup.fault_every.filter(|_| !self.is_calm()) else { return };
        let wait = self.dice.millis(0..=2 * every.as_millis() as u64);
        self.after(wait, Event::Fault);
        let fault = self.dice.pick(&self.setup.kinds);
        let worker = self.dice.index(self.workers.len());
        let leader = self.leader();
        say!(self, "{fault:?} (worker {worker})");
        self.hold_service(fault, worker);
        match fault {
            Fault::WorkerCrash | Fault::NodeDown if !self.workers[worker].is_up => {}
            Fault::WorkerCrash => {
                let back_in = self.dice.millis(5..=3000);
                self.kill_worker(worker, back_in);
            }
            Fault::NodeDown => {
                let back_in = self.dice.millis(1000..=30_000);
                self.kill_worker(worker, back_in);
            }
            Fault::Partition | Fault::OneWay => {
                let until = self.now + self.dice.millis(200..=20_000);
                let ways = match fault {
                    Fault::Partition => vec![Way::Up, Way::Down],
                    _ => vec![self.dice.pick(&[Way::Up, Way::Down])],
                };
                self.network.cuts += 1;
                ways.into_iter().for_each(|way| self.network.cut(worker, way, until));
                self.touch_node(worker, until);
            }
            Fault::ControlCrash | Fault::LeaderFlip if !self.controls[leader].is_up => {}
            Fault::ControlCrash => {
                self.stop_control(leader);
                let back_in = self.dice.millis(10..=6000);
                self.after(back_in, Event::Mend(Mend::Control));
            }
            Fault::LeaderFlip => {
                self.start_control(Start::Succeeds);
                let learns_in = self.dice.millis(100..=8000);
                self.after(learns_in, Event::Mend(Mend::Depose(leader)));
            }
            Fault::Stall => self.stall(leader),
            Fault::WorkerStall => {
                let until = self.now + self.dice.millis(100..=20_000);
                self.workers[worker].stalled_until = until.max(self.workers[worker].stalled_until);
                self.touch_node(worker, until);
            }
            Fault::ClockJump => {
                // By more than that it goes forwards only: see the decision on what the simulator does not try yet.
                let millis = self.dice.pick(&[-50, -1, 1, 50, 5000, 60_000, 3_600_000]);
                let jump = SignedDuration::from_millis(millis);
                self.clock += jump;
                say!(self, "the clock jumps by {jump}");
            }
            Fault::GuestCrash | Fault::Unhealthy => {
                self.touch_node(worker, self.now);
                let chains: Vec<ChainKey> = self.workers[worker].slots.keys().copied().collect();
                if !chains.is_empty() {
                    let chain = self.dice.pick(&chains);
                    if fault == Fault::GuestCrash {
                        self.crash_guest(worker, chain);
                    } else {
                        self.be_unhealthy(worker, chain);
                    }
                }
            }
        }
    }

    fn stall(&mut self, control: usize) {
        let span = self.dice.millis(100..=6000);
        let known = &mut self.controls[control];
        let (before, until) = (known.stalled_until.max(self.now), self.now + span);
        known.stalled_until = until.max(before);
        // Whoever stands still cannot have heard of anybody, and holds that against nobody.
        let still = until.saturating_sub(before);
        let is_noticed = known.clock.measures(still) > UNFORGIVEN;
        for heard in known.heard.values_mut() {
            heard.at += still;
            heard.standstills += 1;
            if !is_noticed {
                heard.unforgiven += still;
            }
        }
    }

    pub(crate) fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Worker(index) => self.start_worker(index),
            Mend::Control if !self.controls[self.leader()].is_up => self.start_control(Start::Anew),
            Mend::Control => {}
            Mend::Depose(index) if self.controls[index].is_up => self.stop_control(index),
            Mend::Depose(_) => {}
        }
    }

    /// Everything at once.
    pub(crate) fn heal(&mut self) {
        self.network.heal();
        let leader = self.leader();
        for index in 0..leader {
            self.mend(Mend::Depose(index));
        }
        self.mend(Mend::Control);
        for index in 0..self.workers.len() {
            self.start_worker(index);
        }
        self.nudge(self.leader());
    }
}
