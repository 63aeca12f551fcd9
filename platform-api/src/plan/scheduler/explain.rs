//! Says why no node can take an instance, and what would have to change.
//!
//! A node is counted at the first filter that refuses it. For each filter the text names the node that missed it by the least,
//! and the smallest change that would make it fit.

use std::collections::BTreeMap;

use wharf_types::quantity::{ByteSize, CpuShare};
use wharf_types::spec::placement::{Constraint, NodeKey, Order, Test};

use super::node::Node;
use super::round::Round;

/// Different values of a label that are listed.
const VALUES_MAX: usize = 3;

/// Why a node is refused, in the order of the filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Refusal {
    Elsewhere,
    NotReady,
    /// By the constraint at this position.
    Constraint(usize),
    MaxPerNode,
    Cpu,
    Memory,
}

pub(super) fn explain(round: &Round<'_>) -> String {
    let mut refused: BTreeMap<Refusal, Vec<&Node>> = BTreeMap::new();
    let mut all = 0;
    let nodes = round.looked_at().map(|at| (at, round.node(at)));
    for (at, node) in nodes.filter(|(_, node)| node.is_present()) {
        all += 1;
        refused.entry(refusal(round, at, node)).or_default().push(node);
    }
    if all == 0 {
        return "no node has joined yet; start one with `wharf up` or `wharf worker`".to_owned();
    }
    let parts: Vec<String> = refused.iter().map(|(refusal, nodes)| part(round, *refusal, nodes)).collect();
    let alone =
        round.bound_to().map(|node| format!(", as it is for {} alone", node.name())).unwrap_or_default();
    format!("0 of {all} nodes fit{alone}: {}", parts.join(", "))
}

fn refusal(round: &Round<'_>, at: u32, node: &Node) -> Refusal {
    let unmet = || {
        let registration = node.registration.as_ref()?;
        round.shape.constraints.iter().position(|(_, constraint)| !constraint.holds(node.id, registration))
    };
    if !round.is_pinned_to(node) {
        Refusal::Elsewhere
    } else if !node.ready {
        Refusal::NotReady
    } else if let Some(index) = unmet() {
        Refusal::Constraint(index)
    } else if !round.is_usable(at) {
        Refusal::MaxPerNode
    } else if node.free_for(round.band()).cpu_millis < round.ask.takes.cpu_millis {
        Refusal::Cpu
    } else {
        Refusal::Memory
    }
}

/// One filter's part of the sentence.
fn part(round: &Round<'_>, refusal: Refusal, nodes: &[&Node]) -> String {
    let count = nodes.len();
    let verb = |one: &'static str, many: &'static str| if count == 1 { one } else { many };
    match refusal {
        Refusal::NotReady => {
            format!("{count} {} not ready ({})", verb("is", "are"), round.cluster.unready(nodes))
        }
        Refusal::Elsewhere => format!("{count} {} not have the app's volumes", verb("does", "do")),
        Refusal::Constraint(index) => constraint(&round.shape.constraints[index], nodes),
        Refusal::MaxPerNode => {
            let most = round.ask.max_per_node();
            let hold = verb("holds", "hold");
            format!("{count} {hold} {most} of its instances already, all that placement.max_per_node allows")
        }
        Refusal::Cpu => {
            let needed = round.ask.takes.cpu_millis;
            let free = |node: &Node| node.free_for(round.band()).cpu_millis;
            let too = format!("{count} {} too few free processors", verb("has", "have"));
            short(&too, "reserve.cpu", nodes, needed, free, |node| node.total().cpu_millis, cpus)
        }
        Refusal::Memory => {
            let needed = round.ask.takes.memory_bytes;
            let free = |node: &Node| node.free_for(round.band()).memory_bytes;
            let too = format!("{count} {} too little free memory", verb("has", "have"));
            short(&too, "reserve.memory", nodes, needed, free, |node| node.total().memory_bytes, bytes)
        }
    }
}

/// Something of which no node has enough free, as it was refused, with the node that has the most.
fn short(
    too: &str,
    setting: &str,
    nodes: &[&Node],
    needed: u64,
    free: impl Fn(&Node) -> u64,
    total: impl Fn(&Node) -> u64,
    readable: impl Fn(u64, Rounding) -> String,
) -> String {
    let Some(nearest) = nodes.iter().max_by_key(|node| (free(node), std::cmp::Reverse(node.id))) else {
        return too.to_owned();
    };
    let has = free(nearest);
    let most = if nodes.len() == 1 { "" } else { "at most " };
    let needs = readable(needed, Rounding::Up);
    let name = nearest.name();
    let mut ways = Vec::new();
    if has > 0 {
        ways.push(format!("set {setting} to {} or less", readable(has, Rounding::Down)));
    }
    if total(nearest) >= needed {
        ways.push(format!("free {} there", readable(needed.saturating_sub(has), Rounding::Up)));
    }
    if total(nearest) < needed {
        ways.push("add a larger node".to_owned());
    }
    let ways = ways.join(", or ");
    format!("{too} (needs {needs}, {most}{} free on {name}: {ways})", readable(has, Rounding::Down))
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
            format!(
                "{count} {runs} no containers (no Docker engine answered when the node started; install one there, and restart the node)"
            )
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
        let text =
            node.registration.as_ref().and_then(|registration| constraint.key.text(node.id, registration));
        *counts.entry(text.map(|text| text.into_owned())).or_default() += 1;
    }
    let without = counts.remove(&None);
    let mut shown: Vec<String> = counts.keys().flatten().take(VALUES_MAX).cloned().collect();
    if counts.len() > VALUES_MAX {
        shown.push(format!("{} others", counts.len() - VALUES_MAX));
    }
    if without.is_some() {
        shown.push(if shown.is_empty() { "no such label" } else { "none" }.to_owned());
    }
    let last = shown.pop().unwrap_or_default();
    if shown.is_empty() { last } else { format!("{} or {last}", shown.join(", ")) }
}

/// The number that comes nearest to what is asked for. None: no node has a number there.
fn nearest_number(constraint: &Constraint, order: Order, nodes: &[&Node]) -> Option<String> {
    let number = |node: &&Node| {
        let registration = node.registration.as_ref()?;
        let text = constraint.key.text(node.id, registration)?.into_owned();
        Some((constraint.key.number(registration)?, text, node.name()))
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
enum Rounding {
    Down,
    Up,
}

/// Whole MiB: nobody compares octets by eye.
fn bytes(bytes: u64, rounding: Rounding) -> String {
    let mib = if rounding == Rounding::Up { bytes.div_ceil(1 << 20) } else { bytes >> 20 };
    let is_small = bytes < 1 << 20;
    if is_small { ByteSize::bytes(bytes) } else { ByteSize::mib(mib) }.to_string()
}

fn cpus(millis: u64, _: Rounding) -> String {
    CpuShare::millis(u32::try_from(millis).unwrap_or(u32::MAX)).to_string()
}
