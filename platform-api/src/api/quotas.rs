//! `/v1/namespaces/{namespace}/quota`

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::response::Response;
use wharf_types::NamespaceName;
use wharf_types::api::{Quota, QuotaInfo};

use super::ApiResult;
use super::etag::tagged;
use super::extract::{Json, Path};
use crate::conditions::revision_of;
use crate::context::Context;
use crate::operations::quota;

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
) -> ApiResult<Response> {
    Ok(reply(quota::show(&context, &namespace).await?))
}

pub(super) async fn set(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
    Json(request): Json<Quota>,
) -> ApiResult<Response> {
    Ok(reply(quota::set(&context, &namespace, request).await?))
}

/// With its revision, which `If-Match` can ask for.
fn reply(info: QuotaInfo) -> Response {
    let revision = revision_of(&info.quota);
    tagged(Reply(info), revision)
}
