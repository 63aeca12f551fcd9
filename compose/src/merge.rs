//! Two files into one, by the rules of the Compose Specification: tables are merged, lists appended, other values replaced, and some keys
//! have rules of their own, which [`crate::keys`] lists.

use crate::keys::{Branch, Kind, Merge, root};
use crate::node::{Entry, Node, Tag, Value};

/// What `base` and then `over` say. Both are in their long form.
pub(crate) fn merged(base: Node, over: Node) -> Node {
    merged_at(base, over, root())
}

/// The same for two services.
pub(crate) fn merged_service(base: Node, over: Node) -> Node {
    match root().at("services.*") {
        Some(branch) => merged_at(base, over, branch),
        None => over,
    }
}

fn merged_at(base: Node, over: Node, branch: &Branch) -> Node {
    if over.tag == Tag::Override || branch.key().merge == Merge::Replace {
        return over;
    }
    match (base.value, over.value) {
        (Value::Table(mut entries), Value::Table(later)) => {
            // The options of one driver say nothing to another.
            let changes_driver = branch.key().path.ends_with(".logging")
                && matches!((entries.get("driver"), later.get("driver")), (Some(a), Some(b)) if a != b);
            if changes_driver {
                entries.remove("options");
            }
            for (name, entry) in later {
                let child = branch.child(&name).unwrap_or(branch);
                match entries.remove(&name) {
                    _ if entry.node.tag == Tag::Reset => {}
                    Some(Entry { node, .. }) => {
                        let node = merged_at(node, entry.node, child);
                        entries.insert(name, Entry { place: entry.place, node });
                    }
                    None => {
                        entries.insert(name, entry);
                    }
                }
            }
            Node { place: over.place, tag: base.tag, value: Value::Table(entries) }
        }
        (Value::List(items), Value::List(later)) => {
            let value = Value::List(match branch.key().merge {
                Merge::Unique(keys) => by_keys(items, later, keys, branch),
                _ => appended(items, later, branch.key().kind),
            });
            Node { place: over.place, tag: base.tag, value }
        }
        (_, value) => Node { place: over.place, tag: over.tag, value },
    }
}

fn appended(mut items: Vec<Node>, later: Vec<Node>, kind: Kind) -> Vec<Node> {
    for item in later {
        if kind != Kind::Texts || !items.contains(&item) {
            items.push(item);
        }
    }
    items
}

fn by_keys(mut items: Vec<Node>, later: Vec<Node>, keys: &[&str], branch: &Branch) -> Vec<Node> {
    let child = branch.child("*").unwrap_or(branch);
    for item in later {
        let is_same = |other: &Node| keys.iter().all(|key| text(other, key) == text(&item, key));
        match items.iter().position(is_same) {
            // A bind mount in place of a volume has nothing of what that said.
            Some(at) if text(&items[at], "type") != text(&item, "type") => items[at] = item,
            Some(at) => {
                let base = items[at].clone();
                items[at] = merged_at(base, item, child);
            }
            None => items.push(item),
        }
    }
    items
}

fn text<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.get(key).and_then(Node::text)
}

/// Takes out what is reset but was never set, and forgets what tags said.
pub(crate) fn settled(node: &mut Node) {
    node.tag = Tag::Merge;
    match &mut node.value {
        Value::Table(entries) => {
            entries.retain(|_, entry| entry.node.tag != Tag::Reset);
            entries.values_mut().for_each(|entry| settled(&mut entry.node));
        }
        Value::List(items) => {
            items.retain(|item| item.tag != Tag::Reset);
            items.iter_mut().for_each(settled);
        }
        Value::Null | Value::Scalar(_) => {}
    }
}
