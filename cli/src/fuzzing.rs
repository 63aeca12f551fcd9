//! The parsers of this crate that take octets from outside, and what holds of each whatever comes.
//!
//! `fuzz/` gives them to a fuzzer; the test below tries them with their seeds and with random changes of these.

#[cfg(test)]
#[path = "../../fuzz/mutations.rs"]
mod mutations;
#[path = "../../fuzz/parser.rs"]
mod parser;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use clap::Parser as _;
use wharf_types::NamespaceName;
use wharf_types::manifest::Manifest;

use crate::args::{Cli, parse_assignment};
use crate::declared::fuzzing::{Format, told};
use crate::declared::manifest;
use crate::sse::SseParser;

pub use parser::Parser;

#[rustfmt::skip]
pub const PARSERS: &[Parser] = &[
    ("yaml", yaml, &[
        b"kind: app\nname: hello\nartifact: hello.wasm\nenv:\n  A: 'yes'\nscale: {replicas: 2}\n---\nkind: namespace\nname: a\n",
        b"- &a {kind: namespace, name: a}\n- *a\n", b"resources:\n  - kind: app\n    name: b\n    args: [1, \"x\", |\n      y\n    ]\n", b"a: !!str 1\nb: >-\n  x\n",
    ]),
    ("json", json, &[br#"{"resources":[{"kind":"app","name":"a","artifact":"a.wasm","env":{"A":"\u00e4\n"},"scale":{"replicas":1e1}}]}"#, b"[[[[{}]]]]"]),
    ("toml", toml, &[b"[[resources]]\nkind = \"app\"\nname = \"hello\"\nartifact = \"hello.wasm\"\nenv.A = \"yes\"\nscale.replicas = 0x2\n", b"a = 1979-05-27T07:32:00Z\nb = '''\nx'''\n"]),
    ("manifest", manifest, &[
        include_bytes!("../../examples/hello/wharf.toml"),
        b"app = \"a\"\nimage = \"redis:7\"\n[scale]\nreplicas = { mni = 1 }\n[update]\nparallelism = \"0%\"\n[placement]\nconstraints = [\"node.cpus\", \"a\"]\npriority = \"hgh\"\n[[volumes]]\nname = \"data\"\n",
    ]),
    ("arguments", arguments, &[
        b"deploy\0hello.wasm\0-e\0A=b\0--app\0hello\0--timeout\x005m", b"job\0run\0--secret\0P=password\0--memory\x0064MiB\0--\0x", b"up\0--label\0zone=a\0--api\x00127.0.0.1:0",
        b"schedule\0set\0a\0--cron\0@daily\0--overlap\0allow", b"run\0a.wasm\0--dir\0a::b", b"cp\0web:/var/log\0.\0--chown\x001:1", b"volume\0backup\0web\0data\0-",
        b"worker\0--join\0wharf-join.00.a@server:8443\0--internal-addresses\x00198.18.0.0/15",
    ]),
    ("events", events, &[b"id: 1\nevent: log\ndata: {}\n\n", b"\xef\xbb\xbfdata: a\r\ndata: b\r\r:x\nid\n\n"]),
];

/// A file says what is wrong in a bounded number of lines, whatever is in it.
fn file(data: &[u8], format: Format) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let namespace = NamespaceName::default_namespace();
    if let Err(error) = told(text, PathBuf::from("."), format, &namespace) {
        assert!(error.lines().count() <= 30, "{error}");
    }
}

fn yaml(data: &[u8]) {
    file(data, Format::Yaml);
}

fn json(data: &[u8]) {
    file(data, Format::Json);
}

fn toml(data: &[u8]) {
    file(data, Format::Toml);
}

/// What is read here the types read too, and they read nothing else. What is wrong is told in a bounded number of lines.
fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match (manifest::read("wharf.toml", text), Manifest::parse(text)) {
        (Ok(read), Ok(parsed)) => assert_eq!(read, parsed),
        (Err(error), _) => assert!(error.lines().count() <= 30, "{error}"),
        (Ok(_), Err(error)) => panic!("only one of the two readers refuses it: {error:?}"),
    }
}

/// A command line, its words separated by NUL.
fn arguments(data: &[u8]) {
    let words = data.split(|octet| *octet == 0).map(|word| OsString::from_vec(word.to_vec()));
    drop(Cli::try_parse_from(std::iter::once("wharf".into()).chain(words)));
    for word in data.split(|octet| *octet == 0).filter_map(|word| std::str::from_utf8(word).ok()) {
        if let Ok((name, value)) = parse_assignment(word) {
            assert!(!name.is_empty() && format!("{name}={value}") == word);
        }
    }
}

/// However a stream is cut into pieces, it has the same events.
fn events(data: &[u8]) {
    let whole = SseParser::default().feed(data);
    let mut parser = SseParser::default();
    let pieces: Result<Vec<_>, _> = data.chunks(3).map(|piece| parser.feed(piece)).collect();
    assert_eq!(whole, pieces.map(|pieces| pieces.concat()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_a_parser_keeps_its_word() {
        mutations::try_each(PARSERS, 1000);
    }
}
