//! What only workers call: their session with the control plane.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as Reply;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::watch;
use tracing::{debug, warn};
use wharf_types::api::Leaving;
use wharf_types::delta::DELTAS;
use wharf_types::keyvalue::{KeyValueReply, KeyValueRequest};
use wharf_types::log::{LogRecord, LogStream};
use wharf_types::node::{NodeRegistration, NodeReport, ReportAnswer};
use wharf_types::problem::ProblemCode;
use wharf_types::protocol::{self, Versions};
use wharf_types::{NodeId, ProcessId, Timestamp};

use super::auth::PeerNode;
use super::extract::{Json, Octets, Path, Query, parse};
use super::{ApiError, ApiResult};
use crate::context::Context;
use crate::intake::Intake;
use crate::logs::Source;
use crate::nodes::{NodeStatus, Refusal};
use crate::operations::OperationError;
use crate::store::StoreError;
use crate::store::node::NodeSettings;
use crate::{operations, store};

/// How often an idle stream of assignments says that it is alive, by an empty line.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Octets that are read as JSON, or written, between two polls: some hundred microseconds.
const ASIDE_BYTES: usize = 128 << 10;
/// A worker that is told to come later waits for up to this share of it.
const WORKER_JITTER: f64 = 1.2;

pub(super) async fn register(
    State(context): State<Arc<Context>>,
    Path(node): Path<NodeId>,
    headers: HeaderMap,
    Json(mut registration): Json<NodeRegistration>,
) -> ApiResult<(StatusCode, HeaderMap)> {
    registration.validate().map_err(|error| ApiError::new(ProblemCode::InvalidRequest, error.to_string()))?;
    let spoken = context.config.speaks;
    let agreed = speaks(node, &headers, spoken)?;
    // With what is stored, so that whoever leads next knows it before the node has come to them. It is not the worker's to say.
    registration.labels.remove(protocol::LABEL);
    if agreed < protocol::SPOKEN.newest() {
        registration.labels.insert(protocol::LABEL.to_owned(), agreed.to_string());
    }
    if !spoken.knows(2) && registration.containers.is_some() {
        // In the words in which the reader refuses what it does not know.
        return Err(ApiError::new(ProblemCode::InvalidRequest, "unknown field `containers`"));
    }
    // After what the process before has sent, not in between.
    let _turn = context.nodes.turn(node).await;
    let process = registration.incarnation.process;
    context
        .nodes
        .admits(node, &registration)
        .map_err(|refusal| refused_as(&context, (node, process), refusal))?;
    if spoken.knows(2) {
        context.admissions.take().map_err(|wait| {
            // A second and a half for the rounding of what it is told, and its own jitter on top.
            context.nodes.told_to_wait(node, wait.mul_f64(WORKER_JITTER) + Duration::from_millis(1500));
            ApiError::busy("many workers begin their session at once; come again later", wait)
        })?;
    }
    let mut tx = context.write_as_leader().await?;
    // What a host is decides what comes to it, so its own word does not count.
    if let Some(role) = store::joining::role(&mut tx, node).await? {
        registration.role = role;
    }
    store::node::register(&mut tx, node, &registration, Timestamp::now()).await?;
    // Whoever has let it in wants to look at it first.
    let mut drained = None;
    if store::joining::take_begins_drained(&mut tx, node).await? {
        let before = store::node::settings(&mut tx, node).await?.unwrap_or_default();
        let settings = drained.insert(NodeSettings { draining: true, ..before });
        store::node::set(&mut tx, node, settings).await?;
    }
    tx.commit().await?;
    context
        .nodes
        .register(node, registration, drained)
        .map_err(|refusal| refused_as(&context, (node, process), refusal))?;
    context.dirty.nudge();
    let said = spoken.said().and_then(|said| HeaderValue::try_from(said).ok());
    let said = said.map(|said| (HeaderName::from_static(protocol::HEADER), said));
    Ok((StatusCode::NO_CONTENT, said.into_iter().collect()))
}

/// The version that a worker and this control plane both speak. One of version 1 does not ask, and keeps nothing from anybody.
fn speaks(node: NodeId, headers: &HeaderMap, spoken: Versions) -> ApiResult<u32> {
    if !spoken.knows(2) {
        return Ok(protocol::SPOKEN.newest());
    }
    let said = headers.get(protocol::HEADER).map(|value| value.to_str().unwrap_or_default().parse());
    let said = said.unwrap_or(Ok(Versions::UNSAID));
    let said = said.map_err(|error| {
        ApiError::new(ProblemCode::InvalidRequest, format!("{}: {error}", protocol::HEADER))
    })?;
    let agreed = protocol::agree(said, spoken).map_err(|incompatible| {
        warn!(node.id = %node, "the worker of node {node} was refused: {incompatible}");
        ApiError::new(ProblemCode::Incompatible, incompatible.to_string())
    })?;
    if !said.knows(spoken.newest()) {
        warn!(node.id = %node, "the worker of node {node} is of an older version: it is told what version {agreed} of the node protocol has");
    }
    Ok(agreed)
}

/// Which process of the worker asks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfProcess {
    #[serde(default)]
    pub(super) process: ProcessId,
}

pub(super) async fn assignments(
    State(context): State<Arc<Context>>,
    Path(node): Path<NodeId>,
    Query(process): Query<OfProcess>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let leadership = context.leadership();
    context.epoch()?;
    let newest = context.nodes.follow(node, process.process).map_err(refused)?;
    context.dirty.nudge();
    let takes_deltas = context.config.speaks.knows(2)
        && headers.get(header::ACCEPT).is_some_and(|accepted| accepted == DELTAS);
    let headers = [(header::CONTENT_TYPE, if takes_deltas { DELTAS } else { "application/x-ndjson" })];
    let lines = lines(context, leadership, newest, (node, takes_deltas));
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// The newest assignment at once, then what changes of it, or each newer one, until the control plane stops or leads no more.
fn lines(
    context: Arc<Context>,
    mut leadership: watch::Receiver<Option<u64>>,
    mut newest: watch::Receiver<u64>,
    (node, takes_deltas): (NodeId, bool),
) -> impl futures::Stream<Item = Result<Bytes, std::convert::Infallible>> {
    async_stream::stream! {
        let shutdown = context.shutdown.clone();
        let mut at = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = leadership.changed() => return,
                changed = newest.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    newest.borrow_and_update();
                    if let Some((lines, generation)) = context.nodes.lines(node, at, takes_deltas) {
                        at = Some(generation);
                        for line in lines {
                            yield Ok(line);
                        }
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
    Octets(octets): Octets,
) -> ApiResult<Response> {
    context.epoch()?;
    let _turn = context.nodes.turn(node).await;
    // A thousand workers with a hundred instances each say two hundred thousand times a second that nothing has changed.
    let hash = blake3::hash(&octets);
    let report = match context.nodes.repeated(node, hash) {
        Some(known) => known,
        None => Arc::new(parse::<NodeReport>(&octets)?),
    };
    let news = context.nodes.report(node, &report).map_err(refused)?;
    let now = Timestamp::now();
    let written = async {
        Intake::take_in(&context, node, news.instances, now).await?;
        operations::volumes::gone(&context, node, &report.figures.removed_volumes).await?;
        operations::volumes::tell(&context, &news.volumes, now).await?;
        Ok(context.ledger.count(&context, node).await?)
    };
    match written.await {
        Ok(()) => context.nodes.reported_as(node, hash, report),
        // It was heard all the same, and what it runs does not need this disk. Nothing is lost: each report says all of it, until it is written.
        Err(OperationError::Store(StoreError::Full)) => {
            debug!(node.id = %node, "the disk is full: what node {node} reports waits for room");
        }
        Err(error) => return Err(error.into()),
    }
    if news.routes || news.waiting {
        context.dirty.nudge();
    }
    if news.holds.is_empty() || !context.config.speaks.knows(2) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    // Whoever was deposed meanwhile, perhaps without knowing it yet, has no say in who may run.
    if !context.holds_lease() {
        return Err(StoreError::Deposed.into());
    }
    Ok(Reply(ReportAnswer { holds: news.holds }).into_response())
}

/// The worker is about to end, and asks until it is empty: what runs there starts elsewhere first.
pub(super) async fn leave(
    State(context): State<Arc<Context>>,
    Path(node): Path<NodeId>,
    Query(process): Query<OfProcess>,
) -> ApiResult<Reply<Leaving>> {
    context.nodes.leave(node, process.process).map_err(refused)?;
    context.dirty.nudge();
    let is_other = |other: &NodeStatus| other.id != node && other.ready && !other.draining;
    if !context.nodes.list().iter().any(is_other) {
        return Ok(Reply(Leaving { instances: 0 }));
    }
    let mut conn = context.store.read().await?;
    let runs = store::run::live_by_node(&mut conn).await?.get(&node).copied().unwrap_or(0);
    Ok(Reply(Leaving { instances: store::instance::movable(&mut conn, node).await? + runs }))
}

pub(super) async fn logs(
    State(context): State<Arc<Context>>,
    peer: Option<Extension<PeerNode>>,
    Path(node): Path<NodeId>,
    Json(mut records): Json<Vec<LogRecord>>,
) -> ApiResult<StatusCode> {
    if peer.is_some() {
        if !context.nodes.has_been_told(node) {
            return Err(not_told(node));
        }
        // A front door answers for every app, also where its node runs nothing of it, and says then what went wrong.
        let is_of_front_door =
            |it: &LogRecord| it.stream == LogStream::Platform && it.release == 0 && it.job.is_none();
        records.retain(|it| is_of_front_door(it) || context.nodes.runs(node, &it.namespace, &it.app));
    }
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
    peer: Option<Extension<PeerNode>>,
    Path(node): Path<NodeId>,
    Octets(request): Octets,
) -> ApiResult<Response> {
    let request: KeyValueRequest = aside(request.len(), move || parse(&request)).await??;
    if peer.is_some() && !context.nodes.runs(node, &request.namespace, &request.app) {
        if !context.nodes.has_been_told(node) {
            return Err(not_told(node));
        }
        let detail = format!("node {node} runs nothing of `{}` in `{}`", request.app, request.namespace);
        return Err(ApiError::new(ProblemCode::Forbidden, detail));
    }
    let reply: KeyValueReply = operations::keyvalue::carry_out(&context, request).await?;
    aside(reply.bytes(), move || Reply(reply).into_response()).await
}

/// Does what takes its time with so many octets where nobody waits behind it.
async fn aside<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> ApiResult<T> {
    if bytes <= ASIDE_BYTES {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::internal(&error))
}

/// Just after a start it is not yet known what a node runs.
pub(super) fn not_told(node: NodeId) -> ApiError {
    ApiError::unavailable(format!(
        "the control plane has just started to lead, and has not told node {node} anything yet; try again"
    ))
}

/// The last words of a process that was killed arrive after its successor has registered, so this alone is not worth a line.
pub(super) fn refused(refusal: Refusal) -> ApiError {
    let code = match refusal {
        Refusal::Unregistered(_) => ProblemCode::NotFound,
        Refusal::Replaced(_) | Refusal::Superseded(_) | Refusal::Elsewhere(_) => ProblemCode::Conflict,
    };
    ApiError::new(code, refusal.to_string())
}

/// The same of a process that wants to register, and wants it again every other second for as long as it runs.
fn refused_as(context: &Context, (node, process): (NodeId, ProcessId), refusal: Refusal) -> ApiError {
    if let Some(more) = context.rivals.say((process, refusal)) {
        warn!(node.id = %node, "a worker was refused: {refusal}{more}");
    }
    refused(refusal)
}
