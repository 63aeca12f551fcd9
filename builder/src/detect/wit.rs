//! Which worlds the WIT files of a folder define.

use super::DetectError;
use crate::tree::{EntryKind, Tree};

/// Names of the worlds in the `.wit` files of a folder, not of the packages below it, sorted.
pub(super) fn worlds(tree: &dyn Tree, folder: &str) -> Result<Vec<String>, DetectError> {
    let mut worlds = Vec::new();
    for entry in tree.list(folder).unwrap_or_default() {
        if entry.kind == EntryKind::File
            && entry.name.ends_with(".wit")
            && let Some(text) = tree.read(&format!("{folder}/{}", entry.name))?
        {
            worlds.extend(worlds_of(&text));
        }
    }
    worlds.sort();
    worlds.dedup();
    Ok(worlds)
}

fn worlds_of(text: &str) -> Vec<String> {
    let text = without_comments(text).replace('{', " { ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let worlds = words.windows(3).filter(|words| words[0] == "world" && words[2] == "{");
    worlds.map(|words| words[1].trim_start_matches('%').to_owned()).filter(|name| is_name(name)).collect()
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn without_comments(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::with_capacity(text.len());
    while let Some(at) = rest.find('/') {
        kept.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = match rest.as_bytes().get(1) {
            Some(b'/') => rest.find('\n').unwrap_or(rest.len()),
            Some(b'*') => rest.find("*/").map_or(rest.len(), |end| end + 2),
            _ => {
                kept.push('/');
                1
            }
        };
        rest = &rest[end..];
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worlds_are_found_by_their_names() {
        let text = "package a:b@0.1.0; // world not {\n/* world neither { */ world http-app { export x: func(); }\n\
                    world %two{ }\ninterface world-like { world: func(); }";
        assert_eq!(worlds_of(text), ["http-app", "two"]);
        assert!(worlds_of("world").is_empty() && worlds_of("").is_empty() && worlds_of("/*").is_empty());
        assert!(worlds_of("world $(id) {").is_empty());
    }
}
