//! Variables in values: `$NAME`, `${NAME}`, and the forms with a default, a replacement or an error.

use std::collections::{BTreeMap, BTreeSet};

use crate::node::{Node, Value};
use crate::problem::{NOTICES_MAX, Notice, Problem, shown};

/// Variables by name.
pub type Variables = BTreeMap<String, String>;

/// Defaults within defaults.
const DEPTH_MAX: usize = 32;
/// Longer than any value, so that defaults that repeat each other end.
const VALUE_MAX_BYTES: usize = 1 << 20;

/// Replaces variables in the values of trees. Keys stay as they are.
pub(crate) struct Replacer<'a> {
    pub(crate) variables: &'a Variables,
    /// Octets that values with variables may still have in all.
    pub(crate) left: &'a mut usize,
    pub(crate) notices: &'a mut Vec<Notice>,
    pub(crate) problems: &'a mut Vec<Problem>,
}

impl Replacer<'_> {
    pub(crate) fn replace(&mut self, node: &mut Node) {
        match &mut node.value {
            Value::Scalar(scalar) if scalar.text.contains('$') => {
                let mut unset = BTreeSet::new();
                match self.value(&scalar.text, &mut unset) {
                    Ok(text) => (scalar.text, scalar.is_text) = (text, true),
                    Err(message) => self.problems.push(Problem::new(&node.place, message)),
                }
                for name in unset {
                    let message =
                        format!("the variable `{}` is not set; an empty text is used", shown(&name));
                    if self.notices.len() < NOTICES_MAX {
                        self.notices.push(Notice::new(&node.place, message));
                    }
                }
            }
            Value::Null | Value::Scalar(_) => {}
            Value::List(items) => items.iter_mut().for_each(|item| self.replace(item)),
            Value::Table(entries) => entries.values_mut().for_each(|entry| self.replace(&mut entry.node)),
        }
    }

    fn value(&mut self, text: &str, unset: &mut BTreeSet<String>) -> Result<String, String> {
        let value = interpolate(text, &[self.variables], unset)?;
        match self.left.checked_sub(value.len()) {
            Some(left) => *self.left = left,
            None => return Err("the values are too large in all with their variables replaced".to_owned()),
        }
        Ok(value)
    }
}

/// Replaces variables in a text. The first table that has a variable says what it is; `unset` gets the names of those that none has and that
/// have no default.
pub(crate) fn interpolate(
    text: &str,
    variables: &[&Variables],
    unset: &mut BTreeSet<String>,
) -> Result<String, String> {
    let mut reader = Reader { text, at: 0, variables, unset, depth: 0 };
    reader.value(false)
}

struct Reader<'a> {
    text: &'a str,
    /// In octets, and always between two characters.
    at: usize,
    variables: &'a [&'a Variables],
    unset: &'a mut BTreeSet<String>,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// Up to the end, or up to the `}` that closes what it stands in.
    fn value(&mut self, within: bool) -> Result<String, String> {
        let mut value = String::new();
        while let Some(c) = self.peek() {
            if within && c == '}' {
                return Ok(value);
            }
            self.at += c.len_utf8();
            if c == '$' {
                value.push_str(&self.after_dollar()?);
            } else {
                value.push(c);
            }
            if value.len() > VALUE_MAX_BYTES {
                return Err(format!(
                    "the value is longer than {VALUE_MAX_BYTES} bytes with its variables replaced"
                ));
            }
        }
        if within { Err(format!("`{}`: this `${{` is not closed", shown(self.text))) } else { Ok(value) }
    }

    fn after_dollar(&mut self) -> Result<String, String> {
        match self.peek() {
            Some('$') => {
                self.at += 1;
                Ok("$".to_owned())
            }
            Some('{') => {
                self.at += 1;
                self.braced()
            }
            Some(c) if is_first(c) => {
                let name = self.name();
                Ok(self.lookup(&name))
            }
            _ => Err(format!("`{}`: a `$` that starts no variable is written `$$`", shown(self.text))),
        }
    }

    fn braced(&mut self) -> Result<String, String> {
        if self.depth == DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} variables are within each other"));
        }
        let name = self.name();
        if name.is_empty() {
            return Err(format!("`{}`: `${{` is followed by the name of a variable", shown(self.text)));
        }
        if self.take("}") {
            return Ok(self.lookup(&name));
        }
        let counts_empty = self.take(":");
        let Some(operator) = self.peek().filter(|c| matches!(c, '-' | '?' | '+')) else {
            let message = format!(
                "`{}`: after the name come `}}`, `:-` and a default, `:?` and an error, or `:+` and a replacement",
                shown(self.text)
            );
            return Err(message);
        };
        self.at += 1;
        let set = self.find(&name).filter(|value| !(counts_empty && value.is_empty()));
        let is_used = set.is_none() != (operator == '+');
        let argument = self.argument(is_used)?;
        match (operator, set) {
            ('+', Some(_)) | ('-', None) => Ok(argument),
            ('?', None) if argument.is_empty() => Err(format!("the variable `{name}` is needed")),
            ('?', None) => Err(format!("the variable `{name}` is needed: {argument}")),
            (_, value) => Ok(value.filter(|_| operator != '+').cloned().unwrap_or_default()),
        }
    }

    /// What follows the operator. One that is not used is read all the same, but what is missing in it does not matter.
    fn argument(&mut self, is_used: bool) -> Result<String, String> {
        self.depth += 1;
        let argument = if is_used { self.value(true)? } else { self.skip()? };
        self.depth -= 1;
        self.at += 1; // The `}` that both ways end at.
        Ok(argument)
    }

    /// To the `}` that closes this, over what is within.
    fn skip(&mut self) -> Result<String, String> {
        let mut depth = 0_usize;
        while let Some(c) = self.peek() {
            match c {
                '}' if depth == 0 => return Ok(String::new()),
                '}' => depth -= 1,
                '$' if self.text[self.at + 1..].starts_with('{') => {
                    depth += 1;
                    self.at += 1;
                }
                _ => {}
            }
            self.at += c.len_utf8();
        }
        Err(format!("`{}`: this `${{` is not closed", shown(self.text)))
    }

    fn find(&self, name: &str) -> Option<&'a String> {
        let variables = self.variables;
        variables.iter().find_map(|table| table.get(name))
    }

    fn lookup(&mut self, name: &str) -> String {
        if let Some(value) = self.find(name) {
            return value.clone();
        }
        if self.unset.len() < NOTICES_MAX {
            self.unset.insert(name.to_owned());
        }
        String::new()
    }

    fn name(&mut self) -> String {
        let rest = &self.text[self.at..];
        if !rest.starts_with(is_first) {
            return String::new();
        }
        let end = rest.find(|c: char| !is_first(c) && !c.is_ascii_digit()).unwrap_or(rest.len());
        self.at += end;
        rest[..end].to_owned()
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take(&mut self, word: &str) -> bool {
        let is_there = self.text[self.at..].starts_with(word);
        if is_there {
            self.at += word.len();
        }
        is_there
    }
}

fn is_first(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> (Result<String, String>, Vec<String>) {
        let variables = [("SET", "v"), ("EMPTY", ""), ("N2", "two")];
        let variables: Variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let mut unset = BTreeSet::new();
        let value = interpolate(text, &[&variables], &mut unset);
        (value, unset.into_iter().collect())
    }

    #[test]
    fn every_form_gives_what_the_specification_says() {
        for (text, expected) in [
            ("a$SET.b", "av.b"),
            ("${SET}x", "vx"),
            ("$N2", "two"),
            ("$$SET and $${SET}", "$SET and ${SET}"),
            ("${SET:-d}", "v"),
            ("${EMPTY:-d}", "d"),
            ("${UNSET:-d}", "d"),
            ("${EMPTY-d}", ""),
            ("${UNSET-d}", "d"),
            ("${SET:?e}", "v"),
            ("${EMPTY?e}", ""),
            ("${SET:+r}", "r"),
            ("${EMPTY:+r}", ""),
            ("${EMPTY+r}", "r"),
            ("${UNSET+r}", ""),
            ("${UNSET:-${SET}}", "v"),
            ("${UNSET:-${EMPTY:-a ${SET} b}}!", "a v b!"),
            ("${SET:-${UNSET:?never asked}}", "v"),
            ("${UNSET:-}", ""),
            ("${UNSET:-http://x:80/$SET}", "http://x:80/v"),
            ("ä${SET}ö", "ävö"),
        ] {
            assert_eq!(of(text), (Ok(expected.to_owned()), vec![]), "{text}");
        }
    }

    #[test]
    fn what_is_not_set_is_empty_and_said() {
        assert_eq!(of("a${UNSET}b"), (Ok("ab".into()), vec!["UNSET".to_owned()]));
        assert_eq!(of("${SET:-$UNSET}"), (Ok("v".into()), vec![]));
        assert_eq!(of(&"$UNSET".repeat(1000)).1, ["UNSET"], "each is said once");
        let many: String = (0..5000).map(|number| format!("$A{number}")).collect();
        assert_eq!(of(&many).1.len(), NOTICES_MAX);
    }

    #[test]
    fn the_first_table_that_has_a_variable_says_what_it_is() {
        let table = |pairs: &[(&str, &str)]| -> Variables {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let (first, second) = (table(&[("A", "1")]), table(&[("A", "2"), ("B", "2")]));
        let value = interpolate("$A$B${B:-no}", &[&first, &second], &mut BTreeSet::new());
        assert_eq!(value.unwrap(), "122");
    }

    #[test]
    fn what_is_needed_or_malformed_is_refused() {
        for (text, expected) in [
            ("${UNSET:?set it}", "the variable `UNSET` is needed: set it"),
            ("${EMPTY:?}", "the variable `EMPTY` is needed"),
            ("${UNSET?for $SET}", "the variable `UNSET` is needed: for v"),
            ("${SET", "`${SET`: after the name come"),
            ("${SET:-x", "`${SET:-x`: this `${` is not closed"),
            ("${UNSET:-x", "`${UNSET:-x`: this `${` is not closed"),
            ("${}", "`${}`: `${` is followed by"),
            ("cost: 5$", "`cost: 5$`: a `$` that starts no variable is written `$$`"),
            ("${SET/a/b}", "`${SET/a/b}`: after the name come"),
        ] {
            let error = of(text).0.unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
        assert!(of(&"${A:-".repeat(1000)).0.unwrap_err().contains("within each other"));
    }
}
