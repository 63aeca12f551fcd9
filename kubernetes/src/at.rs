//! A field of a manifest, with the way to it. Whatever is read is marked, so that what nobody has read is known in the end.

use std::cell::RefCell;
use std::collections::HashSet;

use wharf_compose::node::{Node, Place, Value};
use wharf_compose::problem::shown;

use crate::kind::Kind;

/// One manifest of the files.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// Among all of them.
    pub(crate) number: usize,
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    /// In its long form: every field known.
    pub(crate) node: Node,
    /// Addresses of nodes that somebody has read or told of.
    read: RefCell<HashSet<usize>>,
}

impl Manifest {
    pub(crate) fn new(
        number: usize,
        kind: Kind,
        name: String,
        namespace: Option<String>,
        node: Node,
    ) -> Self {
        let manifest = Self { number, kind, name, namespace, node, read: RefCell::default() };
        // What the manifest itself was made of.
        for path in ["apiVersion", "kind", "metadata.name", "metadata.namespace"] {
            manifest.root().near(path).see();
        }
        manifest
    }

    pub(crate) fn root(&self) -> At<'_> {
        At { manifest: self, node: &self.node, place: &self.node.place, path: String::new() }
    }

    pub(crate) fn subject(&self) -> String {
        format!("{} {}", self.kind.as_str(), shown(&self.name))
    }

    /// `-n NAMESPACE`, for a command about it.
    pub(crate) fn namespace_flag(&self) -> String {
        self.namespace.as_ref().map(|namespace| format!(" -n {namespace}")).unwrap_or_default()
    }

    pub(crate) fn is_read(&self, node: &Node) -> bool {
        self.read.borrow().contains(&address(node))
    }

    fn mark(&self, node: &Node) {
        self.read.borrow_mut().insert(address(node));
    }

    fn mark_all(&self, node: &Node) {
        self.mark(node);
        match &node.value {
            Value::List(items) => items.iter().for_each(|item| self.mark_all(item)),
            Value::Table(entries) => entries.values().for_each(|entry| self.mark_all(&entry.node)),
            Value::Null | Value::Scalar(_) => {}
        }
    }
}

/// Nodes do not move while their manifest is borrowed.
fn address(node: &Node) -> usize {
    std::ptr::from_ref(node).addr()
}

#[derive(Clone, Debug)]
pub(crate) struct At<'a> {
    pub(crate) manifest: &'a Manifest,
    pub(crate) node: &'a Node,
    /// Of the key, or of the item of a list.
    pub(crate) place: &'a Place,
    pub(crate) path: String,
}

impl<'a> At<'a> {
    fn child(&self, name: &str, node: &'a Node, place: &'a Place) -> Self {
        let separator = if self.path.is_empty() { "" } else { "." };
        At { manifest: self.manifest, node, place, path: format!("{}{separator}{name}", self.path) }
    }

    /// The field at a dotted path below this one.
    pub(crate) fn get(&self, path: &str) -> Option<Self> {
        let (mut node, mut place) = (self.node, self.place);
        for part in path.split('.') {
            let entry = node.entry(part)?;
            (node, place) = (&entry.node, &entry.place);
        }
        Some(self.child(path, node, place))
    }

    /// The field, or this one where it is not there: for what is said of it.
    pub(crate) fn near(&self, path: &str) -> Self {
        self.get(path).unwrap_or_else(|| self.clone())
    }

    /// The text of this field, which has one.
    pub(crate) fn word(&self) -> &'a str {
        self.manifest.mark(self.node);
        self.node.text().unwrap_or_default()
    }

    pub(crate) fn text(&self, path: &str) -> Option<&'a str> {
        self.get(path).map(|at| at.word())
    }

    /// The name, or nothing.
    pub(crate) fn text_or_empty(&self, path: &str) -> &'a str {
        self.text(path).unwrap_or_default()
    }

    pub(crate) fn int(&self, path: &str) -> Option<i64> {
        self.text(path)?.parse().ok()
    }

    pub(crate) fn flag(&self, path: &str) -> Option<bool> {
        self.text(path).map(|text| text == "true")
    }

    pub(crate) fn items(&self, path: &str) -> Vec<Self> {
        let Some(list) = self.get(path) else { return Vec::new() };
        self.manifest.mark(list.node);
        let item = |(index, node): (usize, &'a Node)| At {
            manifest: self.manifest,
            node,
            place: &node.place,
            path: format!("{}[{index}]", list.path),
        };
        list.node.items().iter().enumerate().map(item).collect()
    }

    pub(crate) fn texts(&self, path: &str) -> Vec<&'a str> {
        self.items(path).iter().map(At::word).collect()
    }

    pub(crate) fn entries(&self, path: &str) -> Vec<(&'a str, Self)> {
        let Some(table) = self.get(path) else { return Vec::new() };
        self.manifest.mark(table.node);
        table.own_entries()
    }

    pub(crate) fn own_entries(&self) -> Vec<(&'a str, Self)> {
        let entry = |(name, entry): (&'a String, &'a wharf_compose::node::Entry)| {
            (name.as_str(), self.child(&shown(name), &entry.node, &entry.place))
        };
        self.node.entries().map(entry).collect()
    }

    /// Marks all that is below this as told.
    pub(crate) fn tell(&self) {
        self.manifest.mark_all(self.node);
    }

    /// Marks this alone.
    pub(crate) fn see(&self) {
        self.manifest.mark(self.node);
    }
}
