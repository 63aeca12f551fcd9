//! Secrets and configs with their versions, what was made with which, and what of all that is forgotten.

use wharf_platform_api::cores::{Pinned, moved, pinned_variables};
use wharf_types::SecretVersionId;
use wharf_types::secret::{SecretContent, ValueKind};
use wharf_types::spec::AppSpec;

use super::*;

/// Its versions, the newest last.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) kind: ValueKind,
    pub(crate) versions: Vec<Version>,
}

#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) pinned: Pinned,
    pub(crate) text: String,
}

impl Store {
    /// Mirrors `operations::deploy`, but for the quota, which is asked when all is written.
    pub(crate) fn release(
        &mut self,
        id: AppId,
        release: ReleaseView,
        any_priority: bool,
        now: Timestamp,
    ) -> Result<(), Refused> {
        let app = &self.apps[&id];
        let namespace = &app.view.namespace;
        let pins = self.newest(namespace, &release.spec)?;
        if !any_priority {
            let has = app.current().map(|current| current.spec.placement.priority);
            self.check_priority(namespace, has, release.spec.placement.priority)?;
        }
        self.check_most(id, &release.spec)?;
        self.deploy(id, release, pins, now);
        Ok(())
    }

    /// Mirrors `operations::secrets::set`. Returns the apps that have got a release for it.
    pub(crate) fn set_value(
        &mut self,
        namespace: &NamespaceName,
        (name, kind): (&SecretName, ValueKind),
        text: &str,
        now: Timestamp,
    ) -> Result<Vec<AppId>, Refused> {
        let newest = self.store_value(namespace, (name, kind), text, now);
        let newest = Pins::from([(name.clone(), newest)]);
        let mut moving = Vec::new();
        for (id, app) in &self.apps {
            let uses_it = app.view.namespace == *namespace && !app.view.deleting && app.uses(name);
            let Some(target) = app.view.target.as_ref().filter(|_| uses_it) else { continue };
            if let Some(pins) = moved(&app.pins[&target.id], &newest) {
                moving.push((*id, target.clone(), pins));
            }
        }
        let mut apps = Vec::new();
        for (id, before, pins) in moving {
            let release = ReleaseView {
                id: ReleaseId::from_uuid(self.ids(now).next()),
                number: self.apps[&id].last_release + 1,
                ..ReleaseView::clone(&before)
            };
            self.check_most(id, &release.spec)?;
            self.deploy(id, release, pins, now);
            apps.push(id);
        }
        self.prune_values(namespace);
        Ok(apps)
    }

    /// Mirrors `operations::secrets::store_value`.
    fn store_value(
        &mut self,
        namespace: &NamespaceName,
        (name, kind): (&SecretName, ValueKind),
        text: &str,
        now: Timestamp,
    ) -> Pinned {
        let id = SecretVersionId::from_uuid(self.ids(now).next());
        let key = (namespace.clone(), name.clone());
        let value = self.values.entry(key).or_insert_with(|| Value { kind, versions: Vec::new() });
        let newest = value.versions.last();
        if let Some(newest) = newest.filter(|newest| newest.text == text) {
            return newest.pinned;
        }
        let version = newest.map_or(1, |newest| newest.pinned.version + 1);
        let pinned = Pinned { id, version, bytes: text.len() };
        value.versions.push(Version { pinned, text: text.to_owned() });
        pinned
    }

    /// Mirrors `operations::secrets::remove`.
    pub(crate) fn remove_value(
        &mut self,
        namespace: &NamespaceName,
        name: &SecretName,
    ) -> Result<(), Refused> {
        let uses_it = |app: &Arc<App>| app.view.namespace == *namespace && app.uses(name);
        let runs_with_it = |job: &Arc<Job>| job.view.namespace == *namespace && job.pins.contains_key(name);
        if self.apps.values().any(uses_it) || self.jobs.values().any(runs_with_it) {
            return Err(Refused::Value(format!("{name} is used")));
        }
        match self.values.remove(&(namespace.clone(), name.clone())) {
            Some(_) => Ok(()),
            None => Err(Refused::Value(format!("there is no {name}"))),
        }
    }

    /// Mirrors `operations::secrets::newest_of`.
    pub(super) fn newest(&self, namespace: &NamespaceName, spec: &AppSpec) -> Result<Pins, Refused> {
        let mut pins = Pins::new();
        for (_, name, kind) in spec.values() {
            let value = self.values.get(&(namespace.clone(), name.clone()));
            let newest = value.filter(|value| value.kind == kind).and_then(|value| value.versions.last());
            let Some(newest) = newest else {
                return Err(Refused::Value(format!("there is no {kind} {name}")));
            };
            pins.insert(name.clone(), newest.pinned);
        }
        Ok(pins)
    }

    pub(crate) fn version(&self, id: SecretVersionId) -> Option<&Version> {
        self.values.values().flat_map(|value| &value.versions).find(|version| version.pinned.id == id)
    }

    /// Mirrors `reconcile::deliveries::open`.
    pub(crate) fn open(&self, id: SecretVersionId) -> SecretContent {
        match self.version(id) {
            Some(version) => SecretContent::Value(version.text.clone().into()),
            None => SecretContent::Unreadable("a secret of the release is no longer kept".to_owned()),
        }
    }

    /// Mirrors `store::secret::prune`.
    pub(super) fn prune_values(&mut self, namespace: &NamespaceName) {
        let of_apps = self.apps.values().flat_map(|app| app.pins.values());
        let of_jobs = self.jobs.values().map(|job| &job.pins);
        let pinned = of_apps.chain(of_jobs).flat_map(|pins| pins.values().map(|pinned| pinned.id));
        let used: BTreeSet<SecretVersionId> = pinned.collect();
        for (_, value) in self.values.iter_mut().filter(|((of, _), _)| of == namespace) {
            let newest = value.versions.last().map(|newest| newest.pinned.id);
            value
                .versions
                .retain(|version| Some(version.pinned.id) == newest || used.contains(&version.pinned.id));
        }
    }

    /// Mirrors `reconcile::apply::clean_up`, and `store::release::prune` with fewer releases that are kept, whatever their age is.
    pub(super) fn clean_up(&mut self, id: AppId) {
        let (Some(kept), Some(app)) = (self.kept, self.app_mut(id)) else { return };
        let used = app.releases_in_use();
        let last = app.last_release;
        let is_old =
            |release: &&Arc<ReleaseView>| release.number + kept <= last && !used.contains(&release.id);
        let old: Vec<ReleaseId> = app.releases.values().filter(is_old).map(|release| release.id).collect();
        for release in &old {
            app.releases.remove(release);
            app.pins.remove(release);
            app.demands.remove(release);
            app.served.remove(release);
        }
        if !old.is_empty() {
            let namespace = app.view.namespace.clone();
            self.prune_values(&namespace);
        }
    }

    /// Mirrors `reconcile::apply::delete`.
    pub(super) fn delete_app(&mut self, id: AppId) {
        if let Some(app) = self.apps.remove(&id) {
            self.prune_values(&app.view.namespace);
        }
    }
}

impl App {
    /// Whether a release that is kept was made with a version of the value.
    fn uses(&self, name: &SecretName) -> bool {
        self.pins.values().any(|pins| pins.contains_key(name))
    }

    fn releases_in_use(&self) -> BTreeSet<ReleaseId> {
        let of_app = [&self.view.target, &self.view.stable].into_iter().flatten().map(|release| release.id);
        let live = self.view.instances.iter().filter(|instance| !instance.state.is_final());
        let open = self.rollouts.iter().filter(|rollout| !rollout.state.is_final());
        let of_rollouts = open.flat_map(|rollout| rollout.from.into_iter().chain([rollout.to]));
        of_app.chain(live.map(|instance| instance.release)).chain(of_rollouts).collect()
    }
}

/// Of each variable that the namespace has the value of, the version that was pinned.
pub(super) fn variables(spec: &AppSpec, pins: &Pins) -> Arc<BTreeMap<String, SecretVersionId>> {
    Arc::new(pinned_variables(spec, pins).expect("every value was pinned"))
}
