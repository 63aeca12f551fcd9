//! Server-sent events: a stream that ends with the control plane.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde::Serialize;
use tracing::warn;

use crate::context::Context;

/// A client that hears nothing for longer may take the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

pub(super) fn stream(context: &Context, events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let shutdown = context.shutdown.clone();
    let events = events.map(Ok::<_, Infallible>).take_until(shutdown.cancelled_owned());
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// One event. A client that comes back with its id misses nothing after it; one without an id leaves the last one valid.
pub(super) fn event(kind: &str, id: Option<impl ToString>, data: &impl Serialize) -> Event {
    let event = Event::default().event(kind);
    let event = match id {
        Some(id) => event.id(id.to_string()),
        None => event,
    };
    event.json_data(data).unwrap_or_else(|error| {
        warn!("an event cannot be written: {error}");
        Event::default().comment("an event could not be written")
    })
}
