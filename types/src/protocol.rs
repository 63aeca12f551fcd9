//! Which versions of the node protocol a program speaks: what workers and the control plane say to each other, and workers among
//! themselves.
//!
//! A version is a whole number that grows by one when something is changed that the other side has to understand: a field that must not be
//! passed over, another meaning, another order. What the other side may pass over needs none. A program speaks the newest version and the one
//! before at least, so that a cluster can be upgraded one process after the other.
//!
//! For tests a program is told by [`VARIABLE`] to speak an older version only, or ones that nobody speaks yet. What it then leaves out is decided
//! wherever [`Versions::knows`] is asked.

use std::fmt;
use std::str::FromStr;

/// The header field in which both sides of a registration say what they speak, such as `1-2`. One that is not there is [`Versions::UNSAID`].
pub const HEADER: &str = "wharf-protocol";

/// The environment variable that says to `wharf server` and `wharf worker` what they are to speak instead of [`SPOKEN`], such as `1-1`. It is for
/// tests of upgrades, and no user is told of it.
pub const VARIABLE: &str = "WHARF_PROTOCOL";

/// The label of a node whose worker speaks an older version, which has that version as its value. It keeps from the node what the worker would not
/// understand, and says so to people.
pub const LABEL: &str = "wharf.protocol";

/// What this program speaks.
///
/// 1. As it was when nobody said so: whole assignments, and no answer to a report.
/// 2. Versions are said; a worker that is told to come later waits for so long; one that ends asks to be emptied first. What came since then and
///    a worker or a control plane of version 1 passes over, or does not ask for: assignments by what changes of them, singletons, other
///    CAs, artifacts from other nodes, containers, orders, and connections that go over to another protocol.
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

    pub fn newest(self) -> u32 {
        self.newest
    }

    /// Whether a program that speaks these knows what has come with a version.
    pub fn knows(self, version: u32) -> bool {
        self.newest >= version
    }

    /// What stands in the [`HEADER`]. None: a program from before versions were said.
    pub fn said(self) -> Option<String> {
        self.knows(2).then(|| self.to_string())
    }

    /// What front doors call the protocol between them when they connect to each other, the newest first: names for TLS ALPN (RFC 7301).
    /// None: those from before versions were said ask for no protocol by name, and take any.
    pub fn between_front_doors(self) -> Vec<Vec<u8>> {
        if !self.knows(2) {
            return Vec::new();
        }
        self.each().map(|version| format!("wharf-peer/{version}").into_bytes()).collect()
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
    fn a_program_from_before_versions_were_said_says_none() {
        assert_eq!((Versions::UNSAID.said(), Versions::UNSAID.between_front_doors()), (None, Vec::new()));
        assert!(Versions::UNSAID.knows(1) && !Versions::UNSAID.knows(2));
        assert_eq!(versions(2, 3).said().as_deref(), Some("2-3"));
        let names: [&[u8]; 2] = [b"wharf-peer/3", b"wharf-peer/2"];
        assert_eq!(versions(2, 3).between_front_doors(), names);
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
