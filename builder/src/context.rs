//! Which files of a tree go to the engine that builds an image: all but those that `.dockerignore` leaves out.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::tree::{Folder, Tree as _, Unreadable};

const IGNORE_FILE: &str = ".dockerignore";
/// More would take long for a tree of many files.
const PATTERNS_MAX: usize = 500;
/// Of all patterns together.
const PATTERN_CHARS_MAX: usize = 20_000;
/// Folders in folders; git itself has no such limit.
const DEPTH_MAX: usize = 200;

/// Why it is not known what to send.
#[derive(Debug, thiserror::Error)]
pub enum ContextError {
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("{IGNORE_FILE} has more than {PATTERNS_MAX} lines: leave out folders as a whole")]
    ManyPatterns,
    #[error(
        "the lines of {IGNORE_FILE} have more than {PATTERN_CHARS_MAX} characters: leave out folders as a whole"
    )]
    LongPatterns,
    #[error("nobody wants it any more")]
    Cancelled,
    #[error("{}: folders are more than {DEPTH_MAX} deep", path.display())]
    Deep { path: PathBuf },
    #[error("could not read {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// The files, folders and links of a tree that an image is built of, by their paths in it, each folder before what is in it.
///
/// # Errors
/// When something cannot be read, or once it was cancelled.
pub fn context_files(tree: &Path, cancel: &CancellationToken) -> Result<Vec<PathBuf>, ContextError> {
    let io = |path: &Path, source| ContextError::Io { path: path.to_owned(), source };
    let folder = Folder::open(tree).map_err(|source| io(tree, source))?;
    let ignored = Ignored::parse(&folder.read(IGNORE_FILE)?.unwrap_or_default())?;
    let mut files = Vec::new();
    let mut open = vec![(PathBuf::new(), ignored.nothing(), 0)];
    while let Some((within, above, depth)) = open.pop() {
        if depth > DEPTH_MAX {
            return Err(ContextError::Deep { path: within });
        }
        let entries = std::fs::read_dir(tree.join(&within)).map_err(|source| io(&within, source))?;
        for entry in entries {
            if cancel.is_cancelled() {
                return Err(ContextError::Cancelled);
            }
            let entry = entry.map_err(|source| io(&within, source))?;
            let path = within.join(entry.file_name());
            let is_folder = entry.file_type().map_err(|source| io(&path, source))?.is_dir();
            let matched = ignored.look(&above, &path.to_string_lossy());
            if !ignored.leaves_out(&matched) {
                files.push(path.clone());
            }
            // Something in it may be an exception.
            if is_folder {
                open.push((path, matched, depth + 1));
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Whether the lines of a `.dockerignore` leave out a path.
#[cfg(any(test, fuzzing))]
pub(crate) fn leaves_out(patterns: &str, path: &str) -> Result<bool, ContextError> {
    let ignored = Ignored::parse(patterns)?;
    let mut matched = ignored.nothing();
    for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
        matched = ignored.look(&matched, &path[..at]);
    }
    Ok(ignored.leaves_out(&matched))
}

/// The patterns of a `.dockerignore`, of which the last that fits decides.
struct Ignored(Vec<Pattern>);

struct Pattern {
    tokens: Vec<Token>,
    /// Written with `!`: what fits is not left out.
    is_exception: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Letter(char),
    /// `?`: one letter of a name.
    One,
    /// `*`: any number of letters of a name.
    Some,
    /// `**`: anything, with any number of folders.
    Any,
    /// `**/`: nothing, or any number of whole folders.
    Folders,
    /// `[a-z]`: one letter of these; with `^`, of all others.
    Of {
        letters: Vec<(char, char)>,
        is_not: bool,
    },
}

/// Which patterns fit a path, or a folder that it is in.
type Matched = Vec<bool>;

impl Ignored {
    fn parse(text: &str) -> Result<Self, ContextError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::trim);
        if lines.clone().map(|line| line.chars().count()).sum::<usize>() > PATTERN_CHARS_MAX {
            return Err(ContextError::LongPatterns);
        }
        let patterns: Vec<Pattern> = lines.filter_map(Pattern::parse).take(PATTERNS_MAX + 1).collect();
        if patterns.len() > PATTERNS_MAX { Err(ContextError::ManyPatterns) } else { Ok(Self(patterns)) }
    }

    fn nothing(&self) -> Matched {
        vec![false; self.0.len()]
    }

    fn look(&self, above: &Matched, path: &str) -> Matched {
        self.0.iter().zip(above).map(|(pattern, above)| *above || fits(&pattern.tokens, path)).collect()
    }

    fn leaves_out(&self, matched: &Matched) -> bool {
        let last = self.0.iter().zip(matched).rev().find(|(_, matched)| **matched);
        last.is_some_and(|(pattern, _)| !pattern.is_exception)
    }
}

impl Pattern {
    /// None: an empty line.
    fn parse(line: &str) -> Option<Self> {
        let (line, is_exception) = match line.strip_prefix('!') {
            Some(line) => (line.trim(), true),
            None => (line, false),
        };
        // As `./a//b/` is `a/b`.
        let mut names: Vec<&str> = Vec::new();
        for name in line.split('/').filter(|name| !matches!(*name, "" | ".")) {
            if name == ".." {
                names.pop();
            } else {
                names.push(name);
            }
        }
        let text = names.join("/");
        (!text.is_empty()).then(|| Self { tokens: tokens(&text), is_exception })
    }
}

fn tokens(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        tokens.push(match letter {
            '?' => Token::One,
            '*' if letters.next_if_eq(&'*').is_some() => match letters.next_if_eq(&'/') {
                Some(_) => Token::Folders,
                None => Token::Any,
            },
            '*' => Token::Some,
            '[' => list(&mut letters),
            '\\' => Token::Letter(letters.next().unwrap_or('\\')),
            letter => Token::Letter(letter),
        });
    }
    tokens
}

/// What is between `[` and `]`.
fn list(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Token {
    let is_not = letters.next_if_eq(&'^').is_some();
    let mut of = Vec::new();
    while let Some(letter) = letters.next().filter(|letter| *letter != ']') {
        let first = if letter == '\\' { letters.next().unwrap_or('\\') } else { letter };
        let last = match letters.next_if_eq(&'-') {
            Some(_) => letters.next().unwrap_or(first),
            None => first,
        };
        of.push((first, last));
    }
    Token::Of { letters: of, is_not }
}

/// Whether a pattern is the whole of a path. All ways are followed at once, so that no pattern takes long.
fn fits(tokens: &[Token], path: &str) -> bool {
    let path: Vec<char> = path.chars().collect();
    // Up to which letters of the path the pattern may have come, sorted.
    let mut reached = vec![0];
    for token in tokens {
        let one = |is_it: &dyn Fn(char) -> bool| -> Vec<usize> {
            let next = reached.iter().filter(|at| path.get(**at).is_some_and(|letter| is_it(*letter)));
            next.map(|at| at + 1).collect()
        };
        reached = match token {
            Token::Letter(letter) => one(&|other| other == *letter),
            Token::One => one(&|other| other != '/'),
            Token::Of { letters, is_not } => one(&|other| {
                let is_in = letters.iter().any(|(first, last)| (*first..=*last).contains(&other));
                other != '/' && is_in != *is_not
            }),
            Token::Some => on(&path, &reached, |before| before != '/'),
            Token::Any => on(&path, &reached, |_| true),
            Token::Folders => {
                let mut further = on(&path, &reached, |_| true);
                further.retain(|at| reached.contains(at) || path.get(at.wrapping_sub(1)) == Some(&'/'));
                further
            }
        };
        if reached.is_empty() {
            return false;
        }
    }
    reached.last() == Some(&path.len())
}

/// Every place that is reached over letters like these.
fn on(path: &[char], reached: &[usize], is_passed: impl Fn(char) -> bool) -> Vec<usize> {
    let mut is_reached = vec![false; path.len() + 1];
    reached.iter().for_each(|at| is_reached[*at] = true);
    for (at, letter) in path.iter().enumerate() {
        is_reached[at + 1] |= is_reached[at] && is_passed(*letter);
    }
    (0..is_reached.len()).filter(|at| is_reached[*at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_left_out(patterns: &str, path: &str) -> bool {
        leaves_out(patterns, path).unwrap()
    }

    #[test]
    fn patterns_are_read_as_docker_reads_them() {
        for (patterns, path, expected) in [
            ("target", "target/a/b", true),
            ("/target/", "target/a", true),
            ("target", "src/target", false),
            ("**/target", "src/target/a", true),
            ("**/target", "target", true),
            ("**/target", "nottarget", false),
            ("*.md", "README.md", true),
            ("*.md", "docs/a.md", false),
            ("**/*.md", "docs/b/a.md", true),
            ("docs/**", "docs/b/a.md", true),
            ("docs/**", "docs", false),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("*\n!keep", "keep/this", false),
            ("*\n!keep", "other", true),
            ("*\n!keep\nkeep/not", "keep/not", true),
            ("# comment\n\n./a/../b", "b", true),
            ("*", ".git", true),
            (" a ", "a", true),
            ("", "a", false),
        ] {
            assert_eq!(is_left_out(patterns, path), expected, "{patterns:?} of {path}");
        }
    }

    #[test]
    fn what_is_left_out_is_not_sent() {
        let tree = tempfile::tempdir().unwrap();
        for file in ["Dockerfile", ".dockerignore", "a/keep", "a/b/c", "d"] {
            let path = tree.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "*\n!a/keep\n").unwrap();
        }
        let files = context_files(tree.path(), &CancellationToken::new()).unwrap();
        let files: Vec<&str> = files.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(files, ["a/keep"]);
    }

    #[test]
    fn patterns_that_would_take_long_are_refused() {
        let of = |lines: usize, line: &str| Ignored::parse(&format!("{line}\n").repeat(lines));
        assert!(of(PATTERNS_MAX, "a").is_ok());
        assert!(matches!(of(PATTERNS_MAX + 1, "a"), Err(ContextError::ManyPatterns)));
        assert!(matches!(of(3, &"*".repeat(PATTERN_CHARS_MAX / 2)), Err(ContextError::LongPatterns)));
        assert!(of(3, &format!("#{}", "a".repeat(PATTERN_CHARS_MAX))).is_ok());
    }

    #[test]
    fn nothing_is_looked_at_for_who_does_not_want_it_any_more() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::write(tree.path().join("a"), "").unwrap();
        let cancel = CancellationToken::new();
        cancel.cancel();
        assert!(matches!(context_files(tree.path(), &cancel), Err(ContextError::Cancelled)));
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_makes_it_panic(patterns in "[-!*?/a\\[\\]^.\\\\\n#]{0,40}", path in "[a/.]{1,20}") {
            let ignored = Ignored::parse(&patterns).unwrap();
            ignored.leaves_out(&ignored.look(&ignored.nothing(), &path));
        }
    }
}
