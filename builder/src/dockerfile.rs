//! What a Dockerfile wants from elsewhere: images, and what `ADD` fetches.
//!
//! The engine reads the file itself. This is about what it must not find out alone: it takes `FROM 4f` for the beginning of an image's ID, be it
//! whose it may, and fetches what `ADD` names from the network of its host, whatever network the build has. So what is not understood for sure is
//! refused here, and never read the way that lets more through.

use std::collections::{BTreeMap, BTreeSet};

/// Letters of a word that an error quotes.
const SHOWN_MAX_CHARS: usize = 100;

/// What of a Dockerfile has to be looked at before the engine reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dockerfile {
    /// Images that it begins with or copies from, in the order of the file, each once.
    pub images: Vec<AtLine>,
    /// `ADD`s that fetch from an address, or that may.
    pub fetches: Vec<AtLine>,
    /// Names of its `ARG`s.
    pub args: BTreeSet<String>,
    /// Those before the first `FROM`, of which the name of an image may be made. What was looked at are the values in the file, so nobody may
    /// give them others.
    pub args_of_images: BTreeSet<String>,
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

/// Stages before the one that is read.
#[derive(Default)]
struct Stages {
    count: usize,
    /// In lower case.
    names: Vec<String>,
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
        // The engine knows a stage by its name only when the stage has ended; before, the name is an image's.
        let mut ended = Stages::default();
        let mut current: Option<Option<String>> = None;
        for instruction in instructions(text)? {
            let Instruction { line, name, rest } = instruction;
            match name.as_str() {
                "ARG" => found.take_arg(&rest, current.is_none().then_some(&mut values)),
                "FROM" => {
                    if let Some(name) = current.take() {
                        ended.count += 1;
                        ended.names.extend(name);
                    }
                    let (_, rest) = flags(line, &rest)?;
                    let mut words = rest.split_whitespace();
                    let image = words.next().ok_or_else(|| at(line, "FROM names no image"))?;
                    let image = expanded(line, image, &values)?;
                    found.take_image(line, image, &ended);
                    let is_named = words.next().is_some_and(|word| word.eq_ignore_ascii_case("as"));
                    current = Some(words.next().filter(|_| is_named).map(str::to_lowercase));
                }
                "COPY" => {
                    let (flags, _) = flags(line, &rest)?;
                    let from = flags.iter().rev().find_map(|flag| flag.strip_prefix("--from="));
                    match from {
                        Some(from) if from.bytes().all(|digit| digit.is_ascii_digit()) => {
                            check_index(line, from, ended.count)?;
                        }
                        // Variables are none here, for the engine neither.
                        Some(from) => {
                            found.take_image(line, expanded(line, from, &BTreeMap::new())?, &ended);
                        }
                        None => {}
                    }
                }
                "ADD" => {
                    let (_, wanted) = flags(line, &rest)?;
                    // Every address has a colon, and what becomes one has a variable or an escape.
                    if wanted.contains([':', '$', '\\']) {
                        found.fetches.push(AtLine { line, text: rest });
                    }
                }
                _ => {}
            }
        }
        if current.is_some() {
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
        self.args_of_images.insert(name.to_owned());
        let value = value.map(|value| {
            let inner = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
            inner('"').or_else(|| inner('\'')).unwrap_or(value)
        });
        values.insert(name.to_owned(), value.filter(|value| is_plain(value)).map(str::to_owned));
    }

    fn take_image(&mut self, line: usize, name: String, ended: &Stages) {
        let is_known = name == "scratch"
            || ended.names.contains(&name.to_lowercase())
            || self.images.iter().any(|image| image.text == name);
        if !is_known {
            self.images.push(AtLine { line, text: name });
        }
    }
}

/// The number of a stage before. The engine takes a number that is too large for one for an image's name.
fn check_index(line: usize, index: &str, ended: usize) -> Result<(), DockerfileError> {
    if index.parse::<u16>().is_ok_and(|index| usize::from(index) < ended) {
        return Ok(());
    }
    Err(at(
        line,
        format!("no stage before this one has the number `{}`: write the name of a stage", shown(index)),
    ))
}

fn at(line: usize, problem: impl Into<String>) -> DockerfileError {
    DockerfileError { line, problem: problem.into() }
}

/// As much of a word as an error quotes.
fn shown(word: &str) -> String {
    word.chars().take(SHOWN_MAX_CHARS).collect::<String>().escape_debug().to_string()
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
                shown(word)
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
        let end = rest.find([' ', '\t']).unwrap_or(rest.len());
        let (flag, after) = rest.split_at(end);
        if !flag.is_ascii() || !flag.contains('=') {
            // The engine looks for the end of a flag octet by octet, and takes some letters for spaces.
            let problem = format!("`{}` is not understood: write `--name=value` in ASCII", shown(flag));
            return Err(at(line, problem));
        }
        if flag.contains(['"', '\'', '\\']) {
            let problem = format!("`{}` is not understood: write it without quotes", shown(flag));
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
        let line = line.strip_suffix('\r').unwrap_or(line);
        let trimmed = line.trim_matches([' ', '\t']);
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
        if trimmed.chars().any(|c| c != ' ' && c != '\t' && (c.is_control() || c.is_whitespace())) {
            // After others, the engine does not see that a line goes on.
            return Err(at(
                number + 1,
                "only spaces and tabs part words here: write no other blanks or control characters",
            ));
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
    let mut is_trigger = false;
    loop {
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        if !name.is_ascii() {
            // Some letters become those of an instruction for the engine.
            let shown: String = name.chars().take(SHOWN_MAX_CHARS).collect();
            return Err(at(line, format!("`{}` is no instruction", shown.escape_unicode())));
        }
        let name = name.to_ascii_uppercase();
        if name != "ONBUILD" {
            let may_have_text = is_trigger || matches!(name.as_str(), "RUN" | "COPY" | "ADD");
            if may_have_text && rest.split_whitespace().any(begins_text) {
                let problem = "texts in place (`<<`) are not understood: put the text into a file";
                return Err(at(line, problem));
            }
            return Ok(Instruction { line, name, rest: rest.trim().to_owned() });
        }
        is_trigger = true;
        text = rest.trim();
    }
}

/// Whether newer engines take the next lines for a text that belongs to this word.
fn begins_text(word: &str) -> bool {
    let after = word.trim_start_matches(|digit: char| digit.is_ascii_digit()).strip_prefix("<<");
    after.is_some_and(|after| !after.is_empty() && !after.starts_with('<'))
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
        assert!(found.args_of_images.contains("TAG"), "nobody may give it another value");
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
    fn a_stage_has_its_name_once_it_has_ended() {
        assert_eq!(images("FROM alpine AS a1b\nCOPY --from=a1b / /x"), ["alpine", "a1b"]);
        assert_eq!(images("FROM alpine AS a1b\nFROM A1B\nCOPY --from=a1b / /x"), ["alpine"]);
        assert_eq!(images("FROM a1b AS a1b\nFROM a AS c\nCOPY --from=c / /x"), ["a1b", "a", "c"]);
    }

    #[test]
    fn a_number_is_that_of_a_stage_that_has_ended() {
        assert_eq!(images("FROM a\nFROM b\nCOPY --from=0 / /x"), ["a", "b"]);
        for index in ["1", "2", "65536", "99999999999999999999", "", "+0"] {
            let text = format!("FROM a\nFROM b\nCOPY --from={index} / /x");
            assert_eq!(Dockerfile::parse(&text).unwrap_err().line, 3, "{index}");
        }
        assert!(Dockerfile::parse("FROM a\nCOPY --from=0 / /x").is_err());
    }

    #[test]
    fn what_parts_words_for_the_engine_alone_is_refused() {
        for text in [
            "FROM a\nRUN true \\\u{b}\nFROM 4f",
            "FROM a\nRUN true \\\u{a0}\nFROM 4f",
            "FROM a\nRUN true \\\r\r\nFROM 4f",
            "FROM a\nRUN tr\0ue",
            "FROM a\n\u{c}# no comment",
            "FROM a\nCOPY --chown=\u{e0}--from=4f / /x",
            "FROM a\nCOPY -- --from=4f / /x",
            "FROM a\nCOPY --link . /x",
            "FROM a\nADD --link . /x",
        ] {
            assert_eq!(Dockerfile::parse(text).unwrap_err().line, 2, "{text:?}");
        }
        assert_eq!(images("FROM a\r\n# \u{a0}\u{b}\r\n\tRUN true\t\\ \t\r\n FROM 4f\r\n"), ["a"]);
    }

    #[test]
    fn a_text_in_place_is_refused() {
        for step in [
            "RUN <<EOF",
            "RUN cat <<-EOF >x",
            "COPY <<\"EOF\" /x",
            "ADD 3<<E /x",
            "ONBUILD RUN <<E",
            "ONBUILD CMD <<E",
        ] {
            assert_eq!(
                Dockerfile::parse(&format!("FROM a\n{step}\nFROM 4f\nEOF")).unwrap_err().line,
                2,
                "{step}"
            );
        }
        for step in ["RUN cat <<<word", "RUN cat </x", "RUN echo $((1 << 2))", "CMD <<E"] {
            assert_eq!(images(&format!("FROM a\n{step}")), ["a"], "{step}");
        }
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

    #[test]
    fn an_error_quotes_no_more_than_somebody_reads() {
        let long = "x$".repeat(10_000);
        for text in [
            format!("FROM {long}"),
            format!("FROM a\nCOPY --{long} / /x"),
            format!("FROM a\nCOPY --from={} / /x", "9".repeat(10_000)),
            format!("FROM a\n{} x", "\u{130}".repeat(10_000)),
        ] {
            let error = Dockerfile::parse(&text).unwrap_err().to_string();
            assert!(error.len() < 2000, "{} octets: {error:.100}", error.len());
        }
    }

    proptest::proptest! {
        #[test]
        fn no_file_makes_it_panic(text in "(FROM|COPY --from=|ADD|ARG|ONBUILD|[ \\\\\n#$={}\"'a-z:]){0,60}") {
            let _ = Dockerfile::parse(&text);
            let _ = Dockerfile::parse_trigger(&text);
        }
    }
}
