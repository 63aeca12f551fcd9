//! The apps whose open requests are looked at, because they scale by them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use wharf_types::route::{self, RouteTable};
use wharf_types::{InstanceId, NodeId};

use super::{Place, Target, Targets};
use crate::load::Load;

/// The instances of an app on this node, and where it is put down how much they have to do.
#[derive(Debug)]
pub(super) struct Counted {
    load: Arc<Load>,
    targets: Vec<Arc<Target>>,
}

impl Counted {
    /// Those that have instances on the node, or on others that it has a way to: then nothing is open here, and how many
    /// requests came in is still of interest.
    pub(super) fn build(table: &RouteTable, node: NodeId, targets: &mut Targets) -> Vec<Self> {
        let http = table.routes.iter().filter(|route| route.counted).flat_map(|route| {
            let of_app = (&route.namespace, &route.app);
            let place = |it: &route::Endpoint| Place {
                instance: it.instance,
                node: it.node,
                release: it.release,
                concurrency: it.concurrency,
            };
            route.endpoints.iter().map(move |it| (of_app, place(it)))
        });
        let tcp = table.tcp.iter().filter(|route| route.counted).flat_map(|route| {
            let of_app = (&route.namespace, &route.app);
            let place = |it: &route::TcpEndpoint| Place {
                instance: it.instance,
                node: it.node,
                release: it.release,
                concurrency: it.connections_max,
            };
            route.endpoints.iter().map(move |it| (of_app, place(it)))
        });
        // An app has several routes and ports, which lead to the same instances.
        let mut apps: BTreeMap<_, BTreeMap<InstanceId, Place>> = BTreeMap::new();
        for (app, place) in http.chain(tcp).filter(|(_, place)| targets.way_to(place.node, node).is_some()) {
            let instances = apps.entry(app).or_default();
            if place.node == node {
                instances.insert(place.instance, place);
            }
        }
        let counted = apps.into_iter().map(|((namespace, app), instances)| Self {
            load: targets.loads.of(namespace, app),
            targets: instances.values().map(|place| targets.ensure(place, None, namespace, app)).collect(),
        });
        counted.collect()
    }

    pub(super) fn count_open(&self, now: Instant) {
        self.load.put(now, self.targets.iter().map(|target| target.open_requests()).sum());
    }
}
