//! The apps whose open requests are looked at, because they scale by them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use wharf_types::route::RouteTable;
use wharf_types::{InstanceId, NodeId};

use super::{Target, Targets};
use crate::load::Load;

/// The instances of an app, and where it is put down how much they have to do.
#[derive(Debug)]
pub(super) struct Counted {
    load: Arc<Load>,
    targets: Vec<Arc<Target>>,
}

impl Counted {
    /// Those that have instances on the node.
    pub(super) fn build(table: &RouteTable, node: NodeId, targets: &mut Targets) -> Vec<Self> {
        let http = table.routes.iter().filter(|route| route.counted).flat_map(|route| {
            let of_app = (&route.namespace, &route.app);
            route.endpoints.iter().map(move |it| (of_app, (it.instance, it.node, it.release)))
        });
        let tcp = table.tcp.iter().filter(|route| route.counted).flat_map(|route| {
            let of_app = (&route.namespace, &route.app);
            route.endpoints.iter().map(move |it| (of_app, (it.instance, it.node, it.release)))
        });
        // An app has several routes and ports, which lead to the same instances.
        let mut apps: BTreeMap<_, BTreeMap<InstanceId, u64>> = BTreeMap::new();
        for (app, (instance, _, release)) in http.chain(tcp).filter(|(_, (_, on, _))| *on == node) {
            apps.entry(app).or_default().insert(instance, release);
        }
        let counted = apps.into_iter().map(|((namespace, app), instances)| Self {
            load: targets.loads.of(namespace, app),
            targets: instances
                .into_iter()
                .map(|(instance, release)| targets.ensure(instance, namespace, app, release))
                .collect(),
        });
        counted.collect()
    }

    pub(super) fn count_open(&self, now: Instant) {
        self.load.put(now, self.targets.iter().map(|target| target.open_requests()).sum());
    }
}
