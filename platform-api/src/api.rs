//! The HTTP API. Every route stands in the table of [`routes`], with the role that it needs; a handler checks a request, calls
//! one operation, and answers. What goes wrong is always a `Problem`.

mod applies;
mod apps;
mod artifacts;
mod audit;
mod auth;
mod authorities;
mod builds;
mod conditions;
mod copy;
mod error;
mod etag;
mod events;
mod exec;
mod extract;
mod files;
mod forwarding;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod git;
mod images;
mod jobs;
mod joining;
mod logs;
mod members;
mod meta;
mod metrics;
mod namespaces;
mod nodes;
mod openapi;
mod parameters;
mod problems;
mod quotas;
mod releases;
mod rollouts;
mod routes;
mod schedules;
mod secrets;
mod servers;
mod session;
mod settings;
mod sse;
mod strict;
mod tokens;
mod upgrade;
mod users;
mod volumes;
mod watch;
mod wish;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::Method;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use wharf_types::Problem;
use wharf_types::problem::ProblemCode;

use crate::access::Access;
use crate::context::Context;
use crate::listener::NotForWorkers;
pub(crate) use audit::{Refusals, Remote};
pub(crate) use auth::PeerNode;
use error::{ApiError, ApiResult};
#[cfg(test)]
pub(crate) use openapi::operation_id;
#[cfg(test)]
pub(crate) use routes::endpoints;

/// The largest JSON document of a user.
const BODY_MAX_BYTES: usize = 1 << 20;
/// The same of a worker: its reports, and batches of log records.
const WORKER_BODY_MAX_BYTES: usize = 64 << 20;

pub(crate) fn router(context: Arc<Context>) -> Router {
    let mut router = Router::new();
    for endpoint in routes::endpoints() {
        if !context.config.speaks.knows(endpoint.since) {
            continue;
        }
        let guard = auth::Guard {
            context: context.clone(),
            access: endpoint.access,
            query: endpoint.query,
            headers: endpoint.headers,
            speaks_git: endpoint.speaks_git(),
            action: openapi::operation_id(&endpoint).into(),
        };
        let usual = if endpoint.access == Access::Node { WORKER_BODY_MAX_BYTES } else { BODY_MAX_BYTES };
        let limit = endpoint.body_max_bytes.unwrap_or(usual);
        let mut handler = endpoint.handler;
        if endpoint.keeps_reply {
            handler = handler.route_layer(middleware::from_fn_with_state(context.clone(), conditions::once));
        }
        let mut guarded = handler
            .route_layer(DefaultBodyLimit::max(limit))
            .route_layer(middleware::from_fn_with_state(guard, auth::authorize));
        if endpoint.by_leader {
            // Whoever answers is who lets in.
            let forwarding = middleware::from_fn_with_state(context.clone(), forwarding::to_leader);
            guarded = guarded.route_layer(forwarding);
        }
        if endpoint.takes_over {
            guarded = guarded.route_layer(middleware::from_fn(upgrade::take_over));
        }
        router = router.route(endpoint.path, guarded);
    }
    router
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
        .with_state(context)
}

async fn not_found(request: Request) -> ApiError {
    if request.extensions().get::<NotForWorkers>().is_some() {
        let detail = "this port is for workers, and for hosts that join; the API has another one, which `wharf server` prints when it is ready: \
             http://127.0.0.1:7070 on that host, unless --api says otherwise";
        return Problem::new(ProblemCode::NotFound, detail).into();
    }
    let detail = format!(
        "there is no address `{}` here; /v1/openapi.json lists those that there are",
        shorten(request.uri().path())
    );
    Problem::new(ProblemCode::NotFound, detail).into()
}

async fn method_not_allowed(method: Method, request: Request) -> ApiError {
    let detail = format!("`{}` does not take {method}", shorten(request.uri().path()));
    Problem::new(ProblemCode::MethodNotAllowed, detail).into()
}

fn panicked(_panic: Box<dyn std::any::Any + Send>) -> Response {
    // The panic hook has logged what happened and where.
    let detail = "the request hit a fault in the control plane; its log says more";
    ApiError::from(Problem::new(ProblemCode::Internal, detail)).into_response()
}

fn shorten(path: &str) -> String {
    path.chars().take(120).collect()
}
