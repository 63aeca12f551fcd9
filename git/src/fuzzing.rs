//! The parsers of this crate that take octets from outside, and what holds of each whatever comes.
//!
//! `fuzz/` gives them to a fuzzer; the test below tries them with their seeds and with random changes of these.

#[cfg(test)]
#[path = "../../fuzz/mutations.rs"]
mod mutations;
#[path = "../../fuzz/parser.rs"]
mod parser;

use std::fmt::Display;

use crate::objects::TreeLine;
use crate::pkt::{self, Boundaries, Frame};
use crate::push_head::Reader;
use crate::receive::hook::Request;
use crate::{ObjectId, Protocol, RefName, Service, text};

pub use parser::Parser;

#[rustfmt::skip]
pub const PARSERS: &[Parser] = &[
    ("pushes", pushes, &[
        b"0000",
        b"00821111111111111111111111111111111111111111 2222222222222222222222222222222222222222 refs/heads/main\0 report-status side-band-64k0000PACK\0\0\0\x02\0\0\0\x01",
        b"00731111111111111111111111111111111111111111 0000000000000000000000000000000000000000 refs/heads/main\0 push-options0000000aenv=ab0000",
    ]),
    ("hook-requests", hook_requests, &[
        b"/a/b\n/a\n1111111111111111111111111111111111111111 0000000000000000000000000000000000000000 refs/heads/main\nend\n",
    ]),
    ("tree-lines", tree_lines, &[
        b"100644 blob 1111111111111111111111111111111111111111      17\ta/b",
        b"160000 commit 1111111111111111111111111111111111111111       -\tc",
    ]),
    ("frames", frames, &[b"0009hello0000", b"0004", b"fff0"]),
    ("words", words, &[b"refs/heads/main", b"git-upload-pack", b"1111111111111111111111111111111111111111", b"version=1:version=2", b"\x1b[31mred\x1b[0m\r\n"]),
];

/// Errors are for people: they quote what they are about, but not without a bound.
const ERROR_MAX_BYTES: usize = 2000;

fn short(error: &impl Display) {
    let text = error.to_string();
    assert!(text.len() <= ERROR_MAX_BYTES, "an error of {} octets: {:.200}", text.len(), text);
}

/// A head does not depend on how it arrives, and nothing that arrives is lost.
fn pushes(data: &[u8]) {
    let (mut whole, mut pieces) = (Reader::new(), Reader::new());
    let at_once = whole.take(data);
    let mut one_by_one = Ok(false);
    for octet in data {
        one_by_one = pieces.take(std::slice::from_ref(octet));
        if one_by_one.is_err() {
            break;
        }
    }
    match (at_once, one_by_one) {
        (Ok(is_whole), Ok(is_too)) => {
            assert_eq!(is_whole, is_too && !data.is_empty());
            let ((head, bytes), (other, others)) = (whole.finish(), pieces.finish());
            assert_eq!((&head, &bytes[..], &others[..]), (&other, data, data));
        }
        (Err(error), Err(_)) => short(&error),
        (at_once, one_by_one) => panic!("at once {at_once:?}, one by one {one_by_one:?}"),
    }
}

fn hook_requests(data: &[u8]) {
    if let Err(error) = Request::parse(data) {
        short(&error);
    }
}

fn tree_lines(data: &[u8]) {
    if let Some(line) = TreeLine::parse(data) {
        assert!(data.ends_with(line.path));
    }
}

fn frames(data: &[u8]) {
    match pkt::frame(data) {
        Ok(Frame::Line(length)) => assert!((4..=data.len()).contains(&length)),
        Ok(_) => {}
        Err(error) => short(&error),
    }
    Boundaries::default().pass(data);
}

fn words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match text.parse::<RefName>() {
        Ok(name) => assert_eq!(name.as_str(), text),
        Err(error) => short(&error),
    }
    match text.parse::<ObjectId>() {
        Ok(id) => assert_eq!(id.to_string(), text),
        Err(error) => short(&error),
    }
    if let Err(error) = text.parse::<Service>() {
        short(&error);
    }
    Protocol::from_header(Some(&text));
    assert!(!text::plain(&text).contains('\u{1b}'));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_a_parser_keeps_its_word() {
        mutations::try_each(PARSERS, 2000);
    }

    #[test]
    fn the_pushes_that_are_changed_are_some() {
        for push in PARSERS[0].2 {
            assert!(Reader::new().take(push).unwrap(), "{}", push.escape_ascii());
        }
    }
}
