//! What a build prints, as lines that do no harm to a terminal or to whoever keeps them.

use std::collections::VecDeque;

/// The longest line that is handed on, in octets; the rest of it is left out.
const LINE_MAX_BYTES: usize = 4096;
/// Lines that an error shows.
const LAST_MAX: usize = 20;

/// Takes what is printed as it comes, and hands on lines.
#[derive(Debug)]
pub struct Output {
    lines_max: usize,
    bytes_max: u64,
    /// The line that has not ended yet, as far as it will be shown.
    line: Vec<u8>,
    is_cut: bool,
    lines: usize,
    bytes: u64,
    last: VecDeque<String>,
}

/// It printed more than it may.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMuch {
    pub max_bytes: u64,
}

impl Output {
    /// Hands on so many lines, and takes so many octets.
    pub fn new(lines_max: usize, bytes_max: u64) -> Self {
        Self {
            lines_max,
            bytes_max,
            line: Vec::new(),
            is_cut: false,
            lines: 0,
            bytes: 0,
            last: VecDeque::new(),
        }
    }

    /// # Errors
    /// When it is more than it may be.
    pub fn take(&mut self, bytes: &[u8], on_line: &mut dyn FnMut(&str)) -> Result<(), TooMuch> {
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            let room = LINE_MAX_BYTES.saturating_sub(self.line.len());
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            self.is_cut |= text.len() > room;
            if ends {
                self.end_line(on_line);
            }
        }
        if self.bytes > self.bytes_max { Err(TooMuch { max_bytes: self.bytes_max }) } else { Ok(()) }
    }

    /// Hands on a last line without an end.
    pub fn finish(&mut self, on_line: &mut dyn FnMut(&str)) {
        if !self.line.is_empty() {
            self.end_line(on_line);
        }
    }

    /// The last lines, of which none is empty.
    pub fn into_last(self) -> Vec<String> {
        self.last.into()
    }

    fn end_line(&mut self, on_line: &mut dyn FnMut(&str)) {
        let mut line = harmless(&self.line);
        if self.is_cut {
            line.push('…');
        }
        self.line.clear();
        self.is_cut = false;
        self.lines += 1;
        if self.lines <= self.lines_max {
            on_line(&line);
        } else if self.lines == self.lines_max + 1 {
            on_line(&format!("(more than {} lines; the rest is not shown)", self.lines_max));
        }
        if !line.trim().is_empty() {
            if self.last.len() == LAST_MAX {
                self.last.pop_front();
            }
            self.last.push_back(line);
        }
    }
}

/// A line as a terminal would end up showing it, without anything that moves a cursor, colours, or turns text around.
fn harmless(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    // A progress bar writes over itself.
    let text = text.rsplit('\r').next().unwrap_or_default();
    let mut letters = text.chars().peekable();
    let mut kept = String::with_capacity(text.len());
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => skip_sequence(&mut letters),
            '\t' => kept.push('\t'),
            _ if is_harmful(letter) => kept.push('\u{fffd}'),
            _ => kept.push(letter),
        }
    }
    kept
}

/// What follows an escape character: `[`, parameters and a letter; or `]` and text up to a bell or another escape; or one letter.
fn skip_sequence(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match letters.next() {
        Some('[') => while letters.next().is_some_and(|letter| !('\u{40}'..='\u{7e}').contains(&letter)) {},
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(letter) = letters.next() {
                match letter {
                    '\u{7}' | '\u{9c}' => break,
                    '\u{1b}' => {
                        letters.next_if_eq(&'\\');
                        break;
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn is_harmful(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(output: &mut Output, chunks: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        for chunk in chunks {
            let _ = output.take(chunk, &mut |line| lines.push(line.to_owned()));
        }
        output.finish(&mut |line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        let mut output = Output::new(10, 1000);
        assert_eq!(lines(&mut output, &[b"a\nb", b"c\n\nd\r\n", b"end"]), ["a", "bc", "", "d", "end"]);
        assert_eq!(output.into_last(), ["a", "bc", "d", "end"]);
    }

    #[test]
    fn sequences_for_terminals_are_taken_out() {
        for (raw, shown) in [
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}text", "text"),
            ("\u{1b}]8;;http://x\u{1b}\\link", "link"),
            ("\u{1b}]0;title\u{1b}[31mtext", "[31mtext"),
            ("\u{1b}Pdevice\u{1b}\\x", "x"),
            ("\u{1b}c reset", " reset"),
            ("10%\r50%\r100%\r", "100%"),
            ("bell\u{7} \u{9b}31m \u{202e}txt", "bell\u{fffd} \u{fffd}31m \u{fffd}txt"),
            ("tab\tü", "tab\tü"),
            ("\u{1b}", ""),
            ("\u{1b}[", ""),
        ] {
            assert_eq!(harmless(raw.as_bytes()), shown, "{raw:?}");
        }
        assert_eq!(harmless(b"\xff\xfe"), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn a_line_without_end_is_cut_and_many_lines_are_counted() {
        let mut output = Output::new(2, 1 << 30);
        let long = vec![b'x'; 3 * LINE_MAX_BYTES];
        let shown = lines(&mut output, &[&long, &long, b"\n2\n3\n4\n"]);
        assert_eq!(shown[0].len(), LINE_MAX_BYTES + '…'.len_utf8());
        assert_eq!(shown[1..], ["2", "(more than 2 lines; the rest is not shown)"]);
        // An error still shows how it ended.
        assert_eq!(output.into_last()[1..], ["2", "3", "4"]);
    }

    #[test]
    fn more_octets_than_allowed_are_too_much() {
        let mut output = Output::new(10, 5);
        assert_eq!(output.take(b"12345", &mut |_| {}), Ok(()));
        assert_eq!(output.take(b"6", &mut |_| {}), Err(TooMuch { max_bytes: 5 }));
    }

    proptest! {
        #[test]
        fn nothing_harmful_comes_through(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in ".{0,100}") {
            for line in [harmless(&bytes), harmless(text.as_bytes())] {
                prop_assert!(line.chars().all(|letter| letter == '\t' || letter == '\n' || !is_harmful(letter)), "{line:?}");
            }
        }
    }
}
