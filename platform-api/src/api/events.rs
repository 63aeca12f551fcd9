//! Events of a namespace or an app, as a page or as a stream.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tracing::warn;
use wharf_types::api::Page;
use wharf_types::event::Event;
use wharf_types::{AppName, NamespaceName};

use super::auth::namespace_not_found;
use super::extract::{Delivery, Path, Query, parse_cursor, place};
use super::wish::AppPath;
use super::{ApiResult, sse};
use crate::context::Context;
use crate::reconcile::chain;
use crate::store;

/// Events of one page.
const PAGE: i64 = 200;

#[derive(Deserialize)]
pub(super) struct EventsQuery {
    after: Option<u64>,
    cursor: Option<String>,
}

pub(super) async fn of_namespace(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
    Query(query): Query<EventsQuery>,
    delivery: Delivery<u64>,
) -> ApiResult<Response> {
    reply(context, namespace, None, query, delivery).await
}

/// An app that is gone still has its events.
pub(super) async fn of_app(
    State(context): State<Arc<Context>>,
    Path((namespace, app)): Path<AppPath>,
    Query(query): Query<EventsQuery>,
    delivery: Delivery<u64>,
) -> ApiResult<Response> {
    reply(context, namespace, Some(app), query, delivery).await
}

async fn reply(
    context: Arc<Context>,
    namespace: NamespaceName,
    app: Option<AppName>,
    query: EventsQuery,
    delivery: Delivery<u64>,
) -> ApiResult<Response> {
    let cursor = parse_cursor(query.cursor.as_deref())?.or(query.after).map_or(0, place);
    let mut tx = context.store.read().await?;
    if store::namespace::find(&mut tx, &namespace).await?.is_none() {
        return Err(namespace_not_found(namespace.as_str()));
    }
    if let Delivery::Stream { last_event_id } = delivery {
        drop(tx);
        return Ok(follow(context, namespace, app, last_event_id.map_or(cursor, place)));
    }
    let items = store::event::list(&mut tx, &namespace, app.as_ref(), cursor, PAGE).await?;
    let next_cursor = items.last().filter(|_| items.len() as i64 == PAGE).map(|event| event.seq.to_string());
    Ok(Reply(Page { items, next_cursor }).into_response())
}

fn follow(context: Arc<Context>, namespace: NamespaceName, app: Option<AppName>, after: i64) -> Response {
    let source = context.clone();
    let events = async_stream::stream! {
        // Every event is written together with a change, so the nudge that tells of changes tells of events.
        let mut watcher = source.watch();
        let mut seen = after;
        loop {
            match page(&source, &namespace, app.as_ref(), seen).await {
                Ok(page) => {
                    let full = page.len() as i64 == PAGE;
                    for event in page {
                        seen = event.seq;
                        yield sse::event("event", Some(seen), &event);
                    }
                    if full {
                        continue;
                    }
                }
                Err(error) => {
                    warn!("a stream of events ends: {}", chain(&error));
                    return;
                }
            }
            if !watcher.changed(|_| true).await {
                return;
            }
        }
    };
    sse::stream(&context, events)
}

async fn page(
    context: &Context,
    namespace: &NamespaceName,
    app: Option<&AppName>,
    after: i64,
) -> store::Result<Vec<Event>> {
    let mut tx = context.store.read().await?;
    store::event::list(&mut tx, namespace, app, after, PAGE).await
}
