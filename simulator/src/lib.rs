//! Deterministic simulator: the decisions of control plane and worker in virtual time, with a faulty network, crashes, leaders that are
//! deposed and clocks that jump, nodes that are drained and labelled, apps that push each other out, and
//! namespaces with quotas, secrets and configs.
//!
//! What decides is the real code (`wharf_platform_api::{plan, cores}`, `wharf_runtime::cores`); what carries out is modelled: the [`store`]
//! is a map, the network and the guests are events of the [`world`]. After every event the [`check`]s are asked. A seed is a whole course of
//! events, the same each time. Read [`world`] first.

#![allow(clippy::unwrap_used, reason = "a simulation that cannot go on is a failed test")]

mod world;

mod check;
mod store;

mod dice;
mod queue;
mod setup;
mod trace;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use check::Violation;
pub use setup::{EXTRAS_FROM, SCALING_FROM, TENANTS_FROM};
use trace::Trace;
use world::World;

/// What became of one seed.
#[derive(Debug)]
pub struct Outcome {
    pub seed: u64,
    pub violation: Option<Violation>,
    pub events: u64,
    /// How often a worker was cut off, one way or both.
    pub cuts: u64,
    /// Empty, unless it was asked for.
    pub trace: Vec<String>,
}

/// Runs one seed to its end, or until something does not hold.
pub fn simulate(seed: u64, with_trace: bool) -> Outcome {
    let trace = if with_trace { Trace::kept() } else { Trace::default() };
    let mut world = World::new(seed, trace);
    // The code that decides may have something to say by itself.
    let panicked = catch_unwind(AssertUnwindSafe(|| world.run())).err();
    let violation = world.check.violation.take().or_else(|| {
        let panic = panicked?;
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|&said| said.to_owned()));
        Some(Violation { invariant: "nothing panics", at: world.now, what: said.unwrap_or_default() })
    });
    Outcome {
        seed,
        violation,
        events: world.events,
        cuts: world.network.cuts,
        trace: world.trace.into_lines(),
    }
}
