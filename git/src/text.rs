//! Text of users and of git, made fit to be shown in a terminal.

/// Text on one line without anything that a terminal would act on, cut after `max` characters.
pub(crate) fn shown(text: &str, max: usize) -> String {
    let mut shown = String::with_capacity(text.len());
    for (number, letter) in text.chars().enumerate() {
        if number == max {
            shown.push('…');
            break;
        }
        if acts(letter) {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// The path of a file, for an error.
pub(crate) fn path(path: &[u8]) -> String {
    shown(&String::from_utf8_lossy(path), 500)
}

/// A line of a program's output without what would colour it or move the cursor.
pub(crate) fn plain(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => match letters.next() {
                Some('[') => {
                    letters.by_ref().find(|letter| ('\u{40}'..='\u{7e}').contains(letter));
                }
                Some(']') => {
                    letters.by_ref().find(|&letter| letter == '\u{7}' || letter == '\\');
                }
                _ => {}
            },
            // What stands behind it is written over what stands before it.
            '\r' if letters.peek().is_some() => plain.clear(),
            '\t' => plain.push('\t'),
            letter if acts(letter) => {}
            letter => plain.push(letter),
        }
    }
    plain
}

/// Whether a terminal would do something else than show it: control characters, and those that turn the direction of writing.
fn acts(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_and_cursors_are_left_out_of_output() {
        assert_eq!(plain("\u{1b}[1;32m   Compiling\u{1b}[0m app\tv1"), "   Compiling app\tv1");
        assert_eq!(plain("\u{1b}]0;title\u{7}text"), "text");
        assert_eq!(plain(" 10%\r 50%\r100%\r"), "100%");
        assert_eq!(plain("a\u{7}b\u{9b}c\u{202e}d\0e"), "abcde");
        assert_eq!(plain("\u{1b}"), "");
        assert_eq!(plain("\u{1b}[31"), "");
    }

    #[test]
    fn paths_are_escaped_where_they_would_act_and_readable_where_not() {
        assert_eq!(path("grün/\"a b\".txt".as_bytes()), "grün/\"a b\".txt");
        assert_eq!(path(b"a\nb\x1b[0m"), "a\\nb\\u{1b}[0m");
    }

    #[test]
    fn what_is_shown_has_an_end() {
        assert_eq!(shown("abcdef", 3), "abc…");
        assert_eq!(shown("abc", 3), "abc");
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_acts_gets_through(line: String) {
            assert!(plain(&line).chars().all(|letter| letter == '\t' || !acts(letter)));
            assert!(!shown(&line, 100).chars().any(acts));
        }
    }
}
