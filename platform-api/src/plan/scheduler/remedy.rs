//! What would have to change for a node to take an instance, and how much that is.

use wharf_types::protocol;
use wharf_types::spec::placement::{Constraint, NodeKey, Order, Test};

use super::explain::{Candidate, Miss, Rounding, bytes, cpus, free, value};
use super::node::Node;
use super::round::Round;

/// How much would have to change; of two the less is the better advice. First what kinds of things, then by how much they are missed, in
/// millionths of what is asked for.
pub(super) type Effort = (u32, u128);

const WHOLE: u128 = 1_000_000;

/// What makes a node pass one filter.
struct Remedy {
    /// What can be done about this node. Any one of them is enough.
    here: Vec<String>,
    /// What helps as well, and without it.
    or: Option<&'static str>,
}

/// Everything that a node misses, added up.
pub(super) fn effort(round: &Round<'_>, candidate: &Candidate<'_>) -> Effort {
    let efforts = candidate.misses.iter().map(|miss| effort_of(round, candidate.node, *miss));
    efforts.fold((0, 0), |(kinds, by), (kind, more)| (kinds + kind, by + more))
}

/// A setting is changed more easily than a label, which is an admin's; and that more easily than what a node is.
fn effort_of(round: &Round<'_>, node: &Node, miss: Miss) -> Effort {
    match miss {
        Miss::MaxPerNode => (1, 0),
        Miss::Cpu | Miss::Memory => {
            let (needs, free, total) = amounts(round, node, miss);
            let kind = match free {
                0 if total < needs => 20,
                0 => 6,
                free if free < needs / 2 => 5,
                _ => 2,
            };
            (kind, WHOLE * u128::from(needs.saturating_sub(free)) / u128::from(needs.max(1)))
        }
        Miss::Draining => (4, 0),
        Miss::Constraint(index) => {
            let (_, constraint) = &round.shape.constraints[index];
            let kind = match &constraint.key {
                NodeKey::Label(key) if key != protocol::LABEL => 3,
                NodeKey::Containers => 8,
                _ => 7,
            };
            (kind, distance(constraint, node))
        }
        Miss::NotReady => (12, 0),
        Miss::Elsewhere => (50, 0),
    }
}

/// By how much of the bound a number misses it. What is not a number misses it whole.
fn distance(constraint: &Constraint, node: &Node) -> u128 {
    let Test::Number(_, bound) = constraint.test else { return 0 };
    let number = node.registration.as_ref().and_then(|registration| constraint.key.number(registration));
    let by = number.map_or(1.0, |number| (number - bound).abs() / bound.abs().max(1.0));
    // What is too large for the type becomes its largest value, and what is no number 0.
    (by * 1_000_000.0) as u128
}

/// What is needed, what is free and what there is, of processors or of memory.
fn amounts(round: &Round<'_>, node: &Node, miss: Miss) -> (u64, u64, u64) {
    let (needs, free, total) = (round.ask.takes, free(round, node), node.total());
    match miss {
        Miss::Cpu => (needs.cpu_millis, free.cpu_millis, total.cpu_millis),
        _ => (needs.memory_bytes, free.memory_bytes, total.memory_bytes),
    }
}

/// What makes the node pass every filter.
pub(super) fn change(round: &Round<'_>, candidate: &Candidate<'_>) -> String {
    let remedies: Vec<Remedy> = candidate.misses.iter().map(|miss| remedy(round, candidate, *miss)).collect();
    match &remedies[..] {
        [Remedy { here, or }] => {
            // What is meant for this node is of no use on another.
            let or = or.filter(|_| round.bound_to().is_none() || here.is_empty());
            let ways: Vec<&str> = here.iter().map(String::as_str).chain(or).collect();
            ways.join(", or ")
        }
        all if all.iter().any(|remedy| remedy.here.is_empty()) => {
            "add a node that has room for it and meets its constraints".to_owned()
        }
        all => {
            let first = all.iter().filter_map(|remedy| remedy.here.first());
            first.map(String::as_str).collect::<Vec<_>>().join(", and ")
        }
    }
}

fn remedy(round: &Round<'_>, candidate: &Candidate<'_>, miss: Miss) -> Remedy {
    let name = candidate.node.name();
    let only = |here: String| Remedy { here: vec![here], or: None };
    match miss {
        Miss::MaxPerNode => {
            let more = round.count_on(candidate.at).saturating_add(1);
            Remedy { here: vec![format!("raise `placement.max_per_node` to {more}")], or: Some("add a node") }
        }
        Miss::Cpu => lack(round, candidate, miss, "reserve.cpu", |millis, _| cpus(millis)),
        Miss::Memory => lack(round, candidate, miss, "reserve.memory", bytes),
        Miss::Draining => only(format!("take {name} back into service (`wharf node resume {name}`)")),
        Miss::NotReady => only(format!("bring {name} back, of which nothing is heard")),
        Miss::Elsewhere => only("bring back the node that has its volumes".to_owned()),
        Miss::Constraint(index) => {
            let (text, constraint) = &round.shape.constraints[index];
            match &constraint.key {
                NodeKey::Label(key) if key == protocol::LABEL => {
                    only(format!("upgrade the worker of {name}"))
                }
                NodeKey::Label(key) => only(relabel(key, &constraint.test, candidate.node)),
                NodeKey::Containers if matches!(constraint.test, Test::AnyOf(_)) => {
                    only(format!("install a Docker engine on {name}, and start its worker again"))
                }
                _ => Remedy {
                    here: vec![relax(text, constraint, candidate.node)],
                    or: Some("add a node that meets it"),
                },
            }
        }
    }
}

fn lack(
    round: &Round<'_>,
    candidate: &Candidate<'_>,
    miss: Miss,
    setting: &str,
    readable: impl Fn(u64, Rounding) -> String,
) -> Remedy {
    let (needs, free, total) = amounts(round, candidate.node, miss);
    let mut here = Vec::new();
    if free > 0 && free < needs {
        let (from, to) = (readable(needs, Rounding::Up), readable(free, Rounding::Down));
        here.push(format!("lower `{setting}` from {from} to {to}"));
    }
    if total >= needs {
        let missing = readable(needs.saturating_sub(free), Rounding::Up);
        here.push(format!("free {missing} on {}", candidate.node.name()));
    }
    Remedy { here, or: (total < needs).then_some("add a larger node") }
}

/// The label with which the node meets a constraint, and the command that sets it.
fn relabel(key: &str, test: &Test, node: &Node) -> String {
    let name = node.name();
    let has = value(&NodeKey::Label(key.to_owned()), node, Rounding::Down);
    let wanted = match test {
        Test::AnyOf(values) => values.first().cloned(),
        Test::NoneOf(_) => None,
        Test::Number(order, bound) => Some(match order {
            Order::AtLeast | Order::AtMost => bound.to_string(),
            Order::MoreThan => (bound + 1.0).to_string(),
            Order::LessThan => (bound - 1.0).to_string(),
        }),
    };
    match (wanted, has) {
        (Some(wanted), None) => {
            let command = word(key, &wanted);
            format!("add the label {key}={wanted} to {name} (`wharf node label {name} {command}`)")
        }
        (Some(wanted), Some(has)) => {
            let command = word(key, &wanted);
            format!(
                "change the label {key} of {name} from {has} to {wanted} (`wharf node label {name} {command}`)"
            )
        }
        (None, has) => {
            let has = has.unwrap_or_default();
            format!("give {name} another label than {key}={has} (`wharf node label {name} {key}=VALUE`)")
        }
    }
}

/// A label as a word of a shell.
fn word(key: &str, value: &str) -> String {
    let is_plain = value.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:+@,%".contains(c));
    if is_plain { format!("{key}={value}") } else { format!("'{key}={}'", value.replace('\'', r"'\''")) }
}

/// How the constraint has to read for the node to meet it.
fn relax(text: &str, constraint: &Constraint, node: &Node) -> String {
    let Test::Number(order, _) = constraint.test else {
        return format!("change the constraint `{text}` so that {} meets it", node.name());
    };
    let sign = match order {
        Order::AtLeast | Order::MoreThan => ">=",
        Order::AtMost | Order::LessThan => "<=",
    };
    let has = value(&constraint.key, node, rounding(order)).unwrap_or_default();
    format!("write `{} {sign} {has}` in the place of `{text}`", constraint.key)
}

/// How a number is rounded that the node is still to pass.
pub(super) fn rounding(order: Order) -> Rounding {
    match order {
        Order::AtLeast | Order::MoreThan => Rounding::Down,
        Order::AtMost | Order::LessThan => Rounding::Up,
    }
}
