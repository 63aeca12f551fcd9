//! What planners and users write of apps.

use wharf_platform_api::plan::Change;
use wharf_types::api::{Pause, Stopped};
use wharf_types::spec::Replicas;
use wharf_types::state::{RolloutState, Wanted};

use super::values::variables;
use super::*;

/// What users wish, as the operations of the same names write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    RollBack,
    Restart,
    Scale(Option<u32>),
    Pause,
    Resume,
    Abort,
    Stop,
    Start,
    Delete,
}

impl Store {
    pub(super) fn app_mut(&mut self, id: AppId) -> Option<&mut App> {
        self.apps.get_mut(&id).map(Arc::make_mut)
    }

    /// Records that an app changed: `store::change::touch`.
    pub(super) fn touch(&mut self, id: AppId) {
        let revision = self.draw_revision();
        if let Some(app) = self.app_mut(id) {
            app.revision = revision;
        }
    }

    /// Mirrors `reconcile::apply::apply`, and the guard in `store::change::touch_if`.
    pub(crate) fn apply(
        &mut self,
        id: AppId,
        (epoch, seen): (u64, i64),
        changes: &[Change],
        now: Timestamp,
    ) -> Applied {
        if epoch != self.epoch {
            return Applied::Deposed;
        }
        if self.apps.get(&id).is_none_or(|app| app.revision != seen) {
            return Applied::Outdated;
        }
        self.touch(id);
        for change in changes {
            match change {
                Change::DeleteApp => self.delete_app(id),
                Change::Preempt { instance, app, .. } => self.preempt(*app, *instance),
                _ => {
                    let app = self.app_mut(id).expect("it is changed only before it is deleted");
                    app.apply(change, now);
                }
            }
        }
        if changes.iter().any(ends_rollout) {
            self.clean_up(id);
        }
        Applied::Done
    }

    /// Mirrors `reconcile::apply::preempt`.
    pub(super) fn preempt(&mut self, victim: AppId, instance: InstanceId) {
        let Some(app) = self.app_mut(victim) else { return self.preempt_run(instance) };
        let known = app.view.instances.iter_mut().find(|known| known.id == instance);
        if let Some(known) = known.filter(|known| known.wanted < Wanted::Unroute) {
            known.wanted = Wanted::Unroute;
            self.touch(victim);
        }
    }

    pub(crate) fn create_app(&mut self, name: &str, namespace: NamespaceName, now: Timestamp) -> AppId {
        let id = AppId::from_uuid(self.ids(now).next());
        let view = AppView {
            id,
            namespace,
            name: name.parse().unwrap(),
            deleting: false,
            stopped: None,
            autoscaled_to: None,
            scaled_to: None,
            places: plan::Places::default(),
            target: None,
            stable: None,
            latest: None,
            rollout: None,
            volumes: Vec::new(),
            instances: Vec::new(),
            numbers: Box::default(),
            alone: BTreeSet::new(),
        };
        let app = App {
            view,
            rollouts: Vec::new(),
            releases: BTreeMap::new(),
            served: BTreeSet::new(),
            demands: BTreeMap::new(),
            pins: BTreeMap::new(),
            last_release: 0,
            revision: self.draw_revision(),
        };
        self.apps.insert(id, Arc::new(app));
        id
    }

    /// Mirrors `operations::autoscale::scale`. Returns the number that was written, if one was.
    pub(crate) fn autoscale(
        &mut self,
        id: AppId,
        epoch: u64,
        decided_on: Option<u32>,
        (from, to): (u32, u32),
    ) -> Option<u32> {
        if epoch != self.epoch {
            return None;
        }
        let view = &self.apps.get(&id)?.view;
        let is_ours = view.scaled_to.is_none() && view.stopped.is_none() && !view.deleting;
        if !is_ours || view.autoscaled_to != decided_on {
            return None;
        }
        let to = self.set_within_quota(id, from, to);
        if to == from {
            self.app_mut(id)?.view.autoscaled_to = decided_on;
            return None;
        }
        self.touch(id);
        Some(to)
    }

    /// Makes a release and a rollout to it: `operations::releases::make_all`.
    pub(super) fn deploy(&mut self, id: AppId, release: ReleaseView, pins: Pins, now: Timestamp) {
        let release = Arc::new(ReleaseView { secrets: variables(&release.spec, &pins), ..release });
        let demand = self.demand_of(&release.spec, release.world);
        let known = self.app_mut(id).unwrap();
        known.last_release = release.number;
        known.demands.insert(release.id, demand);
        known.pins.insert(release.id, pins);
        known.releases.insert(release.id, release.clone());
        let missing = release
            .spec
            .volumes
            .iter()
            .filter(|spec| !self.apps[&id].view.volumes.iter().any(|known| known.name == spec.name));
        for spec in missing.cloned().collect::<Vec<_>>() {
            let volume = wharf_types::VolumeId::from_uuid(self.ids(now).next());
            let view = plan::VolumeView { id: volume, name: spec.name, node: None };
            self.app_mut(id).unwrap().view.volumes.push(view);
        }
        self.start_rollout(id, release.id, now, |_| {});
    }

    /// Mirrors `operations::start_rollout`.
    fn start_rollout(
        &mut self,
        id: AppId,
        to: ReleaseId,
        now: Timestamp,
        edit: impl FnOnce(&mut RolloutView),
    ) {
        let rollout = self.ids(now).rollout();
        let app = self.app_mut(id).unwrap();
        app.begin_to_scale(to);
        app.supersede();
        let now = app.rollout_starts(now);
        let from = app.view.stable.as_ref().map(|stable| stable.id);
        let mut rollout = RolloutView::new(now, rollout, from, to);
        edit(&mut rollout);
        app.rollouts.push(rollout);
        app.view.target = app.releases.get(&to).cloned();
        self.touch(id);
    }

    /// Returns `false` where the API would refuse it.
    pub(crate) fn wish(&mut self, id: AppId, wish: Wish, now: Timestamp) -> bool {
        let Some(app) = self.app_mut(id).filter(|app| !app.view.deleting) else { return false };
        let under_way = app.rollout_under_way().map(|rollout| rollout.id);
        let rollout = app.rollouts.iter_mut().find(|rollout| Some(rollout.id) == under_way);
        let user = || "ann".to_owned();
        match (wish, rollout) {
            (Wish::RollBack, _) => {
                let before = app.view.target.as_ref().map_or(u64::MAX, |target| target.number);
                let is_before =
                    |release: &&Arc<ReleaseView>| release.number < before && app.served.contains(&release.id);
                let Some(to) = app.releases.values().filter(is_before).max_by_key(|release| release.number)
                else {
                    return false;
                };
                let to = to.id;
                self.count_nodes(id, to);
                self.start_rollout(id, to, now, |rollout| rollout.backwards = true);
            }
            (Wish::Restart, _) => return self.renew(id, now),
            (Wish::Scale(to), _) => app.view.scaled_to = to,
            (Wish::Pause, Some(rollout)) if rollout.aborted_by.is_none() => {
                rollout.paused.get_or_insert(Pause { since: now, by: Some(user()) });
            }
            (Wish::Resume, Some(rollout)) if rollout.paused.is_some() && rollout.aborted_by.is_none() => {
                rollout.paused = None;
                begin_anew(rollout, now);
            }
            (Wish::Abort, Some(rollout)) if !rollout.automatic => rollout.aborted_by = Some(user()),
            (Wish::Pause | Wish::Resume | Wish::Abort, _) => return false,
            (Wish::Stop, _) => drop(app.view.stopped.get_or_insert(Stopped { since: now, by: user() })),
            (Wish::Start, _) if app.view.stopped.is_none() => return false,
            (Wish::Start, rollout) => {
                app.view.stopped = None;
                match rollout.filter(|rollout| rollout.state < RolloutState::Monitoring) {
                    Some(waiting) => begin_anew(waiting, now),
                    None => return self.renew(id, now),
                }
            }
            (Wish::Delete, _) => {
                app.view.deleting = true;
                app.supersede();
            }
        }
        self.touch(id);
        true
    }

    fn renew(&mut self, id: AppId, now: Timestamp) -> bool {
        let Some(release) = self.apps[&id].current().map(|release| release.id) else { return false };
        self.count_nodes(id, release);
        self.start_rollout(id, release, now, |rollout| rollout.renews = true);
        true
    }
}

/// Mirrors `store::rollout::begin_anew`.
fn begin_anew(rollout: &mut RolloutView, now: Timestamp) {
    (rollout.progressed_at, rollout.judged_since) = (now, now);
    rollout.failed_slots.clear();
    rollout.canary = None;
    rollout.monitoring_since = rollout.monitoring_since.map(|_| now);
}

/// Mirrors `reconcile::apply::ends_rollout`.
fn ends_rollout(change: &Change) -> bool {
    matches!(change, Change::SetRollout { state, .. } if state.is_final())
}

impl App {
    /// Mirrors `store::rollout::create`.
    fn rollout_starts(&self, now: Timestamp) -> Timestamp {
        plan::started_after(now, self.rollouts.iter().map(|rollout| rollout.started_at).max())
    }

    /// Mirrors `operations::autoscale::begin`.
    fn begin_to_scale(&mut self, to: ReleaseId) {
        let others = self.releases.values().filter(|release| release.id != to);
        let before = self.view.target.as_ref().or_else(|| others.max_by_key(|release| release.number));
        let fixed = before.and_then(|release| match release.spec.scale.replicas {
            Replicas::Fixed(replicas) => Some(replicas),
            _ => None,
        });
        let Some(next) = self.releases.get(&to) else { return };
        if next.spec.scale.replicas.range().is_none() {
            return;
        }
        let known = self.view.autoscaled_to.unwrap_or_else(|| next.spec.scale.replicas.first());
        self.view.autoscaled_to = Some(fixed.unwrap_or(known).max(1));
    }

    fn supersede(&mut self) {
        for rollout in self.rollouts.iter_mut().filter(|rollout| !rollout.state.is_final()) {
            rollout.state = RolloutState::Superseded;
        }
    }

    /// Mirrors `reconcile::apply::apply_one`.
    fn apply(&mut self, change: &Change, now: Timestamp) {
        match change {
            // The view knows only the releases that it looks at.
            Change::SetTarget { release } => {
                self.view.target = release.and_then(|id| self.releases.get(&id).cloned());
            }
            Change::SetStable { release } => {
                self.view.stable = release.and_then(|id| self.releases.get(&id).cloned());
            }
            Change::SetServed { release, served: true } => drop(self.served.insert(*release)),
            Change::SetServed { release, served: false } => drop(self.served.remove(release)),
            Change::SetRollout { rollout, state, monitoring_since, .. } => {
                let mut rows = self.rollouts.iter_mut();
                let row = rows.find(|row| row.id == *rollout && row.state <= *state && !row.state.is_final());
                if let Some(row) = row {
                    row.state = *state;
                    row.monitoring_since = monitoring_since.or(row.monitoring_since);
                }
            }
            Change::RollBack { .. } => {
                let now = self.rollout_starts(now);
                self.view.apply(now, change);
                self.rollouts.extend(self.view.rollout.take().map(|rollout| *rollout));
            }
            Change::Progress { rollout, .. }
            | Change::CountFailures { rollout, .. }
            | Change::Pause { rollout, .. }
            | Change::BeginTrial { rollout, .. } => {
                let mut rows = self.rollouts.iter_mut();
                if let Some(row) = rows.find(|row| row.id == *rollout && !row.state.is_final()) {
                    self.view.rollout = Some(Box::new(row.clone()));
                    self.view.apply(now, change);
                    *row = *self.view.rollout.take().expect("it was put there");
                }
            }
            _ => self.view.apply(now, change),
        }
    }
}
