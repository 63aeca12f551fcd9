//! What the planner tells the scheduler of an app.

use wharf_types::NodeId;

use super::scheduler::{Ask, Held, Needs, Resources};
use super::{AppView, InstanceView, ReleaseView};

/// What the app's view says of nodes: where its volumes are, where a release's artifact is, and where the release has failed.
pub(super) struct Asked {
    home: Option<NodeId>,
    warm: Vec<NodeId>,
    failing: Vec<(NodeId, u32)>,
}

impl Asked {
    pub(super) fn of(app: &AppView, target: &ReleaseView) -> Self {
        let has_artifact = |instance: &&InstanceView| {
            app.release(instance.release).is_some_and(|release| release.artifact == target.artifact)
        };
        let mut warm: Vec<NodeId> =
            app.instances.iter().filter(has_artifact).filter_map(|instance| instance.node).collect();
        warm.sort_unstable();
        warm.dedup();
        let mut failing: Vec<(NodeId, u32)> = Vec::new();
        let own = app.instances.iter().filter(|instance| instance.release == target.id);
        for node in own.filter(|instance| instance.own_failure().is_some()).filter_map(|failed| failed.node) {
            match failing.iter_mut().find(|(known, _)| *known == node) {
                Some((_, times)) => *times += 1,
                None => failing.push((node, 1)),
            }
        }
        Self { home: app.home(target), warm, failing }
    }

    pub(super) fn ask<'a>(&'a self, target: &'a ReleaseView) -> Ask<'a> {
        Ask {
            takes: target.reservation(),
            placement: &target.spec.placement,
            needs: Needs::of(target.world, target.spec.scale.singleton),
            pinned: self.home,
            warm: &self.warm,
            failing: &self.failing,
        }
    }
}

impl ReleaseView {
    /// What one instance reserves on its node.
    pub fn reservation(&self) -> Resources {
        let cpu_millis = self.spec.reserve.cpu.unwrap_or_default().as_millis().into();
        Resources { memory_bytes: self.reservation_bytes(), cpu_millis }
    }

    /// What the scheduler knows of an instance of this release. None: it takes nothing of any node.
    pub fn held(&self, app: &AppView, instance: &InstanceView) -> Option<Held> {
        let node = instance.node.filter(|_| !instance.state.is_final())?;
        Some(Held {
            app: app.id,
            node,
            takes: self.reservation(),
            priority: self.spec.placement.priority,
            created_at: instance.created_at,
            leaving: !instance.is_wanted(),
        })
    }
}
