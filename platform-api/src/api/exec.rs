//! `…/apps/{app}/exec`, and what workers call for it and for what else is ordered.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tracing::warn;
use wharf_types::exec::{ExecOrder, ExecSpec, FRAME_MAX_BYTES, Frame, MEDIA_TYPE, PROTOCOL};
use wharf_types::problem::ProblemCode;
use wharf_types::{ExecId, NodeId};

use super::extract::{Path, Query, parse};
use super::session::{KEEP_ALIVE, OfProcess, refused};
use super::wish::AppPath;
use super::{ApiError, ApiResult, apps};
use crate::audit;
use crate::context::Context;
use crate::execs::frames::Frames;
use crate::execs::relay::{FRAMES_MAX, Session};
use crate::execs::{EXECS_MAX, Execs, Joined, Refused};
use crate::plan;
use crate::plan::InstanceView;

/// How long the first frame may take.
const START_MAX: Duration = Duration::from_secs(30);

/// Answers when the command is on its way to its worker; what goes wrong from there on is said in a frame.
pub(super) async fn start(
    State(context): State<Arc<Context>>,
    Path(path): Path<AppPath>,
    request: Request,
) -> ApiResult<Response> {
    let (client, spec) = taken_over(request, "wharf exec").await?;
    let spec: ExecSpec = asked(&spec)?;
    spec.validate().map_err(|error| ApiError::new(ProblemCode::InvalidRequest, error.to_string()))?;
    let loaded = apps::load(&context, &path).await?;
    let chosen = plan::exec::choose(&loaded.view, &spec)?;
    let (id, node) = of_node(&context, chosen)?;
    let place = context.execs.reserve(id).map_err(|why| explain(why, &node))?;
    // Before it runs, so that nothing ever runs without a record.
    audit::change(Value::Null, shown(chosen, &spec));
    audit::commit(context.store.write().await?).await?;
    let instance = chosen.id;
    let joined = place.order(|id| ExecOrder { id, instance, spec }).map_err(|why| explain(why, &node))?;
    let (to_client, said) = mpsc::channel(FRAMES_MAX);
    let session = Session { place, what: "command", joined, client, to_client, node };
    tokio::spawn(session.run(context));
    Ok(frames(ReceiverStream::new(said)))
}

/// The client of a connection that was taken over, and what it has sent first. `by` is the command that does so.
pub(super) async fn taken_over(request: Request, by: &str) -> ApiResult<(Frames, Vec<u8>)> {
    let invalid = |detail: String| ApiError::new(ProblemCode::InvalidRequest, detail);
    if request.headers().get(header::CONTENT_TYPE).is_none_or(|kind| kind != MEDIA_TYPE) {
        return Err(invalid(format!(
            "this address takes the connection over: send `Connection: Upgrade` and `Upgrade: {PROTOCOL}`, as `{by}` does; a proxy on the way has to let them through"
        )));
    }
    let mut client = Frames::new(request.into_body());
    match timeout(START_MAX, client.next()).await {
        Ok(Ok(Some(Frame::Start(octets)))) => Ok((client, octets)),
        Ok(Ok(Some(_))) => Err(invalid("the first frame says what is to be done".to_owned())),
        Ok(Ok(None)) => Err(invalid(format!(
            "say what is to be done, in a body of at most {FRAME_MAX_BYTES} octets of JSON"
        ))),
        Ok(Err(error)) => Err(invalid(error.to_string())),
        Err(_) => Err(invalid(format!("what is to be done was not said within {} s", START_MAX.as_secs()))),
    }
}

/// What is to be done.
pub(super) fn asked<T: DeserializeOwned>(octets: &[u8]) -> ApiResult<T> {
    if octets.is_empty() {
        let detail = format!("say what is to be done, in a body of at most {FRAME_MAX_BYTES} octets of JSON");
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
    }
    parse(octets)
}

/// The node of an instance, and how people call it.
pub(super) fn of_node(context: &Context, instance: &InstanceView) -> ApiResult<(NodeId, String)> {
    let Some(id) = instance.node else {
        let detail = format!("the instance {} has no node yet; try again in a moment", instance.id);
        return Err(ApiError::new(ProblemCode::Conflict, detail));
    };
    let known = context.nodes.list().into_iter().find(|node| node.id == id);
    match known {
        Some(node) if node.ready => Ok((id, format!("the worker of {} ({id})", node.registration.hostname))),
        known => {
            let host = known.map(|node| node.registration.hostname).unwrap_or_default();
            Err(ApiError::unavailable(format!(
                "the worker of node {id} ({host}) has not been heard of for some seconds; `wharf node ls` shows whether it is back, and what ran there starts elsewhere if it is not"
            )))
        }
    }
}

fn explain(why: Refused, node: &str) -> ApiError {
    ApiError::unavailable(match why {
        Refused::Away => format!(
            "{node} takes no commands now: it has just started, has no Docker engine, or is older than this control plane; try again in a moment, or upgrade it"
        ),
        // Nobody counts commands by namespace.
        Refused::Full | Refused::ShareFull => {
            format!("{node} runs {EXECS_MAX} commands already, which is the most; end one of them")
        }
    })
}

/// What the audit log is told: who ran which command where, and nothing of what was typed. Of variables it gets the names.
fn shown(instance: &InstanceView, spec: &ExecSpec) -> Value {
    let variables: BTreeMap<&String, &str> = spec.env.keys().map(|name| (name, "(set)")).collect();
    json!({
        "command": spec.command,
        "instance": instance.id,
        "slot": instance.slot_number(),
        "user": spec.user,
        "workdir": spec.workdir,
        "tty": spec.tty,
        "env": (!variables.is_empty()).then_some(variables),
    })
}

/// An answer that goes on for as long as something is said.
pub(super) fn frames(said: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static) -> Response {
    ([(header::CONTENT_TYPE, MEDIA_TYPE)], Body::from_stream(said)).into_response()
}

/// The commands that a worker is to run.
pub(super) async fn orders(
    State(context): State<Arc<Context>>,
    Path(node): Path<NodeId>,
    Query(process): Query<OfProcess>,
) -> ApiResult<Response> {
    let execs = context.execs.clone();
    lines(&context, &execs, node, &process)
}

/// A worker comes for a command.
pub(super) async fn join(
    State(context): State<Arc<Context>>,
    Path((node, id)): Path<(NodeId, ExecId)>,
    request: Request,
) -> ApiResult<Response> {
    come(&context.execs, (node, id), request)
}

/// The volumes that a worker is to write to archives, or to fill from them.
pub(super) async fn transfers(
    State(context): State<Arc<Context>>,
    Path(node): Path<NodeId>,
    Query(process): Query<OfProcess>,
) -> ApiResult<Response> {
    let transfers = context.transfers.clone();
    lines(&context, &transfers, node, &process)
}

/// A worker comes for a transfer.
pub(super) async fn join_transfer(
    State(context): State<Arc<Context>>,
    Path((node, id)): Path<(NodeId, ExecId)>,
    request: Request,
) -> ApiResult<Response> {
    come(&context.transfers, (node, id), request)
}

/// The files that a worker is to copy.
pub(super) async fn copies(
    State(context): State<Arc<Context>>,
    Path(node): Path<NodeId>,
    Query(process): Query<OfProcess>,
) -> ApiResult<Response> {
    let copies = context.copies.clone();
    lines(&context, &copies, node, &process)
}

/// A worker comes for a copy.
pub(super) async fn join_copy(
    State(context): State<Arc<Context>>,
    Path((node, id)): Path<(NodeId, ExecId)>,
    request: Request,
) -> ApiResult<Response> {
    come(&context.copies, (node, id), request)
}

/// Orders of one kind for a worker, until the control plane stops or leads no more, or another process of the worker registers.
fn lines<O: Serialize + Send + 'static>(
    context: &Context,
    execs: &Execs<O>,
    node: NodeId,
    process: &OfProcess,
) -> ApiResult<Response> {
    let mut leadership = context.leadership();
    context.epoch()?;
    let mut told = context.nodes.follow(node, process.process).map_err(refused)?;
    let mut orders = execs.follow(node);
    let shutdown = context.shutdown.clone();
    let lines = async_stream::stream! {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = leadership.changed() => return,
                changed = told.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                order = orders.recv() => {
                    let Some(order) = order else { return };
                    match serde_json::to_vec(&order) {
                        Ok(mut line) => {
                            line.push(b'\n');
                            yield Ok::<_, Infallible>(Bytes::from(line));
                        }
                        Err(error) => warn!("an order for node {node} cannot be written: {error}"),
                    }
                }
                () = tokio::time::sleep(KEEP_ALIVE) => yield Ok(Bytes::from_static(b"\n")),
            }
        }
    };
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

/// The request's body is what the worker says of an order that it comes for, and the answer's what it is told.
fn come<O>(execs: &Execs<O>, (node, id): (NodeId, ExecId), request: Request) -> ApiResult<Response> {
    let (to_worker, said) = mpsc::channel(FRAMES_MAX);
    let joined = Joined { frames: Frames::new(request.into_body()), to_worker };
    if !execs.join(node, id, joined) {
        let detail = format!("nobody waits for the order {id} on node {node}, or no longer");
        return Err(ApiError::new(ProblemCode::NotFound, detail));
    }
    Ok(frames(ReceiverStream::new(said).map(Ok)))
}
