//! Without a fault, an app with two replicas that starts first is never without an instance that requests reach, whatever is deployed.

use wharf_types::AppId;
use wharf_types::spec::{OnFailure, Ratio, UpdateOrder};

use crate::setup::Extras;
use crate::store::App;
use crate::world::World;
use crate::world::client::Quality;

impl World {
    pub(super) fn check_service(&mut self) {
        if self.setup.fault_every.is_some() {
            return self.check_held();
        }
        let apps: Vec<AppId> = self.store.apps.keys().copied().collect();
        for id in apps {
            let app = &self.store.apps[&id];
            if !self.is_promised(app) {
                self.check.in_service.remove(&id);
                continue;
            }
            let name = app.view.name.clone();
            let unreached = (0..self.workers.len()).find(|worker| !self.reaches(*worker, name.as_str()));
            match unreached {
                None => drop(self.check.in_service.insert(id)),
                Some(worker) if self.check.in_service.contains(&id) => {
                    let what = format!("the ingress of worker {worker} does not reach {name}");
                    self.fail("without a fault an app that starts first always serves", what);
                }
                Some(_) => {}
            }
        }
    }

    /// Whether nothing that its users asked for may take it out of service.
    pub(super) fn is_promised(&self, app: &App) -> bool {
        let view = &app.view;
        // Whoever has a higher priority may take it out.
        if self.setup.extras.priorities {
            return false;
        }
        if view.deleting || view.stopped.is_some() || view.scaled_to.is_some_and(|replicas| replicas < 2) {
            return false;
        }
        let (Some(target), Some(stable)) = (&view.target, &view.stable) else { return false };
        // On the way back from a release that failed, its instances may be all that there are.
        let failed = match app.rollouts.as_slice() {
            [.., failed, back] if back.automatic && !back.state.is_final() => app.releases.get(&failed.to),
            _ => None,
        };
        [target, stable].into_iter().chain(failed).all(|release| {
            let update = &release.spec.update;
            let has_two = release.spec.scale.replicas.first() >= 2;
            // Where nodes are drained, or have other labels, perhaps on none.
            let Extras { labels, drains, .. } = self.setup.extras;
            let is_on_two = release.spec.is_global() && self.workers.len() >= 2 && !labels && !drains;
            (has_two || is_on_two)
                && update.order == UpdateOrder::StartFirst
                && update.max_failure_ratio == Ratio::default()
                && update.on_failure != OnFailure::Continue
                && self.clients.of(&release.artifact) != Quality::FailsInService
        })
    }
}
