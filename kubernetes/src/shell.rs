//! Words of a command that somebody may paste into a POSIX shell.

/// The word as it is, or in quotes.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Whether a terminal would show something else than the word, so that what is copied from it is another one.
pub(crate) fn is_unprintable(word: &str) -> bool {
    word.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t'))
}

/// A command that prints a text, and behind it what ends a line: `wharf config set` takes that away again.
pub(crate) fn printed(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '\\' => escaped.push_str(r"\\"),
            '\n' => escaped.push_str(r"\n"),
            c if c.is_control() => {
                let octet = |octet: u8| format!(r"\0{octet:03o}");
                escaped.extend(c.encode_utf8(&mut [0; 4]).bytes().map(octet));
            }
            c => escaped.push(c),
        }
    }
    format!(r"printf '%b\r\n' {}", quoted(&escaped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_a_quoted_word_for_what_it_is() {
        for (word, expected) in [
            ("a-b=c", "a-b=c"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's $x", r"'it'\''s $x'"),
            ("a\nb", "'a\nb'"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn what_a_terminal_does_not_show_is_printed_by_a_command() {
        assert!(is_unprintable("a\r\n") && is_unprintable("\u{1b}[2J") && !is_unprintable("a\n\tb"));
        for text in ["a\r\nb\\'", "\r", "\u{85}x\n", "\\0015 %s"] {
            let shell = std::process::Command::new("sh").arg("-c").arg(printed(text)).output().unwrap();
            assert_eq!(String::from_utf8(shell.stdout).unwrap(), format!("{text}\r\n"));
        }
    }
}
