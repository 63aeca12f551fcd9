//! Events of a namespace, an app or the nodes, as a page or as a stream.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tracing::warn;
use wharf_types::api::Page;
use wharf_types::event::{Event, NodeEvent};
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

/// Whose events.
enum Of {
    Namespace(NamespaceName),
    App(NamespaceName, AppName),
    Nodes,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Found {
    Event(Event),
    NodeEvent(NodeEvent),
}

impl Found {
    fn seq(&self) -> i64 {
        match self {
            Self::Event(event) => event.seq,
            Self::NodeEvent(event) => event.seq,
        }
    }
}

pub(super) async fn of_namespace(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
    Query(query): Query<EventsQuery>,
    delivery: Delivery<u64>,
) -> ApiResult<Response> {
    reply(context, Of::Namespace(namespace), query, delivery).await
}

/// An app that is gone still has its events.
pub(super) async fn of_app(
    State(context): State<Arc<Context>>,
    Path((namespace, app)): Path<AppPath>,
    Query(query): Query<EventsQuery>,
    delivery: Delivery<u64>,
) -> ApiResult<Response> {
    reply(context, Of::App(namespace, app), query, delivery).await
}

pub(super) async fn of_nodes(
    State(context): State<Arc<Context>>,
    Query(query): Query<EventsQuery>,
    delivery: Delivery<u64>,
) -> ApiResult<Response> {
    reply(context, Of::Nodes, query, delivery).await
}

async fn reply(
    context: Arc<Context>,
    of: Of,
    query: EventsQuery,
    delivery: Delivery<u64>,
) -> ApiResult<Response> {
    let cursor = parse_cursor(query.cursor.as_deref())?.or(query.after).map_or(0, place);
    if let Of::Namespace(namespace) | Of::App(namespace, _) = &of {
        let mut tx = context.store.read().await?;
        if store::namespace::find(&mut tx, namespace).await?.is_none() {
            return Err(namespace_not_found(namespace.as_str()));
        }
    }
    if let Delivery::Stream { last_event_id } = delivery {
        return Ok(follow(context, of, last_event_id.map_or(cursor, place)));
    }
    let items = page(&context, &of, cursor).await?;
    let next_cursor =
        items.last().filter(|_| items.len() as i64 == PAGE).map(|event| event.seq().to_string());
    Ok(Reply(Page { items, next_cursor }).into_response())
}

fn follow(context: Arc<Context>, of: Of, after: i64) -> Response {
    let source = context.clone();
    let events = async_stream::stream! {
        // Every event is written together with a change, so the nudge that tells of changes tells of events.
        let mut watcher = source.watch();
        let mut seen = after;
        loop {
            match page(&source, &of, seen).await {
                Ok(page) => {
                    let full = page.len() as i64 == PAGE;
                    for event in page {
                        seen = event.seq();
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

async fn page(context: &Context, of: &Of, after: i64) -> store::Result<Vec<Found>> {
    let mut tx = context.store.read().await?;
    let (namespace, app) = match of {
        Of::Namespace(namespace) => (namespace, None),
        Of::App(namespace, app) => (namespace, Some(app)),
        Of::Nodes => {
            let events = store::event::of_nodes(&mut tx, after, PAGE).await?;
            return Ok(events.into_iter().map(Found::NodeEvent).collect());
        }
    };
    let events = store::event::list(&mut tx, namespace, app, after, PAGE).await?;
    Ok(events.into_iter().map(Found::Event).collect())
}
