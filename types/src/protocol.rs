//! Which versions of the node protocol a program speaks: what workers and the control plane say to each other, and workers among
//! themselves.
//!
//! A version is a whole number that grows by one when something is changed that the other side has to understand: a field that must not be
//! passed over, another meaning, another order. What the other side may pass over needs none. A program speaks the newest version and the one
//! before at least, so that a cluster can be upgraded one process after the other.

use std::fmt;
use std::str::FromStr;

/// The header field in which both sides of a registration say what they speak, such as `1-2`. One that is not there is [`Versions::UNSAID`].
pub const HEADER: &str = "wharf-protocol";

/// What this program speaks.
///
/// 1. As it was when nobody said so.
/// 2. Versions are said; a worker that is told to come later waits for so long; one that ends asks to be emptied first.
pub const SPOKEN: Versions = Versions { oldest: 1, newest: 2 };

/// A range, with both ends.
///
/// ```
/// use wharf_types::protocol::{Versions, agree};
///
/// let (worker, server): (Versions, Versions) = ("1-2".parse().unwrap(), "2-3".parse().unwrap());
/// assert_eq!(agree(worker, server), Ok(2));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    oldest: u32,
    newest: u32,
}

impl Versions {
    /// Of programs from before versions were said.
    pub const UNSAID: Self = Self { oldest: 1, newest: 1 };

    /// None: the oldest is newer than the newest.
    pub fn new(oldest: u32, newest: u32) -> Option<Self> {
        (oldest <= newest).then_some(Self { oldest, newest })
    }

    /// The newest first.
    pub fn each(self) -> impl Iterator<Item = u32> {
        (self.oldest..=self.newest).rev()
    }
}

/// Worker and control plane speak no version that both understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the worker speaks {worker} of the node protocol, and the control plane {server}: upgrade the {} first",
    if worker.newest < server.oldest { "worker" } else { "control plane" }
)]
pub struct Incompatible {
    pub worker: Versions,
    pub server: Versions,
}

/// The newest version that both speak.
pub fn agree(worker: Versions, server: Versions) -> Result<u32, Incompatible> {
    let newest = worker.newest.min(server.newest);
    if newest < worker.oldest.max(server.oldest) {
        return Err(Incompatible { worker, server });
    }
    Ok(newest)
}

/// What front doors call the protocol between them when they connect to each other, the newest first: names for TLS ALPN (RFC 7301).
pub fn between_front_doors() -> Vec<Vec<u8>> {
    SPOKEN.each().map(|version| format!("wharf-peer/{version}").into_bytes()).collect()
}

/// As in the header: `1-2`.
impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.oldest, self.newest)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("versions of a protocol are written as the oldest and the newest, such as `1-2`")]
pub struct InvalidVersions;

impl FromStr for Versions {
    type Err = InvalidVersions;

    fn from_str(text: &str) -> Result<Self, InvalidVersions> {
        let (oldest, newest) = text.split_once('-').ok_or(InvalidVersions)?;
        let number = |text: &str| {
            let is_plain = text.bytes().all(|digit| digit.is_ascii_digit());
            text.parse().ok().filter(|_| is_plain).ok_or(InvalidVersions)
        };
        Self::new(number(oldest)?, number(newest)?).ok_or(InvalidVersions)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn versions(oldest: u32, newest: u32) -> Versions {
        Versions::new(oldest, newest).unwrap()
    }

    #[test]
    fn this_program_speaks_with_the_one_before() {
        const { assert!(SPOKEN.oldest < SPOKEN.newest) };
        let before = versions(SPOKEN.oldest.saturating_sub(1), SPOKEN.newest - 1);
        assert_eq!(agree(before, SPOKEN), Ok(SPOKEN.newest - 1));
        assert_eq!(agree(SPOKEN, before), Ok(SPOKEN.newest - 1));
    }

    #[test]
    fn who_is_older_is_to_be_upgraded_first() {
        let says = |worker, server| agree(worker, server).unwrap_err().to_string();
        assert!(says(versions(1, 2), versions(3, 4)).ends_with("upgrade the worker first"));
        let newer = says(versions(3, 4), versions(1, 2));
        assert!(
            newer.contains("speaks 3-4") && newer.ends_with("upgrade the control plane first"),
            "{newer}"
        );
    }

    proptest! {
        #[test]
        fn both_speak_what_they_agree_on_and_nothing_newer(a in 0..9_u32, b in 0..9_u32, c in 0..9_u32, d in 0..9_u32) {
            let (one, other) = (versions(a.min(b), a.max(b)), versions(c.min(d), c.max(d)));
            let both: Vec<u32> = one.each().filter(|it| other.each().any(|more| more == *it)).collect();
            prop_assert_eq!(agree(one, other).ok(), both.first().copied());
            prop_assert_eq!(agree(one, other).ok(), agree(other, one).ok());
        }

        #[test]
        fn they_are_read_as_they_are_written(a: u32, b: u32) {
            let written = versions(a.min(b), a.max(b));
            prop_assert_eq!(written.to_string().parse(), Ok(written));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "1", "2-1", "-1-2", "+1-2", "1-", "1-2-3", "a-b", "1- 2", "1-99999999999"] {
            assert_eq!(text.parse::<Versions>(), Err(InvalidVersions), "{text}");
        }
    }
}
