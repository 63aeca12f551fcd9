//! The changes planned so far, and the view as they will leave it.
//!
//! Each step of the planner sees the outcome of the one before, so that one pass reaches what a second would.

use std::collections::BTreeSet;

use wharf_types::api::Pause;
use wharf_types::state::{Health, InstanceState, RolloutState, Wanted};
use wharf_types::{ReleaseId, RolloutId, Timestamp};

use super::scheduler::{Claim, Cluster};
use super::{AppView, Change, Changes, IdSource, InstanceView, RolloutView, Trial, Unplaced};

pub(super) struct Draft<'a> {
    pub(super) now: Timestamp,
    pub(super) app: AppView,
    pub(super) cluster: &'a mut Cluster,
    pub(super) ids: &'a mut dyn IdSource,
    changes: Changes,
    blind: bool,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        now: Timestamp,
        app: &AppView,
        cluster: &'a mut Cluster,
        ids: &'a mut dyn IdSource,
    ) -> Self {
        let changes = Changes::default();
        Self { now, app: app.clone(), cluster, ids, changes, blind: false }
    }

    pub(super) fn push(&mut self, change: Change) {
        if let Change::SetTarget { release: Some(id) } = &change
            && self.app.release(*id).is_none()
        {
            // The caller reads the release from the store and plans again.
            self.blind = true;
            self.wake(self.now);
        }
        self.app.apply(self.now, &change);
        self.changes.changes.push(change);
    }

    pub(super) fn want(&mut self, index: usize, wanted: Wanted) {
        let instance = &self.app.instances[index];
        if instance.wanted < wanted {
            let instance = instance.id;
            self.push(Change::SetWanted { instance, wanted });
        }
    }

    pub(super) fn event(&mut self, kind: &'static str, message: String) {
        self.push(Change::Event { kind, message });
    }

    /// What is to change so far.
    pub(super) fn planned(&self) -> &[Change] {
        &self.changes.changes
    }

    pub(super) fn wake(&mut self, at: Timestamp) {
        self.changes.wake_at = Some(self.changes.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    pub(super) fn unplaced(&mut self, unplaced: Unplaced) {
        self.changes.unplaced.push(unplaced);
    }

    pub(super) fn claim(&mut self, claims: Vec<Claim>) {
        self.changes.claims.extend(claims);
    }

    /// Whether the new target is a release that the view does not hold, so that nothing more can be planned for it.
    pub(super) fn is_blind(&self) -> bool {
        self.blind
    }

    pub(super) fn finish(self) -> Changes {
        self.changes
    }
}

impl AppView {
    /// The view as it is after a change: what the store has to make true.
    pub fn apply(&mut self, now: Timestamp, change: &Change) {
        match change {
            Change::CreateInstance { id, release, slot, node } => self.instances.push(InstanceView {
                id: *id,
                release: *release,
                slot: *slot,
                node: Some(*node),
                wanted: Wanted::Run,
                state: InstanceState::Assigned,
                health: Health::Unknown,
                restarts: 0,
                reason: None,
                created_at: now,
                ended_at: None,
                replaced: false,
                was_healthy: false,
                let_go: false,
                routed: false,
                moves: false,
            }),
            Change::SetPlaces { places } => self.places = places.clone(),
            Change::PlaceVolume { volume, node } => {
                if let Some(volume) = self.volumes.iter_mut().find(|known| known.id == *volume) {
                    volume.node = volume.node.or(Some(*node));
                }
            }
            Change::SetWanted { instance, wanted } => {
                if let Some(instance) = self.instances.iter_mut().find(|known| known.id == *instance) {
                    instance.wanted = instance.wanted.max(*wanted);
                    // No ingress can have acknowledged yet what was decided only now.
                    instance.let_go &= *wanted > Wanted::Unroute;
                }
            }
            Change::EndInstance { instance, state, reason } => {
                if let Some(instance) = self.instances.iter_mut().find(|known| known.id == *instance) {
                    instance.state = instance.state.advance(*state);
                    instance.reason = Some(Box::new(reason.clone()));
                    instance.ended_at = instance.ended_at.or(Some(now));
                }
            }
            Change::SetRollout { rollout, state, monitoring_since, .. } => {
                self.rollout = self.rollout.take().map(|mut known| {
                    if known.id == *rollout {
                        known.state = *state;
                        known.monitoring_since = monitoring_since.or(known.monitoring_since);
                    }
                    known
                });
                self.rollout.take_if(|known| known.state.is_final());
            }
            Change::Progress { rollout, ready, stepped } => {
                if let Some(known) = self.rollout.as_mut().filter(|known| known.id == *rollout) {
                    known.progressed_ready = *ready;
                    known.progressed_at = now;
                    known.stepped_at = if *stepped { Some(now) } else { known.stepped_at };
                }
            }
            Change::CountFailures { rollout, slots } => {
                if let Some(known) = self.rollout.as_mut().filter(|known| known.id == *rollout) {
                    known.failed_slots.clone_from(slots);
                }
            }
            Change::Pause { rollout, .. } => {
                if let Some(known) = self.rollout.as_mut().filter(|known| known.id == *rollout) {
                    known.paused.get_or_insert(Pause { since: now, by: None });
                }
            }
            Change::BeginTrial { rollout, before } => {
                if let Some(known) = self.rollout.as_mut().filter(|known| known.id == *rollout) {
                    known.canary = Some(Trial { since: now, before: before.clone() });
                }
            }
            Change::SetStable { release } => self.stable = release.and_then(|id| self.release(id).cloned()),
            Change::SetTarget { release } => self.target = release.and_then(|id| self.release(id).cloned()),
            Change::RollBack { rollout, from, to, .. } => {
                self.rollout = Some(Box::new(RolloutView {
                    automatic: true,
                    backwards: true,
                    ..RolloutView::new(now, *rollout, Some(*from), *to)
                }));
            }
            Change::SetServed { .. } | Change::Preempt { .. } | Change::DeleteApp | Change::Event { .. } => {}
        }
    }
}

impl RolloutView {
    /// One that has not moved yet.
    pub fn new(now: Timestamp, id: RolloutId, from: Option<ReleaseId>, to: ReleaseId) -> Self {
        Self {
            id,
            from,
            to,
            state: RolloutState::Pending,
            automatic: false,
            backwards: false,
            renews: false,
            started_at: now,
            progressed_at: now,
            progressed_ready: 0,
            stepped_at: None,
            canary: None,
            monitoring_since: None,
            failed_slots: BTreeSet::new(),
            judged_since: now,
            paused: None,
            aborted_by: None,
            requests: Vec::new(),
        }
    }
}
