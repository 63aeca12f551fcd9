//! Files of variables: `.env`, `env_file` and `label_file`.

use std::collections::BTreeSet;

use crate::interpolate::{Variables, interpolate};
use crate::problem::shown;

/// More would not be read.
const FAULTS_MAX: usize = 100;

/// How an `env_file` is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// With quotes, comments and variables.
    Compose,
    /// Everything after the `=` is the value.
    Raw,
}

/// What is wrong in a line, counted from 1.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) line: usize,
    pub(crate) message: String,
}

/// The variables of a file, in its order. None: the name alone stands there, and the value is whatever the environment has.
///
/// `outside` is what variables in values mean, before those that the file has set itself. `left` is how many octets values may still have, in
/// this file and others, with their variables replaced.
pub(crate) fn parse(
    text: &str,
    format: Format,
    outside: &[&Variables],
    left: &mut usize,
) -> Result<Vec<(String, Option<String>)>, Vec<Fault>> {
    let mut reader = Reader { rest: text, line: 1 };
    let mut own = Variables::new();
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    while !reader.rest.is_empty() && faults.len() < FAULTS_MAX {
        let line = reader.line;
        match reader.variable(format, outside, &own) {
            Ok(None) => {}
            Ok(Some((name, value))) => {
                if let Some(value) = &value {
                    let Some(rest) = left.checked_sub(value.len()) else {
                        let message = "the values are too large in all, in each place where their file is named; leave some out";
                        faults.push(Fault { line, message: message.to_owned() });
                        break;
                    };
                    *left = rest;
                    own.entry(name.clone()).or_insert_with(|| value.clone());
                }
                found.push((name, value));
            }
            Err(message) => {
                faults.push(Fault { line, message });
                reader.skip_line();
            }
        }
    }
    if faults.is_empty() { Ok(found) } else { Err(faults) }
}

type Variable = (String, Option<String>);

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    fn variable(
        &mut self,
        format: Format,
        outside: &[&Variables],
        own: &Variables,
    ) -> Result<Option<Variable>, String> {
        let line = self.rest.lines().next().unwrap_or_default();
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            self.skip_line();
            return Ok(None);
        }
        let start = line.trim_start();
        let start = start.strip_prefix("export ").map_or(start, str::trim_start);
        let Some((name, value)) = start.split_once('=') else {
            let name = start.split('#').next().unwrap_or_default().trim();
            check_name(name)?;
            self.skip_line();
            return Ok(Some((name.to_owned(), None)));
        };
        let name = name.trim_end();
        check_name(name)?;
        if format == Format::Raw {
            let value = value.to_owned();
            self.skip_line();
            return Ok(Some((name.to_owned(), Some(value))));
        }
        let value = value.trim_start();
        let at = self.rest.find('=').map_or(0, |at| at + 1);
        let value = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                self.rest = self.rest[at..].trim_start_matches([' ', '\t']);
                let quoted = self.quoted(quote)?;
                if quote == '"' { replaced(&quoted, outside, own)? } else { quoted }
            }
            _ => {
                let bare = value.find(" #").map_or(value, |at| &value[..at]);
                let bare = if bare.starts_with('#') { "" } else { bare.trim_end() };
                let value = replaced(bare, outside, own)?;
                self.skip_line();
                value
            }
        };
        Ok(Some((name.to_owned(), Some(value))))
    }

    /// What is between quotes, over several lines if need be, and nothing but a comment after it.
    fn quoted(&mut self, quote: char) -> Result<String, String> {
        let mut value = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            if c == quote {
                let after = self.rest[at + 1..].lines().next().unwrap_or_default().trim();
                if !after.is_empty() && !after.starts_with('#') {
                    return Err(format!(
                        "`{}` stands after the closing quote; write one value in a line",
                        shown(after)
                    ));
                }
                self.line += self.rest[..at].matches('\n').count();
                self.rest = &self.rest[at + 1..];
                self.skip_line();
                return Ok(value);
            }
            if c != '\\' || quote == '\'' {
                value.push(c);
                continue;
            }
            match chars.next().map(|(_, c)| c) {
                Some('n') => value.push('\n'),
                Some('r') => value.push('\r'),
                Some('t') => value.push('\t'),
                Some('$') => value.push_str("$$"),
                Some(c @ ('"' | '\\')) => value.push(c),
                Some(c) => value.extend(['\\', c]),
                None => {}
            }
        }
        Err("this quote is not closed".to_owned())
    }

    fn skip_line(&mut self) {
        self.line += 1;
        self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let is_name = !name.is_empty()
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || "\"'`$".contains(c));
    if is_name {
        Ok(())
    } else {
        Err(format!("`{}` is not a variable's name; write `NAME=value`", shown(name)))
    }
}

fn replaced(text: &str, outside: &[&Variables], own: &Variables) -> Result<String, String> {
    if !text.contains('$') {
        return Ok(text.to_owned());
    }
    let known: Vec<&Variables> = outside.iter().copied().chain([own]).collect();
    interpolate(text, &known, &mut BTreeSet::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, format: Format, left: usize) -> Result<Vec<(String, Option<String>)>, Vec<Fault>> {
        let outside: Variables = [("HOME".to_owned(), "/h".to_owned())].into();
        parse(text, format, &[&outside], &mut { left })
    }

    fn of(text: &str) -> Vec<(String, Option<String>)> {
        read(text, Format::Compose, 1000).unwrap()
    }

    fn value(text: &str) -> String {
        of(text).pop().unwrap().1.unwrap()
    }

    #[test]
    fn lines_are_read_as_the_engine_reads_them() {
        for (text, expected) in [
            ("A=b", "b"),
            ("export A = b c # d", "b c"),
            ("A=b#c", "b#c"),
            ("A='b $HOME \\n' # c", "b $HOME \\n"),
            ("A=\"b\\n$HOME\\t\\\"\"", "b\n/h\t\""),
            ("A=\"one\ntwo\"\n", "one\ntwo"),
            ("A=${HOME}/x", "/h/x"),
            ("A=${B:-c}", "c"),
            ("A=", ""),
            ("A=\r\n", ""),
            ("B=1\nA=$B$HOME", "1/h"),
        ] {
            assert_eq!(value(text), expected, "{text:?}");
        }
        assert_eq!(of("# c\n\nA\nB=1"), [("A".into(), None), ("B".into(), Some("1".into()))]);
        let raw = read("A=\"$B\" # x", Format::Raw, 1000).unwrap();
        assert_eq!(raw, [("A".into(), Some("\"$B\" # x".into()))]);
    }

    #[test]
    fn a_fault_names_its_line() {
        let faults = read("A=1\nB c=2\nD=\"x\n", Format::Compose, 1000).unwrap_err();
        let lines: Vec<usize> = faults.iter().map(|fault| fault.line).collect();
        assert_eq!(lines, [2, 3]);
        assert!(faults[0].message.contains("`B c`"), "{faults:?}");
        let doubling: String = (1..100).map(|n| format!("A{n}=${{A{}}}${{A{}}}x\n", n - 1, n - 1)).collect();
        assert!(read(&doubling, Format::Compose, 32 << 20).is_err());
        assert_eq!(read(&"B c=2\n".repeat(1000), Format::Compose, 1000).unwrap_err().len(), FAULTS_MAX);
    }

    #[test]
    fn values_count_wherever_their_file_is_named() {
        let mut left = 10;
        let mut again = || parse("A=1234\nB=$A\n", Format::Compose, &[], &mut left);
        again().unwrap();
        let faults = again().unwrap_err();
        assert_eq!((faults.len(), faults[0].line), (1, 1));
    }
}
