//! What only workers call: their session with the control plane.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as Reply;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::sync::watch;
use wharf_types::keyvalue::{KeyValueReply, KeyValueRequest};
use wharf_types::log::LogRecord;
use wharf_types::node::{NodeRegistration, NodeReport};
use wharf_types::problem::ProblemCode;
use wharf_types::{NodeId, Timestamp};

use super::extract::{Json, Path};
use super::{ApiError, ApiResult};
use crate::context::Context;
use crate::logs::Source;
use crate::nodes::Line;
use crate::{operations, store};

/// How often an idle stream of assignments says that it is alive, by an empty line.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

pub(super) async fn register(
    State(context): State<Arc<Context>>,
    Path(node): Path<NodeId>,
    Json(registration): Json<NodeRegistration>,
) -> ApiResult<StatusCode> {
    registration.validate().map_err(|error| ApiError::new(ProblemCode::InvalidRequest, error.to_string()))?;
    let mut tx = context.write_as_leader().await?;
    store::node::register(&mut tx, node, &registration, Timestamp::now()).await?;
    tx.commit().await?;
    context.nodes.register(node, registration);
    context.dirty.nudge();
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn assignments(
    State(context): State<Arc<Context>>,
    Path(node): Path<NodeId>,
) -> ApiResult<Response> {
    let leadership = context.leadership();
    context.epoch()?;
    let Some(assignment) = context.nodes.assignments(node) else { return Err(unregistered(node)) };
    context.dirty.nudge();
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((headers, Body::from_stream(lines(context, leadership, assignment))).into_response())
}

/// The newest assignment at once, then each newer one, until the control plane stops or leads no more.
fn lines(
    context: Arc<Context>,
    mut leadership: watch::Receiver<Option<u64>>,
    mut assignment: watch::Receiver<Line>,
) -> impl futures::Stream<Item = Result<Bytes, std::convert::Infallible>> {
    async_stream::stream! {
        let shutdown = context.shutdown.clone();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = leadership.changed() => return,
                changed = assignment.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let line = assignment.borrow_and_update().clone();
                    if let Some(line) = line {
                        yield Ok(line);
                    }
                }
                () = tokio::time::sleep(KEEP_ALIVE) => yield Ok(Bytes::from_static(b"\n")),
            }
        }
    }
}

pub(super) async fn report(
    State(context): State<Arc<Context>>,
    Path(node): Path<NodeId>,
    Json(report): Json<NodeReport>,
) -> ApiResult<StatusCode> {
    let Some(_turn) = context.nodes.turn(node).await else { return Err(unregistered(node)) };
    let Some(news) = context.nodes.report(node, &report) else { return Err(unregistered(node)) };
    let now = Timestamp::now();
    operations::report::observe(&context, node, &news.instances, now).await?;
    operations::volumes::gone(&context, node, &report.figures.removed_volumes).await?;
    operations::volumes::tell(&context, &news.volumes, now).await?;
    context.ledger.count(&context).await?;
    context.nodes.reported(node, report);
    if news.routes || news.waiting {
        context.dirty.nudge();
    }
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn logs(
    State(context): State<Arc<Context>>,
    Path(_): Path<NodeId>,
    Json(records): Json<Vec<LogRecord>>,
) -> ApiResult<StatusCode> {
    // What comes after the end of an app or a job must not bring its folder back.
    let mut exists = HashMap::new();
    let mut tx = context.store.read().await?;
    for record in &records {
        if let Entry::Vacant(unknown) = exists.entry(Source::of(record)) {
            let found = match record.job {
                Some(job) => store::job::get(&mut tx, job).await?.is_some(),
                None => store::app::find(&mut tx, &record.namespace, &record.app).await?.is_some(),
            };
            unknown.insert(found);
        }
    }
    drop(tx);
    let is_known = |record: &LogRecord| exists.get(&Source::of(record)) == Some(&true);
    context.logs.append(records.into_iter().filter(is_known).collect()).await;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn key_value(
    State(context): State<Arc<Context>>,
    Path(_): Path<NodeId>,
    Json(request): Json<KeyValueRequest>,
) -> ApiResult<Reply<KeyValueReply>> {
    Ok(Reply(operations::keyvalue::carry_out(&context, request).await?))
}

fn unregistered(node: NodeId) -> ApiError {
    ApiError::new(
        ProblemCode::NotFound,
        format!("node {node} has not registered since the control plane started"),
    )
}
