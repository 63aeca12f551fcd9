//! Gives apps the number of instances that their open requests ask for.
//!
//! What was asked of them is kept in memory only; the number that was decided on last is in the store.

use std::collections::HashMap;

use tracing::warn;
use wharf_types::spec::ReplicaRange;
use wharf_types::{AppId, Timestamp};

use super::fleet::Fleet;
use super::{RETRY, chain, plan_after};
use crate::context::Context;
use crate::operations::autoscale::{self, Outcome};
use crate::plan::AppView;
use crate::plan::autoscale::{Demand, History, Scaling, decide};

/// How long an app whose namespace may not have more is let be.
const REFUSED: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Autoscaler {
    /// Of the apps that are awake.
    apps: HashMap<AppId, Watched>,
    /// Reports that have been looked at.
    reports: u64,
}

struct Watched {
    history: History,
    /// Before that it gets no more.
    not_before: Timestamp,
    /// Whether its user was told that the quota has no room for more.
    told: bool,
}

impl Autoscaler {
    /// Looks at what was reported since it looked last. Nudged when somebody waits, and called several times a second anyway.
    pub(super) async fn pass(&mut self, context: &Context, fleet: &Fleet, now: Timestamp) {
        let reports = context.nodes.reports();
        if reports == self.reports {
            return;
        }
        self.reports = reports;
        let ranged = fleet.ranged().filter_map(|view| Some((view, view.range()?)));
        let mut watched = HashMap::with_capacity(self.apps.len());
        for (view, range) in ranged {
            let known = self.apps.remove(&view.id);
            let Some(demand) = context.nodes.demand(&view.namespace, &view.name) else { continue };
            if view.replicas() == 0 && demand.waiting == 0 {
                continue;
            }
            let app = Watched::look(known, now, view, range, demand);
            let app = watched.entry(view.id).insert_entry(app).into_mut();
            if let Some(scaling) = app.decide(now, view, range) {
                app.carry_out(context, view, &scaling, now).await;
            }
        }
        self.apps = watched;
    }
}

impl Watched {
    fn look(
        known: Option<Self>,
        now: Timestamp,
        view: &AppView,
        range: &ReplicaRange,
        demand: Demand,
    ) -> Self {
        let mut watched = match known {
            Some(mut known) => {
                known.history.observe(now, range, demand);
                known
            }
            None => Self { history: History::begin(now, demand), not_before: now, told: false },
        };
        if view.rollout_under_way().is_some() {
            watched.history.is_busy(now);
        }
        watched
    }

    fn decide(&self, now: Timestamp, view: &AppView, range: &ReplicaRange) -> Option<Scaling> {
        let only_grows = view.rollout_under_way().is_some();
        let scaling = decide(now, range, view.replicas(), &self.history, only_grows)?;
        (scaling.to < scaling.from || self.not_before <= now).then_some(scaling)
    }

    async fn carry_out(&mut self, context: &Context, view: &AppView, scaling: &Scaling, now: Timestamp) {
        let (id, name) = (view.id, &view.name);
        match autoscale::scale(context, id, view.autoscaled_to, scaling, !self.told, now).await {
            Ok(Outcome::Done) => self.told = false,
            Ok(Outcome::Outdated) => {}
            Ok(Outcome::Refused) => (self.not_before, self.told) = (plan_after(now, REFUSED), true),
            Err(error) => {
                self.not_before = plan_after(now, RETRY);
                warn!(app.id = %id, "cannot scale {name}, trying again in {RETRY:?}: {}", chain(&error));
            }
        }
    }
}
