//! Resources as files: what is printed is read back as the same.

use std::fmt::Write as _;

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::{Map, Value};
use wharf_compose::write::quoted;

use super::yaml;

/// Keys that a person looks for first.
const FIRST: [&str; 4] = ["kind", "name", "namespace", "artifact"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Yaml,
    Json,
    Toml,
}

pub fn document(document: &Map<String, Value>, output: Output) -> anyhow::Result<String> {
    match output {
        Output::Yaml => Ok(to_yaml(document)),
        Output::Json => serde_json::to_string_pretty(document)
            .map(|text| text + "\n")
            .context("could not write it as JSON"),
        Output::Toml => ::toml::to_string(document).context("could not write it as TOML"),
    }
}

/// Block style throughout, with quotes where a word could be taken for something else.
pub fn to_yaml(document: &Map<String, Value>) -> String {
    let mut text = String::new();
    table(&mut text, document, 0, true);
    text
}

fn table(text: &mut String, table: &Map<String, Value>, indent: usize, is_top: bool) {
    let place = |key: &str| FIRST.iter().position(|first| is_top && *first == key).unwrap_or(FIRST.len());
    let mut keys: Vec<&String> = table.keys().collect();
    keys.sort_by_key(|key| (place(key), *key));
    for key in keys {
        let _ = write!(text, "{:indent$}{}:", "", word(key));
        value(text, &table[key], indent);
    }
}

/// What follows the colon of a key or the dash of an item, up to the end of its lines.
fn value(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(entries) if entries.is_empty() => text.push_str(" {}\n"),
        Value::Array(items) if items.is_empty() => text.push_str(" []\n"),
        Value::Object(entries) => {
            text.push('\n');
            table(text, entries, indent + 2, false);
        }
        Value::Array(items) => {
            text.push('\n');
            for item in items {
                self::item(text, item, indent + 2);
            }
        }
        Value::String(words) => {
            let _ = writeln!(text, " {}", word(words));
        }
        other => {
            let _ = writeln!(text, " {other}");
        }
    }
}

fn item(text: &mut String, item: &Value, indent: usize) {
    match item {
        Value::Object(entries) if !entries.is_empty() => {
            let mut block = String::new();
            table(&mut block, entries, indent + 2, false);
            // The dash takes the place of the first key's indentation.
            let _ = write!(text, "{:indent$}- {}", "", &block[indent + 2..]);
        }
        other => {
            let _ = write!(text, "{:indent$}-", "");
            value(text, other, indent);
        }
    }
}

/// A word as it is, or in quotes.
fn word(words: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
    let starts = words.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_'));
    let is_text = yaml::resolve(words) == yaml_text(words);
    if starts && is_text && words.chars().all(is_plain) {
        return words.to_owned();
    }
    quoted(words)
}

fn yaml_text(words: &str) -> super::node::Value {
    super::node::Value::Text(words.to_owned())
}
