//! A resolved project as a compose file again: one file, long forms, keys in the order of the alphabet.

use std::fmt::Write as _;

use crate::node::{Node, Scalar, Table, Value, is_null};
use crate::project::Project;

impl Project {
    /// YAML that loads as the same project from the same folder. Variables are replaced, so values that came from them are in it.
    pub fn to_yaml(&self) -> String {
        let mut text = String::new();
        if let Some(root) = self.tree.table() {
            table(&mut text, root, 0);
        }
        text
    }
}

fn table(text: &mut String, entries: &Table, indent: usize) {
    for (key, entry) in entries {
        // Keys are not interpolated.
        let _ = write!(text, "{:indent$}{}:", "", word(key, true));
        value(text, &entry.node, indent);
    }
}

/// What follows the colon of a key or the dash of an item, up to the end of its lines.
fn value(text: &mut String, node: &Node, indent: usize) {
    match &node.value {
        Value::Null => text.push_str(" null\n"),
        Value::Scalar(scalar) => {
            let _ = writeln!(text, " {}", escaped(scalar));
        }
        Value::Table(entries) if entries.is_empty() => text.push_str(" {}\n"),
        Value::List(items) if items.is_empty() => text.push_str(" []\n"),
        Value::Table(entries) => {
            text.push('\n');
            table(text, entries, indent + 2);
        }
        Value::List(items) => {
            text.push('\n');
            items.iter().for_each(|item| self::item(text, item, indent + 2));
        }
    }
}

fn item(text: &mut String, item: &Node, indent: usize) {
    match &item.value {
        Value::Table(entries) if !entries.is_empty() => {
            let mut block = String::new();
            table(&mut block, entries, indent + 2);
            // The dash takes the place of the first key's indentation.
            let _ = write!(text, "{:indent$}- {}", "", &block[indent + 2..]);
        }
        _ => {
            let _ = write!(text, "{:indent$}-", "");
            value(text, item, indent);
        }
    }
}

fn escaped(scalar: &Scalar) -> String {
    // `$` would begin a variable.
    word(&scalar.text.replace('$', "$$"), scalar.is_text)
}

/// A word as it is, or in quotes.
fn word(words: &str, is_text: bool) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | '+');
    let starts = words.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '_'));
    let bare = Scalar { text: words.to_owned(), is_text: false };
    let reads_as_text = bare.to_json().is_string() && !is_null(words) && !is_older_boolean(words);
    if words.chars().all(is_plain) && !words.is_empty() && (!is_text || (starts && reads_as_text)) {
        return words.to_owned();
    }
    let mut quoted = String::from("\"");
    for c in words.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control()
                || matches!(u32::from(c), 0x85 | 0x2028 | 0x2029 | 0xfeff | 0xfffe | 0xffff) =>
            {
                let _ = write!(quoted, "\\U{:08x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Other readers of YAML take these for `true` and `false`.
fn is_older_boolean(words: &str) -> bool {
    matches!(words.to_ascii_lowercase().as_str(), "yes" | "no" | "on" | "off" | "y" | "n")
}
