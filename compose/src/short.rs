//! Short forms: what one text, or a list of names, stands for.
//!
//! Each makes the long form, so that files can be merged and everything behind knows one form only.

mod mounts;
mod ports;

use crate::node::{Entry, Node, Place, Table, Value};
use crate::problem::{Problem, shown};

pub(crate) use mounts::mounts;
pub(crate) use ports::{ports, range as port_range};

pub(crate) type Short = fn(Node) -> Result<Node, Problem>;

/// A list in which texts stand for tables, or for several.
fn each(
    node: Node,
    long: impl Fn(&str, &Place) -> Result<Vec<Node>, Problem>,
    complete: impl Fn(Node) -> Result<Node, Problem>,
) -> Result<Node, Problem> {
    let Value::List(items) = node.value else { return Ok(node) };
    let mut made = Vec::with_capacity(items.len());
    for item in items {
        match item.text() {
            Some(text) => made.extend(long(text, &item.place)?),
            None => made.push(complete(item)?),
        }
    }
    Ok(Node { value: Value::List(made), ..node })
}

/// A text that stands for the table with this one key.
fn of_key(node: Node, key: &str) -> Node {
    match node.text() {
        Some(text) => {
            let table = Node::table_at(&node.place, [(key, Node::text_at(&node.place, text))]);
            Node { tag: node.tag, ..table }
        }
        None => node,
    }
}

/// One text for a list with it.
pub(crate) fn one_or_many(node: Node) -> Result<Node, Problem> {
    Ok(match node.text() {
        Some(text) => {
            let item = Node::text_at(&node.place, text);
            Node { value: Value::List(vec![item]), ..node }
        }
        None => node,
    })
}

pub(crate) fn include(node: Node) -> Result<Node, Problem> {
    each(node, |path, place| Ok(vec![Node::table_at(place, [("path", Node::text_at(place, path))])]), Ok)
}

pub(crate) fn build(node: Node) -> Result<Node, Problem> {
    Ok(of_key(node, "context"))
}

pub(crate) fn extends(node: Node) -> Result<Node, Problem> {
    Ok(of_key(node, "service"))
}

pub(crate) fn ssh(node: Node) -> Result<Node, Problem> {
    one_or_many(node)
}

/// `external: {name: x}`, which Compose gave up long ago.
pub(crate) fn external(node: Node) -> Result<Node, Problem> {
    match node.table() {
        Some(_) => {
            let message = "this is the old form; write `external: true`, and `name` beside it";
            Err(Problem::new(&node.place, message))
        }
        None => Ok(node),
    }
}

/// Names for a table of them.
pub(crate) fn names(node: Node) -> Result<Node, Problem> {
    named(node, Node::empty_table)
}

pub(crate) fn depends_on(node: Node) -> Result<Node, Problem> {
    named(node, |place| Node::table_at(place, [("condition", Node::text_at(place, "service_started"))]))
}

fn named(node: Node, value: impl Fn(&Place) -> Node) -> Result<Node, Problem> {
    let Value::List(items) = &node.value else { return Ok(node) };
    let mut table = Table::new();
    for item in items {
        let Some(name) = item.text() else {
            return Err(Problem::new(
                &item.place,
                "a list here holds names; write a table to say more of each",
            ));
        };
        table.insert(name.to_owned(), Entry { place: item.place.clone(), node: value(&item.place) });
    }
    Ok(Node { value: Value::Table(table), ..node })
}

/// Secrets of a service, or of a build: a file below `/run/secrets` unless it says another.
pub(crate) fn grants(node: Node) -> Result<Node, Problem> {
    granted(node, |source| source.to_owned())
}

/// Configs of a service: a file below `/`.
pub(crate) fn config_grants(node: Node) -> Result<Node, Problem> {
    granted(node, |source| format!("/{source}"))
}

fn granted(node: Node, target: impl Fn(&str) -> String) -> Result<Node, Problem> {
    let long = |source: &str, place: &Place| {
        let entries = [("source", source.to_owned()), ("target", target(source))];
        Ok(vec![Node::table_at(place, entries.map(|(key, text)| (key, Node::text_at(place, text))))])
    };
    let complete = |mut item: Node| {
        let source = item.get("source").and_then(Node::text).map(str::to_owned);
        let (Some(source), true) = (source, item.table().is_some()) else {
            return Err(Problem::new(
                &item.place,
                "`source` is needed: the name that it has at the top of the file",
            ));
        };
        if item.get("target").is_none() {
            item.set("target", Node::text_at(&item.place.clone(), target(&source)));
        }
        Ok(item)
    };
    each(node, long, complete)
}

pub(crate) fn env_file(node: Node) -> Result<Node, Problem> {
    let long =
        |path: &str, place: &Place| Ok(vec![Node::table_at(place, [("path", Node::text_at(place, path))])]);
    each(one_or_many(node)?, long, Ok)
}

pub(crate) fn devices(node: Node) -> Result<Node, Problem> {
    let long = |text: &str, place: &Place| {
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, permissions) = match parts[..] {
            [source] => (source, source, "rwm"),
            [source, target] if target.starts_with('/') => (source, target, "rwm"),
            [source, permissions] => (source, source, permissions),
            [source, target, permissions] => (source, target, permissions),
            _ => {
                let message = format!("`{}` is not a device; write `/dev/x:/dev/y:rwm`", shown(text));
                return Err(Problem::new(place, message));
            }
        };
        let entries = [("source", source), ("target", target), ("permissions", permissions)];
        Ok(vec![Node::table_at(place, entries.map(|(key, text)| (key, Node::text_at(place, text))))])
    };
    let complete = |mut item: Node| {
        let place = item.place.clone();
        let Some(source) = item.get("source").and_then(Node::text).map(str::to_owned) else {
            return Err(Problem::new(&place, "`source` is needed: the path of the device on its node"));
        };
        for (key, text) in [("target", source.as_str()), ("permissions", "rwm")] {
            if item.get(key).is_none() {
                item.set(key, Node::text_at(&place, text));
            }
        }
        Ok(item)
    };
    each(node, long, complete)
}

pub(crate) fn gpus(node: Node) -> Result<Node, Problem> {
    match node.text() {
        Some("all") => {
            let all = Node::table_at(&node.place, [("count", Node::text_at(&node.place, "all"))]);
            Ok(Node { value: Value::List(vec![all]), ..node })
        }
        Some(other) => {
            Err(Problem::new(&node.place, format!("`{}` is not known; write `all`, or a list", shown(other))))
        }
        None => Ok(node),
    }
}

/// `host:address` or `host=address`, for a table of hosts and their addresses.
pub(crate) fn hosts(node: Node) -> Result<Node, Problem> {
    let Value::List(items) = &node.value else { return Ok(node) };
    let mut table = Table::new();
    for item in items {
        let text = item.text().unwrap_or_default();
        let Some((host, address)) = text.split_once('=').or_else(|| text.split_once(':')) else {
            let message = format!("`{}` is not a host and its address; write `host=address`", shown(text));
            return Err(Problem::new(&item.place, message));
        };
        let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let address = Node::text_at(&item.place, address.trim());
        let entry = table.entry(host.trim().to_owned()).or_insert_with(|| Entry {
            place: item.place.clone(),
            node: Node::new(&item.place, Value::List(Vec::new())),
        });
        if let Value::List(addresses) = &mut entry.node.value {
            addresses.push(address);
        }
    }
    Ok(Node { value: Value::Table(table), ..node })
}

/// A command line that is given to the shell of the image.
pub(crate) fn test(node: Node) -> Result<Node, Problem> {
    if let Some(text) = node.text() {
        let words = if text == "NONE" { vec!["NONE"] } else { vec!["CMD-SHELL", text] };
        let words = words.into_iter().map(|word| Node::text_at(&node.place, word)).collect();
        return Ok(Node { value: Value::List(words), ..node });
    }
    match node.items().first().and_then(Node::text) {
        Some("NONE" | "CMD" | "CMD-SHELL") | None => Ok(node),
        Some(other) => {
            let message =
                format!("a test begins with `CMD`, `CMD-SHELL` or `NONE`, and not with `{}`", shown(other));
            Err(Problem::new(&node.place, message))
        }
    }
}

/// One number for both limits.
pub(crate) fn ulimit(node: Node) -> Result<Node, Problem> {
    Ok(match node.text() {
        Some(text) => {
            let number = Node::plain_at(&node.place, text);
            let table = Node::table_at(&node.place, [("soft", number.clone()), ("hard", number)]);
            Node { tag: node.tag, ..table }
        }
        None => node,
    })
}
