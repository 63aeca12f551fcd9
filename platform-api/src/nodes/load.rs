//! What a node's front door says is asked of apps that scale by it.

use std::collections::HashMap;

use wharf_types::figures::FrontDoorFigures;
use wharf_types::{AppName, NamespaceName};

use crate::plan::autoscale::Demand;

/// Of one node, as of its newest report.
#[derive(Default)]
pub(super) struct Loads {
    apps: HashMap<(NamespaceName, AppName), Demand>,
    reports: u64,
}

impl Loads {
    pub(super) fn take_in(&mut self, door: &FrontDoorFigures) {
        self.reports = self.reports.wrapping_add(1);
        self.apps.clear();
        for load in &door.loads {
            let demand =
                Demand { open: load.open_thousandths as f64 / 1000.0, waiting: load.waiting, requests: 0 };
            self.apps.insert((load.namespace.clone(), load.app.clone()), demand);
        }
        if self.apps.is_empty() {
            return;
        }
        for totals in &door.releases {
            if let Some(demand) = self.apps.get_mut(&(totals.namespace.clone(), totals.app.clone())) {
                demand.requests = demand.requests.saturating_add(totals.counts.total());
            }
        }
    }

    /// Of an app that is not spoken of nothing is asked.
    pub(super) fn of(&self, namespace: &NamespaceName, app: &AppName) -> Demand {
        self.apps.get(&(namespace.clone(), app.clone())).copied().unwrap_or_default()
    }

    pub(super) fn reports(&self) -> u64 {
        self.reports
    }
}

#[cfg(test)]
mod tests {
    use wharf_types::figures::AppLoad;
    use wharf_types::requests::{RequestCounts, RequestTotals};

    use super::*;

    #[test]
    fn an_app_has_what_was_reported_last_and_the_requests_of_all_its_releases() {
        let (namespace, app): (_, AppName) = (NamespaceName::default_namespace(), "hello".parse().unwrap());
        let of = |release, ok| RequestTotals {
            namespace: namespace.clone(),
            app: app.clone(),
            release,
            counts: RequestCounts { ok, ..RequestCounts::default() },
        };
        let load =
            AppLoad { namespace: namespace.clone(), app: app.clone(), waiting: 2, open_thousandths: 1500 };
        let door = FrontDoorFigures {
            loads: vec![load],
            releases: vec![of(1, 3), of(2, 4)],
            ..FrontDoorFigures::default()
        };
        let mut loads = Loads::default();
        loads.take_in(&door);
        assert_eq!(loads.of(&namespace, &app), Demand { open: 1.5, waiting: 2, requests: 7 });
        loads.take_in(&FrontDoorFigures::default());
        assert_eq!((loads.of(&namespace, &app), loads.reports()), (Demand::default(), 2));
    }
}
