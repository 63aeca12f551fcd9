//! `/v1/namespaces/{namespace}/files`: the files that apps are shipped with, as archives.

use std::error::Error as _;
use std::sync::Arc;

use axum::Json as Reply;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use wharf_types::api::FilesInfo;
use wharf_types::archive::{self, Contents, InvalidArchive};
use wharf_types::problem::ProblemCode;
use wharf_types::{Digest, NamespaceId, NamespaceName, Timestamp};

use super::artifacts::{Upload, drain, receive_bytes, room_for};
use super::auth::namespace_not_found;
use super::extract::Path;
use super::{ApiError, ApiResult};
use crate::artifacts::Content;
use crate::audit;
use crate::context::Context;
use crate::operations::quota;
use crate::store;

pub(super) async fn push(
    State(context): State<Arc<Context>>,
    Path((namespace, digest)): Path<(NamespaceName, Digest)>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<(StatusCode, Reply<FilesInfo>)> {
    let Upload { place, namespace, name, body } = Upload::begin(&context, namespace, digest, body).await?;
    if let Some(known) = find_stored(&context, namespace, digest).await? {
        drain(body);
        record(&context, namespace, &name, &known).await?;
        return Ok((StatusCode::OK, Reply(known)));
    }
    let body = room_for(&context, namespace, &name, &headers, body).await?;
    let bytes = receive_bytes(&context, digest, Content::Files, &headers, body, &place).await?;
    let Contents { files, .. } = look_at(&context, digest).await?;
    let pushed = FilesInfo { digest, bytes, files };
    record(&context, namespace, &name, &pushed).await?;
    Ok((StatusCode::CREATED, Reply(pushed)))
}

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Path((namespace, digest)): Path<(NamespaceName, Digest)>,
) -> ApiResult<Reply<FilesInfo>> {
    let mut tx = context.store.read().await?;
    let Some(found) = store::namespace::find(&mut tx, &namespace).await? else {
        return Err(namespace_not_found(namespace.as_str()));
    };
    drop(tx);
    match find_stored(&context, found.id, digest).await? {
        Some(known) => Ok(Reply(known)),
        None => {
            let detail = format!("there are no files {digest} here; push them first");
            Err(ApiError::new(ProblemCode::NotFound, detail))
        }
    }
}

/// What the namespace pushed, if the bytes are there as well.
async fn find_stored(
    context: &Context,
    namespace: NamespaceId,
    digest: Digest,
) -> ApiResult<Option<FilesInfo>> {
    let mut tx = context.store.read().await?;
    let known = store::archive::find(&mut tx, namespace, digest).await?;
    drop(tx);
    let Some(known) = known else { return Ok(None) };
    let stored = context.artifacts.size(digest).await?;
    Ok(stored.filter(|bytes| *bytes == known.bytes).map(|_| known))
}

async fn record(
    context: &Context,
    namespace: NamespaceId,
    name: &NamespaceName,
    archive: &FilesInfo,
) -> ApiResult<()> {
    let mut tx = context.store.write().await?;
    let before = quota::begin(&mut tx, namespace, name).await?;
    store::archive::put(&mut tx, namespace, archive, Timestamp::now()).await?;
    before.check(&mut tx).await?;
    audit::change(Value::Null, json!({"bytes": archive.bytes, "files": archive.files}));
    audit::commit(tx).await?;
    Ok(())
}

/// Reads a stored archive to its end; one that no worker would unpack is given up again.
async fn look_at(context: &Context, digest: Digest) -> ApiResult<Contents> {
    let Some((_, file)) = context.artifacts.open(digest).await? else {
        let detail = "the files went away while they were looked at; push them again";
        return Err(ApiError::new(ProblemCode::Conflict, detail));
    };
    let file = file.into_std().await;
    let reading = move || archive::read(std::io::BufReader::new(file), |_, _| Ok(()));
    match tokio::task::spawn_blocking(reading).await {
        Ok(Ok(contents)) => Ok(contents),
        Ok(Err(invalid)) => {
            // Other bytes of this digest there cannot be, but an artifact has them perhaps, which is no archive.
            let mut tx = context.store.read().await?;
            let is_artifact = store::artifact::get(&mut tx, digest).await?.is_some();
            drop(tx);
            if !is_artifact {
                context.artifacts.remove(digest).await?;
            }
            Err(ApiError::new(ProblemCode::InvalidArtifact, sentence(&invalid)))
        }
        Err(panic) => Err(ApiError::internal(&panic)),
    }
}

fn sentence(invalid: &InvalidArchive) -> String {
    match invalid.source() {
        Some(source) => format!("the files cannot be used: {invalid}: {source}"),
        None => format!("the files cannot be used: {invalid}"),
    }
}
