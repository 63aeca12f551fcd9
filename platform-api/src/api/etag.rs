//! Replies with the revision of what they show, for `If-Match`.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

pub(super) fn tagged(reply: impl IntoResponse, revision: i64) -> Response {
    let mut response = reply.into_response();
    if let Ok(etag) = HeaderValue::try_from(format!("\"{revision}\"")) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}
