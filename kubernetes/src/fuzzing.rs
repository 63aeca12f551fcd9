//! The parsers of this crate that take octets from outside, and what holds of each whatever comes.
//!
//! `fuzz/` gives them to a fuzzer; the test below tries them with their seeds and with random changes of these.

#[cfg(test)]
#[path = "../../fuzz/mutations.rs"]
mod mutations;
#[path = "../../fuzz/parser.rs"]
mod parser;

use crate::quantity::thousandths;
use crate::{Source, import};

pub use parser::Parser;

#[rustfmt::skip]
pub const PARSERS: &[Parser] = &[
    ("manifests", manifests, &[
        include_bytes!("../tests/fixtures/guestbook.yaml"),
        include_bytes!("../tests/fixtures/everything.yaml"),
        include_bytes!("../tests/fixtures/jobs.yaml"),
    ]),
    ("amounts", amounts, &[b"250m", b"1.5Gi", b"2e3", b"100n"]),
];

/// What is printed of manifests is documents of apps and namespaces, and the same manifests are printed in the same way.
fn manifests(data: &[u8]) {
    let sources = [Source { name: "f.yaml".into(), octets: data.to_vec() }];
    let made = import(&sources);
    let again = import(&sources);
    assert_eq!((&made.text, &made.findings), (&again.text, &again.findings));
    let printed = import(&[Source { name: "f.yaml".into(), octets: made.text.clone().into_bytes() }]);
    let is_yaml = |text: &str| !text.contains("this is not YAML");
    assert!(printed.findings.iter().all(|finding| is_yaml(&finding.text)), "{}", made.text);
}

fn amounts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(amount) = thousandths(text) {
        assert_eq!(thousandths(&format!("{amount}m")), Some(amount));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_comes_a_parser_keeps_its_word() {
        mutations::try_each(PARSERS, 1000);
    }
}
