//! `/metrics`

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::ApiResult;
use crate::context::Context;
use crate::{metrics, store};

pub(super) async fn show(State(context): State<Arc<Context>>) -> ApiResult<impl IntoResponse> {
    let mut tx = context.store.read().await?;
    let jobs = store::job::by_state(&mut tx).await?;
    drop(tx);
    let page = metrics::page(&context.nodes.samples(), &jobs);
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page))
}
