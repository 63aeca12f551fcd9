//! What a Dockerfile wants from elsewhere: images, and what `ADD` fetches.
//!
//! The engine reads the file itself. This is about what it must not find out alone: it takes `FROM 4f` for the beginning of an image's ID, be it
//! whose it may, and fetches what `ADD` names from the network of its host, whatever network the build has. So what is not understood for sure is
//! refused here, and never read the way that lets more through.

use std::collections::{BTreeMap, BTreeSet};

/// What of a Dockerfile has to be looked at before the engine reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dockerfile {
    /// Images that it begins with or copies from, in the order of the file, each once.
    pub images: Vec<AtLine>,
    /// `ADD`s that fetch from an address, or that may.
    pub fetches: Vec<AtLine>,
    /// Names of its `ARG`s.
    pub args: BTreeSet<String>,
}

/// Something in a Dockerfile, and its line, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtLine {
    pub line: usize,
    pub text: String,
}

/// A Dockerfile that is not built. The message says where and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct DockerfileError {
    pub line: usize,
    pub problem: String,
}

/// An instruction with all its lines.
struct Instruction {
    line: usize,
    /// In upper case.
    name: String,
    rest: String,
}

impl Dockerfile {
    /// # Errors
    /// When it begins with nothing, or when an image in it is not understood.
    pub fn parse(text: &str) -> Result<Self, DockerfileError> {
        let mut found = Self::default();
        let mut values: BTreeMap<String, Option<String>> = BTreeMap::new();
        let mut stages: Vec<String> = Vec::new();
        let mut has_begun = false;
        for instruction in instructions(text)? {
            let Instruction { line, name, rest } = instruction;
            match name.as_str() {
                "ARG" => found.take_arg(&rest, (!has_begun).then_some(&mut values)),
                "FROM" => {
                    has_begun = true;
                    let (_, rest) = flags(line, &rest)?;
                    let mut words = rest.split_whitespace();
                    let image = words.next().ok_or_else(|| at(line, "FROM names no image"))?;
                    let image = expanded(line, image, &values)?;
                    found.take_image(line, image, &stages);
                    let is_named = words.next().is_some_and(|word| word.eq_ignore_ascii_case("as"));
                    stages.extend(words.next().filter(|_| is_named).map(str::to_lowercase));
                }
                "COPY" => {
                    let (flags, _) = flags(line, &rest)?;
                    let from = flags.iter().rev().find_map(|flag| flag.strip_prefix("--from="));
                    if let Some(from) = from.filter(|from| from.parse::<usize>().is_err()) {
                        // Variables are none here, for the engine neither.
                        found.take_image(line, expanded(line, from, &BTreeMap::new())?, &stages);
                    }
                }
                "ADD" if may_fetch(line, &rest) => found.fetches.push(AtLine { line, text: rest }),
                _ => {}
            }
        }
        if has_begun {
            Ok(found)
        } else {
            Err(at(1, "there is no FROM that says which image it begins with"))
        }
    }

    /// What an instruction wants that an image has for those that begin with it (`ONBUILD`).
    ///
    /// # Errors
    /// When it is not understood.
    pub fn parse_trigger(instruction: &str) -> Result<Self, DockerfileError> {
        Self::parse(&format!("FROM scratch\n{instruction}"))
    }

    /// `ARG NAME=VALUE`; those before the first `FROM` may stand in one.
    fn take_arg(&mut self, rest: &str, values: Option<&mut BTreeMap<String, Option<String>>>) {
        let (name, value) = rest.trim().split_once('=').map_or((rest.trim(), None), |it| (it.0, Some(it.1)));
        self.args.insert(name.to_owned());
        let Some(values) = values else { return };
        let value = value.map(|value| {
            let inner = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
            inner('"').or_else(|| inner('\'')).unwrap_or(value)
        });
        values.insert(name.to_owned(), value.filter(|value| is_plain(value)).map(str::to_owned));
    }

    fn take_image(&mut self, line: usize, name: String, stages: &[String]) {
        let is_known = name == "scratch"
            || stages.contains(&name.to_lowercase())
            || self.images.iter().any(|image| image.text == name);
        if !is_known {
            self.images.push(AtLine { line, text: name });
        }
    }
}

/// Every address has a colon, and what becomes one has a variable or an escape.
fn may_fetch(line: usize, rest: &str) -> bool {
    flags(line, rest).map_or(true, |(_, rest)| rest.contains([':', '$', '\\']))
}

fn at(line: usize, problem: impl Into<String>) -> DockerfileError {
    DockerfileError { line, problem: problem.into() }
}

/// What can be part of an image's name, and nothing that means something else.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "._:/@-".contains(letter))
}

/// A word with the variables in it, which are written `$NAME` or `${NAME}`.
fn expanded(
    line: usize,
    word: &str,
    values: &BTreeMap<String, Option<String>>,
) -> Result<String, DockerfileError> {
    let unclear = || {
        at(
            line,
            format!(
                "it is not clear which image `{}` is: write its name, or `$NAME` of an `ARG NAME=…` before the first FROM",
                word.escape_debug()
            ),
        )
    };
    let mut text = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('$') {
        text.push_str(before);
        let (name, after) = match after.strip_prefix('{') {
            Some(after) => after.split_once('}').ok_or_else(unclear)?,
            None => after.split_at(
                after.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(after.len()),
            ),
        };
        text.push_str(values.get(name).and_then(Option::as_deref).ok_or_else(unclear)?);
        rest = after;
    }
    text.push_str(rest);
    if is_plain(&text) { Ok(text) } else { Err(unclear()) }
}

/// The flags that an instruction begins with, and what comes after them.
fn flags(line: usize, rest: &str) -> Result<(Vec<&str>, &str), DockerfileError> {
    let (mut flags, mut rest) = (Vec::new(), rest.trim_start());
    while rest.starts_with("--") {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (flag, after) = rest.split_at(end);
        if flag.contains(['"', '\'', '\\']) {
            let problem = format!("`{}` is not understood: write it without quotes", flag.escape_debug());
            return Err(at(line, problem));
        }
        flags.push(flag);
        rest = after.trim_start();
    }
    Ok((flags, rest))
}

/// The instructions of a file: lines joined, comments left out, and what follows `ONBUILD` as if it stood alone.
fn instructions(text: &str) -> Result<Vec<Instruction>, DockerfileError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut instructions = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (number, line) in text.split('\n').enumerate() {
        let trimmed = line.trim();
        if let Some(comment) = trimmed.strip_prefix('#') {
            let directive = comment.trim_start().to_lowercase();
            let value = directive.strip_prefix("escape").and_then(|rest| rest.trim_start().strip_prefix('='));
            if value.is_some_and(|value| value.trim() != "\\") {
                return Err(at(number + 1, "another character for `escape` is not understood: leave it out"));
            }
            continue;
        }
        if trimmed.is_empty() {
            continue;
        }
        if trimmed.ends_with("\\\\") {
            // Older engines go on with the next line, and newer ones do not.
            return Err(at(number + 1, "two backslashes at the end of a line are not understood: write one"));
        }
        let (first, mut joined) = open.take().unwrap_or((number + 1, String::new()));
        match trimmed.strip_suffix('\\') {
            Some(part) => {
                // Nothing stands between the parts but what they have themselves.
                joined.push_str(if joined.is_empty() { part } else { part_of(line) });
                open = Some((first, joined));
            }
            None => {
                joined.push_str(if joined.is_empty() { trimmed } else { line });
                instructions.push(instruction(first, &joined)?);
            }
        }
    }
    if let Some((first, joined)) = open {
        instructions.push(instruction(first, &joined)?);
    }
    Ok(instructions)
}

/// A line that goes on, without the character that says so.
fn part_of(line: &str) -> &str {
    let line = line.trim_end();
    line.strip_suffix('\\').unwrap_or(line)
}

fn instruction(line: usize, text: &str) -> Result<Instruction, DockerfileError> {
    let mut text = text.trim();
    loop {
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        if !name.is_ascii() {
            // Some letters become those of an instruction for the engine.
            return Err(at(line, format!("`{}` is no instruction", name.escape_unicode())));
        }
        let name = name.to_ascii_uppercase();
        if name != "ONBUILD" {
            return Ok(Instruction { line, name, rest: rest.trim().to_owned() });
        }
        text = rest.trim();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(text: &str) -> Vec<String> {
        let found = Dockerfile::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        found.images.into_iter().map(|image| image.text).collect()
    }

    #[test]
    fn images_are_what_a_file_begins_with_or_copies_from() {
        let text = "# syntax=docker/dockerfile:1\nARG TAG=3.20\nARG BASE=\"debian:12\"\n\
            FROM --platform=linux/amd64 alpine:$TAG AS Build\nRUN echo \\\n  # a comment\n  FROM nothing\n\
            from ${BASE}\nCOPY --chown=1:1 --from=build /a /a\nCOPY --from=0 /b /b\nCOPY --from=nginx:1 /c /c\n\
            FROM build\nFROM scratch\nCOPY . .\n";
        assert_eq!(images(text), ["alpine:3.20", "debian:12", "nginx:1"]);
        let found = Dockerfile::parse(text).unwrap();
        assert_eq!((found.images[0].line, found.images[2].line), (4, 11));
        assert!(found.args.contains("TAG") && found.fetches.is_empty());
    }

    #[test]
    fn a_line_that_goes_on_is_one_instruction() {
        assert_eq!(images("FROM \\\n  alpine:1 \\\n AS a\nFROM a"), ["alpine:1"]);
        assert_eq!(images("FR\\\nOM alpine:2"), ["alpine:2"]);
        assert_eq!(images("FROM alp\\\nine:3\r\n"), ["alpine:3"]);
        assert_eq!(images("FROM a\nONBUILD COPY --from=b:1 /x /x"), ["a", "b:1"]);
    }

    #[test]
    fn an_image_that_may_be_another_is_refused_with_its_line() {
        for (text, line) in [
            ("FROM $NONE", 1),
            ("ARG A\nFROM $A", 2),
            ("ARG A=$B\nFROM $A", 2),
            ("ARG A=x\nFROM ${A:-y}", 2),
            ("FROM \"alpine\"", 1),
            ("FROM a\\b", 1),
            ("FROM a\nCOPY --from=$X / /", 2),
            ("FROM a\nCOPY --fr\"om\"=x / /", 2),
            ("# escape=`\nFROM a", 1),
            ("FROM a\nRUN true \\\\\nFROM 4f", 2),
            ("FROM a\nONBU\u{130}LD ADD http://x /y", 2),
            ("RUN true", 1),
            ("FROM", 1),
            ("", 1),
        ] {
            assert_eq!(Dockerfile::parse(text).unwrap_err().line, line, "{text}");
        }
        assert!(Dockerfile::parse("# escape = \\\nFROM a").is_ok());
    }

    #[test]
    fn whatever_may_be_fetched_is_found() {
        let fetches = |add: &str| !Dockerfile::parse_trigger(add).unwrap().fetches.is_empty();
        for add in [
            "ADD http://x/y /y",
            "add HTTPS://x/y /y",
            "ADD $URL /y",
            "ADD ht\\tp://x /y",
            "ADD h\"ttp:\"//x /y",
            "ADD [\"http://x/y\", \"/y\"]",
            "ADD [\"http\\u003a//x/y\", \"/y\"]",
            "ADD --chown=1:1 git@x:y /y",
        ] {
            assert!(fetches(add), "{add}");
        }
        for add in ["ADD . /app", "ADD --chown=1:1 a.tar /a", "ADD [\"a b\", \"/c\"]", "COPY http://x /y"] {
            assert!(!fetches(add), "{add}");
        }
        assert_eq!(Dockerfile::parse("FROM a\nONBUILD ADD http://x /y").unwrap().fetches.len(), 1);
    }

    #[test]
    fn what_an_image_brings_along_is_read_as_well() {
        assert_eq!(Dockerfile::parse_trigger("COPY --from=4f / /x").unwrap().images[0].text, "4f");
        assert!(Dockerfile::parse_trigger("COPY . /app").unwrap().images.is_empty());
        assert!(Dockerfile::parse_trigger("COPY --from=$X / /x").is_err());
        assert_eq!(Dockerfile::parse_trigger("# a\nADD http://x /y").unwrap().fetches.len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "(FROM|COPY --from=|ADD|ARG|ONBUILD|[ \\\\\n#$={}\"'a-z:]){0,60}") {
            let _ = Dockerfile::parse(&text);
            let _ = Dockerfile::parse_trigger(&text);
        }
    }
}
