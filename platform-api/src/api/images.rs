//! `/v1/namespaces/{namespace}/images`

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue};
use wharf_types::NamespaceName;
use wharf_types::api::ResolveImage;
use wharf_types::image::{EXPOSED_HEADER, ImageDocument, ImagePin, ImageReference};
use wharf_types::problem::ProblemCode;

use super::extract::{Json, Path};
use super::{ApiError, ApiResult};
use crate::context::Context;
use crate::operations::{containers, secrets};

/// Says which image a name means now. The document is then pushed as an artifact.
pub(super) async fn resolve(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
    Json(request): Json<ResolveImage>,
) -> ApiResult<(HeaderMap, Reply<ImageDocument>)> {
    containers::check_any(&context, &namespace).await?;
    let document = document_of(&context, &namespace, request).await?;
    let mut headers = HeaderMap::new();
    if let Some(resolver) = context.images.get()
        && let Some(ports) = resolver.exposed_ports(&document).await
        && let Ok(value) = HeaderValue::from_str(&list(&ports))
    {
        headers.insert(EXPOSED_HEADER, value);
    }
    Ok((headers, Reply(document)))
}

fn list(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

async fn document_of(
    context: &Arc<Context>,
    namespace: &NamespaceName,
    request: ResolveImage,
) -> ApiResult<ImageDocument> {
    let image = request.image;
    // What a digest names needs nobody to be asked.
    if let Ok(reference) = image.parse::<ImageReference>()
        && let Some(digest) = reference.digest()
    {
        let document = ImageDocument { image, pin: ImagePin::Digest(digest), platforms: Vec::new() };
        return Ok(document);
    }
    let Some(resolver) = context.images.get() else {
        let detail = format!(
            "this server has no Docker engine that could say which image `{}` is now: name it by its digest, NAME@sha256:…, or deploy an archive of `docker save` with `--image-archive`",
            image.chars().take(80).collect::<String>().escape_debug()
        );
        return Err(ApiError::new(ProblemCode::InvalidArtifact, detail));
    };
    let login = match &request.login {
        Some(name) => Some(secrets::newest_value(context, namespace, name).await?),
        None => None,
    };
    resolver.resolve(&image, login.as_ref()).await.map_err(|error| {
        let code = if error.is_retryable { ProblemCode::Unavailable } else { ProblemCode::InvalidArtifact };
        ApiError::new(code, error.problem)
    })
}
