//! Key-value operations between worker and control plane, after `wasi:keyvalue@0.2.0-draft`.

use serde::{Deserialize, Serialize};

use crate::name::{AppName, NamespaceName};

/// Longest key in octets.
pub const KEY_MAX_BYTES: usize = 1024;
/// Largest value in octets.
pub const VALUE_MAX_BYTES: usize = 1 << 20;
/// All values of one [`KeyValueOp::GetMany`], in octets; what holds more is refused.
pub const BATCH_VALUES_MAX_BYTES: usize = 7 << 20;
/// All keys and values of a namespace, in octets.
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

/// Octets in JSON: lower-case hexadecimal, which needs no alphabet to be agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct Octets(pub Vec<u8>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an even number of hexadecimal digits")]
pub struct InvalidOctets;

impl From<Octets> for String {
    fn from(octets: Octets) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
        octets.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }
}

impl TryFrom<String> for Octets {
    type Error = InvalidOctets;
    fn try_from(text: String) -> Result<Self, InvalidOctets> {
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8).ok_or(InvalidOctets);
        let pairs = text.as_bytes().chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err(InvalidOctets);
        }
        pairs.map(|pair| Ok(digit(pair[0])? << 4 | digit(pair[1])?)).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn octets_survive_their_text(bytes in any::<Vec<u8>>()) {
            let text = String::from(Octets(bytes.clone()));
            prop_assert_eq!(Octets::try_from(text).unwrap().0, bytes);
        }

        #[test]
        fn other_texts_do_not_panic(text in any::<String>()) {
            let _ = Octets::try_from(text);
        }
    }
}
