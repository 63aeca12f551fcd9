//! `…/volumes`: what apps keep on nodes.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wharf_types::api::{Page, VolumeInfo};
use wharf_types::exec::Frame;
use wharf_types::problem::ProblemCode;
use wharf_types::transfer::{Transfer, TransferOrder};
use wharf_types::{NamespaceName, NodeId, Timestamp, VolumeId};

use super::auth::{Identity, namespace_not_found};
use super::exec::{frames, taken_over};
use super::extract::Path;
use super::{ApiError, ApiResult};
use crate::context::Context;
use crate::execs::frames::Frames;
use crate::execs::relay::{FRAMES_MAX, Session};
use crate::execs::{EXECS_MAX, Place, Refused, SHARE_MAX};
use crate::store::volume::Volume;
use crate::{operations, store, view};

pub(super) async fn list(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
) -> ApiResult<Reply<Page<VolumeInfo>>> {
    let mut tx = context.store.read().await?;
    if store::namespace::find(&mut tx, &namespace).await?.is_none() {
        return Err(namespace_not_found(namespace.as_str()));
    }
    let volumes = store::volume::list(&mut tx, &namespace).await?;
    let items = volumes.iter().map(|volume| view::volume_info(&context, volume)).collect();
    Ok(Reply(Page { items, next_cursor: None }))
}

pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    identity: Identity,
    Path((namespace, id)): Path<(NamespaceName, VolumeId)>,
) -> ApiResult<StatusCode> {
    operations::volumes::remove(&context, &namespace, id, &identity.name(), Timestamp::now()).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Answers when the worker is on its way; what goes wrong from there on is said in a frame.
pub(super) async fn backup(
    State(context): State<Arc<Context>>,
    Path((namespace, id)): Path<(NamespaceName, VolumeId)>,
    request: Request,
) -> ApiResult<Response> {
    let (client, _) = taken_over(request, "wharf volume backup").await?;
    let (volume, notice) = operations::volumes::to_back_up(&context, &namespace, id).await?;
    let (place, node) = place_at(&context, &namespace, &volume)?;
    // Before it is read, so that nothing is ever read without a record.
    operations::volumes::record_backup(&context, &volume).await?;
    begin(context, (place, node), (&volume, Transfer::Backup), client, notice)
}

/// The same for the other way.
pub(super) async fn restore(
    State(context): State<Arc<Context>>,
    identity: Identity,
    Path((namespace, id)): Path<(NamespaceName, VolumeId)>,
    request: Request,
) -> ApiResult<Response> {
    let (client, _) = taken_over(request, "wharf volume restore").await?;
    let (volume, transfer) = operations::volumes::to_restore(&context, &namespace, id).await?;
    let (place, node) = place_at(&context, &namespace, &volume)?;
    let (by, now) = (identity.name(), Timestamp::now());
    operations::volumes::record_restore(&context, &namespace, &volume, &by, now).await?;
    begin(context, (place, node), (&volume, transfer), client, None)
}

fn begin(
    context: Arc<Context>,
    (place, node): (Place<TransferOrder>, String),
    (volume, transfer): (&Volume, Transfer),
    client: Frames,
    notice: Option<String>,
) -> ApiResult<Response> {
    let volume = volume.id;
    let joined =
        place.order(|id| TransferOrder { id, volume, transfer }).map_err(|why| explain(why, &node))?;
    let (to_client, said) = mpsc::channel(FRAMES_MAX);
    if let Some(notice) = notice {
        // There is room: it is the first.
        let _ = to_client.try_send(Ok(Frame::Stderr(format!("{notice}\n").into_bytes()).encode().into()));
    }
    let what = match transfer {
        Transfer::Backup => "backup",
        Transfer::Restore { .. } => "restore",
    };
    let session = Session { place, what, joined, client, to_client, node };
    tokio::spawn(session.run(context));
    Ok(frames(ReceiverStream::new(said)))
}

/// A place among the transfers of the volume's node, and how people call its worker.
fn place_at(
    context: &Context,
    namespace: &NamespaceName,
    volume: &Volume,
) -> ApiResult<(Place<TransferOrder>, String)> {
    let (id, node) = node_of(context, volume)?;
    let place = context.transfers.reserve_share(id, namespace).map_err(|why| explain(why, &node))?;
    Ok((place, node))
}

fn node_of(context: &Context, volume: &Volume) -> ApiResult<(NodeId, String)> {
    let name = &volume.name;
    let Some(id) = volume.node else {
        let detail = format!(
            "the volume `{name}` is on no node yet: it gets a folder when the first instance of `{}` that has it starts",
            volume.app_name
        );
        return Err(ApiError::new(ProblemCode::Conflict, detail));
    };
    match context.nodes.list().into_iter().find(|node| node.id == id) {
        Some(node) if node.ready => Ok((id, format!("the worker of {} ({id})", node.registration.hostname))),
        Some(node) => Err(ApiError::unavailable(format!(
            "the volume `{name}` is on node {} ({id}), whose worker was heard of last at {:.0}; try again when `wharf node ls` shows that it is back",
            node.registration.hostname, node.seen_at
        ))),
        None => Err(ApiError::unavailable(format!(
            "the volume `{name}` is on node {id}, whose worker has not come since this server leads, or was removed; `wharf node ls` lists those that are there"
        ))),
    }
}

fn explain(why: Refused, node: &str) -> ApiError {
    ApiError::unavailable(match why {
        Refused::Away => format!(
            "{node} takes no backups and restores now: it has just started, or is older than this control plane; try again in a moment, or upgrade it"
        ),
        Refused::Full => format!(
            "{node} has {EXECS_MAX} backups and restores under way, which is the most; wait until one of them has ended"
        ),
        Refused::ShareFull => format!(
            "{SHARE_MAX} backups and restores of the namespace are under way on {node}, which is the most of one namespace; try again when one of them has ended"
        ),
    })
}
