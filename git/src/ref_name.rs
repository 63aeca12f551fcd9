//! Names of refs, and what a push does to one.

use std::fmt;
use std::str::FromStr;

use crate::object_id::ObjectId;

/// Refs below this are the platform's own: no client sees, fetches or pushes them.
pub const HIDDEN: &str = "refs/wharf/";

const MAX_BYTES: usize = 500;

/// A full name of a ref, such as `refs/heads/main`, that git accepts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName(String);

#[derive(Debug, thiserror::Error)]
#[error(
    "`{}` is not a name for a ref: it must begin with refs/, like refs/heads/main, and follow `git help check-ref-format`",
    .0.escape_debug()
)]
pub struct InvalidRefName(String);

impl RefName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `main` of `refs/heads/main`.
    pub fn branch(&self) -> Option<&str> {
        self.0.strip_prefix("refs/heads/")
    }

    /// `v1` of `refs/tags/v1`.
    pub fn tag(&self) -> Option<&str> {
        self.0.strip_prefix("refs/tags/")
    }

    /// Whether it is the platform's own.
    pub fn is_hidden(&self) -> bool {
        self.0.starts_with(HIDDEN)
    }
}

impl FromStr for RefName {
    type Err = InvalidRefName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_component =
            |name: &str| !name.is_empty() && !name.starts_with(['.', '-']) && !name.ends_with(".lock");
        let is_valid = text.len() <= MAX_BYTES
            && text.starts_with("refs/")
            && text.split('/').count() > 2
            && text.split('/').all(is_component)
            && !text.ends_with('.')
            && !text.contains("..")
            && !text.contains("@{")
            // The last of these is what octets that are not UTF-8 have become.
            && !text.contains(|letter: char| letter.is_control() || " ~^:?*[\\\u{fffd}".contains(letter));
        if is_valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidRefName(text.chars().take(100).collect()))
        }
    }
}

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RefName({})", self.0)
    }
}

/// What a push asks for one ref. Without `old` it is made, without `new` it is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefUpdate {
    pub name: RefName,
    pub old: Option<ObjectId>,
    pub new: Option<ObjectId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_git_accepts_are_accepted() {
        for name in ["refs/heads/main", "refs/heads/feature/a.b-c", "refs/tags/v1.0", "refs/heads/grün"] {
            assert_eq!(name.parse::<RefName>().unwrap().as_str(), name);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_or_confuse_are_refused() {
        for name in [
            "HEAD",
            "main",
            "refs/heads",
            "refs/heads/",
            "refs//main",
            "refs/heads/../../config",
            "refs/heads/.hidden",
            "refs/heads/a.lock",
            "refs/heads/a.lock/b",
            "refs/heads/-x",
            "refs/heads/a b",
            "refs/heads/a\nb",
            "refs/heads/a\u{9b}b",
            "refs/heads/a~1",
            "refs/heads/a^{}",
            "refs/heads/a:b",
            "refs/heads/a*",
            "refs/heads/a\\b",
            "refs/heads/@{u}",
            "refs/heads/a.",
        ] {
            assert!(name.parse::<RefName>().is_err(), "{name}");
        }
    }

    #[test]
    fn an_error_shows_no_control_characters_and_is_short() {
        let error = format!("refs/heads/\u{1b}[31m{}", "x".repeat(10_000)).parse::<RefName>().unwrap_err();
        let text = error.to_string();
        assert!(!text.contains('\u{1b}') && text.len() < 400, "{text}");
    }
}
