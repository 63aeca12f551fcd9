//! `/v1/namespaces/{namespace}/quota`

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use wharf_types::NamespaceName;
use wharf_types::api::{Quota, QuotaInfo};

use super::ApiResult;
use super::extract::{Json, Path};
use super::wish::if_match;
use crate::context::Context;
use crate::operations::quota;
use crate::quota::revision;

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
) -> ApiResult<Response> {
    Ok(reply(quota::show(&context, &namespace).await?))
}

pub(super) async fn set(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
    headers: HeaderMap,
    Json(request): Json<Quota>,
) -> ApiResult<Response> {
    let asked = if_match(&headers)?;
    Ok(reply(quota::set(&context, &namespace, request, asked).await?))
}

/// With its revision, which `If-Match` can ask for.
fn reply(info: QuotaInfo) -> Response {
    let etag = HeaderValue::try_from(format!("\"{}\"", revision(&info.quota)));
    let mut response = Reply(info).into_response();
    if let Ok(etag) = etag {
        response.headers_mut().insert(header::ETAG, etag);
    }
    response
}
