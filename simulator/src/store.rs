//! The database as a map: what is here survives every crash, and each function is one transaction.
//!
//! What a change or a report makes of a row is the real code (`AppView::apply`, `InstanceView::observe`, …). The guards that stand in SQL are
//! modelled, each with the name of what it mirrors.

mod apps;
mod jobs;
mod tenants;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;
use wharf_platform_api::cores::{NodeSettings, Pins, QuotaDemand};
use wharf_platform_api::plan::job::{JobView, RunView};
use wharf_platform_api::plan::schedule::ScheduleView;
use wharf_platform_api::plan::{self, AppView, IdSource, InstanceView, ReleaseView, RolloutView};
use wharf_types::api::Quota;
use wharf_types::node::{InstanceReport, NodeRegistration};
use wharf_types::{
    AppId, InstanceId, JobId, NamespaceName, NodeId, ReleaseId, RolloutId, ScheduleId, SecretName, Timestamp,
};

pub(crate) use apps::Wish;
pub(crate) use tenants::Refused;
pub(crate) use values::Value;

/// Mirrors `store::instance::ENDED_KEPT`.
const ENDED_KEPT: usize = 5;

#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    /// The counter `starts`: which process may write what it has planned.
    pub(crate) epoch: u64,
    /// The counter `revision`.
    revision: i64,
    /// Shared with the checks, which compare what was with what is.
    pub(crate) apps: BTreeMap<AppId, Arc<App>>,
    pub(crate) jobs: BTreeMap<JobId, Arc<Job>>,
    pub(crate) schedules: BTreeMap<ScheduleId, ScheduleView>,
    pub(crate) nodes: BTreeMap<NodeId, NodeRegistration>,
    /// What admins say of them.
    pub(crate) settings: BTreeMap<NodeId, NodeSettings>,
    /// Those that were given up, and have not come back since.
    pub(crate) given_up: BTreeSet<NodeId>,
    pub(crate) quotas: BTreeMap<NamespaceName, Quota>,
    /// Secrets and configs.
    pub(crate) values: BTreeMap<(NamespaceName, SecretName), Value>,
    /// How many releases of an app are kept in any case. None: all.
    pub(crate) kept: Option<u64>,
    ids: Ids,
}

#[derive(Clone, Debug)]
pub(crate) struct App {
    /// With every row of its instances, and without a rollout.
    pub(crate) view: AppView,
    pub(crate) rollouts: Vec<RolloutView>,
    pub(crate) releases: BTreeMap<ReleaseId, Arc<ReleaseView>>,
    pub(crate) served: BTreeSet<ReleaseId>,
    /// What each release asks for: the table `release_demand`.
    pub(crate) demands: BTreeMap<ReleaseId, QuotaDemand>,
    /// With which values each was made: the table `release_secret`.
    pub(crate) pins: BTreeMap<ReleaseId, Pins>,
    /// The number of the newest that there ever was.
    pub(crate) last_release: u64,
    revision: i64,
}

#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) view: JobView,
    pub(crate) schedule: Option<ScheduleId>,
    pub(crate) demand: QuotaDemand,
    /// With which values it was made, as long as it has not ended: the table `job_secret`.
    pub(crate) pins: Pins,
    revision: i64,
}

/// An app as `view::load` reads it.
pub(crate) struct Loaded {
    pub(crate) view: AppView,
    pub(crate) releases: Vec<Arc<ReleaseView>>,
    pub(crate) revision: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    Done,
    /// Somebody else changed it since it was read.
    Outdated,
    /// Another process has taken over.
    Deposed,
}

/// Ids that sort by the clock of whoever made them, as UUIDv7 do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ids {
    millis: u128,
    count: u128,
}

impl Ids {
    pub(crate) fn next(&mut self) -> Uuid {
        self.count += 1;
        Uuid::from_u128(self.millis << 64 | self.count)
    }

    /// How many were made before an id, and with it.
    pub(crate) fn count_in(id: Uuid) -> u64 {
        id.as_u64_pair().1
    }
}

impl IdSource for Ids {
    fn instance(&mut self) -> InstanceId {
        InstanceId::from_uuid(self.next())
    }

    fn rollout(&mut self) -> RolloutId {
        RolloutId::from_uuid(self.next())
    }
}

impl Store {
    pub(crate) fn new(kept: Option<u64>) -> Self {
        Self { kept, ..Self::default() }
    }

    /// Where new ids come from, by this clock.
    pub(crate) fn ids(&mut self, now: Timestamp) -> &mut Ids {
        self.ids.millis = u128::try_from(now.as_millisecond()).unwrap();
        &mut self.ids
    }

    /// What a process does to the database when it starts: `control_plane::bootstrap`.
    pub(crate) fn bootstrap(&mut self, now: Timestamp) -> u64 {
        self.epoch += 1;
        let rollouts = self.apps.values_mut().flat_map(|app| &mut Arc::make_mut(app).rollouts);
        for rollout in rollouts.filter(|rollout| !rollout.state.is_final()) {
            rollout.progressed_at = now;
        }
        self.epoch
    }

    pub(crate) fn settings_of(&self, node: NodeId) -> NodeSettings {
        self.settings.get(&node).cloned().unwrap_or_default()
    }

    /// Mirrors `store::node::set_given_up`.
    pub(crate) fn set_given_up(&mut self, node: NodeId, given_up: bool) {
        if given_up {
            self.given_up.insert(node);
        } else {
            self.given_up.remove(&node);
        }
    }

    pub(crate) fn is_drained(&self, node: NodeId) -> bool {
        self.settings.get(&node).is_some_and(|settings| settings.draining)
    }

    fn draw_revision(&mut self) -> i64 {
        self.revision += 1;
        self.revision
    }

    /// Writes reports in their order, as `operations::report::observe` does. Returns what has changed.
    pub(crate) fn observe(
        &mut self,
        node: NodeId,
        reports: &[InstanceReport],
        now: Timestamp,
    ) -> (BTreeSet<AppId>, BTreeSet<JobId>) {
        let (mut apps, mut jobs) = (BTreeSet::new(), BTreeSet::new());
        for report in reports {
            match self.find_run(report.id) {
                Some(run) if run.node != node => {}
                Some(run) => {
                    let mut merged = run.clone();
                    if merged.observe(report, now) {
                        jobs.extend(self.put_run(merged));
                    }
                }
                None => apps.extend(self.observe_instance(node, report, now)),
            }
        }
        for app in &apps {
            self.touch(*app);
        }
        for (_, job) in self.jobs.iter_mut().filter(|(id, _)| jobs.contains(id)) {
            Arc::make_mut(job).revision += 1;
        }
        (apps, jobs)
    }

    fn find_run(&self, id: InstanceId) -> Option<&RunView> {
        self.jobs.values().flat_map(|job| &job.view.runs).find(|run| run.id == id)
    }

    /// Returns the job.
    fn put_run(&mut self, run: RunView) -> Option<JobId> {
        let has = |job: &&mut Arc<Job>| job.view.runs.iter().any(|known| known.id == run.id);
        let job = Arc::make_mut(self.jobs.values_mut().find(has)?);
        let known = job.view.runs.iter_mut().find(|known| known.id == run.id)?;
        *known = run;
        Some(job.view.id)
    }

    pub(crate) fn owner(&self, id: InstanceId) -> Option<AppId> {
        let has = |app: &&Arc<App>| app.view.instances.iter().any(|instance| instance.id == id);
        self.apps.values().find(has).map(|app| app.view.id)
    }

    /// Returns the app, if anything changed.
    fn observe_instance(&mut self, node: NodeId, report: &InstanceReport, now: Timestamp) -> Option<AppId> {
        let mut changed = false;
        let id = match self.owner(report.id) {
            Some(id) => id,
            None => {
                changed = true;
                self.take_over(node, report, now)?
            }
        };
        let app = Arc::make_mut(self.apps.get_mut(&id)?);
        let instance = app.view.instances.iter_mut().find(|instance| instance.id == report.id)?;
        if instance.node != Some(node) {
            return None;
        }
        changed |= instance.observe(report, now);
        let slot = instance.slot;
        if report.state.is_final() {
            app.prune(slot, report.id);
        }
        changed.then_some(id)
    }

    /// Makes the row of an instance that the supervisor put in another one's slot: `operations::report::take_over`.
    fn take_over(&mut self, node: NodeId, report: &InstanceReport, now: Timestamp) -> Option<AppId> {
        let id = self.owner(report.replaces?)?;
        let app = Arc::make_mut(self.apps.get_mut(&id)?);
        let old = app.view.instances.iter_mut().find(|instance| Some(instance.id) == report.replaces)?;
        if old.node != Some(node) || !old.can_be_succeeded(now) {
            return None;
        }
        let successor = old.successor(report.id, now);
        old.be_replaced(report.reason.as_ref(), now);
        app.view.instances.push(successor);
        Some(id)
    }
}

impl App {
    /// Forgets all but the newest ended instances of a slot: `store::instance::prune`.
    fn prune(&mut self, slot: u32, ended_now: InstanceId) {
        let is_ended = |instance: &&InstanceView| instance.slot == slot && instance.state.is_final();
        let mut ended: Vec<_> = self
            .view
            .instances
            .iter()
            .filter(is_ended)
            .map(|instance| (instance.age(), instance.id))
            .collect();
        ended.sort_unstable();
        let old = ended.len().saturating_sub(ENDED_KEPT);
        let old: BTreeSet<InstanceId> = ended[..old].iter().map(|(_, id)| *id).collect();
        self.view.instances.retain(|instance| instance.id == ended_now || !old.contains(&instance.id));
    }

    /// The newest rollout, as `store::rollout::newest` finds it.
    fn newest(&self) -> Option<&RolloutView> {
        self.rollouts.iter().max_by_key(|rollout| (rollout.started_at, rollout.id))
    }

    pub(crate) fn rollout_under_way(&self) -> Option<&RolloutView> {
        self.newest().filter(|rollout| !rollout.state.is_final())
    }

    /// Mirrors `store::app::revisions`.
    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    /// Mirrors `view::complete`.
    pub(crate) fn load(&self) -> Loaded {
        let newest = self.newest();
        let under_way = self.rollout_under_way();
        let (mut instances, mut ended): (Vec<_>, Vec<_>) =
            self.view.instances.iter().cloned().partition(|instance| !instance.state.is_final());
        instances.sort_by_key(|instance| (instance.slot, instance.age()));
        ended.sort_by_key(|instance| std::cmp::Reverse(instance.age()));
        instances.extend(plan::relevant(ended, under_way));
        let view = AppView {
            rollout: under_way.cloned().map(Box::new),
            latest: newest.and_then(|rollout| self.releases.get(&rollout.to).cloned()),
            instances,
            numbers: plan::numbers(self.releases.values()),
            alone: plan::alone(self.releases.values()),
            ..self.view.clone()
        };
        Loaded { view, releases: self.releases.values().cloned().collect(), revision: self.revision }
    }
}
