//! Secrets and configs: what a guest is given is what its release was made with, by an account of its own of what users were told.

use std::collections::{BTreeMap, BTreeSet};

use wharf_runtime::backend::Failure;
use wharf_types::node::{AssignedInstance, Assignment};
use wharf_types::{AppId, AppName, InstanceId, JobId, NamespaceName, SecretName, SecretVersionId};

use crate::store::{App, Store};
use crate::world::World;

/// Variables of a guest, with their values.
pub(crate) type Variables = BTreeMap<String, String>;

/// What users were told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// What each value is now.
    values: BTreeMap<(NamespaceName, SecretName), String>,
    /// What the guests of each release are to see. No app has the name of another, also of none that is gone.
    releases: BTreeMap<(AppName, u64), Variables>,
    jobs: BTreeMap<JobId, Variables>,
}

impl Told {
    fn variables<'a>(
        &self,
        namespace: &NamespaceName,
        named: impl Iterator<Item = (&'a String, &'a SecretName)>,
    ) -> Variables {
        let value = |name: &SecretName| self.values.get(&(namespace.clone(), name.clone()));
        named.map(|(variable, name)| (variable.clone(), value(name).cloned().unwrap_or_default())).collect()
    }

    fn of_release(&self, app: &App, number: u64) -> Variables {
        self.releases.get(&(app.view.name.clone(), number)).cloned().unwrap_or_default()
    }
}

impl World {
    /// A user's release was acknowledged: it has what was the newest.
    pub(crate) fn check_released(&mut self, id: AppId) {
        let Some(target) = self.store.apps[&id].view.target.clone() else { return };
        let view = &self.store.apps[&id].view;
        let named = target.spec.values().map(|(variable, name, _)| (variable, name));
        let variables = self.check.told.variables(&view.namespace, named);
        self.check.told.releases.insert((view.name.clone(), target.number), variables);
        self.check_kept();
    }

    pub(crate) fn check_job_made(&mut self, id: JobId) {
        let Some(job) = self.store.jobs.get(&id) else { return };
        let named = job.view.command.spec.values().map(|(variable, name, _)| (variable, name));
        let variables = self.check.told.variables(&job.view.namespace, named);
        self.check.told.jobs.insert(id, variables);
    }

    /// A value was set: each app whose release names it and has another is on a new release, and no other app is.
    pub(crate) fn check_value_set(
        &mut self,
        before: &Store,
        (namespace, name): (&NamespaceName, &SecretName),
        text: &str,
    ) {
        self.check.told.values.insert((namespace.clone(), name.clone()), text.to_owned());
        let mut found = None;
        for (id, old) in &before.apps {
            let new = &self.store.apps[id];
            let mut variables = BTreeMap::new();
            let mut is_behind = false;
            let of_namespace = old.view.namespace == *namespace && !old.view.deleting;
            if let Some(target) = old.view.target.as_ref().filter(|_| of_namespace) {
                variables = self.check.told.of_release(old, target.number);
                for (variable, _, _) in target.spec.values().filter(|(_, named, _)| *named == name) {
                    let known = variables.insert(variable.clone(), text.to_owned());
                    is_behind |= known.as_deref() != Some(text);
                }
            }
            let number = new.view.target.as_ref().map(|target| target.number);
            if new.last_release != old.last_release + u64::from(is_behind) {
                let releases = (old.last_release, new.last_release);
                found = found.or(Some(format!("{name} = {text}: {} went {releases:?}", old.view.name)));
            } else if is_behind && number != Some(new.last_release) {
                found = found.or(Some(format!("{} stays on {number:?}", old.view.name)));
            }
            if is_behind {
                self.check.told.releases.insert((old.view.name.clone(), new.last_release), variables);
            }
        }
        if let Some(what) = found {
            self.fail("a changed value makes one release of each app that names it", what);
        }
        self.check_kept();
    }

    pub(crate) fn check_value_removed(&mut self, namespace: &NamespaceName, name: &SecretName) {
        self.check.told.values.remove(&(namespace.clone(), name.clone()));
        self.check_kept();
    }

    pub(crate) fn check_kept(&mut self) {
        if self.setup.extras.values
            && let Some(what) = self.not_kept()
        {
            self.fail("what may run again is kept, with its values", what);
        }
    }

    /// What releases that are kept, and jobs that have not ended, were made with is there, and is what it was. So is every release that may
    /// be gone back to, or that something still runs.
    fn not_kept(&self) -> Option<String> {
        let versions = self.store.values.values().flat_map(|value| &value.versions);
        let texts: BTreeMap<SecretVersionId, &String> =
            versions.map(|version| (version.pinned.id, &version.text)).collect();
        let has = |pins: &BTreeMap<String, SecretVersionId>, wanted: &Variables| {
            let kept = pins.iter().map(|(variable, id)| (variable, texts.get(id).copied()));
            kept.eq(wanted.iter().map(|(variable, text)| (variable, Some(text))))
        };
        let told = &self.check.told;
        let lacks = |app: &App| {
            let lacks_values = app
                .releases
                .values()
                .find(|release| !has(&release.secrets, &told.of_release(app, release.number)));
            if let Some(release) = lacks_values {
                return Some(format!(
                    "release {} of {}: {:?}",
                    release.number, app.view.name, release.secrets
                ));
            }
            let mut live = app.view.instances.iter().filter(|instance| !instance.state.is_final());
            if let Some(instance) = live.find(|it| !app.releases.contains_key(&it.release)) {
                return Some(format!("the release of {instance:?}"));
            }
            let numbers: BTreeSet<u64> = app.releases.values().map(|release| release.number).collect();
            let first = app.last_release.saturating_sub(self.store.kept.unwrap_or(u64::MAX));
            let number = (first + 1..=app.last_release).find(|number| !numbers.contains(number))?;
            Some(format!("release {number} of {}, which is at {}", app.view.name, app.last_release))
        };
        let of_apps = self.store.apps.values().find_map(|app| lacks(app));
        let mut open = self.store.jobs.values().filter(|job| !job.view.state.is_final());
        let nothing = Variables::new();
        let job = open.find(|job| {
            let wanted = told.jobs.get(&job.view.id).unwrap_or(&nothing);
            !has(&job.view.command.secrets, wanted)
        });
        let of_jobs = job.map(|job| format!("job {}: {:?}", job.view.id, job.view.command.secrets));
        of_apps.or(of_jobs)
    }

    /// A node is given the values that its instances name, and no others.
    pub(super) fn check_delivered(&mut self, worker: usize, assignment: &Assignment) {
        let named = assignment.instances.iter().flat_map(|instance| instance.secrets.values());
        let named: BTreeSet<SecretVersionId> = named.copied().collect();
        let given: BTreeSet<SecretVersionId> = assignment.secrets.iter().map(|secret| secret.id).collect();
        if named != given || given.len() != assignment.secrets.len() {
            let what = format!("worker {worker} gets {given:?} for instances that name {named:?}");
            self.fail("a node is given the values of its instances, and no others", what);
        }
    }

    /// A guest starts with this.
    pub(crate) fn check_environment(&mut self, assigned: &AssignedInstance, given: &Variables) {
        let told = &self.check.told;
        let wanted = match &assigned.job {
            Some(job) => told.jobs.get(&job.id),
            None => told.releases.get(&(assigned.app.clone(), assigned.release)),
        };
        let wanted = wanted.cloned().unwrap_or_default();
        if *given != wanted {
            let (id, app, release) = (assigned.id, &assigned.app, assigned.release);
            let what = format!("{id} of release {release} of {app} has {given:?}, not {wanted:?}");
            self.fail("a guest has just the values of its release", what);
        }
    }

    /// A guest does not start for want of a value. One that nobody wants any more may, when what it was made with was forgotten.
    pub(crate) fn check_not_given(&mut self, assigned: &AssignedInstance, id: InstanceId, failure: &Failure) {
        let is_it = |known: InstanceId| known == id || known == assigned.id;
        let mut instances = self.store.apps.values().flat_map(|app| &app.view.instances);
        let mut runs = self.store.jobs.values().flat_map(|job| &job.view.runs);
        let is_wanted = instances.any(|it| is_it(it.id) && !it.state.is_final())
            || runs.any(|run| is_it(run.id) && run.is_live());
        if is_wanted {
            let what = format!("{id} of release {} of {}: {failure}", assigned.release, assigned.app);
            self.fail("a guest has just the values of its release", what);
        }
    }
}
