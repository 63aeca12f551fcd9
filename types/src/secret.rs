//! Secrets: values that guests are given and nobody else is shown.
//!
//! A value is [`SecretValue`] wherever a process holds it. It shows itself in [`SecretValue::reveal`] only, and is written only
//! where a field says so with [`wire`]: in an assignment, on its way to a worker.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::id::SecretVersionId;

/// The longest value, in octets.
pub const VALUE_MAX_BYTES: usize = 64 << 10;
/// What the secrets of one release may have together, in octets: each of its guests holds them all.
pub const RELEASE_MAX_BYTES: usize = 256 << 10;
/// The most secrets of a namespace.
pub const SECRETS_MAX: u64 = 1000;

/// A namespace's named values are of two kinds, and a name is of one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ValueKind {
    /// Nobody is shown it.
    Secret,
    /// Whoever may read an app's variables may read it.
    Config,
}

impl ValueKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Config => "config",
        }
    }

    /// The table of the settings that names values of this kind.
    pub fn table(self) -> &'static str {
        match self {
            Self::Secret => "secrets",
            Self::Config => "configs",
        }
    }
}

impl fmt::Display for ValueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that must not be seen by accident. Its memory is overwritten when the last copy of it goes away.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Arc<Zeroizing<String>>);

/// Why octets cannot be a secret's value. It says nothing of the value itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    #[error("the value is empty; `wharf secret rm` and `wharf config rm` take one away")]
    Empty,
    #[error(
        "the value is longer than {} KiB, the most that a secret or a config can have",
        VALUE_MAX_BYTES >> 10
    )]
    TooLong,
    #[error("the value is not text in UTF-8, and a guest's variables are; encode it, such as by `base64`")]
    NotText,
    #[error("the value contains a NUL character, which a variable cannot hold")]
    Nul,
}

impl SecretValue {
    /// Checks what a user gave. What is refused is overwritten as well.
    pub fn new(octets: Vec<u8>) -> Result<Self, InvalidValue> {
        let octets = Zeroizing::new(octets);
        if octets.is_empty() {
            return Err(InvalidValue::Empty);
        }
        if octets.len() > VALUE_MAX_BYTES {
            return Err(InvalidValue::TooLong);
        }
        let text = std::str::from_utf8(&octets).map_err(|_| InvalidValue::NotText)?;
        if text.contains('\0') {
            return Err(InvalidValue::Nul);
        }
        Ok(Self::from(text.to_owned()))
    }

    /// The value itself: for what seals it, and for the guest.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Without a check: for values that were checked when they were set.
impl From<String> for SecretValue {
    fn from(text: String) -> Self {
        Self(Arc::new(Zeroizing::new(text)))
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

/// A version of a secret, as a worker gets it: with those instances, and only those, that use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveredSecret {
    pub id: SecretVersionId,
    pub content: SecretContent,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretContent {
    Value(#[serde(with = "wire")] SecretValue),
    /// It cannot be opened, and why, for people. Instances that use it cannot start.
    Unreadable(String),
}

/// The seam at which a value leaves for a worker.
mod wire {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::SecretValue;

    pub(super) fn serialize<S: Serializer>(value: &SecretValue, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.reveal())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretValue, D::Error> {
        let text = String::deserialize(deserializer);
        // The error itself would quote what stood there instead.
        let text = text.map_err(|_| serde::de::Error::custom("a secret's value is not a text"))?;
        Ok(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_shows_itself_on_the_wire_and_nowhere_else() {
        let secret = DeliveredSecret {
            id: SecretVersionId::new(),
            content: SecretContent::Value("hush".to_owned().into()),
        };
        assert!(!format!("{secret:?} {secret:#?}").contains("hush"));
        let json = serde_json::to_string(&secret).unwrap();
        assert!(json.contains("hush"));
        assert_eq!(serde_json::from_str::<DeliveredSecret>(&json).unwrap(), secret);
    }

    #[test]
    fn what_no_variable_can_hold_is_refused_without_being_quoted() {
        let refused = |octets: &[u8]| SecretValue::new(octets.to_vec()).unwrap_err();
        assert_eq!(refused(b""), InvalidValue::Empty);
        assert_eq!(refused(&vec![b'x'; VALUE_MAX_BYTES + 1]), InvalidValue::TooLong);
        assert_eq!(refused(b"hush\xff"), InvalidValue::NotText);
        assert_eq!(refused(b"hush\0"), InvalidValue::Nul);
        assert_eq!(SecretValue::new(vec![b'x'; VALUE_MAX_BYTES]).unwrap().reveal().len(), VALUE_MAX_BYTES);
        for error in [refused(b"hush\xff"), refused(b"hush\0")] {
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }

    #[test]
    fn an_error_of_the_wire_does_not_quote_what_it_found() {
        let id = SecretVersionId::new();
        for found in ["[\"hush\"]", "{\"hush\": 1}", "42"] {
            let json = format!("{{\"id\": \"{id}\", \"content\": {{\"value\": {found}}}}}");
            let error = serde_json::from_str::<DeliveredSecret>(&json).unwrap_err().to_string();
            assert!(!error.contains("hush") && !error.contains("42"), "{error}");
        }
    }
}
