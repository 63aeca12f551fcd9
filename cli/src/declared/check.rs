//! From a tree to a document. After an error, what is wrong is taken out and the rest is tried again, so that one pass tells all errors.

use serde::Deserialize;
use wharf_types::declare::Kind;
use wharf_types::declare::document::{AppDocument, ConfigDocument, Document, NamespaceDocument};
use wharf_types::spec::InvalidSpec;
use wharf_types::suggest::nearest;

use super::decode::Error;
use super::node::{Fault, Node, Value, Way};

/// Errors of one resource that are looked for.
const FAULTS_MAX: usize = 20;

/// The document, or everything that is wrong with it.
pub fn document(node: &Node) -> Result<Document, Vec<Fault>> {
    if !matches!(node.value, Value::Table(_)) {
        let message = "a resource is a table with `kind`, `name` and settings";
        return Err(vec![Fault::new(node.place, message)]);
    }
    let kind = kind_of(node).map_err(|fault| vec![fault])?;
    let called = match node.get("name").and_then(Node::text) {
        Some(name) => format!("{kind} `{}`", name.chars().take(60).collect::<String>()),
        None => format!("{kind} without a name"),
    };
    let decoded = match kind {
        Kind::Namespace => decode::<NamespaceDocument>(node, |_| Ok(())).map(Document::Namespace),
        Kind::Config => decode(node, ConfigDocument::validate).map(Document::Config),
        Kind::App => decode(node, AppDocument::validate).map(|app| Document::App(Box::new(app))),
    };
    decoded.map_err(|faults| {
        let named = |fault: Fault| Fault { message: format!("{called}: {}", fault.message), ..fault };
        faults.into_iter().map(named).collect()
    })
}

fn kind_of(node: &Node) -> Result<Kind, Fault> {
    let known = || Kind::ALL.iter().map(|kind| kind.as_str());
    let all = || known().map(|kind| format!("`kind: {kind}`")).collect::<Vec<_>>().join(" or ");
    let Some(kind) = node.entry("kind") else {
        let meant = match &node.value {
            Value::Table(entries) => entries.iter().find(|entry| nearest(&entry.key, ["kind"]).is_some()),
            _ => None,
        };
        return Err(match meant {
            Some(entry) => {
                Fault::new(entry.place, format!("`kind` is missing; did you mean it with `{}`?", entry.key))
            }
            None => Fault::new(node.place, format!("`kind` is missing; write {}", all())),
        });
    };
    let word = kind.node.text().unwrap_or_default();
    word.parse().map_err(|_| {
        let shown: String = word.chars().take(60).collect();
        let message = match nearest(word, known()) {
            Some(meant) => format!("there is no kind `{shown}`; did you mean `{meant}`?"),
            None => format!("there is no kind `{shown}`; write {}", all()),
        };
        Fault::new(kind.node.place, message)
    })
}

/// A tree as a type, or everything that is wrong with it.
pub(super) fn decode<T: for<'de> Deserialize<'de>>(
    node: &Node,
    validate: impl Fn(&T) -> Result<(), InvalidSpec>,
) -> Result<T, Vec<Fault>> {
    let first = attempt(node, &validate);
    let mut problem = match first {
        Ok(document) => return Ok(document),
        Err(problem) => problem,
    };
    // Only what has an error is copied, to be taken apart.
    let whole = node;
    let mut node = whole.clone();
    let mut faults: Vec<Fault> = Vec::new();
    // Needed keys that were taken out because of what they held: that they are missing then is no other error.
    let mut taken: Vec<(Vec<usize>, String)> = Vec::new();
    for _ in 0..10 * FAULTS_MAX {
        let path = problem.path();
        let was_taken =
            problem.missing().is_some_and(|key| taken.iter().any(|(at, name)| *at == path && name == key));
        if !was_taken {
            faults.push(problem.fault(&node, whole));
        }
        let removed = remove(&mut node, &path);
        close_gap(&mut taken, &path);
        match removed {
            Some(Some(key)) => {
                let mut at = path;
                at.pop();
                taken.push((at, key));
            }
            Some(None) => {}
            None => break,
        }
        if faults.len() >= FAULTS_MAX {
            break;
        }
        problem = match attempt(&node, &validate) {
            Ok(_) => break,
            Err(problem) => problem,
        };
    }
    Err(faults)
}

/// After something was taken out: what was taken out of it counts no more, and what follows it has moved up.
fn close_gap(taken: &mut Vec<(Vec<usize>, String)>, removed: &[usize]) {
    let Some((last, parent)) = removed.split_last() else { return };
    let depth = parent.len();
    taken.retain(|(at, _)| !at.starts_with(removed));
    for (at, _) in taken.iter_mut().filter(|(at, _)| at.starts_with(parent)) {
        if let Some(step) = at.get_mut(depth).filter(|step| **step > *last) {
            *step -= 1;
        }
    }
}

enum Problem {
    Decode(Error),
    Spec(InvalidSpec, Way),
}

fn attempt<T: for<'de> Deserialize<'de>>(
    node: &Node,
    validate: &impl Fn(&T) -> Result<(), InvalidSpec>,
) -> Result<T, Problem> {
    let document = T::deserialize(node).map_err(Problem::Decode)?;
    match validate(&document) {
        Ok(()) => Ok(document),
        Err(invalid) => {
            let way = node.way(&invalid.path());
            Err(Problem::Spec(invalid, way))
        }
    }
}

impl Problem {
    /// Steps from the resource to what is wrong.
    fn path(&self) -> Vec<usize> {
        match self {
            Self::Decode(error) => error.steps.iter().rev().copied().collect(),
            Self::Spec(_, way) => way.steps.clone(),
        }
    }

    fn missing(&self) -> Option<&str> {
        match self {
            Self::Decode(error) => error.missing,
            // It is about a setting that is not there.
            Self::Spec(invalid, way) => Some(invalid.field.as_str()).filter(|_| way.steps.is_empty()),
        }
    }

    /// `whole` is the resource before anything was taken out of it.
    fn fault(&self, node: &Node, whole: &Node) -> Fault {
        match self {
            Self::Decode(error) => {
                let mut path = self.path();
                if error.is_key {
                    path.pop();
                }
                let field = name_of(node, whole, &path);
                let place = error.place.unwrap_or(node.place);
                let message = error.message.trim_end_matches('.');
                Fault::new(
                    place,
                    if field.is_empty() { message.to_owned() } else { format!("{field}: {message}") },
                )
            }
            Self::Spec(invalid, way) if way.is_whole => {
                let field = name_of(node, whole, &way.steps);
                Fault::new(way.place, format!("{field}: {}", invalid.problem))
            }
            Self::Spec(invalid, way) => Fault::new(way.place, invalid.to_string()),
        }
    }
}

/// Such as `volumes[1].name`. Items are counted as they were in the whole.
fn name_of(node: &Node, whole: &Node, path: &[usize]) -> String {
    let (mut name, mut node, mut whole) = (String::new(), node, Some(whole));
    for step in path {
        match &node.value {
            Value::Table(entries) => {
                let Some(entry) = entries.get(*step) else { break };
                if !name.is_empty() {
                    name.push('.');
                }
                name.push_str(&entry.key);
                node = &entry.node;
                whole = whole.and_then(|whole| whole.get(&entry.key));
            }
            Value::List(items) => {
                let Some(item) = items.get(*step) else { break };
                let all = match whole.map(|whole| &whole.value) {
                    Some(Value::List(all)) => all.as_slice(),
                    _ => &[],
                };
                let at = all.iter().position(|one| one.place == item.place).unwrap_or(*step);
                name.push_str(&format!("[{}]", at + 1));
                (node, whole) = (item, all.get(at));
            }
            _ => break,
        }
    }
    name
}

/// Takes out what a path leads to, and says its key, if it had one. None: it leads nowhere but to the resource itself.
fn remove(node: &mut Node, path: &[usize]) -> Option<Option<String>> {
    let (last, way) = path.split_last()?;
    let mut node = node;
    for step in way {
        node = match &mut node.value {
            Value::Table(entries) => &mut entries.get_mut(*step)?.node,
            Value::List(items) => items.get_mut(*step)?,
            _ => return None,
        };
    }
    match &mut node.value {
        Value::Table(entries) if *last < entries.len() => Some(Some(entries.remove(*last).key)),
        Value::List(items) if *last < items.len() => {
            items.remove(*last);
            Some(None)
        }
        _ => None,
    }
}
