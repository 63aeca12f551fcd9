//! Chooses a node for an instance.
//!
//! Filters say which nodes can take it at all, and each refusal is counted, so that whoever waits can be told why. Among the
//! rest the app is spread: fewest of its instances first, then most free memory, then the lowest id.

use std::cmp::Reverse;

use wharf_types::NodeId;
use wharf_types::quantity::ByteSize;

use super::{NodeView, Unplaced};

/// What an instance asks of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingInstance {
    pub slot: u32,
    /// Memory to reserve, in octets.
    pub memory_bytes: u64,
    /// The only node that will do: the app's volumes are there.
    pub home: Option<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Elsewhere,
    NotReady,
    Memory,
}

/// Chooses a node and reserves on it, so that the next call sees what is left; same input, same choice.
pub fn place(pending: &PendingInstance, nodes: &mut [NodeView]) -> Result<NodeId, Unplaced> {
    let best = nodes
        .iter_mut()
        .filter(|node| refusal(pending, node).is_none())
        .min_by_key(|node| (node.instances_of_app, Reverse(node.memory_free_bytes), node.id));
    match best {
        Some(node) => {
            node.reserve(pending);
            Ok(node.id)
        }
        None => Err(Unplaced { slot: pending.slot, message: explain(pending, nodes) }),
    }
}

impl NodeView {
    fn reserve(&mut self, pending: &PendingInstance) {
        self.memory_free_bytes -= pending.memory_bytes;
        self.instances += 1;
        self.instances_of_app += 1;
    }
}

fn refusal(pending: &PendingInstance, node: &NodeView) -> Option<Refusal> {
    if pending.home.is_some_and(|home| home != node.id) {
        Some(Refusal::Elsewhere)
    } else if !node.ready {
        Some(Refusal::NotReady)
    } else if node.memory_free_bytes < pending.memory_bytes {
        Some(Refusal::Memory)
    } else {
        None
    }
}

fn explain(pending: &PendingInstance, nodes: &[NodeView]) -> String {
    if nodes.is_empty() {
        return "no node has joined yet; start one with `wharf up` or `wharf worker`".to_owned();
    }
    let refused = |why| {
        nodes.iter().filter(move |node: &&NodeView| refusal(pending, node) == Some(why)).collect::<Vec<_>>()
    };
    let mut parts = Vec::new();
    let elsewhere = refused(Refusal::Elsewhere).len();
    if elsewhere > 0 {
        let verb = if elsewhere == 1 { "does" } else { "do" };
        parts.push(format!("{elsewhere} {verb} not have the app's volumes"));
    }
    let not_ready = refused(Refusal::NotReady).len();
    if not_ready > 0 {
        let verb = if not_ready == 1 { "is" } else { "are" };
        parts.push(format!("{not_ready} {verb} not ready (its lease has expired)"));
    }
    let full = refused(Refusal::Memory);
    if let Some(most) = full.iter().map(|node| node.memory_free_bytes).max() {
        let verb = if full.len() == 1 { "has" } else { "have" };
        let most =
            if full.len() == 1 { "has".to_owned() } else { "at most".to_owned() } + " " + &readable(most);
        let needs = readable(pending.memory_bytes);
        parts.push(format!("{} {verb} too little free memory (needs {needs}, {most})", full.len()));
    }
    format!("0 of {} nodes fit: {}", nodes.len(), parts.join(", "))
}

/// Whole MiB, rounded down: nobody compares octets by eye.
fn readable(bytes: u64) -> String {
    let mib = bytes >> 20;
    if mib > 0 { ByteSize::mib(mib) } else { ByteSize::bytes(bytes) }.to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::fixture::node;

    const MIB: u64 = 1 << 20;

    fn pending(mib: u64) -> PendingInstance {
        PendingInstance { slot: 0, memory_bytes: mib * MIB, home: None }
    }

    #[test]
    fn an_app_is_spread_before_memory_is_looked_at() {
        let mut nodes = [node(1, 1000), node(2, 500), node(3, 500)];
        let chosen: Vec<_> = (0..4).map(|_| place(&pending(100), &mut nodes).unwrap()).collect();
        assert_eq!(chosen, [nodes[0].id, nodes[1].id, nodes[2].id, nodes[0].id]);
        assert_eq!(nodes[0].memory_free_bytes, 800 * MIB);
        assert_eq!((nodes[0].instances, nodes[0].instances_of_app), (2, 2));
    }

    #[test]
    fn a_node_whose_lease_has_expired_receives_nothing() {
        let mut nodes = [node(1, 1000), node(2, 200)];
        nodes[0].ready = false;
        assert_eq!(place(&pending(128), &mut nodes), Ok(nodes[1].id));
    }

    #[test]
    fn an_app_goes_to_its_volumes_or_nowhere() {
        let mut nodes = [node(1, 1000), node(2, 200), node(3, 1000)];
        let home = PendingInstance { home: Some(nodes[1].id), ..pending(128) };
        assert_eq!(place(&home, &mut nodes), Ok(nodes[1].id));
        assert_eq!(
            place(&home, &mut nodes).unwrap_err().message,
            "0 of 3 nodes fit: 2 do not have the app's volumes, 1 has too little free memory (needs 128MiB, has 72MiB)"
        );
    }

    #[test]
    fn a_refusal_counts_the_nodes_of_each_filter() {
        let mut one = [node(1, 64)];
        assert_eq!(
            place(&pending(128), &mut one).unwrap_err().message,
            "0 of 1 nodes fit: 1 has too little free memory (needs 128MiB, has 64MiB)"
        );
        let mut three = [node(1, 64), node(2, 32), node(3, 4096)];
        three[2].ready = false;
        assert_eq!(
            place(&pending(128), &mut three).unwrap_err().message,
            "0 of 3 nodes fit: 1 is not ready (its lease has expired), 2 have too little free memory (needs 128MiB, at most 64MiB)"
        );
        assert!(place(&pending(1), &mut []).unwrap_err().message.contains("no node has joined"));
    }

    proptest! {
        #[test]
        fn capacity_is_never_exceeded_and_a_fit_is_always_found(
            free in proptest::collection::vec((0..2000u64, any::<bool>()), 0..6),
            asks in proptest::collection::vec(1..800u64, 0..20),
        ) {
            let mut nodes: Vec<_> = free.iter().zip(1..).map(|((mib, ready), id)| {
                let mut node = node(id, *mib);
                node.ready = *ready;
                node
            }).collect();
            for ask in asks {
                let before = nodes.clone();
                let fits = before.iter().any(|node| node.ready && node.memory_free_bytes >= ask * MIB);
                match place(&pending(ask), &mut nodes) {
                    Ok(id) => {
                        let index = before.iter().position(|node| node.id == id).unwrap();
                        prop_assert!(before[index].ready && before[index].memory_free_bytes >= ask * MIB);
                        prop_assert_eq!(nodes[index].memory_free_bytes, before[index].memory_free_bytes - ask * MIB);
                    }
                    Err(_) => prop_assert!(!fits),
                }
            }
        }
    }
}
