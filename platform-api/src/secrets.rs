//! Keeps the values of secrets sealed: with which key, where the key comes from, and how it is replaced.
//!
//! Everything of this module that touches a value is in [`seal`]; the store keeps what comes out of it, and never sees a value.

mod keyring;
mod seal;
mod source;

pub(crate) use keyring::{Keyring, OpenKeysError, RotateError, SecretKeys, rotate};
pub(crate) use seal::{Key, Sealed, SecretOf};
pub use source::SecretKeySource;
pub(crate) use source::Source;
#[cfg(any(test, fuzzing))]
pub(crate) use source::read_keys;
