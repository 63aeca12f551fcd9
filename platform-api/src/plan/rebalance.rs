//! Whether an instance would be placed elsewhere, if it were placed now.

use wharf_types::NodeId;
use wharf_types::state::Wanted;

use super::placing::Asked;
use super::scheduler::{Cluster, Placed};
use super::{AppView, InstanceView};

/// Where one more instance like this one would go. None: it stays where it is, because it has volumes there, there must not be two at
/// once, it is there for the node's sake, it does not serve, or its app is on the way to something else.
pub(crate) fn goes_to(app: &AppView, instance: &InstanceView, cluster: &mut Cluster) -> Option<NodeId> {
    let target = app.target.as_ref().filter(|_| !app.deleting && app.stopped.is_none())?;
    let serves = instance.wanted == Wanted::Run && instance.is_healthy();
    let is_settled = app.rollout_under_way().is_none() && instance.release == target.id;
    let is_bound = !target.spec.volumes.is_empty() || target.spec.scale.singleton || target.spec.is_global();
    if !serves || !is_settled || is_bound {
        return None;
    }
    let asked = Asked::of(app, target);
    match cluster.round(app.id, asked.ask(target)).place() {
        Ok(Placed::On(node)) if Some(node) != instance.node => Some(node),
        _ => None,
    }
}
