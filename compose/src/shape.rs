//! One file's tree in its long form: every key known, every value of the kind that its key takes.

use wharf_types::suggest::nearest;

use crate::faulty::Faulty;
use crate::keys::{Branch, Kind, root};
use crate::node::{Entry, Node, Scalar, Table, Tag, Value};
use crate::problem::{Problem, shown};
use crate::quantity;
use crate::short::Short;

/// The long form of a file. What is wrong is added to the problems, and left out; `faulty` has the entries in which it was.
pub(crate) fn shaped(node: Node, problems: &mut Vec<Problem>, faulty: &mut Faulty) -> Node {
    let place = node.place.clone();
    if node.table().is_none() {
        let message = "a compose file is a table with `services`";
        problems.push(Problem::new(&place, message));
        return Node::empty_table(&place);
    }
    let shaped = Shaper { extensions: true, problems, faulty: Some(faulty) }.value(node, root(), "");
    shaped.unwrap_or_else(|| Node::empty_table(&place))
}

/// A tree of another kind of file with the keys of a table, and no others. What is wrong is added to the problems, and left out.
pub fn shaped_by(node: Node, branch: &Branch, problems: &mut Vec<Problem>) -> Node {
    let place = node.place.clone();
    let shaped = Shaper { extensions: false, problems, faulty: None }.value(node, branch, "");
    shaped.unwrap_or_else(|| Node::empty_table(&place))
}

struct Shaper<'a> {
    /// Whether keys that begin with `x-` are for people's own use.
    extensions: bool,
    problems: &'a mut Vec<Problem>,
    /// Entries of a compose file with something wrong in them.
    faulty: Option<&'a mut Faulty>,
}

impl Shaper<'_> {
    /// None: it says nothing, or it was refused.
    fn value(&mut self, node: Node, branch: &Branch, name: &str) -> Option<Node> {
        if node.tag == Tag::Reset {
            return Some(Node { value: Value::Null, ..node });
        }
        let key = branch.key();
        let place = node.place.clone();
        if node.value == Value::Null {
            return null(node, key.kind);
        }
        let long = match key.short {
            Some(short) if key.kind == Kind::List => self.each_long(node, short),
            Some(short) => short(node),
            None => Ok(node),
        };
        let shaped = long.and_then(|node| self.of_kind(node, branch, name));
        shaped.map_err(|problem| self.problems.push(problem)).ok().map(|node| Node { place, ..node })
    }

    /// Each item of a list by itself, so that what is wrong with one hides nothing of the others.
    fn each_long(&mut self, node: Node, short: Short) -> Result<Node, Problem> {
        let Node { place, tag, value } = node;
        let Value::List(items) = value else { return short(Node { place, tag, value }) };
        let mut long = Vec::with_capacity(items.len());
        for item in items {
            let alone = Node { place: place.clone(), tag, value: Value::List(vec![item]) };
            match short(alone) {
                Ok(Node { value: Value::List(made), .. }) => long.extend(made),
                Ok(other) => long.push(other),
                Err(problem) => self.problems.push(problem),
            }
        }
        Ok(Node { place, tag, value: Value::List(long) })
    }

    fn of_kind(&mut self, node: Node, branch: &Branch, name: &str) -> Result<Node, Problem> {
        let Node { place, tag, value } = node;
        let wrong = |wanted: &str| {
            let name = if name.is_empty() { String::new() } else { format!(" of `{}`", shown(name)) };
            Err(Problem::new(&place, format!("the value{name} must be {wanted}")))
        };
        let scalar = |value: Result<Scalar, String>, text: &str| match value {
            Ok(scalar) => Ok(Value::Scalar(scalar)),
            Err(message) => Err(Problem::new(&place, format!("`{}` {message}", shown(text)))),
        };
        let plain = |text: String| Scalar { text, is_text: false };
        let quoted = |text: String| Scalar { text, is_text: true };
        let value = match (branch.key().kind, value) {
            (Kind::Any, value) => value,
            (Kind::Table, Value::Table(entries)) => Value::Table(self.known(entries, branch)),
            (Kind::Named, Value::Table(entries)) => Value::Table(self.named(entries, branch, name)),
            (Kind::List, Value::List(items)) => Value::List(self.items(items, branch, name)),
            (Kind::Texts, Value::List(items)) => Value::List(texts(items)?),
            (Kind::Words, Value::List(items)) => Value::List(texts(items)?),
            (Kind::Words, Value::Scalar(Scalar { text, .. })) => Value::List(words(&text, &place)?),
            (Kind::Pairs | Kind::TextTable, Value::Table(entries)) => Value::Table(pairs_of_table(entries)?),
            (Kind::Pairs, Value::List(items)) => Value::Table(pairs_of_list(&items)?),
            (Kind::Text, Value::Scalar(Scalar { text, .. })) => Value::Scalar(quoted(text)),
            (Kind::Bool, Value::Scalar(Scalar { text, .. })) => {
                scalar(quantity::boolean(&text).map(|is| plain(is.to_owned())), &text)?
            }
            (Kind::Int, Value::Scalar(Scalar { text, .. })) => {
                scalar(quantity::whole(&text).map(plain), &text)?
            }
            (Kind::Number, Value::Scalar(Scalar { text, .. })) => {
                scalar(quantity::number(&text).map(plain), &text)?
            }
            (Kind::Duration, Value::Scalar(Scalar { text, .. })) => {
                scalar(quantity::duration(&text).map(quoted), &text)?
            }
            (Kind::SizeOrNone, Value::Scalar(Scalar { text, .. })) if text == "-1" => {
                Value::Scalar(quoted(text))
            }
            (Kind::Size | Kind::SizeOrNone, Value::Scalar(Scalar { text, .. })) => {
                scalar(quantity::size(&text).map(quoted), &text)?
            }
            (Kind::Mode, Value::Scalar(Scalar { text, is_text })) => {
                scalar(mode(&text, is_text).map(quoted), &text)?
            }
            (Kind::Word(known), Value::Scalar(Scalar { text, .. })) => {
                if !known.contains(&text.as_str()) {
                    let list = known.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
                    return Err(Problem::new(&place, format!("`{}` is not one of {list}", shown(&text))));
                }
                Value::Scalar(quoted(text))
            }
            (Kind::Table | Kind::Named, _) => return wrong("a table"),
            (Kind::List, _) => return wrong("a list"),
            (Kind::Texts, _) => return wrong("a list of texts"),
            (Kind::Words, _) => return wrong("a command line, or a list of its words"),
            (Kind::Pairs, _) => return wrong("a table of texts, or a list of `NAME=value`"),
            (Kind::TextTable, _) => return wrong("a table of texts"),
            (Kind::Bool, _) => return wrong("`true` or `false`"),
            _ => return wrong("one text or number, and no table or list"),
        };
        Ok(Node { place, tag, value })
    }

    /// A table whose keys are listed. Extensions are left out.
    fn known(&mut self, entries: Table, branch: &Branch) -> Table {
        let mut shaped = Table::new();
        for (name, Entry { place, node }) in entries {
            let child = branch.names().find(|known| *known == name).and_then(|name| branch.child(name));
            let Some(child) = child else {
                if !self.extensions {
                    self.problems.push(Problem::new(&place, unknown(&name, branch)));
                } else if name == "x-wharf" {
                    let message = "`x-wharf` says nothing here; it belongs to a service or a volume";
                    self.problems.push(Problem::new(&place, message));
                } else if !name.starts_with("x-") {
                    self.problems.push(Problem::new(&place, unknown(&name, branch)));
                }
                continue;
            };
            if let Some(node) = self.value(node, child, &name) {
                shaped.insert(name, Entry { place, node });
            }
        }
        shaped
    }

    /// A table of names that people choose. `section` is what the table itself is called.
    fn named(&mut self, entries: Table, branch: &Branch, section: &str) -> Table {
        // A service has `networks` as well, which are not those at the top.
        let is_at_the_top = root().child(section).is_some_and(|at_the_top| std::ptr::eq(at_the_top, branch));
        let mut shaped = Table::new();
        for (name, Entry { place, node }) in entries {
            let child = branch.child("*").unwrap_or(branch);
            let before = self.problems.len();
            let value = self.value(node, child, &name);
            if let Some(faulty) = self.faulty.as_mut().filter(|_| is_at_the_top) {
                faulty.note(section, &name, before..self.problems.len());
            }
            if let Some(node) = value {
                shaped.insert(name, Entry { place, node });
            }
        }
        shaped
    }

    fn items(&mut self, items: Vec<Node>, branch: &Branch, name: &str) -> Vec<Node> {
        let child = branch.child("*").unwrap_or(branch);
        items.into_iter().filter_map(|item| self.value(item, child, name)).collect()
    }
}

/// A key without a value is as if it were not there; a name without one is one that says nothing more.
fn null(node: Node, kind: Kind) -> Option<Node> {
    match kind {
        Kind::Table => Some(Node { value: Value::Table(Table::new()), ..node }),
        _ => None,
    }
}

fn unknown(name: &str, branch: &Branch) -> String {
    let known: Vec<&str> = branch.names().filter(|name| !name.starts_with("x-")).collect();
    let name = shown(name);
    match nearest(&name, known.iter().copied()) {
        Some(meant) => format!("there is no key `{name}` here; did you mean `{meant}`?"),
        None if known.len() > 12 => format!("there is no key `{name}` here"),
        None => {
            let list = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            format!("there is no key `{name}` here; there are {list}")
        }
    }
}

fn texts(items: Vec<Node>) -> Result<Vec<Node>, Problem> {
    let text = |item: Node| match item.value {
        Value::Scalar(scalar) => {
            Ok(Node { value: Value::Scalar(Scalar { is_text: true, ..scalar }), ..item })
        }
        Value::Null => {
            Ok(Node { value: Value::Scalar(Scalar { text: String::new(), is_text: true }), ..item })
        }
        _ => Err(Problem::new(&item.place, "every item of this list must be a text")),
    };
    items.into_iter().map(text).collect()
}

fn words(text: &str, place: &crate::node::Place) -> Result<Vec<Node>, Problem> {
    let words = crate::words::split(text).ok_or_else(|| {
        Problem::new(place, "a quote of this command line is not closed; close it, or write a list of words")
    })?;
    Ok(words.into_iter().map(|word| Node::text_at(place, word)).collect())
}

fn pairs_of_table(entries: Table) -> Result<Table, Problem> {
    let pair = |(name, Entry { place, node }): (String, Entry)| {
        let value = match node.value {
            Value::Null => Value::Null,
            Value::Scalar(scalar) => Value::Scalar(Scalar { is_text: true, ..scalar }),
            _ => {
                return Err(Problem::new(
                    &node.place,
                    format!("the value of `{}` must be a text", shown(&name)),
                ));
            }
        };
        Ok((name, Entry { place, node: Node { value, ..node } }))
    };
    entries.into_iter().map(pair).collect()
}

fn pairs_of_list(items: &[Node]) -> Result<Table, Problem> {
    let mut table = Table::new();
    for item in items {
        let Some(text) = item.text() else {
            return Err(Problem::new(
                &item.place,
                "every item of this list must be a text such as `NAME=value`",
            ));
        };
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Value::Scalar(Scalar { text: value.to_owned(), is_text: true })),
            None => (text, Value::Null),
        };
        let node = Node { place: item.place.clone(), tag: item.tag, value };
        table.insert(name.to_owned(), Entry { place: item.place.clone(), node });
    }
    Ok(table)
}

/// Octal, as everybody writes it. A number without a leading zero is a decimal one to YAML, and nobody means that.
fn mode(text: &str, is_text: bool) -> Result<String, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let is_octal = is_text || text.starts_with('0');
    let mode = u32::from_str_radix(digits, if is_octal { 8 } else { 10 }).ok().filter(|mode| *mode <= 0o7777);
    mode.map(|mode| format!("{mode:04o}")).ok_or_else(|| "is not a mode of a file; write `0440`".to_owned())
}
