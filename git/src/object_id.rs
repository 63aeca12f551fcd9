//! The name of a git object.

use std::fmt;
use std::str::FromStr;

/// A SHA-1, which is what repositories here are made with. It is written as 40 lower-case hexadecimal digits, so it can never be taken for an
/// option of a command.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId([u8; 20]);

#[derive(Debug, thiserror::Error)]
#[error("`{}` is not the id of a git object: that has 40 hexadecimal digits in lower case", .0.escape_debug())]
pub struct InvalidObjectId(String);

impl ObjectId {
    /// What stands on the wire for "no object", or `None` for any other.
    pub(crate) fn unless_zero(self) -> Option<Self> {
        (self.0 != [0; 20]).then_some(self)
    }

    pub(crate) fn or_zero(id: Option<Self>) -> Self {
        id.unwrap_or(Self([0; 20]))
    }
}

impl FromStr for ObjectId {
    type Err = InvalidObjectId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |octet: u8| match octet {
            b'0'..=b'9' => Some(octet - b'0'),
            b'a'..=b'f' => Some(octet - b'a' + 10),
            _ => None,
        };
        let invalid = || InvalidObjectId(text.chars().take(100).collect());
        if text.len() != 40 {
            return Err(invalid());
        }
        let mut id = [0; 20];
        for (octet, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return Err(invalid()) };
            *octet = high << 4 | low;
        }
        Ok(Self(id))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_as_it_was_read() {
        let text = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(text.parse::<ObjectId>().unwrap().to_string(), text);
    }

    #[test]
    fn what_git_could_take_for_something_else_is_no_id() {
        for text in ["", "HEAD", "--all", "0123456789ABCDEF0123456789abcdef01234567", &"0".repeat(64)] {
            assert!(text.parse::<ObjectId>().is_err(), "{text}");
        }
    }

    #[test]
    fn forty_zeros_are_no_object() {
        let zero: ObjectId = "0".repeat(40).parse().unwrap();
        assert_eq!(zero.unless_zero(), None);
        assert_eq!(ObjectId::or_zero(None), zero);
    }
}
