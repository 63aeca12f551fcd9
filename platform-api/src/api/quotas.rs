//! `/v1/namespaces/{namespace}/quota`

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use wharf_types::NamespaceName;
use wharf_types::api::{Quota, QuotaInfo};

use super::ApiResult;
use super::extract::{Json, Path};
use crate::context::Context;
use crate::operations::quota;

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
) -> ApiResult<Reply<QuotaInfo>> {
    Ok(Reply(quota::show(&context, &namespace).await?))
}

pub(super) async fn set(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
    Json(request): Json<Quota>,
) -> ApiResult<Reply<QuotaInfo>> {
    Ok(Reply(quota::set(&context, &namespace, request).await?))
}
