//! What namespaces may use, and what they use as the operations count it.

use std::fmt;

use wharf_platform_api::cores::{
    Standing, StoredNode, check_quota, demand_among, priority_max, priority_refusal, quota_demand, too_wide,
    undrained,
};
use wharf_types::api::QuotaUsed;
use wharf_types::spec::{AppSpec, Priority};
use wharf_types::world::World;

use super::*;

/// Why nothing was written, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The namespace would use more than it may.
    Quota(String),
    Priority(String),
    /// A range goes beyond what the namespace may have.
    Range(String),
    /// A value is missing, or still needed.
    Value(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Quota(words) | Self::Priority(words) | Self::Range(words) | Self::Value(words)) = self;
        f.write_str(words)
    }
}

impl Store {
    /// Mirrors `store::quota::used`.
    pub(crate) fn used(&self, namespace: &NamespaceName) -> QuotaUsed {
        let mut used = QuotaUsed::default();
        for app in self.apps.values().filter(|app| app.view.namespace == *namespace) {
            app.standing().add_to(&mut used);
        }
        let is_counted = |job: &&Arc<Job>| job.view.namespace == *namespace && !job.view.state.is_final();
        for QuotaDemand { replicas, memory_bytes, cpu_millis, .. } in
            self.jobs.values().filter(is_counted).map(|job| job.demand)
        {
            let instances = u64::from(replicas);
            used.instances += instances;
            used.memory_bytes += memory_bytes * instances;
            used.cpu_millis += u64::from(cpu_millis) * instances;
        }
        used.secrets = self.values.keys().filter(|(of, _)| of == namespace).count() as u64;
        used
    }

    /// Mirrors `operations::quota::Before::check`.
    pub(crate) fn check_quota(&self, namespace: &NamespaceName, before: &QuotaUsed) -> Result<(), Refused> {
        let Some(quota) = self.quotas.get(namespace) else { return Ok(()) };
        let checked = check_quota(quota, before, &self.used(namespace));
        checked.map_err(|exceeded| Refused::Quota(exceeded.to_string()))
    }

    /// Mirrors `operations::quota::check_priority`.
    pub(crate) fn check_priority(
        &self,
        namespace: &NamespaceName,
        has: Option<Priority>,
        wanted: Priority,
    ) -> Result<(), Refused> {
        let max = priority_max(self.quotas.get(namespace));
        match priority_refusal(namespace, max, has, wanted) {
            Some(words) => Err(Refused::Priority(words)),
            None => Ok(()),
        }
    }

    /// Mirrors `operations::autoscale::check_most`.
    pub(super) fn check_most(&self, id: AppId, spec: &AppSpec) -> Result<(), Refused> {
        let app = &self.apps[&id];
        let namespace = &app.view.namespace;
        let limit = self.quotas.get(namespace).and_then(|quota| quota.instances);
        let (Some(limit), Some(range)) = (limit, spec.scale.replicas.range()) else { return Ok(()) };
        let before = app.current().map(|release| release.spec.clone());
        match too_wide(namespace, limit, before.as_deref(), range) {
            Some(problem) => Err(Refused::Range(problem.detail)),
            None => Ok(()),
        }
    }

    /// Mirrors `operations::quota::demand_among_nodes`.
    pub(super) fn demand_of(&self, spec: &AppSpec, world: World) -> QuotaDemand {
        if !spec.is_global() {
            return quota_demand(spec, world);
        }
        let known = self.nodes.iter().map(|(id, registration)| StoredNode {
            id: *id,
            registration: registration.clone(),
            settings: self.settings_of(*id),
            given_up: self.given_up.contains(id),
            seen_at: Timestamp::MIN,
        });
        demand_among(&mut undrained(known.collect()), spec, world)
    }

    /// What `operations::rollback::roll_out` does first: there may be other nodes than when the release was made.
    pub(super) fn count_nodes(&mut self, id: AppId, release: ReleaseId) {
        let Some(known) = self.apps[&id].releases.get(&release).cloned() else { return };
        if known.spec.is_global() {
            let demand = self.demand_of(&known.spec, known.world);
            if let Some(app) = self.app_mut(id) {
                app.demands.insert(release, demand);
            }
        }
    }

    /// Mirrors `operations::autoscale::set_within_quota`.
    pub(super) fn set_within_quota(&mut self, id: AppId, from: u32, to: u32) -> u32 {
        let namespace = self.apps[&id].view.namespace.clone();
        let before = self.used(&namespace);
        let mut fits_with = |number: u32| {
            if let Some(app) = self.app_mut(id) {
                app.view.autoscaled_to = Some(number);
            }
            self.check_quota(&namespace, &before).is_ok()
        };
        if fits_with(to) {
            return to;
        }
        let (mut fits, mut exceeds) = (from, to);
        while exceeds.saturating_sub(fits) > 1 {
            let middle = fits + (exceeds - fits) / 2;
            if fits_with(middle) {
                fits = middle;
            } else {
                exceeds = middle;
            }
        }
        fits_with(fits);
        fits
    }
}

impl App {
    /// Mirrors `operations::current_release`.
    pub(crate) fn current(&self) -> Option<&Arc<ReleaseView>> {
        let newest = || self.releases.values().max_by_key(|release| release.number);
        self.view.target.as_ref().or_else(newest)
    }

    /// Mirrors `store::quota::standings`.
    fn standing(&self) -> Standing {
        let target = self.view.target.as_ref().map(|target| target.id);
        let places = &self.view.places;
        Standing {
            scaled_to: self.view.scaled_to,
            autoscaled_to: self.view.autoscaled_to,
            settled: target.filter(|target| places.of == Some(*target)).map(|_| places.count()),
            demand: target.and_then(|target| self.demands.get(&target).copied()),
        }
    }
}
