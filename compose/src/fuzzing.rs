//! The parsers of this crate that take octets from outside, and what holds of each whatever comes.
//!
//! `fuzz/` gives them to a fuzzer; the test below tries them with their seeds and with random changes of these.

#[cfg(test)]
#[path = "../../fuzz/mutations.rs"]
mod mutations;
#[path = "../../fuzz/parser.rs"]
mod parser;

use std::collections::BTreeSet;
use std::io;

use crate::env_file::{self, Format};
use crate::interpolate::{Variables, interpolate};
use crate::translate::{Context, translate};
use crate::{Reader, load, quantity, words};

pub use parser::Parser;

#[rustfmt::skip]
pub const PARSERS: &[Parser] = &[
    ("compose", compose, &[
        include_bytes!("../tests/fixtures/voting.yml"),
        b"x: &a {image: x}\nservices:\n  a:\n    <<: *a\n    ports: ['127.0.0.1:80-90:80-90/udp', {target: 1}]\n    volumes: [./a:/b:ro, 'v:/c']\nvolumes: {v: }\n",
        b"services: {a: {image: '${A:-${B:?c}}', environment: [A=b, C], extends: b}, b: {image: a.wasm, deploy: {replicas: 2}}}\n",
        b"include: [f]\nservices: {a: {image: x, env_file: [f], profiles: [p], x-wharf: {tcp: {}}}}\nsecrets: {s: {content: !reset x}}\n",
    ]),
    ("env-file", env, &[b"A=1\nexport B=\"x\\n$A\" # c\nC='y'\nD\n", b"A=${A:-\"b\"}\r\n"]),
    ("command-lines", command_lines, &[br#"sh -c 'a || b' "c \" $d" e\ f ''"#]),
    ("quantities", quantities, &[b"1h30m", b"1.5gb", b"-1", b"on", b"0.25", b"${A:-${B}}"]),
];

/// Any file that is asked for is the same one.
struct Same<'a>(&'a [u8]);

impl Reader for Same<'_> {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        if path == ".env" { Err(io::ErrorKind::NotFound.into()) } else { Ok(self.0.to_vec()) }
    }
}

/// What loads is printed as what loads again, and translates or is refused.
fn compose(data: &[u8]) {
    let read =
        |data: &[u8]| load(&["compose.yaml".to_owned()], &["*".to_owned()], &Variables::new(), &Same(data));
    match read(data) {
        Ok(project) => {
            let again = read(project.to_yaml().as_bytes()).expect("what is printed loads");
            let (first, second) = (project.to_yaml(), again.to_yaml());
            let differs = first.lines().zip(second.lines()).find(|(a, b)| a != b);
            assert!(again.tree == project.tree, "{differs:?}");
            drop(translate(&project, &Context::default()));
        }
        Err(problems) => assert!((1..=100).contains(&problems.iter().count())),
    }
}

fn env(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for format in [Format::Compose, Format::Raw] {
        if let Ok(found) = env_file::parse(text, format, &[], &mut (32 << 20)) {
            assert!(found.iter().all(|(name, _)| !name.is_empty()));
        }
    }
}

/// Words are the same when each is quoted and read again.
fn command_lines(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(found) = words::split(text) else { return };
    let quoted: Vec<String> = found.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    assert_eq!(words::split(&quoted.join(" ")), Some(found));
}

/// What is read of an amount is read as the same once more.
fn quantities(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for read in [quantity::duration, quantity::size, quantity::whole, quantity::number] {
        if let Ok(canonical) = read(text) {
            assert_eq!(read(&canonical), Ok(canonical.clone()));
        }
    }
    drop(interpolate(text, &[], &mut BTreeSet::new()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_a_parser_keeps_its_word() {
        mutations::try_each(PARSERS, 1000);
    }
}
