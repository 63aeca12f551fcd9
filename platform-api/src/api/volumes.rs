//! `…/volumes`: what apps keep on nodes.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::StatusCode;
use wharf_types::api::{Page, VolumeInfo};
use wharf_types::{NamespaceName, Timestamp, VolumeId};

use super::ApiResult;
use super::auth::{Identity, namespace_not_found};
use super::extract::Path;
use crate::context::Context;
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
