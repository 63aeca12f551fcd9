//! What must always hold. Each file is about one thing that could go wrong; they look at everything, also at what no process can see.

mod held;
mod jobs;
pub(crate) mod placed;
pub(crate) mod rows;
mod scaled;
mod service;
mod settled;
pub(crate) mod tenants;
pub(crate) mod values;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use wharf_types::{AppId, InstanceId, JobId, RolloutId, ScheduleId, Timestamp};

use crate::queue::Time;
use crate::store::{App, Job};
use crate::world::World;

/// Something that should never have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// In words, such as `observed state never goes backwards`.
    pub invariant: &'static str,
    /// Since the beginning.
    pub at: Time,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:.6} s it does not hold that {}: {}", self.at.as_secs_f64(), self.invariant, self.what)
    }
}

/// What the checks remember.
#[derive(Debug, Default)]
pub(crate) struct Check {
    pub(crate) violation: Option<Violation>,
    /// When everything was as wanted, after all faults.
    pub(crate) settled_at: Option<Time>,
    apps_before: BTreeMap<AppId, Arc<App>>,
    jobs_before: BTreeMap<JobId, Arc<Job>>,
    /// The newest assignment of each process of a worker.
    accepted: BTreeMap<(usize, u64), u64>,
    /// Of schedules.
    decided: BTreeSet<(ScheduleId, Timestamp)>,
    /// Apps that every ingress leads to.
    in_service: BTreeSet<AppId>,
    /// Apps that have to go on serving although something happens to a node, and whose ingress has to lead to them.
    held: BTreeSet<(AppId, usize)>,
    /// From when on nothing is left of what has happened to a node, or to control planes.
    nodes_well_at: BTreeMap<usize, Time>,
    control_well_at: Time,
    /// Instances that a plan has made while a rollout was under way, and which.
    made_by: BTreeMap<InstanceId, RolloutId>,
    /// What users were told of secrets and configs.
    pub(crate) told: values::Told,
    /// How often in a row everything was as wanted.
    calm_looks: u32,
}

impl World {
    /// The first violation counts: what follows may follow from it.
    pub(crate) fn fail(&mut self, invariant: &'static str, what: String) {
        let at = self.now;
        self.check.violation.get_or_insert(Violation { invariant, at, what });
    }

    pub(crate) fn check_before_write(&mut self) {
        self.check.apps_before.clone_from(&self.store.apps);
        self.check.jobs_before.clone_from(&self.store.jobs);
    }

    pub(crate) fn check_after_write(&mut self) {
        self.check_rows();
        self.check_capacity();
        self.check_runs();
        self.check_kept();
    }

    /// After every event.
    pub(crate) fn check_always(&mut self) {
        self.check_writers();
        self.check_service();
    }
}
