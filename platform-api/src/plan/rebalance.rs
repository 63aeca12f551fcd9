//! Whether an instance would be placed elsewhere, if it were placed now.

use wharf_types::NodeId;
use wharf_types::state::InstanceState;

use super::placing::Asked;
use super::scheduler::{Cluster, Placed};
use super::{AppView, InstanceView};

/// Where one more instance like this one would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    To(NodeId),
    /// It stays where it is: it has volumes there, there must not be two at once, it is there for the node's sake, it does not serve, or it would be
    /// placed there again.
    Stays,
    /// Its app is on the way to something else, or it has only been started: what comes of that may move.
    NotYet,
}

pub(crate) fn course(app: &AppView, instance: &InstanceView, cluster: &mut Cluster) -> Course {
    let Some(target) = app.target.as_ref().filter(|_| !app.deleting && app.stopped.is_none()) else {
        return Course::Stays;
    };
    let is_bound = !target.spec.volumes.is_empty() || target.spec.scale.singleton || target.spec.is_global();
    if is_bound || !instance.is_wanted() {
        return Course::Stays;
    }
    if app.rollout_under_way().is_some() {
        return Course::NotYet;
    }
    if instance.release != target.id {
        return Course::Stays;
    }
    if !instance.is_healthy() {
        let is_starting = instance.state <= InstanceState::Running && !instance.was_healthy;
        return if is_starting && instance.restarts == 0 { Course::NotYet } else { Course::Stays };
    }
    let asked = Asked::of(app, target);
    match cluster.round(app.id, asked.ask(target)).place() {
        Ok(Placed::On(node)) if Some(node) != instance.node => Course::To(node),
        _ => Course::Stays,
    }
}
