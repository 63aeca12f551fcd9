//! What can go wrong between a guest and a server.

use std::io;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("could not connect to {address}")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("the connection to {address} broke")]
    Broken {
        address: String,
        #[source]
        source: io::Error,
    },
    /// The server understood, and said no. Redis's code is a word such as `LOADING`, PostgreSQL's has five characters.
    #[error("{address} refused: {code} {message}")]
    Refused { address: String, code: String, message: String },
    #[error("{address} does not answer as it should: {what}")]
    Unexpected { address: String, what: &'static str },
}

/// An error with all that it comes from, as one line. What a host says of a stream that broke may have a page of its own stack below
/// the first line, which helps nobody here.
pub fn chain(error: &dyn std::error::Error) -> String {
    let first_line =
        |error: &dyn std::error::Error| error.to_string().lines().next().unwrap_or_default().to_owned();
    let mut line = first_line(error);
    let mut next = error.source();
    while let Some(source) = next {
        line = format!("{line}: {}", first_line(source));
        next = source.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_where_and_why() {
        let source = io::ErrorKind::ConnectionRefused.into();
        let error = Error::Connect { address: "redis:6379".to_owned(), source };
        assert_eq!(chain(&error), "could not connect to redis:6379: connection refused");
    }

    #[test]
    fn a_stack_of_the_host_is_left_out() {
        let source = std::io::Error::other("reset by peer\n  0: main\n  1: start");
        let error = Error::Broken { address: "db:5432".to_owned(), source };
        assert_eq!(chain(&error), "the connection to db:5432 broke: reset by peer");
    }
}
