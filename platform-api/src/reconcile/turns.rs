//! Tells what becomes of nodes: `node.joined`, `node.silent` and the like, for whoever runs the cluster.
//!
//! What is seen is compared with what was seen before, so that whatever the cause was (a command, a report, an end of a lease) it is told once.
//! Who begins to lead begins anew, and tells nothing of what had happened before.

use std::collections::{BTreeMap, VecDeque};

use tracing::warn;
use wharf_types::{NodeId, Timestamp};

use super::{RETRY, chain, plan_after};
use crate::context::Context;
use crate::nodes::NodeStatus;
use crate::store;

/// Events that wait for a store that is away. Beyond that the oldest are forgotten.
const UNTOLD_MAX: usize = 10_000;
/// Events that are written at once, so that apps have not to wait for a thousand nodes that come together.
const BATCH: usize = 100;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// None: nobody has looked yet.
    seen: Option<BTreeMap<NodeId, Seen>>,
    untold: VecDeque<Told>,
    /// When they are to be written, after they could not be.
    tell_at: Option<Timestamp>,
}

#[derive(Clone, Debug)]
struct Seen {
    name: String,
    standing: Standing,
    draining: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    There,
    Silent,
    GivenUp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    node: NodeId,
    kind: &'static str,
    message: String,
    at: Timestamp,
}

impl Turns {
    /// Compares the nodes with what they were when somebody looked last.
    pub(super) fn look(&mut self, nodes: &[NodeStatus], now: Timestamp) {
        if self.seen.as_ref().is_some_and(|seen| is_unchanged(seen, nodes)) {
            return;
        }
        let seen: BTreeMap<NodeId, Seen> = nodes.iter().map(|node| (node.id, Seen::of(node))).collect();
        let Some(before) = self.seen.replace(seen.clone()) else { return };
        let mut tell = |node: NodeId, kind, message| {
            self.untold.push_back(Told { node, kind, message, at: now });
        };
        for (id, node) in &seen {
            for (kind, message) in node.since(before.get(id)) {
                tell(*id, kind, message);
            }
        }
        for (id, Seen { name, .. }) in before.iter().filter(|(id, _)| !seen.contains_key(*id)) {
            tell(*id, "node.removed", format!("{name} was taken out of the cluster"));
        }
        let too_many = self.untold.len().saturating_sub(UNTOLD_MAX);
        self.untold.drain(..too_many);
    }

    /// Writes what was not told yet. What cannot be written now is written later.
    pub(super) async fn tell(&mut self, context: &Context, now: Timestamp) {
        if self.untold.is_empty() || self.tell_at.is_some_and(|at| now < at) {
            return;
        }
        let written = async {
            let mut tx = context.write_as_leader().await?;
            for told in self.untold.iter().take(BATCH) {
                store::event::append_of_node(&mut tx, told.node, told.kind, &told.message, told.at).await?;
            }
            tx.commit().await
        };
        match written.await {
            Ok(()) => {
                self.untold.drain(..self.untold.len().min(BATCH));
                self.tell_at = None;
                context.announce_nodes();
            }
            Err(error) => {
                warn!("cannot write what became of nodes, trying again in {RETRY:?}: {}", chain(&error));
                self.tell_at = Some(plan_after(now, RETRY));
            }
        }
    }
}

/// It is asked on every round, so nothing is copied for it.
fn is_unchanged(seen: &BTreeMap<NodeId, Seen>, nodes: &[NodeStatus]) -> bool {
    seen.len() == nodes.len() && nodes.iter().all(|node| seen.get(&node.id).is_some_and(|it| it.is_of(node)))
}

impl Standing {
    fn of(node: &NodeStatus) -> Self {
        match (node.given_up, node.ready) {
            (true, _) => Self::GivenUp,
            (false, true) => Self::There,
            (false, false) => Self::Silent,
        }
    }
}

impl Seen {
    fn of(node: &NodeStatus) -> Self {
        Self { name: node.name(), standing: Standing::of(node), draining: node.draining }
    }

    /// Whether the node is as it was seen.
    fn is_of(&self, node: &NodeStatus) -> bool {
        let hostname = &node.registration.hostname;
        let is_named = self.name == *hostname || (hostname.is_empty() && self.name == node.name());
        is_named && self.standing == Standing::of(node) && self.draining == node.draining
    }

    /// What has happened to it, in order.
    fn since(&self, before: Option<&Self>) -> Vec<(&'static str, String)> {
        let Self { name, standing, draining } = self;
        let Some(before) = before else {
            return vec![("node.joined", format!("{name} has joined"))];
        };
        let mut events = Vec::new();
        match standing {
            standing if *standing == before.standing => {}
            Standing::There => events.push(("node.back", format!("{name} is heard of again"))),
            Standing::Silent if before.standing == Standing::GivenUp => {}
            Standing::Silent => events.push(("node.silent", format!("nothing is heard of {name}"))),
            Standing::GivenUp => events.push((
                "node.lost",
                format!("nothing is heard of {name} for so long that what ran there starts on other nodes"),
            )),
        }
        match (before.draining, *draining) {
            (false, true) => events.push((
                "node.draining",
                format!(
                    "{name} is being drained, because somebody asked for that or its worker is about to end"
                ),
            )),
            (true, false) => events.push(("node.resumed", format!("{name} takes instances again"))),
            _ => {}
        }
        events
    }
}

#[cfg(test)]
mod tests;
