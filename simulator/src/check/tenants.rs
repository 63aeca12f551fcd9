//! Quotas: only growth is refused, and what is acknowledged is within them. By an account of its own of what namespaces use.

use std::fmt::Display;
use std::sync::Arc;

use wharf_platform_api::plan::ReleaseView;
use wharf_types::api::Quota;
use wharf_types::quantity::ByteSize;
use wharf_types::spec::{Priority, Replicas};
use wharf_types::{AppId, NamespaceName};

use crate::store::{App, Job, Refused, Store};
use crate::world::World;

/// What an HTTP app that says nothing of it reserves.
const HTTP_BYTES: u64 = 1 << 20;
/// In a slot there may be the one that serves and the one that is to take over.
const IN_A_SLOT: usize = 2;

/// What a namespace uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) apps: u64,
    pub(crate) instances: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) cpu_millis: u64,
    pub(crate) secrets: u64,
}

impl Use {
    pub(crate) fn of(store: &Store, namespace: &NamespaceName) -> Self {
        let mut used = Self::default();
        for app in store.apps.values().filter(|app| app.view.namespace == *namespace) {
            used.apps += 1;
            if let Some(target) = &app.view.target {
                used.add(instances(app, target), one(target));
            }
        }
        let is_open = |job: &&Arc<Job>| job.view.namespace == *namespace && !job.view.state.is_final();
        for job in store.jobs.values().filter(is_open) {
            let spec = &job.view.spec;
            let runs = spec.parallelism.min(spec.completions);
            used.add(runs.into(), (spec.memory.map_or(0, ByteSize::as_bytes), 0));
        }
        used.secrets = store.values.keys().filter(|(of, _)| of == namespace).count() as u64;
        used
    }

    fn add(&mut self, instances: u64, (memory_bytes, cpu_millis): (u64, u64)) {
        self.instances += instances;
        self.memory_bytes += instances * memory_bytes;
        self.cpu_millis += instances * cpu_millis;
    }

    /// What grows from `self` to `after` and ends beyond its limit.
    fn beyond(&self, after: &Self, quota: &Quota) -> Option<String> {
        let resources = [
            ("apps", self.apps, after.apps, quota.apps),
            ("instances", self.instances, after.instances, quota.instances),
            ("memory", self.memory_bytes, after.memory_bytes, quota.memory_bytes),
            ("cpu", self.cpu_millis, after.cpu_millis, quota.cpu_millis),
            ("secrets", self.secrets, after.secrets, quota.secrets),
        ];
        let is_beyond = |(_, before, after, limit): &(&str, u64, u64, Option<u64>)| {
            after > before && limit.is_some_and(|limit| *after > limit)
        };
        let (name, before, after, limit) = resources.into_iter().find(is_beyond)?;
        Some(format!("{name} from {before} to {after} of {limit:?}"))
    }
}

/// Of one instance: octets, and thousandths of a processor.
fn one(release: &ReleaseView) -> (u64, u64) {
    let reserve = &release.spec.reserve;
    (
        reserve.memory.map_or(HTTP_BYTES, ByteSize::as_bytes),
        reserve.cpu.map_or(0, |cpu| cpu.as_millis().into()),
    )
}

/// How many an app is to have, whatever runs at this moment.
fn instances(app: &App, target: &ReleaseView) -> u64 {
    let view = &app.view;
    let replicas = &target.spec.scale.replicas;
    match (replicas, view.scaled_to) {
        (Replicas::Global(_), _) if view.places.of == Some(target.id) => {
            view.places.slots.iter().flatten().filter(|place| place.target).count() as u64
        }
        (Replicas::Global(_), _) => {
            app.demands.get(&target.id).and_then(|demand| demand.nodes).unwrap_or_default().into()
        }
        (_, Some(scaled_to)) => scaled_to.into(),
        (Replicas::Fixed(fixed), None) => (*fixed).into(),
        (Replicas::Range(range), None) => {
            view.autoscaled_to.unwrap_or_else(|| replicas.first()).clamp(range.min, range.max).into()
        }
    }
}

impl World {
    /// Something has been acknowledged.
    pub(crate) fn check_acknowledged(&mut self, namespace: &NamespaceName, before: &Use, what: &dyn Display) {
        let Some(quota) = self.store.quotas.get(namespace) else { return };
        let after = Use::of(&self.store, namespace);
        if let Some(beyond) = before.beyond(&after, quota) {
            let what = format!("{what} takes {namespace} beyond its quota: {beyond}");
            self.fail("what is acknowledged is within the quota", what);
        }
    }

    /// Something has been refused, and the store is as it would have become.
    pub(crate) fn check_refused(&mut self, namespace: &NamespaceName, before: &Use, refused: &Refused) {
        let quota = self.store.quotas.get(namespace).cloned().unwrap_or_default();
        let after = Use::of(&self.store, namespace);
        let is_right = match refused {
            Refused::Quota(_) => before.beyond(&after, &quota).is_some(),
            Refused::Priority(_) => quota.priority != Some(Priority::High),
            Refused::Range(_) => quota.instances.is_some(),
            Refused::Value(_) => true,
        };
        if !is_right {
            let what = format!("`{refused}`, where {before:?} would become {after:?} of {quota:?}");
            self.fail("nothing is refused that the quota allows", what);
        }
    }

    /// What was refused has left no trace in what is planned by.
    pub(crate) fn check_unchanged(&mut self, before: &Store, what: &dyn Display) {
        let apps = || self.store.apps.values().map(|app| (&app.view, app.revision(), app.rollouts.len()));
        let apps_before = before.apps.values().map(|app| (&app.view, app.revision(), app.rollouts.len()));
        let is_same = apps().eq(apps_before)
            && self.store.jobs.keys().eq(before.jobs.keys())
            && self.store.values.keys().eq(before.values.keys());
        if !is_same {
            let what = format!("{what} was refused: {:?}", apps().collect::<Vec<_>>());
            self.fail("what is refused changes nothing", what);
        }
    }

    /// A rollout may have more instances than count, but of each slot only one more.
    pub(super) fn check_surge(&mut self, id: AppId, slot: u32) {
        let Some(app) = self.store.apps.get(&id).filter(|_| self.setup.extras.quotas) else { return };
        let wanted: Vec<_> =
            app.view.instances.iter().filter(|it| it.slot == slot && it.is_wanted()).collect();
        if wanted.len() > IN_A_SLOT {
            let what = format!("slot {slot} of {}: {wanted:?}", app.view.name);
            self.fail("a rollout has no more than one beside each instance that counts", what);
        }
    }

    /// Whether the quota has room for one more instance of the app.
    pub(super) fn has_quota_for_one_more(&self, app: &App, target: &ReleaseView) -> bool {
        let namespace = &app.view.namespace;
        let Some(quota) = self.store.quotas.get(namespace) else { return true };
        let before = Use::of(&self.store, namespace);
        let mut after = before;
        after.add(1, one(target));
        before.beyond(&after, quota).is_none()
    }

    /// Slots that the quota does not count.
    pub(super) fn uncounted(&self, app: &App, slots: u64) -> Option<String> {
        let target = app.view.target.as_ref().filter(|_| self.setup.extras.quotas)?;
        let counted = instances(app, target);
        (slots > counted).then(|| format!("{} has {slots} slots and counts for {counted}", app.view.name))
    }
}
