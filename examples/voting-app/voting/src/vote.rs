//! A vote, and how it is written in the queue.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

/// One of the two options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    A,
    B,
}

/// 128 random bits, written as 32 hexadecimal digits: who votes, or one vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Id(String);

/// In the queue it is a line of words with single spaces: id, voter, choice, time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The same when a vote is sent again, so that it counts once.
    pub id: Id,
    /// Of a voter with several votes, the last one counts.
    pub voter: Id,
    pub choice: Choice,
    /// In milliseconds since 1970, by the clock of whoever took the vote.
    pub cast_at_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a vote")]
pub struct NotAVote;

impl Id {
    const LENGTH: usize = 32;

    pub fn random() -> Self {
        let mut octets = [0; Self::LENGTH / 2];
        wstd::rand::get_random_bytes(&mut octets);
        Self(octets.iter().map(|octet| format!("{octet:02x}")).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Vote {
    pub fn now(id: Id, voter: Id, choice: Choice) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { id, voter, choice, cast_at_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl Choice {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

impl FromStr for Choice {
    type Err = NotAVote;

    fn from_str(text: &str) -> Result<Self, NotAVote> {
        match text {
            "a" => Ok(Self::A),
            "b" => Ok(Self::B),
            _ => Err(NotAVote),
        }
    }
}

impl FromStr for Id {
    type Err = NotAVote;

    fn from_str(text: &str) -> Result<Self, NotAVote> {
        let is_digit = |octet: u8| matches!(octet, b'0'..=b'9' | b'a'..=b'f');
        if text.len() == Self::LENGTH && text.bytes().all(is_digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAVote)
        }
    }
}

impl FromStr for Vote {
    type Err = NotAVote;

    fn from_str(line: &str) -> Result<Self, NotAVote> {
        let mut words = line.split(' ');
        let mut word = || words.next().ok_or(NotAVote);
        let vote = Self {
            id: word()?.parse()?,
            voter: word()?.parse()?,
            choice: word()?.parse()?,
            // The database's numbers end where those with a sign do.
            cast_at_ms: word()?
                .parse::<u64>()
                .ok()
                .filter(|ms| i64::try_from(*ms).is_ok())
                .ok_or(NotAVote)?,
        };
        if words.next().is_none() { Ok(vote) } else { Err(NotAVote) }
    }
}

impl fmt::Display for Vote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, voter, choice, cast_at_ms } = self;
        write!(f, "{} {} {} {cast_at_ms}", id.as_str(), voter.as_str(), choice.as_str())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    const ID: &str = "00112233445566778899aabbccddeeff";

    #[test]
    fn a_vote_is_read_as_it_was_written() {
        let id: Id = ID.parse().unwrap();
        let vote = Vote { id: id.clone(), voter: id, choice: Choice::B, cast_at_ms: 1_700_000_000_000 };
        assert_eq!(vote.to_string().parse(), Ok(vote));
    }

    #[test]
    fn whatever_else_is_in_the_queue_is_no_vote() {
        for line in [
            String::new(),
            "a".to_owned(),
            format!("{ID} {ID} a"),
            format!("{ID} {ID} c 1"),
            format!("{ID} {ID} a 1 "),
            format!("{ID} {ID} a -1"),
            format!("{ID} {ID} a 9223372036854775808"),
            format!("{ID}  {ID} a 1"),
            format!("{} {ID} a 1", ID.to_uppercase()),
        ] {
            assert_eq!(line.parse::<Vote>(), Err(NotAVote), "{line}");
        }
    }
}
