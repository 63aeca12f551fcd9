//! Errors on the wire: `application/problem+json`, RFC 9457.

use serde::{Deserialize, Serialize};

/// An error that a client can act on by `code`, and a person by `detail`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error, utoipa::ToSchema)]
#[error("{detail}")]
pub struct Problem {
    /// The HTTP status, repeated.
    pub status: u16,
    /// Stable, snake case, never reused for another meaning.
    pub code: ProblemCode,
    /// The kind of problem, the same for every occurrence.
    pub title: String,
    /// What was wrong, where, and what to do.
    pub detail: String,
}

macro_rules! codes {
    ($($code:ident $status:literal $title:literal;)+) => {
        /// The stable codes. A code has one status and one title everywhere.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum ProblemCode { $($code,)+ }

        impl ProblemCode {
            pub const ALL: &[Self] = &[$(Self::$code,)+];

            pub fn status(self) -> u16 {
                match self { $(Self::$code => $status,)+ }
            }

            pub fn title(self) -> &'static str {
                match self { $(Self::$code => $title,)+ }
            }
        }
    };
}

codes! {
    InvalidRequest 400 "The request is not valid";
    Unauthenticated 401 "A valid token is needed";
    TokenExpired 401 "The token has expired";
    Forbidden 403 "The token does not allow this";
    NotFound 404 "There is no such thing";
    MethodNotAllowed 405 "The address does not take this method";
    AlreadyExists 409 "It exists already";
    Conflict 409 "It was changed in between";
    RouteTaken 409 "The route belongs to another app";
    PortTaken 409 "The port belongs to another app";
    Incompatible 409 "The versions do not go together";
    PreconditionFailed 412 "It is not what If-Match asked for";
    TooLarge 413 "The request is too large";
    DigestMismatch 422 "The content does not have the digest that was announced";
    InvalidArtifact 422 "The artifact cannot run here";
    InvalidSpec 422 "The settings are not valid";
    Busy 429 "Too many at once";
    QuotaExceeded 403 "A quota is used up";
    Internal 500 "Something went wrong on our side";
    StorageFull 507 "The disk is full";
    Unavailable 503 "Not now";
}

impl Problem {
    pub fn new(code: ProblemCode, detail: impl Into<String>) -> Self {
        Self { status: code.status(), code, title: code.title().to_owned(), detail: detail.into() }
    }
}
