//! `/v1/namespaces/{namespace}/artifacts`, and the bytes for workers.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Reply;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::time::timeout;
use wharf_types::api::{ArtifactInfo, ArtifactSources};
use wharf_types::problem::ProblemCode;
use wharf_types::spec::AppSpec;
use wharf_types::world::capabilities;
use wharf_types::{Digest, NamespaceId, NamespaceName, NodeId, Timestamp};

use super::auth::{PeerNode, namespace_not_found};
use super::extract::Path;
use super::session::not_told;
use super::{ApiError, ApiResult};
use crate::artifacts::{Content, Place, PutError, UPLOADS_MAX};
use crate::audit;
use crate::context::Context;
use crate::inspect;
use crate::operations::quota;
use crate::store;
use crate::store::artifact::Artifact;

/// How long the rest of a body that nobody needs is taken in. A client that is cut off while it sends would see a broken
/// connection instead of the reply.
const DRAIN: Duration = Duration::from_secs(10);
/// How long an upload waits for others to end.
const PLACE_WAIT: Duration = Duration::from_millis(500);

pub(super) async fn push(
    State(context): State<Arc<Context>>,
    Path((namespace, digest)): Path<(NamespaceName, Digest)>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<(StatusCode, Reply<ArtifactInfo>)> {
    let Upload { place, namespace, name, body } = Upload::begin(&context, namespace, digest, body).await?;
    let mut tx = context.store.read().await?;
    let known = store::artifact::find(&mut tx, namespace, digest).await?;
    drop(tx);
    if let Some(known) = known
        && is_stored(&context, &known).await?
    {
        drain(body);
        record(&context, namespace, &name, &known).await?;
        return Ok((StatusCode::OK, Reply(info(known))));
    }
    let body = room_for(&context, namespace, &name, &headers, body).await?;
    let content = Content::Artifact { image_max_bytes: context.config.image_archive_max_bytes };
    let bytes = receive_bytes(&context, digest, content, &headers, body, &place).await?;
    let mut tx = context.store.read().await?;
    let known = store::artifact::get(&mut tx, digest).await?;
    drop(tx);
    let artifact = match known {
        Some(known) => known,
        None => look_at(&context, digest, bytes).await?,
    };
    record(&context, namespace, &name, &artifact).await?;
    Ok((StatusCode::CREATED, Reply(info(artifact))))
}

/// An upload that has its turn.
pub(super) struct Upload {
    /// Held until what was pushed has a row.
    pub(super) place: Place,
    pub(super) namespace: NamespaceId,
    pub(super) name: NamespaceName,
    pub(super) body: Body,
}

impl Upload {
    pub(super) async fn begin(
        context: &Context,
        name: NamespaceName,
        digest: Digest,
        body: Body,
    ) -> ApiResult<Self> {
        let Ok(Ok(place)) = timeout(PLACE_WAIT, context.uploads.clone().acquire_owned()).await else {
            drain(body);
            let detail = format!(
                "{UPLOADS_MAX} artifacts are pushed at this moment, the most at once; try again later"
            );
            return Err(ApiError::new(ProblemCode::Unavailable, detail));
        };
        let mut tx = context.store.read().await?;
        let Some(namespace) = store::namespace::find(&mut tx, &name).await? else {
            drain(body);
            return Err(namespace_not_found(name.as_str()));
        };
        drop(tx);
        if context.config.artifacts.is_shared() && !claim(context, digest).await? {
            drain(body);
            let detail =
                format!("{digest} was not used any more and is being removed; push it again in a moment");
            return Err(ApiError::unavailable(detail));
        }
        Ok(Self { place: Arc::new(place), namespace: namespace.id, name, body })
    }
}

/// Keeps all servers from removing what is brought in here.
async fn claim(context: &Context, digest: Digest) -> ApiResult<bool> {
    let mut tx = context.store.write().await?;
    let is_free = store::claim::upload(&mut tx, digest, Timestamp::now()).await?;
    tx.commit().await?;
    Ok(is_free)
}

/// Gives the body back if the namespace has room for what it is said to hold. HTTP sees to it that it holds no more.
pub(super) async fn room_for(
    context: &Context,
    namespace: NamespaceId,
    name: &NamespaceName,
    headers: &HeaderMap,
    body: Body,
) -> ApiResult<Body> {
    let Some(length) = content_length(headers) else {
        drain(body);
        let detail =
            "`Content-Length` is missing, or no number: say how many octets come before you send them";
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
    };
    if let Err(refusal) = quota::room_for(context, namespace, name, length).await {
        drain(body);
        return Err(refusal.into());
    }
    Ok(body)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// Stores the bytes, and says how many there are.
pub(super) async fn receive_bytes(
    context: &Context,
    digest: Digest,
    content: Content,
    headers: &HeaderMap,
    body: Body,
    place: &Place,
) -> ApiResult<u64> {
    let max_bytes = content.most_bytes();
    if content_length(headers).is_some_and(|length| length > max_bytes) {
        drain(body);
        return Err(PutError::TooLarge { max_bytes }.into());
    }
    // The stream is shared, so that what is left of it after a refusal can be drained.
    let body = Arc::new(tokio::sync::Mutex::new(body.into_data_stream()));
    let chunks = futures::stream::unfold(body.clone(), |body| async move {
        let chunk = body.lock().await.next().await?;
        Some((chunk.map_err(std::io::Error::other), body))
    });
    let stored = context.artifacts.put(digest, content, chunks.boxed(), place).await;
    stored.map_err(|error| {
        tokio::spawn(timeout(DRAIN, async move {
            let mut rest = body.lock_owned().await;
            while let Some(Ok(_)) = rest.next().await {}
        }));
        error.into()
    })
}

async fn record(
    context: &Context,
    namespace: NamespaceId,
    name: &NamespaceName,
    artifact: &Artifact,
) -> ApiResult<()> {
    let mut tx = context.store.write().await?;
    let before = quota::begin(&mut tx, namespace, name).await?;
    store::artifact::put(&mut tx, namespace, artifact, Timestamp::now()).await?;
    before.check(&mut tx).await?;
    audit::change(Value::Null, json!({"bytes": artifact.bytes}));
    audit::commit(tx).await?;
    Ok(())
}

/// Whether the bytes are there as well: a file may have been lost, and another push then brings it back.
async fn is_stored(context: &Context, artifact: &Artifact) -> ApiResult<bool> {
    Ok(context.artifacts.size(artifact.digest).await? == Some(artifact.bytes))
}

/// Inspects stored bytes; those that cannot run here are given up again.
async fn look_at(context: &Context, digest: Digest, bytes: u64) -> ApiResult<Artifact> {
    let Some((_, mut file)) = context.artifacts.open(digest).await? else {
        return Err(ApiError::new(
            ProblemCode::Conflict,
            "the artifact went away while it was looked at; push it again",
        ));
    };
    let mut content = Vec::new();
    (&mut file).take(inspect::HEAD_BYTES as u64).read_to_end(&mut content).await?;
    let is_archive = inspect::is_archive(&content);
    // An archive may have gigabytes to be read through, for which nobody else is to wait. All else is in memory, one at a time.
    let turns = if is_archive { &context.archive_inspections } else { &context.inspections };
    let one = turns.clone().acquire_owned().await;
    let one = one.map_err(|error| ApiError::internal(&error))?;
    let archive = if is_archive {
        file.rewind().await?;
        Some(file.into_std().await)
    } else {
        file.read_to_end(&mut content).await?;
        None
    };
    // A client that goes away ends this future but not the thread, so the thread holds the permit.
    let inspecting = move || {
        let inspected = match archive {
            Some(archive) => inspect::inspect_archive(std::io::BufReader::with_capacity(256 << 10, archive)),
            None => inspect::inspect(&content),
        };
        drop((content, one));
        inspected
    };
    let inspected = tokio::task::spawn_blocking(inspecting).await;
    match inspected {
        Ok(Ok(inspected)) => {
            Ok(Artifact { digest, bytes, world: inspected.world, imports: inspected.imports })
        }
        Ok(Err(invalid)) => {
            context.artifacts.remove(digest).await?;
            Err(ApiError::new(ProblemCode::InvalidArtifact, invalid.to_string()))
        }
        Err(panic) => Err(ApiError::internal(&panic)),
    }
}

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Path((namespace, digest)): Path<(NamespaceName, Digest)>,
) -> ApiResult<Reply<ArtifactInfo>> {
    let mut tx = context.store.read().await?;
    let Some(found) = store::namespace::find(&mut tx, &namespace).await? else {
        return Err(namespace_not_found(namespace.as_str()));
    };
    let artifact = store::artifact::find(&mut tx, found.id, digest).await?;
    // The storage may take its time, and there are few connections to the database.
    drop(tx);
    match artifact {
        Some(artifact) if is_stored(&context, &artifact).await? => Ok(Reply(info(artifact))),
        _ => Err(not_found(digest)),
    }
}

/// The bytes, for workers.
pub(super) async fn download(
    State(context): State<Arc<Context>>,
    peer: Option<Extension<PeerNode>>,
    Path(digest): Path<Digest>,
) -> ApiResult<Response> {
    if let Some(Extension(PeerNode(node))) = peer {
        check_use(&context, node, digest)?;
    }
    let Some((bytes, file)) = context.artifacts.open(digest).await? else { return Err(not_found(digest)) };
    let headers =
        [(header::CONTENT_TYPE, "application/wasm".to_owned()), (header::CONTENT_LENGTH, bytes.to_string())];
    let body = Body::from_stream(crate::artifacts::stream(file).into_stream());
    Ok((headers, body).into_response())
}

/// Which other workers have it, for one that is to run something of it.
pub(super) async fn sources(
    State(context): State<Arc<Context>>,
    peer: Option<Extension<PeerNode>>,
    Path(digest): Path<Digest>,
) -> ApiResult<Reply<ArtifactSources>> {
    // A worker of this process has its artifacts on the same disk, and there may be no cluster.
    let (Some(Extension(PeerNode(node))), Some(joining)) = (peer, context.joining.get()) else {
        return Err(not_found(digest));
    };
    check_use(&context, node, digest)?;
    let key = joining.authorities.artifact_key(digest);
    Ok(Reply(ArtifactSources { key, nodes: context.nodes.sources(node, digest) }))
}

/// A worker of another host gets what it was told to run. To it, nothing else exists.
fn check_use(context: &Context, node: NodeId, digest: Digest) -> ApiResult<()> {
    if context.nodes.uses(node, digest) {
        return Ok(());
    }
    Err(if context.nodes.has_been_told(node) { not_found(digest) } else { not_told(node) })
}

fn not_found(digest: Digest) -> ApiError {
    ApiError::new(ProblemCode::NotFound, format!("there is no artifact {digest} here; push it first"))
}

fn info(artifact: Artifact) -> ArtifactInfo {
    let capabilities = capabilities(artifact.imports.iter().map(String::as_str), &AppSpec::default());
    let Artifact { digest, bytes, world, imports } = artifact;
    ArtifactInfo { digest, bytes, world, imports, capabilities }
}

/// Takes in the rest of a body while the reply goes out.
pub(super) fn drain(body: Body) {
    tokio::spawn(timeout(DRAIN, async move {
        let mut rest = body.into_data_stream();
        while let Some(Ok(_)) = rest.next().await {}
    }));
}
