//! Says why no node can take an instance, and what would have to change.
//!
//! A node is counted at the first filter that refuses it, and each filter names the node that missed it by the least. What is advised is
//! the smallest change after which some node passes all of them, so everything counts that speaks against that node.

use std::collections::BTreeMap;
use std::fmt;

use wharf_types::NodeId;
use wharf_types::quantity::{ByteSize, CpuShare};
use wharf_types::spec::placement::{Constraint, NodeKey, Order, Test};

use super::Resources;
use super::node::Node;
use super::remedy::{self, Effort};
use super::round::Round;

/// Different values of a label that are listed.
const VALUES_MAX: usize = 3;

/// Why no node can take an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Counts per filter, such as `0 of 1 nodes fit: 1 has too little free memory (needs 128MiB, 64MiB free on box-1)`.
    pub facts: String,
    /// The smallest change after which a node fits, such as ``lower `reserve.memory` from 128MiB to 64MiB, or free 64MiB on box-1``.
    pub change: String,
}

/// What speaks against a node, in the order of the filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Miss {
    /// The app's volumes are on another node.
    Elsewhere,
    Draining,
    NotReady,
    /// The constraint at this position does not hold.
    Constraint(usize),
    MaxPerNode,
    Cpu,
    Memory,
}

/// A node, and everything that speaks against it.
pub(super) struct Candidate<'a> {
    pub(super) at: u32,
    pub(super) node: &'a Node,
    pub(super) misses: Vec<Miss>,
}

impl Refused {
    /// As many instances of the app as may have others leave at a time wait for that.
    pub(super) fn has_its_turn(claims_max: usize) -> Self {
        Self {
            facts: format!(
                "instances of a lower priority leave their nodes for {claims_max} others of it already, which is the most at a time"
            ),
            change: "wait: this one has its turn when these have their room".to_owned(),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.facts, self.change)
    }
}

pub(super) fn explain(round: &Round<'_>) -> Refused {
    let mut refused: BTreeMap<Miss, Vec<&Node>> = BTreeMap::new();
    let mut nearest: Option<((Effort, NodeId), Candidate<'_>)> = None;
    let mut all = 0;
    let nodes = round.looked_at().map(|at| (at, round.node(at)));
    for (at, node) in nodes.filter(|(_, node)| node.is_present()) {
        all += 1;
        let candidate = Candidate { at, node, misses: misses(round, at, node) };
        refused.entry(candidate.misses[0]).or_default().push(node);
        let cost = (remedy::effort(round, &candidate), node.id);
        if nearest.as_ref().is_none_or(|(least, _)| cost < *least) {
            nearest = Some((cost, candidate));
        }
    }
    let Some((_, nearest)) = nearest else {
        return Refused {
            facts: "no node has joined yet".to_owned(),
            change: "start one with `wharf up` or `wharf worker`".to_owned(),
        };
    };
    let parts: Vec<String> = refused.iter().map(|(miss, nodes)| part(round, *miss, nodes)).collect();
    let alone =
        round.bound_to().map(|node| format!(", as it is for {} alone", node.name())).unwrap_or_default();
    let facts = format!("0 of {all} nodes fit{alone}: {}", parts.join(", "));
    Refused { facts, change: remedy::change(round, &nearest) }
}

/// Never empty.
fn misses(round: &Round<'_>, at: u32, node: &Node) -> Vec<Miss> {
    if !round.is_pinned_to(node) {
        // Where the volumes are not, nothing else matters.
        return vec![Miss::Elsewhere];
    }
    let mut misses = Vec::new();
    if !node.ready {
        let is_draining = round.cluster.drains(node.id);
        misses.extend(is_draining.then_some(Miss::Draining));
        misses.extend((!is_draining || round.cluster.is_silent(node.id)).then_some(Miss::NotReady));
    }
    if let Some(registration) = &node.registration {
        for (index, (_, constraint)) in round.shape.constraints.iter().enumerate() {
            if !constraint.holds(node.id, registration) {
                misses.push(Miss::Constraint(index));
            }
        }
    }
    if round.count_on(at) >= round.ask.max_per_node() {
        misses.push(Miss::MaxPerNode);
    }
    let (free, takes) = (free(round, node), round.ask.takes);
    if free.cpu_millis < takes.cpu_millis {
        misses.push(Miss::Cpu);
    }
    // Whatever else it was, such as room that others wait for, is a lack of room.
    if free.memory_bytes < takes.memory_bytes || misses.is_empty() {
        misses.push(Miss::Memory);
    }
    misses
}

/// What the app may take of a node at once.
pub(super) fn free(round: &Round<'_>, node: &Node) -> Resources {
    node.free_for(round.band())
}

/// One filter's part of the sentence.
fn part(round: &Round<'_>, miss: Miss, nodes: &[&Node]) -> String {
    let count = nodes.len();
    let verb = |one: &'static str, many: &'static str| if count == 1 { one } else { many };
    match miss {
        Miss::NotReady => {
            format!("{count} {} not ready ({})", verb("is", "are"), round.cluster.unready(nodes))
        }
        Miss::Draining => format!("{count} {} being drained ({})", verb("is", "are"), names(nodes)),
        Miss::Elsewhere => format!("{count} {} not have the app's volumes", verb("does", "do")),
        Miss::Constraint(index) => constraint(&round.shape.constraints[index], nodes),
        Miss::MaxPerNode => {
            let most = round.ask.max_per_node();
            let hold = verb("holds", "hold");
            format!("{count} {hold} {most} of its instances already, all that placement.max_per_node allows")
        }
        Miss::Cpu => {
            let needs = cpus(round.ask.takes.cpu_millis);
            let too = format!("{count} {} too few free processors", verb("has", "have"));
            short(&too, &needs, nodes, |node| free(round, node).cpu_millis, cpus)
        }
        Miss::Memory => {
            let needs = bytes(round.ask.takes.memory_bytes, Rounding::Up);
            let too = format!("{count} {} too little free memory", verb("has", "have"));
            let readable = |free| bytes(free, Rounding::Down);
            short(&too, &needs, nodes, |node| free(round, node).memory_bytes, readable)
        }
    }
}

/// Something of which no node has enough free, with the node that has the most.
fn short(
    too: &str,
    needs: &str,
    nodes: &[&Node],
    free: impl Fn(&Node) -> u64,
    readable: impl Fn(u64) -> String,
) -> String {
    let Some(nearest) = nodes.iter().max_by_key(|node| (free(node), std::cmp::Reverse(node.id))) else {
        return too.to_owned();
    };
    let most = if nodes.len() == 1 { "" } else { "at most " };
    format!("{too} (needs {needs}, {most}{} free on {})", readable(free(nearest)), nearest.name())
}

fn names(nodes: &[&Node]) -> String {
    let mut names: Vec<String> = nodes.iter().take(VALUES_MAX).map(|node| node.name()).collect();
    if nodes.len() > VALUES_MAX {
        names.push(format!("{} others", nodes.len() - VALUES_MAX));
    }
    names.join(", ")
}

fn constraint((text, constraint): &(String, Constraint), nodes: &[&Node]) -> String {
    let count = nodes.len();
    let have = if count == 1 { "it has" } else { "they have" };
    let details = match &constraint.test {
        Test::Number(order, _) => nearest_number(constraint, *order, nodes),
        Test::AnyOf(_) | Test::NoneOf(_) => None,
    };
    let details = details.unwrap_or_else(|| format!("{have} {}", values(constraint, nodes)));
    match (&constraint.key, &constraint.test) {
        (NodeKey::Containers, Test::AnyOf(_)) => {
            let runs = if count == 1 { "runs" } else { "run" };
            format!("{count} {runs} no containers (no Docker engine answered when the node started)")
        }
        (NodeKey::Label(key), Test::AnyOf(wanted)) if wanted.len() == 1 => {
            let lack = if count == 1 { "lacks" } else { "lack" };
            format!("{count} {lack} the label {key}={} ({details})", wanted[0])
        }
        _ => {
            let do_not = if count == 1 { "does" } else { "do" };
            format!("{count} {do_not} not meet `{text}` ({details})")
        }
    }
}

/// The values that the nodes have instead.
fn values(constraint: &Constraint, nodes: &[&Node]) -> String {
    let mut counts: BTreeMap<Option<String>, usize> = BTreeMap::new();
    for node in nodes {
        *counts.entry(value(&constraint.key, node, Rounding::Down)).or_default() += 1;
    }
    let without = counts.remove(&None);
    let mut shown: Vec<String> = counts.keys().flatten().take(VALUES_MAX).cloned().collect();
    if counts.len() > VALUES_MAX {
        shown.push(format!("{} others", counts.len() - VALUES_MAX));
    }
    if without.is_some() {
        shown.push(if shown.is_empty() { "no such label" } else { "none" }.to_owned());
    }
    listed(shown)
}

/// Such as `a, b or c`.
fn listed(mut words: Vec<String>) -> String {
    let last = words.pop().unwrap_or_default();
    if words.is_empty() { last } else { format!("{} or {last}", words.join(", ")) }
}

/// What a node has there, as people read it.
pub(super) fn value(key: &NodeKey, node: &Node, rounding: Rounding) -> Option<String> {
    let registration = node.registration.as_ref()?;
    match key {
        NodeKey::Memory => Some(bytes(registration.memory_bytes, rounding)),
        _ => key.text(node.id, registration).map(|text| text.into_owned()),
    }
}

/// The number that comes nearest to what is asked for. None: no node has a number there.
fn nearest_number(constraint: &Constraint, order: Order, nodes: &[&Node]) -> Option<String> {
    let rounding = remedy::rounding(order);
    let number = |node: &&Node| {
        let text = value(&constraint.key, node, rounding)?;
        Some((constraint.key.number(node.registration.as_ref()?)?, text, node.name()))
    };
    let numbers = nodes.iter().filter_map(number);
    let (bound, (_, text, name)) = match order {
        Order::AtLeast | Order::MoreThan => ("most", numbers.max_by(|a, b| a.0.total_cmp(&b.0))?),
        Order::AtMost | Order::LessThan => ("least", numbers.min_by(|a, b| a.0.total_cmp(&b.0))?),
    };
    Some(if nodes.len() == 1 { format!("it has {text}") } else { format!("at {bound} {text}, on {name}") })
}

/// Which way an amount is rounded, so that the advice holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rounding {
    Down,
    Up,
}

/// Whole MiB: nobody compares octets by eye.
pub(super) fn bytes(bytes: u64, rounding: Rounding) -> String {
    let mib = if rounding == Rounding::Up { bytes.div_ceil(1 << 20) } else { bytes >> 20 };
    let is_small = bytes < 1 << 20;
    if is_small { ByteSize::bytes(bytes) } else { ByteSize::mib(mib) }.to_string()
}

pub(super) fn cpus(millis: u64) -> String {
    CpuShare::millis(u32::try_from(millis).unwrap_or(u32::MAX)).to_string()
}
