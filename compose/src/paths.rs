//! Paths of files: relative to the folder of the project, with `/` in between, and as short as they can be.

use crate::node::{Node, Table};

/// A path that stands in a file of this folder. What is absolute, or in somebody's home, stays.
pub(crate) fn joined(folder: &str, path: &str) -> String {
    if path.starts_with('/') {
        return absolute(path);
    }
    if path.starts_with('~') {
        return path.to_owned();
    }
    if folder.starts_with('/') {
        return absolute(&format!("{folder}/{path}"));
    }
    let path = if folder.is_empty() { short(path) } else { short(&format!("{folder}/{path}")) };
    if path.starts_with("..") { path } else { format!("./{path}") }
}

/// Above the root there is nothing but the root.
fn absolute(path: &str) -> String {
    let short = short(path);
    let below: Vec<&str> = short.split('/').filter(|part| *part != "..").collect();
    format!("/{}", below.join("/"))
}

/// Without `.` and, as far as possible, `..`.
fn short(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// The folder that a file is in; empty where the path has none.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| if folder.is_empty() { "/" } else { folder })
}

/// Makes the paths of a file relative to the folder of the project; they are relative to `folder` within that.
pub(crate) fn rebase(document: &mut Node, folder: &str) {
    let Some(root) = document.table_mut() else { return };
    for section in ["secrets", "configs"] {
        each(root, section, |resource| at(resource, "file", folder));
    }
    if let Some(include) = root.get_mut("include") {
        for item in items(&mut include.node) {
            if let Some(item) = item.table_mut() {
                all(item, "path", folder);
                all(item, "env_file", folder);
                at(item, "project_directory", folder);
            }
        }
    }
    each(root, "services", |service| of_service(service, folder));
}

fn of_service(service: &mut Table, folder: &str) {
    all(service, "label_file", folder);
    for (list, key) in [("env_file", "path"), ("volumes", "source")] {
        let entry = service.get_mut(list);
        for item in entry.into_iter().flat_map(|entry| items(&mut entry.node)) {
            if list == "volumes" && item.get("type").and_then(Node::text) != Some("bind") {
                continue;
            }
            item.table_mut().into_iter().for_each(|item| at(item, key, folder));
        }
    }
    for (table, key) in [("extends", "file"), ("credential_spec", "file"), ("build", "context")] {
        let table = service.get_mut(table).and_then(|entry| entry.node.table_mut());
        table.into_iter().for_each(|table| at(table, key, folder));
    }
    let build = service.get_mut("build").and_then(|entry| entry.node.table_mut());
    let contexts = build.and_then(|build| build.get_mut("additional_contexts"));
    for (_, entry) in contexts.and_then(|entry| entry.node.table_mut()).into_iter().flatten() {
        make(&mut entry.node, folder);
    }
    let develop = service.get_mut("develop").and_then(|entry| entry.node.table_mut());
    let watch = develop.and_then(|develop| develop.get_mut("watch"));
    for item in watch.into_iter().flat_map(|entry| items(&mut entry.node)) {
        item.table_mut().into_iter().for_each(|item| at(item, "path", folder));
    }
    if let Some(image) = service.get_mut("image").filter(|image| image.node.text().is_some_and(is_component))
    {
        make(&mut image.node, folder);
    }
}

/// Whether an image is a file with a component.
pub(crate) fn is_component(image: &str) -> bool {
    image.ends_with(".wasm") && !is_url(image)
}

fn each(root: &mut Table, section: &str, change: impl Fn(&mut Table)) {
    let section = root.get_mut(section).and_then(|entry| entry.node.table_mut());
    for (_, entry) in section.into_iter().flatten() {
        entry.node.table_mut().into_iter().for_each(&change);
    }
}

fn items(node: &mut Node) -> &mut [Node] {
    match &mut node.value {
        crate::node::Value::List(items) => items,
        _ => &mut [],
    }
}

fn all(table: &mut Table, key: &str, folder: &str) {
    let entry = table.get_mut(key);
    entry.into_iter().flat_map(|entry| items(&mut entry.node)).for_each(|item| make(item, folder));
}

fn at(table: &mut Table, key: &str, folder: &str) {
    if let Some(entry) = table.get_mut(key) {
        make(&mut entry.node, folder);
    }
}

fn make(node: &mut Node, folder: &str) {
    if let crate::node::Value::Scalar(scalar) = &mut node.value
        && !is_url(&scalar.text)
    {
        scalar.text = joined(folder, &scalar.text);
    }
}

/// Whether it is the address of something, or the name of a service, and no path.
pub(crate) fn is_url(text: &str) -> bool {
    text.contains("://")
        || text.starts_with("git@")
        || text.starts_with("service:")
        || text.starts_with("github.com/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_project_and_short() {
        for (folder, path, expected) in [
            ("", "a", "./a"),
            ("", "./a/../b/", "./b"),
            ("", ".", "./"),
            ("", "../a", "../a"),
            ("sub", "a", "./sub/a"),
            ("./sub", "../../a", "../a"),
            ("sub", "/a/./b", "/a/b"),
            ("/x", "../../../etc", "/etc"),
            ("sub", "~/a", "~/a"),
            ("..", "a", "../a"),
        ] {
            let made = joined(folder, path);
            assert_eq!(made, expected, "{folder} {path}");
            assert_eq!(joined("", &made), made);
        }
        assert_eq!((parent("a/b.yml"), parent("b.yml"), parent("/b.yml")), ("a", "", "/"));
    }
}
