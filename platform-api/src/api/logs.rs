//! `…/apps/{app}/logs`

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use wharf_types::api::Page;
use wharf_types::log::LogRecord;

use super::apps::{self, AppPath};
use super::extract::{Path, Query, accepts_events, last_event_id};
use super::{ApiResult, sse};
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
    headers: HeaderMap,
) -> ApiResult<Response> {
    apps::load(&context, &path).await?;
    let (namespace, app) = path;
    let since = query.since_release.unwrap_or(0);
    let tail = query.tail.unwrap_or(TAIL);
    if !accepts_events(&headers) {
        let accept = move |record: &LogRecord| record.release >= since;
        let records = context.logs.tail(&namespace, &app, tail, accept).await?;
        let items = records.into_iter().map(|positioned| positioned.record).collect();
        return Ok(Reply(Page { items, next_cursor: None }).into_response());
    }
    let (before, mut follower) = context.logs.follow(&namespace, &app, last_event_id(&headers), tail).await?;
    let records = async_stream::stream! {
        for positioned in before {
            if positioned.record.release >= since {
                yield sse::event("log", positioned.position, &positioned.record);
            }
        }
        while let Some(positioned) = follower.next().await {
            if positioned.record.release >= since {
                yield sse::event("log", positioned.position, &positioned.record);
            }
        }
    };
    Ok(sse::stream(&context, records))
}
