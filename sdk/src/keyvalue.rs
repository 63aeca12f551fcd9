//! Data that outlives a request, by `wasi:keyvalue`. On Wharf it belongs to the app, survives deploys and restarts, and is
//! shared by all instances of the app.

use crate::bindings::wasi::keyvalue::store::{self, Bucket as Handle};
use crate::bindings::wasi::keyvalue::{atomics, batch};

/// Why a call failed. A key that does not exist is `None`, not an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("there is no bucket of this name")]
    NoSuchStore,
    #[error("this app may not use the bucket")]
    AccessDenied,
    /// A key or value that is too long, a full store, or a store that cannot be reached.
    #[error("the key-value store failed: {0}")]
    Other(String),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::NoSuchStore => Self::NoSuchStore,
            store::Error::AccessDenied => Self::AccessDenied,
            store::Error::Other(text) => Self::Other(text),
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// A set of keys with their values. Keys are text of up to 1024 octets; values are octets, up to 1 MiB each.
///
/// ```ignore
/// let bucket = Bucket::open_default()?;
/// bucket.set("greeting", "hello")?;
/// assert_eq!(bucket.get("greeting")?.as_deref(), Some(&b"hello"[..]));
/// let visits = bucket.increment("visits", 1)?;
/// ```
#[derive(Debug)]
pub struct Bucket(Handle);

impl Bucket {
    /// The bucket that every app has.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub fn open_default() -> Result<Self> {
        // The platform calls it `default`; other hosts know it by the empty name.
        match store::open("default") {
            Err(store::Error::NoSuchStore) => Self::open(""),
            opened => Ok(Self(opened?)),
        }
    }

    /// A bucket by its name.
    ///
    /// # Errors
    /// [`Error::NoSuchStore`] where the host has no such bucket.
    pub fn open(name: &str) -> Result<Self> {
        Ok(Self(store::open(name)?))
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.0.get(key)?)
    }

    /// Sets the value of a key, whether it was there or not.
    ///
    /// # Errors
    /// When the key or the value is too long, or the store is full or cannot be reached.
    pub fn set(&self, key: &str, value: impl AsRef<[u8]>) -> Result<()> {
        Ok(self.0.set(key, value.as_ref())?)
    }

    /// Removes a key. One that is not there is no error.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub fn delete(&self, key: &str) -> Result<()> {
        Ok(self.0.delete(key)?)
    }

    /// Whether there is such a key.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub fn exists(&self, key: &str) -> Result<bool> {
        Ok(self.0.exists(key)?)
    }

    /// All keys; fetches page after page.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub fn keys(&self) -> Result<Vec<String>> {
        let mut page = self.0.list_keys(None)?;
        let mut keys = std::mem::take(&mut page.keys);
        while let Some(cursor) = page.cursor {
            page = self.0.list_keys(Some(cursor))?;
            keys.append(&mut page.keys);
        }
        Ok(keys)
    }

    /// Adds to a number and returns the sum, as one step that no other request can come between. A key that is not there
    /// counts as 0.
    ///
    /// # Errors
    /// When the key's value is not a number, or the store cannot be reached.
    pub fn increment(&self, key: &str, delta: u64) -> Result<u64> {
        Ok(atomics::increment(&self.0, key, delta)?)
    }

    /// The keys that are there, with their values, in one call.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub fn get_many(&self, keys: &[String]) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(batch::get_many(&self.0, keys)?.into_iter().flatten().collect())
    }

    /// Sets several values in one call. When it fails, some may be set.
    ///
    /// # Errors
    /// As [`Bucket::set`].
    pub fn set_many(&self, pairs: &[(String, Vec<u8>)]) -> Result<()> {
        Ok(batch::set_many(&self.0, pairs)?)
    }

    /// Removes several keys in one call. When it fails, some may be gone.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub fn delete_many(&self, keys: &[String]) -> Result<()> {
        Ok(batch::delete_many(&self.0, keys)?)
    }
}
