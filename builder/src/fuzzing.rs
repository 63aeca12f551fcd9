//! The parsers of this crate that take octets from outside, and what holds of each whatever comes.
//!
//! `fuzz/` gives them to a fuzzer; the test below tries them with their seeds and with random changes of these.

#[cfg(test)]
#[path = "../../fuzz/mutations.rs"]
mod mutations;
#[path = "../../fuzz/parser.rs"]
mod parser;

use crate::context;
use crate::{Containers, Dockerfile, DockerfileError, Listing, Output, RustWay, detect};

pub use parser::Parser;

#[rustfmt::skip]
pub const PARSERS: &[Parser] = &[
    ("dockerfiles", dockerfiles, &[
        b"# syntax=docker/dockerfile:1\nARG TAG=3.20\nARG BASE=\"debian:12\"\nFROM --platform=linux/amd64 alpine:$TAG AS Build\nRUN echo \\\n  # a comment\n  x\n\
          from ${BASE}\nCOPY --chown=1:1 --from=build /a /a\nCOPY --from=0 /b /b\nCOPY --from=nginx:1 /c /c\nONBUILD ADD http://x/y /y\n",
        b"\xef\xbb\xbffrom a\r\nadd . /x\r\nRUN cat <<EOF\n", b"ADD [\"http://x/y\", \"/y\"]", b"# escape=`\nFROM scratch",
    ]),
    ("ignore-files", ignore_files, &[
        b"src/a b/c.md\n# none\n**/target\n!docs/**/*.md\n[^a-c]x?\n\\*\n/a/./b/../c/", b"a\n!a\n***\n[", b"\n\xef\xbb\xbf*\r\n!\n..",
    ]),
    ("trees", trees, &[
        b"wharf.toml\napp = \"a\"\n[build]\ncommand = \"make\"\nartifact = \"a.wasm\"\n",
        b"Cargo.toml\n[package]\nname = \"a\"\nversion = \"1.0.0\"\n[lib]\ncrate-type = [\"cdylib\"]\n[workspace]\nmembers = [\"b/*\"]\n",
        b"pyproject.toml\n[project]\nname = \"a\"\ndependencies = [\"componentize-py==0.17\"]\n",
        br#"package.json
{"name":"a","scripts":{"build":"jco componentize app.js"},"devDependencies":{"@bytecodealliance/jco":"1"}}"#,
        b"compose.yaml\nservices: {a: {image: a.wasm}}\n", b"a.wasm\n", b"wit/a.wit\npackage a:b;\n// c\nworld c { /* d */ }\n",
    ]),
    ("output", output, &[b"one\ntwo\r\n\x1b[31mred\x1b[0m \x1b]0;title\x07x\rover\n\xff", b"\t\x1bP\x1b\\a\xe2\x80\xaeb\n\n"]),
];

/// Errors are for people: they quote what they are about, but not without a bound.
const ERROR_MAX_BYTES: usize = 2000;

/// Whatever is let through is the whole name of an image, at a line of the file.
fn dockerfiles(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.matches('\n').count() + 1;
    match Dockerfile::parse(text) {
        Ok(found) => {
            for (at, image) in found.images.iter().enumerate() {
                let is_of_names = |letter: char| letter.is_ascii_alphanumeric() || "._:/@-".contains(letter);
                assert!(!image.text.is_empty() && image.text.chars().all(is_of_names), "{}", image.text);
                assert!(image.text != "scratch" && (1..=lines).contains(&image.line), "{image:?}");
                assert!(
                    found.images[..at].iter().all(|other| other.text != image.text),
                    "{image:?} is there twice"
                );
            }
            assert!(found.fetches.iter().all(|fetch| (1..=lines).contains(&fetch.line)));
            assert!(found.args_of_images.is_subset(&found.args));
        }
        Err(error) => {
            assert!((1..=lines).contains(&error.line), "{error}");
            short(&error);
        }
    }
    if let Err(error) = Dockerfile::parse_trigger(text) {
        short(&error);
    }
}

fn short(error: &DockerfileError) {
    let text = error.to_string();
    assert!(text.len() <= ERROR_MAX_BYTES, "an error of {} octets: {:.200}", text.len(), text);
}

/// A path and the lines of a `.dockerignore`: the last line that fits decides, whatever stands before it.
fn ignore_files(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (path, patterns) = text.split_once('\n').unwrap_or((text, ""));
    // Names are short, and a tree has an end.
    let path: String = path.chars().take(200).collect();
    let leaves_out = |patterns: &str| context::leaves_out(patterns, &path);
    drop(leaves_out(patterns));
    for (last, expected) in [("**", true), ("!**", false)] {
        if let Ok(is_left_out) = leaves_out(&format!("{patterns}\n{last}")) {
            assert_eq!(is_left_out, expected, "{last}");
        }
    }
}

/// The name of a file and its content, in a folder with nothing else but sources.
fn trees(data: &[u8]) {
    let mut parts = data.splitn(2, |octet| *octet == b'\n');
    let name = parts.next().and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default();
    let content = parts.next().unwrap_or_default();
    let sources: [(&str, &[u8]); 4] =
        [("src/main.rs", b""), ("app.py", b"class WitWorld:\n"), ("app.js", b""), (name, content)];
    let tree: Listing = sources.into_iter().collect();
    for containers in [Containers::Allowed, Containers::Refused] {
        match detect(&tree, containers) {
            Ok(detection) => {
                assert!(!detection.to_string().is_empty());
                drop(detection.recipe.steps(&RustWay::Wasip2));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// Lines do not depend on how they come, are bounded, and do nothing to a terminal.
fn output(data: &[u8]) {
    let (whole, pieces) = (lines(&[data]), lines(&data.chunks(3).collect::<Vec<_>>()));
    assert_eq!(whole, pieces);
    for line in whole {
        assert!(line.len() <= 4 * 4096 && !line.chars().any(|letter| letter.is_control() && letter != '\t'));
    }
}

fn lines(chunks: &[&[u8]]) -> Vec<String> {
    let (mut output, mut lines) = (Output::new(100, u64::MAX), Vec::new());
    for chunk in chunks {
        output.take(chunk, &mut |line| lines.push(line.to_owned())).expect("it is not that much");
    }
    output.finish(&mut |line| lines.push(line.to_owned()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_a_parser_keeps_its_word() {
        mutations::try_each(PARSERS, 2000);
    }
}
