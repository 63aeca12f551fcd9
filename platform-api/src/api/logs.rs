//! `…/apps/{app}/logs`

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tracing::warn;
use wharf_types::api::Page;
use wharf_types::log::LogRecord;

use super::extract::{Delivery, Path, Query};
use super::wish::AppPath;
use super::{ApiResult, apps, sse};
use crate::context::Context;

const TAIL: usize = 100;

#[derive(Deserialize)]
pub(super) struct LogsQuery {
    tail: Option<usize>,
    since_release: Option<u64>,
}

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Path(path): Path<AppPath>,
    Query(query): Query<LogsQuery>,
    delivery: Delivery<u64>,
) -> ApiResult<Response> {
    apps::load(&context, &path).await?;
    let (namespace, app) = path;
    let since = query.since_release.unwrap_or(0);
    let tail = query.tail.unwrap_or(TAIL);
    let accept = move |record: &LogRecord| record.release >= since;
    let Delivery::Stream { last_event_id } = delivery else {
        let records = context.logs.tail(&namespace, &app, tail, accept).await?;
        let items = records.into_iter().map(|positioned| positioned.record).collect();
        return Ok(Reply(Page { items, next_cursor: None }).into_response());
    };
    let mut follower = context.logs.follow(&namespace, &app, last_event_id, tail, accept).await?;
    let records = async_stream::stream! {
        loop {
            match follower.next().await {
                Ok(Some(positioned)) => yield sse::event("log", positioned.position, &positioned.record),
                Ok(None) => return,
                Err(error) => {
                    warn!("a stream of log records of {app} in {namespace} ends: {error}");
                    return;
                }
            }
        }
    };
    Ok(sse::stream(&context, records))
}
