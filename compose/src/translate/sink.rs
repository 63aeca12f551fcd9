//! What a translation has to say, and the walk over all keys that finds out most of it.

use std::collections::{BTreeMap, BTreeSet};

use super::network::Networks;
use super::{Kind, volumes};
use crate::keys::{Branch, Key, Support, root};
use crate::node::{Node, Place, Value};
use crate::problem::{Notice, Problem, shown};
use crate::project::Project;

#[derive(Debug, Default)]
pub(super) struct Sink {
    pub(super) notices: Vec<Notice>,
    pub(super) problems: Vec<Problem>,
    /// Containers of which nobody says how much memory they may have.
    pub(super) unlimited: Vec<(Place, String)>,
    /// Networks of which it was told that they have too many services. None: the one of whoever names none.
    pub(super) crowded: BTreeSet<Option<String>>,
}

impl Sink {
    pub(super) fn notice(&mut self, place: &Place, message: impl Into<String>) {
        self.notices.push(Notice::new(place, message));
    }

    pub(super) fn problem(&mut self, place: &Place, message: impl Into<String>) {
        self.problems.push(Problem::new(place, message));
    }
}

/// Asks the table about every key that is there.
pub(super) fn review_project(
    project: &Project,
    kinds: &BTreeMap<&str, Kind>,
    networks: &Networks<'_>,
    sink: &mut Sink,
) {
    let is_wasm = |name: &str| kinds.get(name) == Some(&Kind::Wasm);
    let services = project.services.iter().filter(|(name, _)| is_wasm(name));
    let of_wasm: BTreeSet<&str> = services.flat_map(|(_, service)| volumes::of_service(service)).collect();
    for (section, entry) in project.tree.entries() {
        let Some(branch) = root().child(section) else { continue };
        for_key(
            section,
            &entry.place,
            &entry.node,
            branch,
            |key| key.container,
            sink,
            |sink| {
                for (name, entry) in entry.node.entries() {
                    let Some(branch) = branch.child("*") else { continue };
                    let is_wasm = match section.as_str() {
                        "services" => is_wasm(name),
                        "volumes" => of_wasm.contains(name.as_str()),
                        "networks" => !networks.has_container(name),
                        _ => false,
                    };
                    let of: fn(&Key) -> Support = if is_wasm { |key| key.app } else { |key| key.container };
                    review(&entry.node, branch, of, sink);
                }
            },
        );
    }
}

/// What is below a key that is honoured.
fn review(node: &Node, branch: &Branch, of: fn(&Key) -> Support, sink: &mut Sink) {
    match &node.value {
        Value::Table(entries) => {
            for (name, entry) in entries {
                let Some(branch) = branch.child(name) else { continue };
                for_key(name, &entry.place, &entry.node, branch, of, sink, |sink| {
                    review(&entry.node, branch, of, sink);
                });
            }
        }
        Value::List(items) => {
            let Some(branch) = branch.child("*") else { return };
            items.iter().for_each(|item| review(item, branch, of, sink));
        }
        Value::Null | Value::Scalar(_) => {}
    }
}

fn for_key(
    name: &str,
    place: &Place,
    node: &Node,
    branch: &Branch,
    of: fn(&Key) -> Support,
    sink: &mut Sink,
    below: impl FnOnce(&mut Sink),
) {
    match of(branch.key()) {
        Support::Honoured => below(sink),
        _ if node.says_nothing() => {}
        Support::Translated(how) => sink.notice(place, format!("`{}`: {how}", shown(name))),
        Support::Refused(why) => sink.problem(place, format!("`{}`: {why}", shown(name))),
    }
}
