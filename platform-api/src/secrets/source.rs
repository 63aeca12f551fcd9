//! Where keys come from, and the file in which the platform keeps its own.
//!
//! The format is the same everywhere: one key a line, or several with commas or blanks between them, each of 64 hexadecimal digits;
//! what follows a `#` on its line is a comment. The first key seals; the others only open what they sealed before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use wharf_types::secret::SecretValue;
use zeroize::Zeroizing;

use super::seal::Key;
use crate::data_dir::write_secret;

/// Where the keys for secrets come from.
#[derive(Clone, Debug, Default)]
pub enum SecretKeySource {
    /// `secret.key` of the data directory, made when it is needed and there is none.
    #[default]
    Own,
    /// A file that somebody else writes.
    File(PathBuf),
    /// The keys themselves, from the environment.
    Given(SecretValue),
}

/// Why the keys cannot be used. It holds nothing of them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeySourceError {
    #[error("cannot read the keys for secrets from {}", file.display())]
    Read {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{origin} is not valid: the {position}. key in it is not 64 hexadecimal digits; `openssl rand -hex 32` makes a key"
    )]
    NotAKey { origin: String, position: usize },
    #[error(
        "{origin} holds no key: write one of 64 hexadecimal digits, such as `openssl rand -hex 32` makes"
    )]
    Empty { origin: String },
}

/// A source whose place is known.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Own(PathBuf),
    File(PathBuf),
    Given(SecretValue),
}

impl Source {
    pub(crate) fn of(source: &SecretKeySource, own: PathBuf) -> Self {
        match source {
            SecretKeySource::Own => Self::Own(own),
            SecretKeySource::File(file) => Self::File(file.clone()),
            SecretKeySource::Given(text) => Self::Given(text.clone()),
        }
    }

    /// As a user knows it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Own(file) => file.display().to_string(),
            Self::File(file) => format!("{} (WHARF_SECRET_KEY_FILE)", file.display()),
            Self::Given(_) => "WHARF_SECRET_KEY".to_owned(),
        }
    }

    /// The keys, the one that seals first. None: there is no such file.
    pub(crate) fn read(&self) -> Result<Option<Vec<Key>>, KeySourceError> {
        let text = match self {
            Self::Given(text) => return self.parse(text.reveal()).map(Some),
            Self::Own(file) | Self::File(file) => read_file(file)?,
        };
        text.map(|text| self.parse(&text)).transpose()
    }

    fn parse(&self, text: &str) -> Result<Vec<Key>, KeySourceError> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
        let words =
            lines.flat_map(|line| line.split([',', ' ', '\t'])).filter(|word| !word.trim().is_empty());
        let keys = words.enumerate().map(|(index, word)| {
            let invalid = || KeySourceError::NotAKey { origin: self.describe(), position: index + 1 };
            Key::parse(word.trim()).ok_or_else(invalid)
        });
        let keys = keys.collect::<Result<Vec<Key>, _>>()?;
        if keys.is_empty() {
            return Err(KeySourceError::Empty { origin: self.describe() });
        }
        Ok(keys)
    }
}

/// Every key that is read is written as it was read, and no error holds anything of one: [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
pub(crate) fn read_keys(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let source = Source::File(PathBuf::from("keys"));
    match source.parse(text) {
        Ok(keys) => {
            for key in keys {
                let hex = key.to_hex();
                assert_eq!(Key::parse(&hex).map(|again| again.to_hex()), Some(hex));
            }
        }
        Err(error) => assert!(error.to_string().len() < 300),
    }
}

fn read_file(file: &Path) -> Result<Option<Zeroizing<String>>, KeySourceError> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(Zeroizing::new(text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeySourceError::Read { file: file.to_owned(), source }),
    }
}

/// Replaces the platform's own file. It is whole, old or new, whenever the machine stops.
pub(crate) fn write_own(file: &Path, keys: &[Key]) -> io::Result<()> {
    let mut text = Zeroizing::new(String::from(
        "# Opens the secrets of this platform. Whoever has it and the database can read them.\n",
    ));
    text.reserve_exact(keys.len() * 70);
    for key in keys {
        text.push_str(&key.to_hex());
        text.push('\n');
    }
    write_secret(file, text.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Result<Vec<Key>, KeySourceError> {
        Source::Given(text.to_owned().into()).read().map(Option::unwrap_or_default)
    }

    #[test]
    fn keys_stand_on_lines_or_between_commas() {
        let (a, b) = ("a".repeat(64), "B".repeat(64));
        let ids = |text: String| -> Vec<String> {
            given(&text).unwrap().iter().map(|key| key.id().to_owned()).collect()
        };
        let both = ids(format!("# new\n{a}\r\n{b} # old\n"));
        assert_eq!(both.len(), 2);
        assert_eq!(ids(format!("{a}, {b}")), both);
        assert_eq!(ids(a), both[..1]);
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_quoted() {
        let error = given(&format!("{}\nhush", "a".repeat(64))).unwrap_err().to_string();
        assert!(
            error.contains("the 2. key") && error.contains("WHARF_SECRET_KEY") && !error.contains("hush"),
            "{error}"
        );
        assert!(given(" # only a comment").unwrap_err().to_string().contains("holds no key"));
    }

    #[test]
    fn the_own_file_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret.key");
        let source = Source::Own(file.clone());
        assert!(source.read().unwrap().is_none());
        let keys = [Key::generate(), Key::generate()];
        write_own(&file, &keys).unwrap();
        let read = source.read().unwrap().unwrap();
        assert_eq!(read.len(), 2);
        assert!(read.iter().zip(&keys).all(|(read, written)| read.id() == written.id()));
    }
}
