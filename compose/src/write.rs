//! Trees as YAML: block style throughout, with quotes where a word could be taken for something else.

use std::fmt::Write as _;

use crate::node::{Node, Scalar, Table, Value, is_null};

#[derive(Clone, Copy, Debug, Default)]
pub struct Writer {
    /// Keys at the top that come before the others, which are in the order of the alphabet.
    pub first: &'static [&'static str],
    /// Whether a `$` in a value begins a variable for whoever reads it.
    pub has_variables: bool,
}

impl Writer {
    /// A table as a document; nothing of anything else.
    pub fn write(&self, root: &Node) -> String {
        let mut text = String::new();
        let Some(mut rest) = root.table().cloned() else { return text };
        for key in self.first {
            if let Some(entry) = rest.remove(*key) {
                self.table(&mut text, &Table::from([((*key).to_owned(), entry)]), 0);
            }
        }
        self.table(&mut text, &rest, 0);
        text
    }

    fn table(&self, text: &mut String, entries: &Table, indent: usize) {
        for (key, entry) in entries {
            // Keys are not interpolated.
            let _ = write!(text, "{:indent$}{}:", "", word(key, true));
            self.value(text, &entry.node, indent);
        }
    }

    /// What follows the colon of a key or the dash of an item, up to the end of its lines.
    fn value(&self, text: &mut String, node: &Node, indent: usize) {
        match &node.value {
            Value::Null => text.push_str(" null\n"),
            Value::Scalar(scalar) => {
                let _ = writeln!(text, " {}", self.escaped(scalar));
            }
            Value::Table(entries) if entries.is_empty() => text.push_str(" {}\n"),
            Value::List(items) if items.is_empty() => text.push_str(" []\n"),
            Value::Table(entries) => {
                text.push('\n');
                self.table(text, entries, indent + 2);
            }
            Value::List(items) => {
                text.push('\n');
                items.iter().for_each(|item| self.item(text, item, indent + 2));
            }
        }
    }

    fn item(&self, text: &mut String, item: &Node, indent: usize) {
        match &item.value {
            Value::Table(entries) if !entries.is_empty() => {
                let mut block = String::new();
                self.table(&mut block, entries, indent + 2);
                // The dash takes the place of the first key's indentation.
                let _ = write!(text, "{:indent$}- {}", "", &block[indent + 2..]);
            }
            _ => {
                let _ = write!(text, "{:indent$}-", "");
                self.value(text, item, indent);
            }
        }
    }

    fn escaped(&self, scalar: &Scalar) -> String {
        if self.has_variables {
            // `$` would begin one.
            return word(&scalar.text.replace('$', "$$"), scalar.is_text);
        }
        word(&scalar.text, scalar.is_text)
    }
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
    quoted(words)
}

/// A text in double quotes, which every reader of YAML reads as that text.
pub fn quoted(words: &str) -> String {
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
