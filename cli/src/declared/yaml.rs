//! YAML 1.2 into the tree. Aliases are followed, within a bound; what a schema beyond the core one would make of a value is not guessed.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::node::{DEPTH_MAX, Entry, Fault, NODES_MAX, Node, Place, Value};

/// The documents of a text, without those that are empty.
pub fn parse(text: &str) -> Result<Vec<Node>, Vec<Fault>> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let done = match event {
            Ok((event, span)) => builder.take(event, place(span)),
            Err(error) => {
                let at = Place::new(error.marker().line(), error.marker().col() + 1);
                Err(match error.info() {
                    "recursion limit exceeded" => too_deep(at),
                    info => Fault::new(at, format!("this is not YAML: {info}")),
                })
            }
        };
        if let Err(fault) = done {
            builder.faults.push(fault);
            break;
        }
    }
    if builder.faults.is_empty() { Ok(builder.documents) } else { Err(builder.faults) }
}

fn place(span: Span) -> Place {
    Place::new(span.start.line(), span.start.col() + 1)
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    /// Errors after which the rest can be read all the same.
    faults: Vec<Fault>,
}

/// A container whose end has not come.
struct Open {
    anchor: usize,
    place: Place,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Table { entries: Vec<Entry>, seen: HashMap<String, Place>, key: Option<(String, Place, bool)> },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, place: Place) -> Result<(), Fault> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) => self.anchors.clear(),
            Event::Alias(anchor) => {
                let Some((count, depth)) = self.anchors.get(&anchor).map(Node::measure) else {
                    return Err(Fault::new(place, "the alias leads to nothing that ends before it"));
                };
                self.count(count, place)?;
                if self.open.len() + depth > DEPTH_MAX {
                    return Err(too_deep(place));
                }
                if let Some(node) = self.anchors.get(&anchor).cloned() {
                    self.add(Node { place, ..node }, 0, true)?;
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, place)?;
                let is_plain = style == ScalarStyle::Plain;
                let as_text = match tag {
                    None => !is_plain,
                    Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => true,
                    Some(_) => return Err(Fault::new(place, "tags are not known here; leave it out")),
                };
                if self.wants_key() {
                    self.set_key(text.into_owned(), place, is_plain);
                    return Ok(());
                }
                let value = if as_text { Value::Text(text.into_owned()) } else { resolve(&text) };
                self.add(Node::new(place, value), anchor, true)?;
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(anchor, tag.is_some(), place, Content::List(Vec::new()))?;
            }
            Event::MappingStart(anchor, tag) => {
                let content = Content::Table { entries: Vec::new(), seen: HashMap::new(), key: None };
                self.open(anchor, tag.is_some(), place, content)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { anchor, place, content }) = self.open.pop() else { return Ok(()) };
                let value = match content {
                    Content::List(items) => Value::List(items),
                    Content::Table { entries, .. } => Value::Table(entries),
                };
                self.add(Node::new(place, value), anchor, false)?;
            }
        }
        Ok(())
    }

    fn count(&mut self, more: usize, place: Place) -> Result<(), Fault> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > NODES_MAX {
            let message =
                format!("there are more than {NODES_MAX} values, with what aliases repeat; split the file");
            return Err(Fault::new(place, message));
        }
        Ok(())
    }

    fn open(&mut self, anchor: usize, tagged: bool, place: Place, content: Content) -> Result<(), Fault> {
        self.count(1, place)?;
        if tagged {
            return Err(Fault::new(place, "tags are not known here; leave it out"));
        }
        if self.wants_key() {
            return Err(Fault::new(place, "a key must be a plain word or a text in quotes"));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(too_deep(place));
        }
        self.open.push(Open { anchor, place, content });
        Ok(())
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Table { key: None, .. }, .. }))
    }

    fn set_key(&mut self, text: String, place: Place, is_plain: bool) {
        let Some(Open { content: Content::Table { key, seen, .. }, .. }) = self.open.last_mut() else {
            return;
        };
        if is_plain && text == "<<" {
            let message = "merge keys (`<<`) are not known here; an alias can stand for a whole value";
            self.faults.push(Fault::new(place, message));
            *key = Some((text, place, false));
            return;
        }
        let is_new = match seen.get(&text) {
            Some(first) => {
                let message = format!(
                    "the key `{}` is here twice; it stands in line {} already",
                    shown(&text),
                    first.line
                );
                self.faults.push(Fault::new(place, message));
                false
            }
            None => {
                seen.insert(text.clone(), place);
                true
            }
        };
        *key = Some((text, place, is_new));
    }

    fn add(&mut self, node: Node, anchor: usize, may_be_key: bool) -> Result<(), Fault> {
        if may_be_key && self.wants_key() {
            // Only an alias comes here: texts were taken as keys before.
            return Err(Fault::new(node.place, "a key must be a plain word or a text in quotes"));
        }
        if anchor != 0 {
            let (count, _) = node.measure();
            self.count(count, node.place)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None if node.value == Value::Null => {}
            None => self.documents.push(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Table { entries, key, .. }) => {
                if let Some((key, place, true)) = key.take() {
                    entries.push(Entry { key, place, node });
                }
            }
        }
        Ok(())
    }
}

fn too_deep(place: Place) -> Fault {
    Fault::new(place, format!("more than {DEPTH_MAX} lists and tables are within each other"))
}

fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

/// What an unquoted word means: the core schema of YAML 1.2.
pub fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    whole_number(text).or_else(|| fraction(text)).unwrap_or_else(|| Value::Text(text.to_owned()))
}

fn whole_number(text: &str) -> Option<Value> {
    let digits = |text: &str, radix| {
        let all = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
        all.then(|| u64::from_str_radix(text, radix).ok())?
    };
    let of = |number: u64| i64::try_from(number).map_or(Value::Large(number), Value::Int);
    if let Some(hex) = text.strip_prefix("0x") {
        return digits(hex, 16).map(of);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return digits(octal, 8).map(of);
    }
    if let Some(negative) = text.strip_prefix('-') {
        return digits(negative, 10)?.try_into().ok().map(|number: i64| Value::Int(-number));
    }
    digits(text.strip_prefix('+').unwrap_or(text), 10).map(of)
}

fn fraction(text: &str) -> Option<Value> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return Some(Value::Float(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY }));
    }
    let starts = unsigned.starts_with(|c: char| c.is_ascii_digit())
        || unsigned.strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let looks = unsigned.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'));
    (starts && looks).then(|| text.parse().ok().map(Value::Float))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(text: &str) -> Vec<String> {
        let faults = parse(text).unwrap_err();
        faults
            .iter()
            .map(|fault| format!("{}:{} {}", fault.place.line, fault.place.column, fault.message))
            .collect()
    }

    #[test]
    fn documents_are_told_apart_and_values_know_their_places() {
        let documents = parse("a: 1\nb:\n  c: [x, 'y']\n---\n---\nz: null\n").unwrap();
        assert_eq!(documents.len(), 2);
        let c = documents[0].get("b").unwrap().entry("c").unwrap();
        assert_eq!(c.place, Place::new(3, 3));
        assert_eq!(c.node.place, Place::new(3, 6));
    }

    #[test]
    fn words_mean_what_the_core_schema_says() {
        for (text, value) in [
            ("no", Value::Text("no".into())),
            ("0x1F", Value::Int(31)),
            ("-7", Value::Int(-7)),
            ("18446744073709551615", Value::Large(u64::MAX)),
            ("1.5e3", Value::Float(1500.0)),
            ("1.2.3", Value::Text("1.2.3".into())),
            ("-", Value::Text("-".into())),
            ("1:30", Value::Text("1:30".into())),
            ("~", Value::Null),
            ("True", Value::Bool(true)),
        ] {
            assert_eq!(resolve(text), value, "{text}");
        }
    }

    #[test]
    fn every_key_that_is_there_twice_is_told_with_both_places() {
        assert_eq!(
            messages("a: 1\nb: {c: 1, c: 2}\na: 2\n"),
            [
                "2:11 the key `c` is here twice; it stands in line 2 already",
                "3:1 the key `a` is here twice; it stands in line 1 already"
            ]
        );
    }

    #[test]
    fn aliases_repeat_a_value_but_not_without_end() {
        let documents = parse("a: &x {m: 1}\nb: *x\n").unwrap();
        assert_eq!(documents[0].get("a").unwrap().value, documents[0].get("b").unwrap().value);
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let before = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
        }
        assert!(messages(&bomb)[0].contains("more than 2000000 values"), "{:?}", messages(&bomb));
        let mut deep = "a0: &a0 [x]\n".to_owned();
        for level in 1..100 {
            deep.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
        }
        assert!(messages(&deep)[0].contains("within each other"));
    }

    #[test]
    fn what_is_nested_too_deeply_or_tagged_is_refused() {
        let deep = messages(&"[".repeat(100_000));
        assert!(deep[0].contains("within each other"), "{deep:?}");
        assert!(messages("a: !!binary x\n")[0].contains("tags"));
        assert!(messages("? [a]\n: b\n")[0].contains("key must be"));
        assert!(messages("a: 1\n  b: 2\n")[0].starts_with("2:"));
        assert!(messages("base: &b {x: 1}\nc:\n  <<: *b\n")[0].contains("merge keys"));
    }
}
