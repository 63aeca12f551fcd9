//! Every app as it was last read, and what their instances take of the nodes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use wharf_types::{AppId, NodeId, ReleaseId};

use crate::nodes::NodeStatus;
use crate::plan::{AppView, InstanceView, NodeView, ReleaseView};
use crate::view::Loaded;

#[derive(Default)]
pub(super) struct Fleet {
    /// In one piece, as the route table is built from them.
    views: Vec<AppView>,
    releases: Vec<HashMap<ReleaseId, Arc<ReleaseView>>>,
    index: HashMap<AppId, usize>,
    reserved: BTreeMap<NodeId, Reserved>,
    /// Whether a view differs from what was published last.
    changed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reserved {
    memory_bytes: u64,
    instances: u32,
}

impl Fleet {
    pub(super) fn put(&mut self, loaded: Loaded) {
        let Loaded { view, releases, .. } = loaded;
        if self.view(view.id) == Some(&view) {
            return;
        }
        self.remove(view.id);
        self.changed = true;
        self.index.insert(view.id, self.views.len());
        self.views.push(view);
        self.releases.push(releases);
        self.account(self.views.len() - 1, |reserved, memory| {
            reserved.memory_bytes += memory;
            reserved.instances += 1;
        });
    }

    pub(super) fn remove(&mut self, id: AppId) {
        let Some(at) = self.index.remove(&id) else { return };
        self.changed = true;
        self.account(at, |reserved, memory| {
            reserved.memory_bytes = reserved.memory_bytes.saturating_sub(memory);
            reserved.instances = reserved.instances.saturating_sub(1);
        });
        self.views.swap_remove(at);
        self.releases.swap_remove(at);
        if let Some(moved) = self.views.get(at) {
            self.index.insert(moved.id, at);
        }
    }

    pub(super) fn view(&self, id: AppId) -> Option<&AppView> {
        self.views.get(*self.index.get(&id)?)
    }

    pub(super) fn has_changed(&self) -> bool {
        self.changed
    }

    /// Call when the nodes are told of all this.
    pub(super) fn published(&mut self) {
        self.changed = false;
    }

    pub(super) fn views(&self) -> &[AppView] {
        &self.views
    }

    pub(super) fn apps(&self) -> Vec<AppId> {
        self.views.iter().map(|view| view.id).collect()
    }

    /// Live instances with their app and release.
    pub(super) fn instances(&self) -> impl Iterator<Item = (&AppView, &Arc<ReleaseView>, &InstanceView)> {
        self.views.iter().zip(&self.releases).flat_map(|(view, releases)| {
            let live = view.instances.iter().filter(|instance| !instance.state.is_final());
            live.filter_map(move |instance| Some((view, releases.get(&instance.release)?, instance)))
        })
    }

    /// The nodes as the planner of an app sees them; one that was given up does not exist for it.
    pub(super) fn nodes_for(&self, app: AppId, nodes: &[NodeStatus]) -> Vec<NodeView> {
        let of_app = |node: NodeId| {
            let instances = self.view(app).map_or(&[][..], |view| &view.instances);
            instances
                .iter()
                .filter(|instance| !instance.state.is_final() && instance.node == Some(node))
                .count()
        };
        let view = |node: &NodeStatus| {
            let reserved = self.reserved.get(&node.id).copied().unwrap_or_default();
            NodeView {
                id: node.id,
                ready: node.ready,
                memory_free_bytes: node.registration.memory_bytes.saturating_sub(reserved.memory_bytes),
                instances: reserved.instances,
                instances_of_app: u32::try_from(of_app(node.id)).unwrap_or(u32::MAX),
            }
        };
        nodes.iter().filter(|node| !node.given_up).map(view).collect()
    }

    fn account(&mut self, at: usize, change: impl Fn(&mut Reserved, u64)) {
        let live = self.views[at].instances.iter().filter(|instance| !instance.state.is_final());
        for instance in live {
            let (Some(node), Some(release)) = (instance.node, self.releases[at].get(&instance.release))
            else {
                continue;
            };
            change(self.reserved.entry(node).or_default(), release.reservation_bytes());
        }
    }
}
