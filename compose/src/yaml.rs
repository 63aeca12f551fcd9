//! YAML 1.2 into trees. Aliases are followed and merge keys applied, within a bound.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag as YamlTag};

use crate::node::{DEPTH_MAX, Entry, Node, Place, Scalar, Table, Tag, Value, is_null};
use crate::problem::{Problem, Problems, shown};

/// Values of all files together, those that aliases repeat included.
pub const NODES_MAX: usize = 2_000_000;
/// Of all files together.
pub const BYTES_MAX: usize = 32 << 20;

/// How many more values may come.
#[derive(Debug)]
pub struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(NODES_MAX)
    }
}

impl Budget {
    pub(crate) fn take(&mut self, count: usize, place: &Place) -> Result<(), Problem> {
        self.0 = self.0.checked_sub(count).ok_or_else(|| {
            let message = format!(
                "there are more than {NODES_MAX} values, with what aliases and other files repeat; split the project"
            );
            Problem::new(place, message)
        })?;
        Ok(())
    }
}

/// Which tags of its own a kind of file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// Those that say what becomes of an earlier file's value.
    Compose,
    None,
}

/// The text of a file, without a byte order mark.
///
/// # Errors
///
/// Where it stops being UTF-8.
pub fn decoded(file: &Arc<str>, octets: Vec<u8>) -> Result<String, Problem> {
    let text = String::from_utf8(octets).map_err(|error| {
        let good = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
        let last = good.rsplit('\n').next().unwrap_or_default();
        let place = Place::new(file, good.matches('\n').count() + 1, last.chars().count() + 1);
        Problem::new(&place, "the file is not UTF-8 from here on")
    })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// The documents of a text, without those that are empty.
///
/// # Errors
///
/// What is no YAML, or more than the budget allows.
pub fn parse(file: &Arc<str>, text: &str, tags: Tags, budget: &mut Budget) -> Result<Vec<Node>, Problems> {
    let mut builder = Builder {
        file,
        tags,
        documents: Vec::new(),
        open: Vec::new(),
        anchors: HashMap::new(),
        budget,
        problems: Vec::new(),
    };
    for event in Parser::new_from_str(text) {
        let done = match event {
            Ok((event, span)) => builder.take(event, span),
            Err(error) => {
                let place = Place::new(file, error.marker().line(), error.marker().col() + 1);
                Err(match error.info() {
                    "recursion limit exceeded" => too_deep(&place),
                    info => Problem::new(&place, format!("this is not YAML: {info}")),
                })
            }
        };
        if let Err(problem) = done {
            builder.problems.push(problem);
            break;
        }
    }
    Problems::or(builder.problems, builder.documents)
}

struct Builder<'a> {
    file: &'a Arc<str>,
    tags: Tags,
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize, usize)>,
    budget: &'a mut Budget,
    /// Errors after which the rest can be read all the same.
    problems: Vec<Problem>,
}

/// A container whose end has not come.
struct Open {
    anchor: usize,
    place: Place,
    tag: Tag,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Table { entries: Table, key: Option<Key>, merged: Vec<Node> },
}

enum Key {
    Name(String, Place),
    /// It is there twice, which was said.
    Doubled,
    /// `<<`.
    Merge,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let place = Place::new(self.file, span.start.line(), span.start.col() + 1);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Alias(anchor) => self.alias(anchor, &place),
            Event::Scalar(text, style, anchor, tag) => {
                self.budget.take(1, &place)?;
                let is_plain = style == ScalarStyle::Plain;
                if self.wants_key() {
                    return self.set_key(&text, place, is_plain);
                }
                let (tag, is_text) = read_tag(tag.as_deref(), self.tags, &place)?;
                let is_text = is_text || !is_plain;
                let value = if !is_text && is_null(&text) {
                    Value::Null
                } else {
                    Value::Scalar(Scalar { text: text.into_owned(), is_text })
                };
                self.add(Node { place, tag, value }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(anchor, tag.as_deref(), place, Content::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                let content = Content::Table { entries: Table::new(), key: None, merged: Vec::new() };
                self.open(anchor, tag.as_deref(), place, content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
        }
    }

    fn alias(&mut self, anchor: usize, place: &Place) -> Result<(), Problem> {
        if self.wants_key() {
            return Err(Problem::new(place, "a key must be a plain word or a text in quotes"));
        }
        let Some((node, count, depth)) = self.anchors.get(&anchor) else {
            return Err(Problem::new(place, "the alias leads to nothing that ends before it"));
        };
        self.budget.take(*count, place)?;
        if self.open.len() + depth > DEPTH_MAX {
            return Err(too_deep(place));
        }
        let node = node.clone();
        self.add(node, 0)
    }

    fn open(
        &mut self,
        anchor: usize,
        tag: Option<&YamlTag>,
        place: Place,
        content: Content,
    ) -> Result<(), Problem> {
        self.budget.take(1, &place)?;
        let (tag, _) = read_tag(tag, self.tags, &place)?;
        if self.wants_key() {
            return Err(Problem::new(&place, "a key must be a plain word or a text in quotes"));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(too_deep(&place));
        }
        self.open.push(Open { anchor, place, tag, content });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Problem> {
        let Some(Open { anchor, place, tag, content }) = self.open.pop() else { return Ok(()) };
        let value = match content {
            Content::List(items) => Value::List(items),
            Content::Table { mut entries, merged, .. } => {
                for node in &merged {
                    merge_into(&mut entries, node)?;
                }
                Value::Table(entries)
            }
        };
        self.add(Node { place, tag, value }, anchor)
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Table { key: None, .. }, .. }))
    }

    fn set_key(&mut self, text: &str, place: Place, is_plain: bool) -> Result<(), Problem> {
        let Some(Open { content: Content::Table { key, entries, .. }, .. }) = self.open.last_mut() else {
            return Ok(());
        };
        *key = Some(match entries.get(text) {
            _ if is_plain && text == "<<" => Key::Merge,
            Some(first) => {
                let message = format!(
                    "the key `{}` is here twice; it stands in line {} already",
                    shown(text),
                    first.place.line
                );
                self.problems.push(Problem::new(&place, message));
                Key::Doubled
            }
            None => Key::Name(text.to_owned(), place),
        });
        Ok(())
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        if anchor != 0 {
            let (count, depth) = node.measure();
            self.budget.take(count, &node.place)?;
            self.anchors.insert(anchor, (node.clone(), count, depth));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None if node.value == Value::Null => {}
            None => self.documents.push(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Table { entries, key, merged }) => match key.take() {
                Some(Key::Name(name, place)) => {
                    entries.insert(name, Entry { place, node });
                }
                Some(Key::Merge) => merged.push(node),
                Some(Key::Doubled) | None => {}
            },
        }
        Ok(())
    }
}

/// `<<`: what the table does not say itself. Of several tables the first wins.
fn merge_into(entries: &mut Table, node: &Node) -> Result<(), Problem> {
    match &node.value {
        Value::Table(base) => {
            for (key, entry) in base {
                entries.entry(key.clone()).or_insert_with(|| entry.clone());
            }
            Ok(())
        }
        Value::List(items) if items.iter().all(|item| item.table().is_some()) => {
            items.iter().try_for_each(|item| merge_into(entries, item))
        }
        _ => {
            Err(Problem::new(&node.place, "`<<` takes a table, or a list of tables, such as `<<: *defaults`"))
        }
    }
}

/// What a tag says of the value that it stands before, and whether that is a text whatever it looks like.
fn read_tag(tag: Option<&YamlTag>, known: Tags, place: &Place) -> Result<(Tag, bool), Problem> {
    let Some(tag) = tag else { return Ok((Tag::Merge, false)) };
    if tag.is_yaml_core_schema() {
        return match tag.suffix.as_str() {
            "str" => Ok((Tag::Merge, true)),
            "int" | "float" | "bool" | "null" | "map" | "seq" => Ok((Tag::Merge, false)),
            other => Err(Problem::new(
                place,
                format!("the tag `!!{}` is not known here; leave it out", shown(other)),
            )),
        };
    }
    match (tag.handle.as_str(), tag.suffix.as_str()) {
        (_, other) if known == Tags::None => {
            Err(Problem::new(place, format!("the tag `!{}` is not known here; leave it out", shown(other))))
        }
        ("!", "reset") => Ok((Tag::Reset, false)),
        ("!", "override") => Ok((Tag::Override, false)),
        (_, other) => {
            let message =
                format!("the tag `!{}` is not known here; there are `!reset` and `!override`", shown(other));
            Err(Problem::new(place, message))
        }
    }
}

fn too_deep(place: &Place) -> Problem {
    Problem::new(place, format!("more than {DEPTH_MAX} lists and tables are within each other"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(text: &str) -> Vec<Node> {
        parse(&"f.yml".into(), text, Tags::Compose, &mut Budget::default()).unwrap()
    }

    fn message(text: &str) -> String {
        parse(&"f.yml".into(), text, Tags::Compose, &mut Budget::default()).unwrap_err().to_string()
    }

    #[test]
    fn every_key_and_value_knows_its_place() {
        let root = &documents("a: 1\nb:\n  c: [x, 'y']\n")[0];
        let c = root.get("b").unwrap().entry("c").unwrap();
        assert_eq!(c.place.to_string(), "f.yml:3:3");
        assert_eq!(c.node.items()[1].place.to_string(), "f.yml:3:10");
        assert_eq!(root.place_of("b.c.nowhere").to_string(), "f.yml:3:3");
    }

    #[test]
    fn merge_keys_add_what_the_table_does_not_say_itself() {
        let root = &documents("x: &x {a: 1, b: 1}\ny: &y {b: 2, c: 2}\nz:\n  b: 3\n  <<: [*x, *y]\n")[0];
        let z = root.get("z").unwrap();
        let of = |key| z.get(key).and_then(Node::text);
        assert_eq!((of("a"), of("b"), of("c")), (Some("1"), Some("3"), Some("2")));
        assert!(message("a:\n  <<: 7\n").starts_with("f.yml:2:7: `<<` takes a table"));
    }

    #[test]
    fn what_is_no_yaml_or_has_no_meaning_here_is_refused_by_place() {
        for (text, expected) in [
            ("a: 1\na: 2\n", "f.yml:2:1: the key `a` is here twice; it stands in line 1 already"),
            (
                "a: !secret x\n",
                "f.yml:1:4: the tag `!secret` is not known here; there are `!reset` and `!override`",
            ),
            ("? [a]\n: b\n", "f.yml:1:3: a key must be a plain word or a text in quotes"),
            ("a: *nowhere\n", "f.yml:1:4: this is not YAML"),
            ("services:\n\tweb: {}\n", "f.yml:2"),
            ("a: [1\n", "f.yml:"),
        ] {
            assert!(message(text).starts_with(expected), "{text:?}: {}", message(text));
        }
    }

    #[test]
    fn a_bomb_ends_at_a_bound() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        assert!(message(&bomb).contains("more than 2000000 values"), "{}", message(&bomb));
        let mut deep = "a0: &a0 [x]\n".to_owned();
        for level in 1..100 {
            deep.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
        }
        assert!(message(&deep).contains("within each other"));
        assert!(message(&"[".repeat(100_000)).contains("within each other"));
    }

    #[test]
    fn tags_say_what_becomes_of_what_was_there() {
        let root = &documents("a: !reset null\nb: !override [x]\nc: !!str 1\n")[0];
        assert_eq!(root.get("a").unwrap().tag, Tag::Reset);
        assert_eq!(root.get("b").unwrap().tag, Tag::Override);
        assert_eq!(root.get("c").unwrap().value, Value::Scalar(Scalar { text: "1".into(), is_text: true }));
    }
}
