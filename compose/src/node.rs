//! The tree that a file becomes: values, and where they stand.
//!
//! A scalar keeps the text that was written, because what it means depends on its key: `1.10` is a number of processors in one place, and the
//! value of a variable in another.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Number;

/// Containers within each other. No settings come near it, and code that walks a tree may call itself so often.
pub const DEPTH_MAX: usize = 64;

/// Where something stands. Counted from 1; the column in characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub file: Arc<str>,
    pub line: u32,
    pub column: u32,
}

impl Place {
    pub fn new(file: &Arc<str>, line: usize, column: usize) -> Self {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self { file: file.clone(), line: number(line), column: number(column) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub(crate) tag: Tag,
    pub value: Value,
}

/// What a file says about the same key of the files before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tag {
    #[default]
    Merge,
    /// `!reset`: as if nobody had set it.
    Reset,
    /// `!override`: this, and nothing of what was there.
    Override,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Table(Table),
}

pub type Table = BTreeMap<String, Entry>;

#[derive(Clone, Debug)]
pub struct Scalar {
    pub text: String,
    /// Whether it is a text whatever it looks like; otherwise `1` is a number.
    pub is_text: bool,
}

#[derive(Clone, Debug)]
pub struct Entry {
    /// Of the key.
    pub place: Place,
    pub node: Node,
}

/// Two nodes are equal when they say the same, wherever they stand.
impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
    }
}

/// `a` in quotes is no other text than without, but `1` is.
impl PartialEq for Scalar {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && (self.is_text == other.is_text || self.to_json() == other.to_json())
    }
}

impl Node {
    pub fn new(place: &Place, value: Value) -> Self {
        Self { place: place.clone(), tag: Tag::Merge, value }
    }

    pub(crate) fn text_at(place: &Place, text: impl Into<String>) -> Self {
        Self::new(place, Value::Scalar(Scalar { text: text.into(), is_text: true }))
    }

    pub(crate) fn plain_at(place: &Place, text: impl fmt::Display) -> Self {
        Self::new(place, Value::Scalar(Scalar { text: text.to_string(), is_text: false }))
    }

    pub(crate) fn empty_table(place: &Place) -> Self {
        Self::new(place, Value::Table(Table::new()))
    }

    /// A table at the place of the short form that it comes from.
    pub(crate) fn table_at<'a>(place: &Place, entries: impl IntoIterator<Item = (&'a str, Node)>) -> Self {
        let entry = |(key, node): (&str, Node)| (key.to_owned(), Entry { place: place.clone(), node });
        Self::new(place, Value::Table(entries.into_iter().map(entry).collect()))
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.table()?.get(key)
    }

    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The text of a scalar, whatever it means.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    pub fn items(&self) -> &[Node] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    pub fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    pub(crate) fn table_mut(&mut self) -> Option<&mut Table> {
        match &mut self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The entries of a table; none of anything else.
    pub fn entries(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.table().into_iter().flatten()
    }

    pub(crate) fn set(&mut self, key: &str, node: Node) {
        if let Some(table) = self.table_mut() {
            table.insert(key.to_owned(), Entry { place: node.place.clone(), node });
        }
    }

    /// Whether it is as if it were not there.
    pub fn says_nothing(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Scalar(scalar) => !scalar.is_text && scalar.text == "false",
            Value::List(items) => items.is_empty(),
            Value::Table(entries) => entries.is_empty(),
        }
    }

    /// Where the setting of a dotted path stands, or else the nearest that is there.
    pub fn place_of(&self, path: &str) -> &Place {
        let (mut node, mut place) = (self, &self.place);
        for part in path.split('.') {
            let Some(entry) = node.entry(part) else { break };
            (node, place) = (&entry.node, &entry.place);
        }
        place
    }

    /// Values in it, itself included, and how many containers are within each other.
    pub(crate) fn measure(&self) -> (usize, usize) {
        let of_all = |nodes: &mut dyn Iterator<Item = &Node>| {
            nodes
                .map(Node::measure)
                .fold((1, 0), |(count, depth), (more, deep)| (count + more, depth.max(deep)))
        };
        let (count, depth) = match &self.value {
            Value::List(items) => of_all(&mut items.iter()),
            Value::Table(entries) => of_all(&mut entries.values().map(|entry| &entry.node)),
            Value::Null | Value::Scalar(_) => return (1, 0),
        };
        (count, depth + 1)
    }

    /// What a program has made, at the place of what it was made of.
    pub fn of_json(place: &Place, value: &serde_json::Value) -> Self {
        let made = match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {
                Value::Scalar(Scalar { text: value.to_string(), is_text: false })
            }
            serde_json::Value::String(text) => Value::Scalar(Scalar { text: text.clone(), is_text: true }),
            serde_json::Value::Array(items) => {
                Value::List(items.iter().map(|item| Self::of_json(place, item)).collect())
            }
            serde_json::Value::Object(entries) => {
                let entry = |(key, value): (&String, &serde_json::Value)| {
                    (key.clone(), Entry { place: place.clone(), node: Self::of_json(place, value) })
                };
                Value::Table(entries.iter().map(entry).collect())
            }
        };
        Self::new(place, made)
    }

    /// The same without places.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Scalar(scalar) => scalar.to_json(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Table(entries) => {
                let entry = |(key, entry): (&String, &Entry)| (key.clone(), entry.node.to_json());
                serde_json::Value::Object(entries.iter().map(entry).collect())
            }
        }
    }
}

impl Scalar {
    /// What an unquoted word means by the core schema of YAML 1.2, as far as files of settings have use for it.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let text = self.text.as_str();
        let number = || {
            let looks = text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'));
            let whole =
                text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from));
            let number = whole.ok().or_else(|| Number::from_f64(text.parse().ok()?));
            number.filter(|_| looks).map(serde_json::Value::Number)
        };
        match text {
            _ if self.is_text => text.into(),
            "true" | "True" | "TRUE" => true.into(),
            "false" | "False" | "FALSE" => false.into(),
            _ => number().unwrap_or_else(|| text.into()),
        }
    }
}

/// Whether an unquoted word is no value at all.
pub(crate) fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}
