//! JSON into the tree. A reader of its own, because each value has to know its place.

use super::node::{DEPTH_MAX, Entry, Fault, NODES_MAX, Node, Place, Value};
use std::collections::HashMap;

pub fn parse(text: &str) -> Result<Node, Vec<Fault>> {
    let mut reader = Reader { text, at: 0, line: 1, column: 1, nodes: 0, faults: Vec::new() };
    let parsed = reader.value(0).and_then(|node| {
        reader.space();
        if reader.at < text.len() {
            return Err(reader.fault("something follows the end of the document"));
        }
        Ok(node)
    });
    match parsed {
        Ok(node) if reader.faults.is_empty() => Ok(node),
        Ok(_) => Err(reader.faults),
        Err(fault) => {
            reader.faults.push(fault);
            Err(reader.faults)
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    /// In octets.
    at: usize,
    line: usize,
    column: usize,
    nodes: usize,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    fn place(&self) -> Place {
        Place::new(self.line, self.column)
    }

    fn fault(&self, message: impl Into<String>) -> Fault {
        Fault::new(self.place(), format!("this is not JSON: {}", message.into()))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Goes over the next octets, which end with a character.
    fn skip(&mut self, bytes: usize) {
        for c in self.text[self.at..self.at + bytes].chars() {
            if c == '\n' {
                (self.line, self.column) = (self.line + 1, 1);
            } else {
                self.column += 1;
            }
        }
        self.at += bytes;
    }

    fn space(&mut self) {
        let rest = self.rest();
        let space = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        self.skip(space);
    }

    fn expected(&self, what: &str) -> Fault {
        match self.peek() {
            // What cannot be seen is told by its escape, and nothing else.
            Some(found) if found.is_alphanumeric() || found.is_ascii_punctuation() => {
                self.fault(format!("`{found}` stands where {what} is expected"))
            }
            Some(found) => self.fault(format!("`{}` stands where {what} is expected", found.escape_debug())),
            None => self.fault(format!("it ends where {what} is expected")),
        }
    }

    /// Goes over this character, if it comes next.
    fn takes(&mut self, wanted: char) -> bool {
        self.space();
        let is = self.peek() == Some(wanted);
        if is {
            self.skip(wanted.len_utf8());
        }
        is
    }

    fn value(&mut self, depth: usize) -> Result<Node, Fault> {
        self.space();
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Fault::new(
                self.place(),
                format!("there are more than {NODES_MAX} values; split the file"),
            ));
        }
        if depth > DEPTH_MAX {
            let message = format!("more than {DEPTH_MAX} lists and tables are within each other");
            return Err(Fault::new(self.place(), message));
        }
        let place = self.place();
        let value = match self.peek() {
            Some('{') => self.table(depth)?,
            Some('[') => self.list(depth)?,
            Some('"') => Value::Text(self.string()?),
            Some(c) if c == '-' || c.is_ascii_digit() => self.number()?,
            _ => self.word()?,
        };
        Ok(Node::new(place, value))
    }

    fn table(&mut self, depth: usize) -> Result<Value, Fault> {
        self.skip(1);
        let (mut entries, mut seen) = (Vec::new(), HashMap::<String, Place>::new());
        if self.takes('}') {
            return Ok(Value::Table(entries));
        }
        loop {
            self.space();
            let place = self.place();
            if self.peek() != Some('"') {
                return Err(self.expected("a key in quotes"));
            }
            let key = self.string()?;
            if !self.takes(':') {
                return Err(self.expected("`:`"));
            }
            let node = self.value(depth + 1)?;
            match seen.get(&key) {
                Some(first) => {
                    let shown: String = key.chars().take(60).collect();
                    let message =
                        format!("the key `{shown}` is here twice; it stands in line {} already", first.line);
                    self.faults.push(Fault::new(place, message));
                }
                None => {
                    seen.insert(key.clone(), place);
                    entries.push(Entry { key, place, node });
                }
            }
            if self.takes('}') {
                return Ok(Value::Table(entries));
            }
            if !self.takes(',') {
                return Err(self.expected("`,` or `}`"));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, Fault> {
        self.skip(1);
        let mut items = Vec::new();
        if self.takes(']') {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.takes(']') {
                return Ok(Value::List(items));
            }
            if !self.takes(',') {
                return Err(self.expected("`,` or `]`"));
            }
        }
    }

    fn string(&mut self) -> Result<String, Fault> {
        let mut is_escaped = false;
        let end = self.rest().char_indices().skip(1).find(|(_, c)| {
            let ends = *c == '"' && !is_escaped;
            is_escaped = *c == '\\' && !is_escaped;
            ends
        });
        let Some((end, _)) = end else { return Err(self.fault("the text that begins here has no end")) };
        let literal = &self.rest()[..=end];
        let Ok(text) = serde_json::from_str(literal) else {
            return Err(self.fault(
                "the text that begins here has a line end, a control character or an unknown escape in it",
            ));
        };
        self.skip(literal.len());
        Ok(text)
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let is_of_number = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
        let rest = self.rest();
        let literal = &rest[..rest.find(|c| !is_of_number(c)).unwrap_or(rest.len())];
        let parsed = serde_json::from_str::<serde_json::Number>(literal);
        let Ok(number) = parsed else {
            return Err(self.fault("this number is not written as JSON has them"));
        };
        self.skip(literal.len());
        Ok(match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::Large(number),
            (None, None) => Value::Float(number.as_f64().unwrap_or(f64::INFINITY)),
        })
    }

    fn word(&mut self) -> Result<Value, Fault> {
        for (word, value) in
            [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)]
        {
            if self.rest().starts_with(word) {
                self.skip(word.len());
                return Ok(value);
            }
        }
        Err(self.expected("a value"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        let fault = parse(text).unwrap_err().remove(0);
        format!("{}:{} {}", fault.place.line, fault.place.column, fault.message)
    }

    #[test]
    fn values_know_their_places() {
        let node = parse("{\n  \"ä\": [1, \"x\\u00e4\\ud83d\\ude00\"],\n\t\"b\": {\"c\": null}}").unwrap();
        let entry = node.entry("ä").unwrap();
        assert_eq!((entry.place, entry.node.place), (Place::new(2, 3), Place::new(2, 8)));
        let Value::List(items) = &entry.node.value else { panic!("{entry:?}") };
        assert_eq!((items[1].text(), items[1].place), (Some("xä😀"), Place::new(2, 12)));
    }

    #[test]
    fn what_is_no_json_is_told_with_its_place() {
        assert_eq!(message("{\"a\" 1}"), "1:6 this is not JSON: `1` stands where `:` is expected");
        assert_eq!(
            message("{\"a\": 1,}"),
            "1:9 this is not JSON: `}` stands where a key in quotes is expected"
        );
        assert_eq!(message("[1 2]"), "1:4 this is not JSON: `2` stands where `,` or `]` is expected");
        assert_eq!(
            message("{\"a\": 1 \"b\": 2}"),
            "1:9 this is not JSON: `\"` stands where `,` or `}` is expected"
        );
        assert_eq!(message("[1\u{7}]"), "1:3 this is not JSON: `\\u{7}` stands where `,` or `]` is expected");
        assert_eq!(message("[1"), "1:3 this is not JSON: it ends where `,` or `]` is expected");
        assert_eq!(message("{\"a\": \"x\ny\"}").split(' ').next(), Some("1:7"));
        assert!(message("[01]").contains("number"));
        assert!(message("{} {}").contains("follows"));
        assert!(message("").contains("it ends where a value"));
        assert_eq!(
            message("{\"a\":1,\n\"a\":2}"),
            "2:1 the key `a` is here twice; it stands in line 1 already"
        );
        assert!(message(&"[".repeat(100_000)).contains("within each other"));
    }
}
