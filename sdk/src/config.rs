//! Settings of the app, by `wasi:config`. On Wharf they are the release's environment variables; on another host, whatever
//! that host keeps settings in.

use crate::bindings::wasi::config::store;

/// Why a setting could not be read. A setting that does not exist is `None`, not an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not read the setting: {0}")]
pub struct Error(pub String);

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Upstream(text) | store::Error::Io(text) => Self(text),
        }
    }
}

/// The value of one setting.
///
/// # Errors
/// When the host's store of settings fails.
///
/// ```ignore
/// let greeting = wharf_sdk::config::get("GREETING")?.unwrap_or_else(|| "Hello".to_owned());
/// ```
pub fn get(key: &str) -> Result<Option<String>, Error> {
    Ok(store::get(key)?)
}

/// Every setting, as pairs of key and value.
///
/// # Errors
/// When the host's store of settings fails.
pub fn all() -> Result<Vec<(String, String)>, Error> {
    Ok(store::get_all()?)
}
