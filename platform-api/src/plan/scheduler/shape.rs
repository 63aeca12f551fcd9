//! What an app asks of its nodes, worked out once for each class of nodes.
//!
//! Nodes of one class have the same role, platform, processors and labels, so that a constraint over these is asked once a class
//! and not once a node. The classes that pass are grouped by the values of the labels over which the app is spread.

use std::collections::HashMap;

use uuid::Uuid;
use wharf_types::NodeId;
use wharf_types::node::NodeRegistration;
use wharf_types::spec::PlacementSpec;
use wharf_types::spec::placement::{Constraint, NodeKey, Test};

use super::Needs;

/// What every container asks of its node, in the words in which users may ask for the same.
const RUNS_CONTAINERS: &str = "node.containers == yes";
/// The same of every singleton: see [`wharf_types::protocol::LABEL`].
const KNOWS_LEASES: &str = "node.labels.wharf.protocol != 1";

/// Levels of spreading that are told apart; a spec has no more.
pub(super) const LEVELS: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ShapeKey {
    constraints: Vec<String>,
    spread: Vec<String>,
}

impl ShapeKey {
    pub(super) fn of(placement: &PlacementSpec, needs: Needs) -> Self {
        let own = match needs {
            Needs::Nothing => None,
            Needs::Engine => Some(RUNS_CONTAINERS.to_owned()),
            Needs::Leases => Some(KNOWS_LEASES.to_owned()),
        };
        let own = own.into_iter();
        Self {
            constraints: own.chain(placement.constraints.iter().cloned()).collect(),
            spread: placement.spread.clone(),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// As they are written, with what they mean.
    pub(super) constraints: Vec<(String, Constraint)>,
    of_class: Vec<Constraint>,
    of_node: Vec<Constraint>,
    pub(super) spread: Vec<String>,
    /// By the number of the class: its domain, and whether its nodes may be used.
    classes: Vec<(u32, bool)>,
    pub(super) domains: Vec<Domain>,
    /// The values that lead to each group, from the first level on.
    groups: HashMap<Vec<Option<String>>, u32>,
}

/// The classes that agree in every label of the spread.
#[derive(Clone, Debug)]
pub(super) struct Domain {
    /// Its group on each level: nodes that agree in the labels up to there.
    pub(super) groups: Vec<u32>,
    /// The classes that may be used.
    pub(super) classes: Vec<u32>,
}

impl Shape {
    pub(super) fn new(key: &ShapeKey) -> Self {
        // What does not parse was refused before it came here; should it come all the same, nothing may be placed by a guess.
        let nowhere = || Constraint { key: NodeKey::Id, test: Test::AnyOf(Vec::new()) };
        let constraints: Vec<(String, Constraint)> = key
            .constraints
            .iter()
            .map(|text| (text.clone(), text.parse().unwrap_or_else(|_| nowhere())))
            .collect();
        let parsed = constraints.iter().map(|(_, constraint)| constraint.clone());
        let (of_node, of_class) = parsed.partition(|constraint| constraint.key.is_of_one_node());
        let spread = key.spread.iter().take(LEVELS).cloned().collect();
        Self {
            constraints,
            of_class,
            of_node,
            spread,
            classes: Vec::new(),
            domains: Vec::new(),
            groups: HashMap::new(),
        }
    }

    /// The keys of labels that make a difference to it.
    pub(super) fn labels(&self) -> impl Iterator<Item = &str> {
        let of_constraints = self.of_class.iter().filter_map(|constraint| match &constraint.key {
            NodeKey::Label(key) => Some(key.as_str()),
            _ => None,
        });
        of_constraints.chain(self.spread.iter().map(String::as_str))
    }

    /// Forgets all classes, because they were made anew.
    pub(super) fn reset(&mut self) {
        self.classes.clear();
        self.domains.clear();
        self.groups.clear();
    }

    pub(super) fn classes_known(&self) -> usize {
        self.classes.len()
    }

    /// Looks at the next class; `facts` is what its nodes have in common.
    pub(super) fn add_class(&mut self, facts: &NodeRegistration) {
        // Constraints over ids are not among these.
        let nobody = NodeId::from_uuid(Uuid::nil());
        let admitted = self.of_class.iter().all(|constraint| constraint.holds(nobody, facts));
        let values: Vec<Option<String>> =
            self.spread.iter().map(|key| facts.labels.get(key).cloned()).collect();
        let groups: Vec<u32> = (1..=values.len()).map(|level| self.group(&values[..level])).collect();
        let class = number(self.classes.len());
        let domain = self.domains.iter().position(|domain| domain.groups == groups).unwrap_or_else(|| {
            self.domains.push(Domain { groups, classes: Vec::new() });
            self.domains.len() - 1
        });
        if admitted {
            self.domains[domain].classes.push(class);
        }
        self.classes.push((number(domain), admitted));
    }

    fn group(&mut self, values: &[Option<String>]) -> u32 {
        let next = number(self.groups.len());
        *self.groups.entry(values.to_vec()).or_insert(next)
    }

    pub(super) fn groups_len(&self) -> usize {
        self.groups.len()
    }

    /// The domain of a class.
    pub(super) fn domain(&self, class: u32) -> Option<&Domain> {
        self.domains.get(self.classes.get(class as usize)?.0 as usize)
    }

    /// Whether nodes of the class pass every constraint that nodes share.
    pub(super) fn admits_class(&self, class: u32) -> bool {
        self.classes.get(class as usize).is_some_and(|(_, admitted)| *admitted)
    }

    /// Whether the node passes the constraints that are about single nodes.
    pub(super) fn admits_node(&self, id: NodeId, node: &NodeRegistration) -> bool {
        self.of_node.iter().all(|constraint| constraint.holds(id, node))
    }

    pub(super) fn asks_for_single_nodes(&self) -> bool {
        !self.of_node.is_empty()
    }

    /// The names or ids of which a node must have one, where the app asks for certain nodes.
    pub(super) fn named(&self) -> Option<(&NodeKey, &[String])> {
        self.of_node.iter().find_map(|constraint| match (&constraint.key, &constraint.test) {
            (key @ (NodeKey::Id | NodeKey::Hostname), Test::AnyOf(values)) => Some((key, values.as_slice())),
            _ => None,
        })
    }
}

pub(super) fn number(index: usize) -> u32 {
    u32::try_from(index).expect("nodes, and what they are grouped by, are numbered by u32")
}
