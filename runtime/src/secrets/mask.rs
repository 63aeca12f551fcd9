//! Takes values out of what is quoted of a guest.

use std::ops::Range;
use std::sync::Arc;

use wharf_types::secret::SecretValue;

/// Shorter lines are ordinary words, which are found everywhere.
const LINE_MIN_BYTES: usize = 6;
const SHOWN: &str = "***";

/// Values that are not to be quoted. It shows none of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mask(Arc<[SecretValue]>);

impl FromIterator<SecretValue> for Mask {
    fn from_iter<I: IntoIterator<Item = SecretValue>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl Mask {
    /// The text without the values: a guest that prints one of several lines prints these apart, so each is looked for by itself. At the end of
    /// the text, where it may have been cut, so is how a line begins.
    pub(crate) fn over(&self, text: &str) -> String {
        let lines = self.0.iter().flat_map(|value| value.reveal().lines()).map(str::trim);
        let long = lines.filter(|line| line.len() >= LINE_MIN_BYTES);
        let mut hidden: Vec<Range<usize>> = long.flat_map(|line| found(text, line)).collect();
        hidden.sort_by_key(|range| range.start);
        let (mut shown, mut at) = (String::with_capacity(text.len()), 0);
        for range in hidden {
            if range.start >= at {
                shown.push_str(&text[at..range.start]);
                shown.push_str(SHOWN);
            }
            at = at.max(range.end);
        }
        shown.push_str(&text[at..]);
        shown
    }
}

/// Where a line of a value is in a text.
fn found(text: &str, line: &str) -> impl Iterator<Item = Range<usize>> {
    let whole = text.match_indices(line).map(|(at, found)| at..at + found.len());
    let beginnings = line.char_indices().map(|(end, _)| end).filter(|end| *end >= LINE_MIN_BYTES);
    let begun = beginnings.rev().find(|end| text.ends_with(&line[..*end]));
    whole.chain(begun.map(|bytes| text.len() - bytes..text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(values: &[&str]) -> Mask {
        values.iter().map(|value| SecretValue::from((*value).to_owned())).collect()
    }

    #[test]
    fn a_value_is_taken_out_wherever_it_stands() {
        let mask = mask(&["hunter22", "s3cr3t-ä"]);
        for (text, shown) in [
            ("no such user", "no such user"),
            ("hunter22", "***"),
            ("login with hunter22 failed, hunter22!", "login with *** failed, ***!"),
            ("ä s3cr3t-ä hunter22", "ä *** ***"),
            ("Hunter22", "Hunter22"),
            ("", ""),
        ] {
            assert_eq!(mask.over(text), shown, "{text}");
        }
        assert_eq!(Mask::default().over("hunter22"), "hunter22");
        assert!(!format!("{mask:?}").contains("hunter"));
    }

    #[test]
    fn each_line_of_a_value_is_taken_out_and_short_ones_are_not() {
        let mask = mask(&["-----BEGIN KEY-----\n  MIIBIjANBg\r\nAB==\n", "abc"]);
        assert_eq!(mask.over("read MIIBIjANBg and AB== and abc"), "read *** and AB== and abc");
        assert_eq!(mask.over("-----BEGIN KEY-----"), "***");
    }

    #[test]
    fn values_that_overlap_leave_nothing_of_each_other() {
        let mask = mask(&["abcdef", "defghi", "abcdefgh"]);
        assert_eq!(mask.over("x abcdefghi y"), "x *** y");
    }

    #[test]
    fn what_was_cut_within_a_value_shows_no_beginning_of_it() {
        let mask = mask(&["correct-horse"]);
        assert_eq!(mask.over("the password is correct-ho"), "the password is ***");
        assert_eq!(mask.over("that is correc"), "that is ***");
        assert_eq!(mask.over("that is corre"), "that is corre");
        assert_eq!(mask.over("correct-ho is not cut"), "correct-ho is not cut");
    }
}
