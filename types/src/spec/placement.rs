//! On which nodes an app may run: `placement.constraints`, parsed and answered.
//!
//! A constraint is one comparison, such as `node.labels.zone in (eu-1, eu-2)`, and all of them must hold. An error names the
//! column where reading stopped making sense. How nodes that may be used are ranked is the scheduler's.

mod conflict;
mod parse;

use std::borrow::Cow;
use std::fmt;

use crate::id::NodeId;
use crate::node::NodeRegistration;
use crate::quantity::ByteSize;

pub use conflict::conflict;
pub use parse::InvalidConstraint;

/// One parsed entry of [`super::PlacementSpec::constraints`].
#[derive(Clone, Debug, PartialEq)]
pub struct Constraint {
    pub key: NodeKey,
    pub test: Test,
}

/// What of a node is looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeKey {
    Id,
    Hostname,
    Role,
    Os,
    Arch,
    Cpus,
    /// All memory that guests may use there, not what is free.
    Memory,
    /// Whether it runs containers: `yes` or `no`.
    Containers,
    Label(String),
}

/// What must hold of it. A label that a node does not have is like no value: it passes [`Test::NoneOf`] and nothing else.
#[derive(Clone, Debug, PartialEq)]
pub enum Test {
    /// `==` and `in`.
    AnyOf(Vec<String>),
    /// `!=` and `not in`.
    NoneOf(Vec<String>),
    /// `>=`, `>`, `<=` and `<`. What is not a number does not pass.
    Number(Order, f64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    AtLeast,
    MoreThan,
    AtMost,
    LessThan,
}

impl Constraint {
    /// Whether the node may be used, as far as this constraint goes.
    pub fn holds(&self, id: NodeId, node: &NodeRegistration) -> bool {
        match &self.test {
            Test::AnyOf(values) => self.is_among(values, id, node),
            Test::NoneOf(values) => !self.is_among(values, id, node),
            Test::Number(order, bound) => {
                self.key.number(node).is_some_and(|number| order.holds(number, *bound))
            }
        }
    }

    fn is_among(&self, values: &[String], id: NodeId, node: &NodeRegistration) -> bool {
        self.key.text(id, node).is_some_and(|text| values.iter().any(|value| *value == text))
    }
}

impl NodeKey {
    /// Whether it tells one node from its equals, so that nothing is gained by grouping nodes by it.
    pub fn is_of_one_node(&self) -> bool {
        matches!(self, Self::Id | Self::Hostname | Self::Memory)
    }

    /// The node's value as text; None: it has no such label.
    pub fn text<'a>(&self, id: NodeId, node: &'a NodeRegistration) -> Option<Cow<'a, str>> {
        Some(match self {
            Self::Id => Cow::Owned(id.to_string()),
            Self::Hostname => Cow::Borrowed(node.hostname.as_str()),
            Self::Role => Cow::Borrowed(node.role.as_str()),
            Self::Os => Cow::Borrowed(node.os.as_str()),
            Self::Arch => Cow::Borrowed(node.arch.as_str()),
            Self::Cpus => Cow::Owned(node.cpus.to_string()),
            Self::Memory => Cow::Owned(ByteSize::bytes(node.memory_bytes).to_string()),
            Self::Containers => Cow::Borrowed(if node.containers.is_some() { "yes" } else { "no" }),
            Self::Label(key) => Cow::Borrowed(node.labels.get(key)?.as_str()),
        })
    }

    /// The value as a number, if it is one.
    pub fn number(&self, node: &NodeRegistration) -> Option<f64> {
        match self {
            Self::Cpus => Some(f64::from(node.cpus)),
            #[allow(
                clippy::cast_precision_loss,
                reason = "exact up to 8 PiB, and nobody draws a line within an octet beyond"
            )]
            Self::Memory => Some(node.memory_bytes as f64),
            Self::Label(key) => node.labels.get(key)?.parse().ok().filter(|number: &f64| number.is_finite()),
            Self::Id | Self::Hostname | Self::Role | Self::Os | Self::Arch | Self::Containers => None,
        }
    }
}

impl Order {
    pub fn holds(self, number: f64, bound: f64) -> bool {
        match self {
            Self::AtLeast => number >= bound,
            Self::MoreThan => number > bound,
            Self::AtMost => number <= bound,
            Self::LessThan => number < bound,
        }
    }
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id => f.write_str("node.id"),
            Self::Hostname => f.write_str("node.hostname"),
            Self::Role => f.write_str("node.role"),
            Self::Os => f.write_str("node.platform.os"),
            Self::Arch => f.write_str("node.platform.arch"),
            Self::Cpus => f.write_str("node.cpus"),
            Self::Memory => f.write_str("node.memory"),
            Self::Containers => f.write_str("node.containers"),
            Self::Label(key) => write!(f, "node.labels.{key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeRegistration {
        NodeRegistration {
            hostname: "box-1".into(),
            memory_bytes: 16 << 30,
            cpus: 8,
            version: "1".into(),
            labels: [("zone", "eu-1"), ("disk", "ssd"), ("rack", "12")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            os: "linux".into(),
            arch: "x86_64".into(),
            role: "worker".into(),
            ..NodeRegistration::default()
        }
    }

    fn holds(text: &str) -> bool {
        text.parse::<Constraint>().unwrap().holds(NodeId::new(), &node())
    }

    #[test]
    fn text_is_compared_letter_by_letter() {
        assert!(holds("node.labels.zone == eu-1"));
        assert!(!holds("node.labels.zone == EU-1"));
        assert!(holds("node.labels.zone != eu-2"));
        assert!(holds("node.labels.zone in (eu-2, eu-1)"));
        assert!(!holds("node.labels.zone not in (eu-2, eu-1)"));
        assert!(holds("node.hostname == box-1") && holds("node.role == worker"));
        assert!(holds("node.platform.os == linux") && holds("node.platform.arch != aarch64"));
        assert!(holds("node.containers == no") && !holds("node.containers == yes"));
    }

    #[test]
    fn numbers_are_compared_by_their_size() {
        assert!(holds("node.labels.rack >= 9") && holds("node.labels.rack < 100"));
        assert!(!holds("node.labels.rack > 12") && holds("node.labels.rack <= 12"));
        assert!(holds("node.cpus >= 8") && !holds("node.cpus > 8"));
        assert!(holds("node.memory >= 16GiB") && !holds("node.memory > 16GiB"));
        assert!(!holds("node.labels.zone > 1"), "`eu-1` is not a number");
    }

    #[test]
    fn a_label_that_is_not_there_is_only_unequal() {
        assert!(holds("node.labels.gpu != a100") && holds("node.labels.gpu not in (a100)"));
        assert!(!holds("node.labels.gpu == a100") && !holds("node.labels.gpu >= 0"));
    }
}
