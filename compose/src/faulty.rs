//! Entries of a project with something wrong in them: the others are looked at further, so that all that is wrong is told at once.
//!
//! What is wrong is left out of an entry, so whatever was said of the rest of it could be about the gap alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::node::{Entry, Node};
use crate::problem::Problem;

/// Tables of names that people choose, at the top of a file.
const SERVICES: &str = "services";
const OTHERS: [&str; 5] = ["networks", "volumes", "secrets", "configs", "models"];

#[derive(Debug, Default)]
pub(crate) struct Faulty {
    /// Names, by the section that they stand in.
    entries: BTreeMap<String, BTreeSet<String>>,
    /// Problems that were told of these entries.
    told: usize,
}

impl Faulty {
    /// Takes note of the problems that were found in an entry: those with these numbers.
    pub(crate) fn note(&mut self, section: &str, name: &str, found: Range<usize>) {
        if !found.is_empty() {
            self.told += found.len();
            self.add(section, name);
        }
    }

    /// Nothing more is said of an entry, though nothing was found in it: it may have its settings from one that is wrong.
    pub(crate) fn add(&mut self, section: &str, name: &str) {
        self.entries.entry(section.to_owned()).or_default().insert(name.to_owned());
    }

    pub(crate) fn has(&self, section: &str, name: &str) -> bool {
        self.entries.get(section).is_some_and(|names| names.contains(name))
    }

    pub(crate) fn has_service(&self) -> bool {
        self.entries.contains_key(SERVICES)
    }

    /// Whether each of these problems is one of an entry, so that the rest of the project is what people meant.
    pub(crate) fn are_all(&self, problems: &[Problem]) -> bool {
        self.told >= problems.len()
    }

    /// Takes such services out of a project. Of the others the names stay, which services may use.
    pub(crate) fn settle(&self, project: &mut Node) {
        for (section, names) in &self.entries {
            let Some(found) = project.table_mut().and_then(|table| table.get_mut(section)) else { continue };
            let place = found.place.clone();
            let Some(entries) = found.node.table_mut() else { continue };
            if section == SERVICES {
                entries.retain(|name, _| !names.contains(name));
                continue;
            }
            for name in names {
                let empty = || Entry { place: place.clone(), node: Node::empty_table(&place) };
                entries.entry(name.clone()).or_insert_with(empty);
            }
        }
    }
}

/// Whether a key at the top of a file has entries of its own.
pub(crate) fn is_section(key: &str) -> bool {
    key == SERVICES || OTHERS.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Place;

    #[test]
    fn a_service_that_is_wrong_goes_and_a_network_stays_by_name() {
        let place = Place::new(&"f".into(), 1, 1);
        let table = |names: &[&str]| {
            Node::table_at(&place, names.iter().map(|name| (*name, Node::empty_table(&place))))
        };
        let mut project =
            Node::table_at(&place, [("services", table(&["a", "b"])), ("networks", table(&["front"]))]);
        let mut faulty = Faulty::default();
        faulty.note("services", "a", 0..2);
        faulty.note("services", "b", 2..2);
        faulty.note("networks", "back", 2..3);
        faulty.settle(&mut project);
        assert_eq!(
            project.to_json(),
            serde_json::json!({"services": {"b": {}}, "networks": {"back": {}, "front": {}}})
        );
        assert!(faulty.has("services", "a") && !faulty.has("services", "b") && faulty.has_service());
        let problems: Vec<Problem> = (0..4).map(|number| Problem::new(&place, number.to_string())).collect();
        assert!(faulty.are_all(&problems[..3]), "all three are of entries");
        assert!(!faulty.are_all(&problems), "and a fourth is not");
    }
}
