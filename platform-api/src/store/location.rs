//! Where a database is.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;

/// Which database the control plane keeps its state in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Database {
    /// SQLite, in the data directory: for one process.
    #[default]
    DataDir,
    /// PostgreSQL 15 or later, which several processes may share.
    Postgres(PostgresUrl),
}

impl Database {
    pub(crate) fn location<'a>(&'a self, file: &'a Path) -> Location<'a> {
        match self {
            Self::DataDir => Location::File(file),
            Self::Postgres(url) => Location::Postgres(url),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Location<'a> {
    File(&'a Path),
    Postgres(&'a PostgresUrl),
}

/// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, with the parameters that libpq knows. It is shown without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

impl PostgresUrl {
    pub(super) fn options(&self) -> sqlx::Result<PgConnectOptions> {
        PgConnectOptions::from_str(&self.0)
    }
}

/// The text says what is wrong, and nothing of the address, which may hold a password.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "this is not the address of a PostgreSQL database: write `postgres://USER:PASSWORD@HOST:PORT/DATABASE`"
)]
pub struct NotAPostgresUrl;

impl FromStr for PostgresUrl {
    type Err = NotAPostgresUrl;

    fn from_str(text: &str) -> Result<Self, NotAPostgresUrl> {
        let known = text.starts_with("postgres://") || text.starts_with("postgresql://");
        let url = Self(text.to_owned());
        if known && url.options().is_ok() { Ok(url) } else { Err(NotAPostgresUrl) }
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What comes after `?` may be a password, too.
        let address = self.0.split('?').next().unwrap_or_default();
        let (scheme, rest) = address.split_once("://").unwrap_or(("postgres", address));
        match rest.rsplit_once('@') {
            Some((user, host)) => {
                write!(f, "{scheme}://{}@{host}", user.split(':').next().unwrap_or_default())
            }
            None => write!(f, "{scheme}://{rest}"),
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (text, shown) in [
            ("postgres://wharf:hu%40sh@db:5432/wharf", "postgres://wharf@db:5432/wharf"),
            ("postgresql:///wharf?host=/run/postgresql&password=hush", "postgresql:///wharf"),
        ] {
            let url: PostgresUrl = text.parse().unwrap();
            assert_eq!((url.to_string().as_str(), format!("{url:?}").as_str()), (shown, shown));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_a_word_of_it() {
        for text in ["mysql://a:hush@b/c", "wharf.db", "postgres://a:hush@b:port/c"] {
            let error = text.parse::<PostgresUrl>().unwrap_err().to_string();
            assert!(error.contains("postgres://USER") && !error.contains("hush"), "{text}: {error}");
        }
    }
}
