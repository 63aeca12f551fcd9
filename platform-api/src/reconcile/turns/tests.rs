use uuid::Uuid;
use wharf_types::node::NodeRegistration;

use super::*;

fn node(number: u128) -> NodeStatus {
    let registration = NodeRegistration { hostname: format!("n{number}"), ..NodeRegistration::default() };
    NodeStatus::ready(NodeId::from_uuid(Uuid::from_u128(number)), registration)
}

/// The kinds of what is told when nodes become others, one look after the other.
fn kinds(looks: &[&[NodeStatus]]) -> Vec<&'static str> {
    let mut turns = Turns::default();
    looks.iter().for_each(|nodes| turns.look(nodes, Timestamp::UNIX_EPOCH));
    turns.untold.iter().map(|told| told.kind).collect()
}

#[test]
fn what_was_there_before_anybody_looked_is_not_told() {
    assert!(kinds(&[&[node(1)]]).is_empty());
    assert!(kinds(&[&[node(1)], &[node(1)]]).is_empty());
}

#[test]
fn nodes_come_and_are_taken_out() {
    assert_eq!(kinds(&[&[], &[node(1)], &[]]), ["node.joined", "node.removed"]);
}

#[test]
fn a_node_that_falls_silent_is_given_up_and_comes_back() {
    let silent = NodeStatus { ready: false, ..node(1) };
    let given_up = NodeStatus { given_up: true, released: true, ..silent.clone() };
    assert_eq!(
        kinds(&[&[node(1)], std::slice::from_ref(&silent), std::slice::from_ref(&given_up), &[node(1)]]),
        ["node.silent", "node.lost", "node.back"]
    );
    assert_eq!(
        kinds(&[&[node(1)], std::slice::from_ref(&given_up)]),
        ["node.lost"],
        "where its lease is all that it had"
    );
    assert_eq!(kinds(&[&[node(1)], &[silent], &[node(1)]]), ["node.silent", "node.back"]);
}

#[test]
fn a_node_is_drained_and_resumed() {
    let drained = NodeStatus { draining: true, ..node(1) };
    assert_eq!(kinds(&[&[node(1)], &[drained], &[node(1)]]), ["node.draining", "node.resumed"]);
}

#[test]
fn the_oldest_are_forgotten_while_the_store_is_away() {
    let mut turns = Turns::default();
    turns.look(&[], Timestamp::UNIX_EPOCH);
    let many: Vec<NodeStatus> = (0..=UNTOLD_MAX as u128).map(node).collect();
    turns.look(&many, Timestamp::UNIX_EPOCH);
    assert_eq!(turns.untold.len(), UNTOLD_MAX);
    assert_eq!(turns.untold[0].message, "n1 has joined");
}
