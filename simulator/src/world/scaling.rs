//! What is asked of apps, and what a control plane makes of that: what `reconcile::scaling` does, around the real decisions.
//!
//! How many requests are open is a number that stands until users ask for more or less. Of the front doors those count that the control plane
//! hears from.

use std::collections::BTreeMap;
use std::time::Duration;

use wharf_platform_api::cores::{Demand, History, Scaling, decide};
use wharf_platform_api::plan::AppView;
use wharf_types::AppId;
use wharf_types::quantity::Span;
use wharf_types::spec::{AppSpec, ReplicaRange, Replicas};

use super::network::Way;
use super::{Event, World, say};

/// Workers report twice a second.
const LOOKS: Duration = Duration::from_millis(500);
/// Requests that each instance should have.
const CONCURRENCY: u32 = 10;
/// At the borders between two numbers of instances, and far from them.
const OPEN: [u32; 10] = [0, 0, 0, 1, 9, 10, 11, 19, 25, 40];

impl World {
    /// An app may have a range instead of a number.
    pub(super) fn give_a_range(&mut self, spec: &mut AppSpec) {
        if !self.setup.extras.scaling || !self.scaling_dice.percent(60) {
            return;
        }
        let dice = &mut self.scaling_dice;
        let min = dice.number(0..=2);
        spec.scale.replicas = Replicas::Range(ReplicaRange {
            min,
            max: min.max(1) + dice.number(0..=3),
            concurrency: CONCURRENCY,
            window: Span::from_secs(dice.number(1..=10).into()),
            sleep_after: (min == 0).then(|| Span::from_secs(dice.number(1..=5).into())),
        });
    }

    /// Users ask for more or less.
    pub(super) fn demand(&mut self) {
        if self.is_calm() {
            return;
        }
        let wait = self.scaling_dice.millis(100..=6_000);
        self.after(wait, Event::Demand);
        let apps: Vec<AppId> = self.store.apps.keys().copied().collect();
        if apps.is_empty() {
            return;
        }
        let (app, open) = (self.scaling_dice.pick(&apps), self.scaling_dice.pick(&OPEN));
        say!(self, "{open} requests to {app} are open from now on");
        self.clients.open.insert(app, open);
    }

    /// The process that was started last looks from now on.
    pub(super) fn begin_to_scale(&mut self) {
        if self.setup.extras.scaling {
            self.after(LOOKS, Event::Scale(self.leader()));
        }
    }

    /// Mirrors `Autoscaler::pass`.
    pub(super) fn look_at_demand(&mut self, index: usize) {
        let control = &self.controls[index];
        if !control.is_up {
            return;
        }
        let (clock, is_still) = (control.clock, self.now < control.stalled_until);
        self.after(LOOKS, Event::Scale(index));
        if is_still {
            return;
        }
        let now = self.wall(clock);
        let mut known = std::mem::take(&mut self.controls[index].histories);
        let mut kept = BTreeMap::new();
        let apps: Vec<AppId> = self.store.apps.keys().copied().collect();
        for id in apps {
            let view = self.store.apps[&id].load().view;
            let Some(range) = range_of(&view).cloned() else { continue };
            let demand = self.demand_of(&view);
            if view.replicas() == 0 && demand.waiting == 0 {
                continue;
            }
            let mut history = match known.remove(&id) {
                Some(mut history) => {
                    history.observe(now, &range, demand);
                    history
                }
                None => History::begin(now, demand),
            };
            let is_rolling_out = view.rollout_under_way().is_some();
            if is_rolling_out {
                history.is_busy(now);
            }
            if let Some(scaling) = decide(now, &range, view.replicas(), &history, is_rolling_out) {
                self.decide_number(index, &view, &range, &scaling);
            }
            kept.insert(id, history);
        }
        self.controls[index].histories = kept;
    }

    fn decide_number(&mut self, index: usize, view: &AppView, range: &ReplicaRange, scaling: &Scaling) {
        let epoch = self.controls[index].epoch;
        let before = self.begin(&view.namespace);
        let numbers = (scaling.from, scaling.to);
        let Some(to) = self.store.autoscale(view.id, epoch, view.autoscaled_to, numbers) else {
            return self.check_unchanged(&before.store, &format_args!("{scaling} of {}", view.name));
        };
        let what = Scaling { to, ..scaling.clone() };
        say!(self, "control plane {epoch} decides of {}: {what}", view.name);
        self.check_scaling(view, range, &what);
        self.check_growth(&before, &format_args!("{what} of {}", view.name));
        self.controls[index].mark(view.id);
        self.nudge(index);
    }

    fn demand_of(&self, view: &AppView) -> Demand {
        let is_heard =
            |worker: &usize| self.workers[*worker].is_up && !self.network.is_cut(*worker, Way::Up, self.now);
        let heard = (0..self.workers.len()).filter(is_heard).count();
        let open = f64::from(self.open_requests(view.id)) * heard as f64 / self.workers.len() as f64;
        let is_served = (0..self.workers.len()).any(|worker| self.reaches(worker, view.name.as_str()));
        // Any other number than before says that there were some.
        let requests = if open > 0.0 { self.events } else { 0 };
        if is_served {
            Demand { open, waiting: 0, requests }
        } else {
            Demand { open: 0.0, waiting: open.ceil() as u64, requests }
        }
    }

    pub(crate) fn open_requests(&self, app: AppId) -> u32 {
        self.clients.open.get(&app).copied().unwrap_or_default()
    }
}

/// The range within which open requests decide: mirrors `AppView::range`.
pub(crate) fn range_of(view: &AppView) -> Option<&ReplicaRange> {
    let is_ours = view.scaled_to.is_none() && view.stopped.is_none() && !view.deleting;
    view.target.as_ref().filter(|_| is_ours).and_then(|target| target.spec.scale.replicas.range())
}
