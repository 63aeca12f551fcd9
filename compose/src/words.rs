//! A command line into its words, by the quoting rules of a POSIX shell and nothing else of it.
//!
//! No comments, because what follows a `#` would be lost, and no variables, because those were replaced before.

/// None: a quote is not closed, or nothing follows the last backslash.
pub(crate) fn split(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => single(&mut chars, word.get_or_insert_default())?,
            '"' => double(&mut chars, word.get_or_insert_default())?,
            '\\' => match chars.next()? {
                '\n' => {}
                c => word.get_or_insert_default().push(c),
            },
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Some(words)
}

fn single(chars: &mut std::str::Chars<'_>, word: &mut String) -> Option<()> {
    loop {
        match chars.next()? {
            '\'' => return Some(()),
            c => word.push(c),
        }
    }
}

fn double(chars: &mut std::str::Chars<'_>, word: &mut String) -> Option<()> {
    loop {
        match chars.next()? {
            '"' => return Some(()),
            '\\' => match chars.next()? {
                '\n' => {}
                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_at_spaces_that_are_not_quoted() {
        for (line, expected) in [
            ("", vec![]),
            ("  a  b\n", vec!["a", "b"]),
            ("a 'b c' \"d  e\"", vec!["a", "b c", "d  e"]),
            ("a'b'\"c\"d", vec!["abcd"]),
            ("'' \"\"", vec!["", ""]),
            (r#""a\"b\\c\n$d" '\n' \ e"#, vec![r#"a"b\c\n$d"#, "\\n", " e"]),
            ("a\\\nb", vec!["ab"]),
            ("echo # a #b", vec!["echo", "#", "a", "#b"]),
            ("sh -c 'a || b && c'", vec!["sh", "-c", "a || b && c"]),
        ] {
            assert_eq!(split(line).unwrap(), expected, "{line:?}");
        }
        for open in ["'a", "\"a", "a\\", "\"a\\"] {
            assert_eq!(split(open), None, "{open}");
        }
    }
}
