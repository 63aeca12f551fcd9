//! What handlers take out of a request. A part that is not valid becomes a `Problem` that names it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use wharf_types::problem::ProblemCode;

use super::strict::Strictly;
use super::{ApiError, ApiResult};

/// How long the body of a request may take.
const BODY_MAX: Duration = Duration::from_secs(30);

/// A JSON body. An absent one is an empty object, so that requests without settings need none.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        parse(&read(request, state).await?).map(Self)
    }
}

/// The same, not read yet.
pub(super) struct Octets(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Octets {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        read(request, state).await.map(Self)
    }
}

/// Reads the body of a request that takes JSON.
pub(super) async fn read<S: Send + Sync>(request: Request, state: &S) -> ApiResult<Bytes> {
    let bytes = read_octets(request, state).await?;
    Ok(if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes })
}

/// Reads a body as it is.
pub(super) async fn read_octets<S: Send + Sync>(request: Request, state: &S) -> ApiResult<Bytes> {
    let Ok(bytes) = timeout(BODY_MAX, Bytes::from_request(request, state)).await else {
        let detail =
            format!("the request's body did not come within {} s; send it again", BODY_MAX.as_secs());
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
    };
    bytes.map_err(body_error)
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    match axum::Json::<Strictly<T>>::from_bytes(bytes) {
        Ok(axum::Json(Strictly(value))) => Ok(value),
        Err(rejection) => Err(ApiError::new(ProblemCode::InvalidRequest, rejection.body_text())),
    }
}

fn body_error(rejection: BytesRejection) -> ApiError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return ApiError::new(ProblemCode::TooLarge, "the request's body is larger than this address takes");
    }
    ApiError::new(ProblemCode::InvalidRequest, rejection.body_text())
}

/// Parts of the path.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(ApiError::new(ProblemCode::InvalidRequest, rejection.body_text())),
        }
    }
}

/// Query parameters.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        match axum::extract::Query::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(ApiError::new(ProblemCode::InvalidRequest, rejection.body_text())),
        }
    }
}

/// The query of a list.
#[derive(Deserialize)]
pub(super) struct PageQuery {
    cursor: Option<String>,
}

impl PageQuery {
    /// Where the page before ended. None: this is the first one.
    pub(super) fn after<T: FromStr>(&self) -> ApiResult<Option<T>> {
        parse_cursor(self.cursor.as_deref())
    }
}

pub(super) fn parse_cursor<T: FromStr>(cursor: Option<&str>) -> ApiResult<Option<T>> {
    cursor.map(str::parse).transpose().map_err(|_| {
        ApiError::new(ProblemCode::InvalidRequest, "cursor: pass the `next_cursor` of the page before")
    })
}

/// The cursor of a list in the order of names: it goes on after this one. A name alone is none, so that what somebody made up is never
/// taken for the end of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct After<N>(pub(super) N);

const AFTER: &str = "after:";

impl<N: FromStr> FromStr for After<N> {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.strip_prefix(AFTER).and_then(|name| name.parse().ok()).map(Self).ok_or(())
    }
}

impl<N: fmt::Display> fmt::Display for After<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{AFTER}{}", self.0)
    }
}

/// A place in what is counted from 0, such as the `seq` of events.
pub(super) fn place(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// How the client wants a list.
pub(super) enum Delivery<T> {
    Page,
    /// Server-sent events; a client that reconnects says which one it saw last.
    Stream {
        last_event_id: Option<T>,
    },
}

impl<T: FromStr + Send, S: Send + Sync> FromRequestParts<S> for Delivery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        let text =
            |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap_or_default().trim());
        // Also of who does not want a stream: a wrong one is a mistake of the client in any case.
        let last_event_id = text("last-event-id").map(str::parse).transpose().map_err(|_| {
            ApiError::new(
                ProblemCode::InvalidRequest,
                "Last-Event-ID is not an id of this stream; leave it out to begin anew",
            )
        })?;
        if !text(header::ACCEPT.as_str()).is_some_and(|accept| accept.contains("text/event-stream")) {
            return Ok(Self::Page);
        }
        Ok(Self::Stream { last_event_id })
    }
}
