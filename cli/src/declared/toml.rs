//! TOML into the tree.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::node::{Entry, Fault, Node, Place, Value};

pub fn parse(text: &str) -> Result<Node, Vec<Fault>> {
    let lines = Lines::of(text);
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut faults: Vec<Fault> = errors
        .iter()
        .map(|error| {
            let place = error.span().map_or(Place::new(1, 1), |span| lines.place(span.start));
            let message = error.message().trim_end_matches('.').replace('\n', ", ");
            Fault::new(place, format!("this is not TOML: {message}"))
        })
        .collect();
    let node = Node::new(Place::new(1, 1), of_table(table.get_ref(), &lines, &mut faults));
    if faults.is_empty() {
        return Ok(node);
    }
    faults.sort_by_key(|fault| fault.place);
    Err(faults)
}

fn of_table(table: &DeTable<'_>, lines: &Lines<'_>, faults: &mut Vec<Fault>) -> Value {
    let entry = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| Entry {
        key: AsRef::<str>::as_ref(key.get_ref()).to_owned(),
        place: lines.place(key.span().start),
        node: of_value(value, lines, faults),
    };
    Value::Table(table.iter().map(entry).collect())
}

fn of_value(value: &Spanned<DeValue<'_>>, lines: &Lines<'_>, faults: &mut Vec<Fault>) -> Node {
    let place = lines.place(value.span().start);
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(AsRef::<str>::as_ref(text).to_owned()),
        DeValue::Integer(number) => whole_number(number.as_str(), number.radix()).unwrap_or_else(|| {
            faults.push(Fault::new(place, "the number is too large"));
            Value::Null
        }),
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(is) => Value::Bool(*is),
        DeValue::Datetime(_) => {
            faults.push(Fault::new(place, "no setting is a date; write a text in quotes"));
            Value::Null
        }
        DeValue::Array(items) => {
            Value::List(items.iter().map(|item| of_value(item, lines, faults)).collect())
        }
        DeValue::Table(table) => of_table(table, lines, faults),
    };
    Node::new(place, value)
}

fn whole_number(text: &str, radix: u32) -> Option<Value> {
    let small = i64::from_str_radix(text, radix).ok().map(Value::Int);
    small.or_else(|| u64::from_str_radix(text, radix).ok().map(Value::Large))
}

/// Where lines begin, in octets.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
    is_ascii: bool,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts, is_ascii: text.is_ascii() }
    }

    fn place(&self, offset: usize) -> Place {
        let offset = offset.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line - 1];
        let column = match self.text.get(start..offset) {
            Some(before) if !self.is_ascii => before.chars().count(),
            _ => offset - start,
        };
        Place::new(line, column + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_their_places() {
        let node =
            parse("# ä\n[[resources]]\nname = \"a\"\n[resources.limits]\nmemory = '1MiB' # ä\ncpu = 0x10\n")
                .unwrap();
        let Value::List(resources) = &node.get("resources").unwrap().value else { panic!("{node:?}") };
        let limits = resources[0].get("limits").unwrap();
        let memory = limits.entry("memory").unwrap();
        assert_eq!((memory.place, memory.node.place), (Place::new(5, 1), Place::new(5, 10)));
        assert_eq!(limits.get("cpu").unwrap().value, Value::Int(16));
    }

    #[test]
    fn all_errors_of_a_text_are_told() {
        let faults = parse("a = \nb = 1\nb = 2\nc = 1979-05-27\nd = 99999999999999999999\n").unwrap_err();
        let lines: Vec<u32> = faults.iter().map(|fault| fault.place.line).collect();
        assert_eq!(lines, [1, 3, 4, 5], "{faults:?}");
    }
}
