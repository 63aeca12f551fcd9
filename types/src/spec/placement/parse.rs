//! Reads a constraint.

use std::str::FromStr;

use super::{Constraint, NodeKey, Order, Test};
use crate::node::is_label_key;
use crate::quantity::ByteSize;

/// Longer than anything that somebody writes.
const TEXT_MAX_CHARS: usize = 1024;
const KEYS: [&str; 8] = [
    "node.id",
    "node.hostname",
    "node.role",
    "node.platform.os",
    "node.platform.arch",
    "node.cpus",
    "node.memory",
    "node.containers",
];
/// The longer of two that begin alike comes first.
const OPERATORS: [&str; 6] = ["==", "!=", ">=", "<=", ">", "<"];

/// Where reading a constraint stopped making sense, and what was expected there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}`, column {column}: {problem}")]
pub struct InvalidConstraint {
    pub text: String,
    /// Counted in characters, from 1.
    pub column: usize,
    pub problem: String,
}

/// A problem at an offset in octets.
type Problem = (usize, String);

impl FromStr for Constraint {
    type Err = InvalidConstraint;

    fn from_str(text: &str) -> Result<Self, InvalidConstraint> {
        let invalid = |(at, problem): Problem| InvalidConstraint {
            text: text.chars().take(120).collect::<String>().escape_debug().to_string(),
            column: text[..at].chars().count() + 1,
            problem,
        };
        if text.chars().count() > TEXT_MAX_CHARS {
            return Err(invalid((0, format!("it is longer than {TEXT_MAX_CHARS} characters"))));
        }
        Reader { text, at: 0 }.constraint().map_err(invalid)
    }
}

struct Reader<'a> {
    text: &'a str,
    /// In octets, and always between two characters.
    at: usize,
}

impl<'a> Reader<'a> {
    fn constraint(mut self) -> Result<Constraint, Problem> {
        self.skip_spaces();
        let key_at = self.at;
        let word = self.take_while(|c| !c.is_whitespace() && !"=!<>(),\"".contains(c));
        let key = key(word).map_err(|problem| (key_at, problem))?;
        self.skip_spaces();
        let test = self.test(&key)?;
        self.skip_spaces();
        if self.at < self.text.len() {
            return Err((
                self.at,
                "the constraint ends before this; write each in a string of its own".into(),
            ));
        }
        Ok(Constraint { key, test })
    }

    fn test(&mut self, key: &NodeKey) -> Result<Test, Problem> {
        let at = self.at;
        if let Some(operator) = OPERATORS.into_iter().find(|operator| self.rest().starts_with(operator)) {
            self.at += operator.len();
            self.skip_spaces();
            let order = match operator {
                "==" => return Ok(Test::AnyOf(vec![self.value_of(key, at)?])),
                "!=" => return Ok(Test::NoneOf(vec![self.value_of(key, at)?])),
                ">=" => Order::AtLeast,
                ">" => Order::MoreThan,
                "<=" => Order::AtMost,
                _ => Order::LessThan,
            };
            return Ok(Test::Number(order, self.number(key, at)?));
        }
        if self.rest().starts_with('=') {
            return Err((at, "write `==` for is equal".into()));
        }
        match self.take_while(char::is_alphabetic) {
            "in" => Ok(Test::AnyOf(self.list(key, at)?)),
            "not" => {
                self.skip_spaces();
                let at_in = self.at;
                match self.take_while(char::is_alphabetic) {
                    "in" => Ok(Test::NoneOf(self.list(key, at)?)),
                    _ => Err((at_in, "expected `in` after `not`".into())),
                }
            }
            _ => Err((at, "expected one of `==`, `!=`, `in`, `not in`, `>=`, `>`, `<=`, `<`".into())),
        }
    }

    fn list(&mut self, key: &NodeKey, at_operator: usize) -> Result<Vec<String>, Problem> {
        self.skip_spaces();
        if !self.take('(') {
            return Err((self.at, "expected a list in parentheses, such as `(a, b)`".into()));
        }
        let mut values = Vec::new();
        loop {
            self.skip_spaces();
            values.push(self.value_of(key, at_operator)?);
            self.skip_spaces();
            if self.take(')') {
                return Ok(values);
            }
            if !self.take(',') {
                return Err((self.at, "expected `,` or `)`".into()));
            }
        }
    }

    fn value_of(&mut self, key: &NodeKey, at_operator: usize) -> Result<String, Problem> {
        if *key == NodeKey::Memory {
            return Err((at_operator, "`node.memory` is compared with `>=`, `>`, `<=` or `<`".into()));
        }
        self.value()
    }

    /// A bare word, or anything between double quotes.
    fn value(&mut self) -> Result<String, Problem> {
        let at = self.at;
        if self.take('"') {
            let value = self.take_while(|c| c != '"');
            return if self.take('"') {
                Ok(value.to_owned())
            } else {
                Err((at, "this quote is not closed".into()))
            };
        }
        match self.take_while(|c| c.is_alphanumeric() || "-_./:+@".contains(c)) {
            "" => Err((at, "expected a value; one with other characters than letters, digits and `-_./:+@` stands in double quotes".into())),
            value => Ok(value.to_owned()),
        }
    }

    fn number(&mut self, key: &NodeKey, at_operator: usize) -> Result<f64, Problem> {
        let at = self.at;
        match key {
            NodeKey::Cpus | NodeKey::Label(_) => {
                let value = self.value()?;
                let number = value.parse().ok().filter(|number: &f64| number.is_finite());
                number.ok_or_else(|| (at, format!("`{value}` is not a number")))
            }
            NodeKey::Memory => {
                let value = self.value()?;
                let size: ByteSize = value.parse().map_err(|error| (at, format!("{error}")))?;
                #[allow(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
                Ok(size.as_bytes() as f64)
            }
            NodeKey::Id
            | NodeKey::Hostname
            | NodeKey::Role
            | NodeKey::Os
            | NodeKey::Arch
            | NodeKey::Containers => Err((
                at_operator,
                format!("`{key}` is not a number; compare it with `==`, `!=`, `in` or `not in`"),
            )),
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_spaces(&mut self) {
        self.take_while(char::is_whitespace);
    }

    fn take(&mut self, expected: char) -> bool {
        let is_there = self.rest().starts_with(expected);
        if is_there {
            self.at += expected.len_utf8();
        }
        is_there
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let taken = &rest[..rest.find(|c| !wanted(c)).unwrap_or(rest.len())];
        self.at += taken.len();
        taken
    }
}

fn key(word: &str) -> Result<NodeKey, String> {
    if let Some(label) = word.strip_prefix("node.labels.") {
        return if is_label_key(label) {
            Ok(NodeKey::Label(label.to_owned()))
        } else {
            Err(format!("`{}` is not a label's key", label.escape_debug()))
        };
    }
    Ok(match word {
        "node.id" => NodeKey::Id,
        "node.hostname" => NodeKey::Hostname,
        "node.role" => NodeKey::Role,
        "node.platform.os" => NodeKey::Os,
        "node.platform.arch" => NodeKey::Arch,
        "node.cpus" => NodeKey::Cpus,
        "node.memory" => NodeKey::Memory,
        "node.containers" => NodeKey::Containers,
        "" => return Err("expected a key, such as `node.labels.zone`".to_owned()),
        _ => return Err(unknown(word)),
    })
}

/// What is wrong with a key, with the key that was probably meant.
fn unknown(word: &str) -> String {
    let shown: String = word.chars().take(60).collect();
    let known = format!("unknown key `{}`", shown.escape_debug());
    match meant(&shown) {
        Some(meant) => format!("{known}; did you mean `{meant}`?"),
        None => format!(
            "{known}; there are {} and `node.labels.KEY`",
            KEYS.map(|key| format!("`{key}`")).join(", ")
        ),
    }
}

fn meant(word: &str) -> Option<String> {
    let bare = word.strip_prefix("node.").unwrap_or(word);
    let (head, label) = bare.split_once('.').map_or((bare, ""), |(head, label)| (head, label));
    // Somebody who writes `label.zone`, `node.lables.zone` or `node.os` left something out or mistyped it.
    if !label.is_empty() && distance(head, "labels") <= 2 && is_label_key(label) {
        return Some(format!("node.labels.{label}"));
    }
    let near = |key: &&str| {
        let bare_key = key.strip_prefix("node.").unwrap_or(key);
        let last = key.rsplit('.').next().unwrap_or(key);
        distance(bare, bare_key).min(distance(bare, last))
    };
    // Of a short word two letters are half of it: `zone` is not meant to be `role`.
    let far = if bare.len() <= 4 { 1 } else { 2 };
    KEYS.into_iter().min_by_key(near).filter(|key| near(key) <= far).map(str::to_owned)
}

/// How many characters have to be put in, taken out, changed or swapped with their neighbour to make one text of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut last = None;
    for (i, from) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let changed = row[j] + usize::from(from != *to);
            let mut least = changed.min(row[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && last == Some(*to) && b[j - 1] == from {
                least = least.min(before[j - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut row, next);
        last = Some(from);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> String {
        text.parse::<Constraint>().unwrap_err().to_string()
    }

    #[test]
    fn spaces_are_free_and_quotes_hold_anything() {
        let tight: Constraint = "node.labels.zone==eu-1".parse().unwrap();
        assert_eq!(tight, "  node.labels.zone  ==  \"eu-1\" ".parse().unwrap());
        let list: Constraint = "node.labels.zone not in(a,\"b c\")".parse().unwrap();
        assert_eq!(list.test, Test::NoneOf(vec!["a".into(), "b c".into()]));
        let label: Constraint = "node.labels.example.com/tier in (1)".parse().unwrap();
        assert_eq!(label.key, NodeKey::Label("example.com/tier".into()));
    }

    #[test]
    fn an_error_names_the_column_and_what_was_expected() {
        assert_eq!(
            refused("node.labels.zone = eu-1"),
            "`node.labels.zone = eu-1`, column 18: write `==` for is equal"
        );
        assert!(refused("node.labels.zone eu-1").contains("column 18: expected one of `==`"));
        assert!(refused("node.labels.zone ==").contains("column 20: expected a value"));
        assert!(refused("node.labels.zone in eu-1").contains("column 21: expected a list"));
        assert!(refused("node.labels.zone in (a b)").contains("column 24: expected `,` or `)`"));
        assert!(refused("node.labels.zone in ()").contains("column 22: expected a value"));
        assert!(refused("node.labels.zone not (a)").contains("column 22: expected `in` after `not`"));
        assert!(refused("node.labels.zone == \"a").contains("column 21: this quote is not closed"));
        assert!(refused("node.labels.ü == a").contains("column 1: `ü` is not a label's key"));
        assert!(refused("node.id == a, node.id == b").contains("column 13: the constraint ends before this"));
        assert!(refused("node.cpus >= four").contains("column 14: `four` is not a number"));
        assert!(refused("node.memory >= 16").contains("column 16: `16` is not a size"));
        assert!(refused("node.memory == 16GiB").contains("column 13: `node.memory` is compared with"));
        assert!(refused("node.role >= 2").contains("column 11: `node.role` is not a number"));
        assert!(refused("").contains("column 1: expected a key"));
    }

    #[test]
    fn a_key_that_was_nearly_hit_is_suggested() {
        for (written, meant) in [
            ("node.lables.zone", "node.labels.zone"),
            ("node.label.zone", "node.labels.zone"),
            ("labels.zone", "node.labels.zone"),
            ("node.hostnam", "node.hostname"),
            ("hostname", "node.hostname"),
            ("node.os", "node.platform.os"),
            ("node.arch", "node.platform.arch"),
            ("node.platfrom.arch", "node.platform.arch"),
            ("node.cpu", "node.cpus"),
            ("node.memroy", "node.memory"),
        ] {
            let error = refused(&format!("{written} == a"));
            assert!(error.ends_with(&format!("did you mean `{meant}`?")), "{error}");
        }
        assert!(refused("colour == red").contains("there are `node.id`, `node.hostname`"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "(node\\.)?(labels\\.)?[ -~äß\"]{0,40}") {
            let _ = text.parse::<Constraint>();
        }
    }
}
