//! Hands what only the leader can answer to the server that leads, and waits a moment where nobody does.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::{Instant, sleep};

use super::ApiError;
use crate::context::Context;
use crate::forward::{Forwarded, Sent};

/// How long a request waits for somebody to lead: a lease that was not given up ends after two seconds, and is taken within half of one.
const WAIT_MAX: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Says of an answer that nobody has looked at its request, because the server led no more.
const NOT_LEADING: HeaderName = HeaderName::from_static("wharf-not-leading");

pub(super) async fn to_leader(
    State(context): State<Arc<Context>>,
    mut request: Request,
    next: Next,
) -> Response {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        if context.epoch().is_ok() {
            return next.run(request).await;
        }
        if request.extensions().get::<Forwarded>().is_some() {
            let mut answer = nobody_leads().into_response();
            answer.headers_mut().insert(NOT_LEADING, HeaderValue::from_static("1"));
            return answer;
        }
        // A control plane that takes no workers has no way to others, and answers what it can.
        let Some(joining) = context.joining.get() else { return next.run(request).await };
        let again = again(&request);
        let unanswered = match context.way_to_leader.send(&context, joining, request).await {
            Sent::Answered(answer) if !answer.headers().contains_key(NOT_LEADING) => {
                return answer.map(Body::new);
            }
            Sent::Answered(_) | Sent::Lost => again,
            Sent::Unsent(request) => Some(request),
        };
        let Some(unanswered) = unanswered.filter(|_| Instant::now() < deadline) else {
            return nobody_leads().into_response();
        };
        request = unanswered;
        sleep(LOOK_AGAIN).await;
    }
}

/// The same request once more, where that can be had: one that changes nothing and has no body.
fn again(request: &Request) -> Option<Request> {
    if !request.method().is_safe() {
        return None;
    }
    let mut again = Request::new(Body::empty());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.headers_mut() = request.headers().clone();
    *again.extensions_mut() = request.extensions().clone();
    Some(again)
}

fn nobody_leads() -> ApiError {
    ApiError::unavailable(
        "no control plane leads for now, or the one that does cannot be reached from here; what runs goes on, so try again",
    )
}
