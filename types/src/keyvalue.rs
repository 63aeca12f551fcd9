//! Key-value operations between worker and control plane, after `wasi:keyvalue@0.2.0-draft`.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::name::{AppName, NamespaceName};
use crate::problem::{Problem, ProblemCode};

/// Longest name of a bucket, in octets.
pub const BUCKET_MAX_BYTES: usize = 128;
/// Longest key in octets.
pub const KEY_MAX_BYTES: usize = 1024;
/// Largest value in octets.
pub const VALUE_MAX_BYTES: usize = 1 << 20;
/// Keys of one batch.
pub const BATCH_MAX: usize = 1000;
/// All keys and values that are handed over in one batch, in octets.
pub const BATCH_MAX_BYTES: usize = 8 << 20;
/// All values of one [`KeyValueOp::GetMany`], in octets; what holds more is refused.
pub const BATCH_VALUES_MAX_BYTES: usize = 7 << 20;
/// The longest operation in JSON, in octets. Of what a batch may hold, values are written as twice as many letters; a key may be written as six
/// times as many, but there are no more than a mebibyte of keys.
pub const REQUEST_MAX_BYTES: usize = 24 << 20;
/// What an entry counts beside its key, its value and the name of its bucket, in octets: so much the databases keep of each for themselves.
pub const ENTRY_BYTES: u64 = 256;
/// All entries of a namespace, each as [`entry_bytes`] counts it.
pub const NAMESPACE_MAX_BYTES: u64 = 256 << 20;
/// Keys in one page of [`KeyValueOp::ListKeys`].
pub const KEYS_PER_PAGE: usize = 1000;

/// A bucket belongs to its app: apps of one namespace do not see each other's.
///
/// A field that is not known is refused, also one of a newer worker: an operation is carried out whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyValueRequest {
    pub namespace: NamespaceName,
    pub app: AppName,
    /// As the guest named it in `open`; `default` is the usual one.
    pub bucket: String,
    pub op: KeyValueOp,
}

/// One call. Values are [`Octets`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum KeyValueOp {
    Get {
        key: String,
    },
    Set {
        key: String,
        value: Octets,
    },
    Delete {
        key: String,
    },
    Exists {
        key: String,
    },
    /// Keys greater than `after`, in order.
    ListKeys {
        after: Option<String>,
    },
    /// Adds to a number kept as decimal text and returns the sum; an absent key counts from 0.
    Increment {
        key: String,
        delta: i64,
    },
    /// The values are at most [`BATCH_VALUES_MAX_BYTES`] together.
    GetMany {
        keys: Vec<String>,
    },
    /// All or nothing.
    SetMany {
        pairs: Vec<(String, Octets)>,
    },
    DeleteMany {
        keys: Vec<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyValueReply {
    Done,
    Value(Option<Octets>),
    /// In the order of the keys that were asked for.
    Values(Vec<Option<Octets>>),
    Exists(bool),
    Number(i64),
    Keys {
        keys: Vec<String>,
        more: bool,
    },
}

impl KeyValueOp {
    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        match self {
            Self::Get { .. } | Self::Exists { .. } | Self::ListKeys { .. } | Self::GetMany { .. } => true,
            Self::Set { .. } | Self::Delete { .. } | Self::Increment { .. } => false,
            Self::SetMany { .. } | Self::DeleteMany { .. } => false,
        }
    }

    /// The keys that it names, and the values that it brings.
    fn parts(&self) -> (Vec<&str>, Vec<&Octets>) {
        match self {
            Self::Get { key } | Self::Delete { key } | Self::Exists { key } | Self::Increment { key, .. } => {
                (vec![key.as_str()], Vec::new())
            }
            Self::Set { key, value } => (vec![key.as_str()], vec![value]),
            // An empty one is before every key.
            Self::ListKeys { after } => {
                (after.iter().map(String::as_str).filter(|after| !after.is_empty()).collect(), Vec::new())
            }
            Self::GetMany { keys } | Self::DeleteMany { keys } => {
                (keys.iter().map(String::as_str).collect(), Vec::new())
            }
            Self::SetMany { pairs } => pairs.iter().map(|(key, value)| (key.as_str(), value)).unzip(),
        }
    }

    /// Octets of the keys and values that it hands over.
    pub fn bytes(&self) -> usize {
        let (keys, values) = self.parts();
        keys.iter().map(|key| key.len()).sum::<usize>()
            + values.iter().map(|value| value.0.len()).sum::<usize>()
    }

    /// Whether it stays within the limits, all of which stand in this file. Nobody carries it out, or sends it, before.
    pub fn check(&self, bucket: &str) -> Result<(), Problem> {
        if bucket.is_empty() || bucket.len() > BUCKET_MAX_BYTES {
            let detail =
                format!("a bucket's name has 1 to {BUCKET_MAX_BYTES} bytes, this one {}", bucket.len());
            return Err(Problem::new(ProblemCode::InvalidRequest, detail));
        }
        if bucket.contains('\0') {
            let detail = "a bucket's name holds a NUL character; leave it out";
            return Err(Problem::new(ProblemCode::InvalidRequest, detail));
        }
        // Before all the others, as a list may name the same octets very often.
        let count = match self {
            Self::GetMany { keys } | Self::DeleteMany { keys } => keys.len(),
            Self::SetMany { pairs } => pairs.len(),
            _ => 1,
        };
        if count > BATCH_MAX {
            let detail = format!("{count} keys in one batch, more than {BATCH_MAX}");
            return Err(Problem::new(ProblemCode::TooLarge, detail));
        }
        let (keys, values) = self.parts();
        for key in keys {
            if key.is_empty() || key.len() > KEY_MAX_BYTES {
                let detail = format!("a key has 1 to {KEY_MAX_BYTES} bytes, this one {}", key.len());
                return Err(Problem::new(ProblemCode::InvalidRequest, detail));
            }
            // Databases differ in what they make of it.
            if key.contains('\0') {
                let detail = format!("the key {key:?} holds a NUL character; leave it out, or encode it");
                return Err(Problem::new(ProblemCode::InvalidRequest, detail));
            }
        }
        if let Some(value) = values.into_iter().find(|value| value.0.len() > VALUE_MAX_BYTES) {
            let detail = format!("a value of {} bytes, more than {VALUE_MAX_BYTES}", value.0.len());
            return Err(Problem::new(ProblemCode::TooLarge, detail));
        }
        let bytes = self.bytes();
        if bytes > BATCH_MAX_BYTES {
            let detail = format!(
                "the keys and values of this batch are {bytes} bytes together, more than {} MiB; set fewer at once",
                BATCH_MAX_BYTES >> 20
            );
            return Err(Problem::new(ProblemCode::TooLarge, detail));
        }
        Ok(())
    }
}

impl KeyValueReply {
    /// Octets of the values that it brings.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Value(value) => value.as_ref().map_or(0, |value| value.0.len()),
            Self::Values(values) => values.iter().flatten().map(|value| value.0.len()).sum(),
            Self::Done | Self::Exists(_) | Self::Number(_) | Self::Keys { .. } => 0,
        }
    }
}

/// What an entry counts for its namespace, in octets.
pub fn entry_bytes(bucket: &str, key: &str, value_bytes: usize) -> u64 {
    ENTRY_BYTES + (bucket.len() + key.len() + value_bytes) as u64
}

/// The sum that [`KeyValueOp::Increment`] makes of what a key has: 0 to 2^63-1. None: the key is absent.
pub fn sum(key: &str, value: Option<&[u8]>, delta: i64) -> Result<i64, Problem> {
    let number = match value {
        None => Some(0),
        Some(value) => std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<i64>().ok()),
    };
    let detail = match number.map(|number| (number, number.checked_add(delta))) {
        Some((_, Some(sum))) if sum >= 0 => return Ok(sum),
        Some((number, Some(sum))) => {
            format!("the value of the key `{key}` is {number}, and the sum {sum} would be negative")
        }
        Some((_, None)) => format!("the value of the key `{key}` would exceed 2^63-1"),
        None => format!("the value of the key `{key}` is not a number"),
    };
    Err(Problem::new(ProblemCode::InvalidRequest, detail))
}

/// What [`KeyValueOp::GetMany`] is refused with where the values of so many keys are more than [`BATCH_VALUES_MAX_BYTES`].
pub fn too_many_values(keys: usize) -> Problem {
    let detail = format!(
        "the values of these {keys} keys are more than {} MiB together; ask for fewer keys at once",
        BATCH_VALUES_MAX_BYTES >> 20
    );
    Problem::new(ProblemCode::TooLarge, detail)
}

/// What a write is refused with that would make a namespace exceed [`NAMESPACE_MAX_BYTES`].
pub fn no_room() -> Problem {
    let detail = format!(
        "the namespace's key-value data would exceed {} MiB, where each entry counts {ENTRY_BYTES} bytes beside its key, value and bucket's name; \
         delete some keys",
        NAMESPACE_MAX_BYTES >> 20
    );
    Problem::new(ProblemCode::QuotaExceeded, detail)
}

/// Octets in JSON: lower-case hexadecimal, which needs no alphabet to be agreed on.
#[derive(Clone, Debug, PartialEq, Eq, utoipa::ToSchema)]
#[schema(value_type = String)]
pub struct Octets(pub Vec<u8>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an even number of hexadecimal digits")]
pub struct InvalidOctets;

impl Octets {
    fn to_text(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = Vec::with_capacity(2 * self.0.len());
        for byte in &self.0 {
            text.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        String::from_utf8(text).expect("digits are ASCII")
    }

    fn of_text(text: &str) -> Result<Self, InvalidOctets> {
        let pairs = text.as_bytes().chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err(InvalidOctets);
        }
        // Invalid digits have high bits set, which stay.
        let mut bytes = Vec::with_capacity(text.len() / 2);
        for pair in pairs {
            let (high, low) = (VALUES[usize::from(pair[0])], VALUES[usize::from(pair[1])]);
            if (high | low) > 15 {
                return Err(InvalidOctets);
            }
            bytes.push(high << 4 | low);
        }
        Ok(Self(bytes))
    }
}

/// The value of each digit; 255 of what is none.
static VALUES: [u8; 256] = {
    let mut values = [255; 256];
    let mut digit = 0;
    while digit < 10 {
        values[b'0' as usize + digit as usize] = digit;
        digit += 1;
    }
    while digit < 16 {
        values[b'a' as usize + digit as usize - 10] = digit;
        values[b'A' as usize + digit as usize - 10] = digit;
        digit += 1;
    }
    values
};

// Written and read without a copy of the octets or of the text, either of which may have mebibytes.
impl Serialize for Octets {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_text())
    }
}

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Octets;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Octets, E> {
                Octets::of_text(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn octets_survive_their_text(bytes in any::<Vec<u8>>()) {
            let text = Octets(bytes.clone()).to_text();
            prop_assert_eq!(Octets::of_text(&text.to_uppercase()).unwrap().0, bytes.clone());
            prop_assert_eq!(Octets::of_text(&text).unwrap().0, bytes);
        }

        #[test]
        fn other_texts_do_not_panic(text in any::<String>()) {
            let is_hex = text.len() & 1 == 0 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            prop_assert_eq!(Octets::of_text(&text).is_ok(), is_hex);
        }
    }

    fn set_many(pairs: usize, value_bytes: usize) -> KeyValueOp {
        let pair = |at| (format!("key-{at:04}"), Octets(vec![0; value_bytes]));
        KeyValueOp::SetMany { pairs: (0..pairs).map(pair).collect() }
    }

    fn refused(op: &KeyValueOp) -> Problem {
        op.check("default").unwrap_err()
    }

    #[test]
    fn a_batch_is_bounded_by_its_count_and_by_its_octets() {
        set_many(1000, 8000).check("default").unwrap();
        set_many(7, VALUE_MAX_BYTES).check("default").unwrap();
        assert!(refused(&set_many(8, VALUE_MAX_BYTES)).detail.contains("8 MiB"));
        assert!(refused(&set_many(1001, 0)).detail.contains("1001 keys"));
        assert!(refused(&set_many(1, VALUE_MAX_BYTES + 1)).detail.contains("1048577"));
        let long = KeyValueOp::DeleteMany { keys: vec!["a".into(), "k".repeat(KEY_MAX_BYTES + 1)] };
        assert!(refused(&long).detail.contains("1024"));
        assert!(KeyValueOp::Get { key: "a".into() }.check(&"b".repeat(BUCKET_MAX_BYTES + 1)).is_err());
    }

    #[test]
    fn the_largest_operation_fits_into_a_request() {
        let key = |at: usize| format!("{at:04}{}", "\u{1}".repeat(KEY_MAX_BYTES - 4));
        let value = || Octets(vec![0xff; 7350]);
        let op = KeyValueOp::SetMany { pairs: (0..1000).map(|at| (key(at), value())).collect() };
        op.check("default").unwrap();
        assert!(op.bytes() > BATCH_MAX_BYTES - (64 << 10));
        let request = KeyValueRequest {
            namespace: NamespaceName::default_namespace(),
            app: "a".parse().unwrap(),
            bucket: "default".into(),
            op,
        };
        assert!(serde_json::to_vec(&request).unwrap().len() < REQUEST_MAX_BYTES);
    }

    #[test]
    fn a_sum_is_neither_negative_nor_too_large() {
        assert_eq!(sum("n", None, 3).unwrap(), 3);
        assert_eq!(sum("n", Some(b"-5"), 5).unwrap(), 0);
        assert_eq!(sum("n", Some(b"9223372036854775806"), 1).unwrap(), i64::MAX);
        for (value, delta, words) in [
            (&b"-5"[..], 1, "the sum -4 would be negative"),
            (&b"1"[..], -2, "negative"),
            (&b"9223372036854775807"[..], 1, "2^63-1"),
            (&b"x"[..], 1, "not a number"),
            (&b"\xff"[..], 1, "not a number"),
        ] {
            let problem = sum("n", Some(value), delta).unwrap_err();
            assert!(problem.detail.contains(words), "{problem}");
        }
    }
}
