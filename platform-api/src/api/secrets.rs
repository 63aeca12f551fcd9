//! `/v1/namespaces/{namespace}/secrets`, `…/configs` and `/v1/secret-keys`
//!
//! A value comes as the body itself, not inside a document: no parser can then quote it in an error.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde::Deserialize;
use tracing::info;
use wharf_types::api::{Page, RotatedKey, SecretInfo, SecretSet};
use wharf_types::problem::ProblemCode;
use wharf_types::secret::{InvalidValue, SecretValue, ValueKind};
use wharf_types::{NamespaceName, SecretName, Timestamp};

use super::auth::Identity;
use super::etag::tagged;
use super::extract::{Path, Query, read_octets};
use super::{ApiError, ApiResult};
use crate::audit;
use crate::context::Context;
use crate::operations::secrets::{self, AskedSecret};
use crate::secrets::{RotateError, rotate};

/// Who asks, and about which secret or config.
pub(super) struct Asked {
    namespace: NamespaceName,
    name: SecretName,
    by: String,
}

impl Asked {
    fn of(self, kind: ValueKind) -> AskedSecret {
        let Self { namespace, name, by } = self;
        AskedSecret { namespace, name, kind, by, now: Timestamp::now() }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let Path((namespace, name)) =
            Path::<(NamespaceName, SecretName)>::from_request_parts(parts, state).await?;
        let identity = Identity::from_request_parts(parts, state).await?;
        Ok(Self { namespace, name, by: identity.name() })
    }
}

/// A value in the body.
pub(super) struct Value(SecretValue);

impl<S: Send + Sync> FromRequest<S> for Value {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> ApiResult<Self> {
        let octets = read_octets(request, state).await?;
        let value = SecretValue::new(octets.into()).map_err(|error| {
            let code = match error {
                InvalidValue::TooLong => ProblemCode::TooLarge,
                InvalidValue::Empty | InvalidValue::NotText | InvalidValue::Nul => {
                    ProblemCode::InvalidRequest
                }
            };
            ApiError::new(code, error.to_string())
        })?;
        Ok(Self(value))
    }
}

pub(super) async fn list(
    context: State<Arc<Context>>,
    namespace: Path<NamespaceName>,
) -> ApiResult<Reply<Page<SecretInfo>>> {
    list_of(ValueKind::Secret, context, namespace).await
}

pub(super) async fn list_configs(
    context: State<Arc<Context>>,
    namespace: Path<NamespaceName>,
) -> ApiResult<Reply<Page<SecretInfo>>> {
    list_of(ValueKind::Config, context, namespace).await
}

async fn list_of(
    kind: ValueKind,
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
) -> ApiResult<Reply<Page<SecretInfo>>> {
    let items = secrets::list(&context, &namespace, kind).await?;
    Ok(Reply(Page { items, next_cursor: None }))
}

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Path((namespace, name)): Path<(NamespaceName, SecretName)>,
) -> ApiResult<Response> {
    let info = secrets::secret(&context, &namespace, &name).await?;
    let revision = secrets::revision(info.version);
    Ok(tagged(Reply(info), revision))
}

pub(super) async fn set(
    State(context): State<Arc<Context>>,
    asked: Asked,
    Value(value): Value,
) -> ApiResult<Response> {
    Ok(was_set(secrets::set(&context, &asked.of(ValueKind::Secret), &value).await?))
}

pub(super) async fn set_config(
    State(context): State<Arc<Context>>,
    asked: Asked,
    Value(value): Value,
) -> ApiResult<Response> {
    Ok(was_set(secrets::set(&context, &asked.of(ValueKind::Config), &value).await?))
}

fn was_set(set: SecretSet) -> Response {
    let revision = secrets::revision(set.version);
    tagged(Reply(set), revision)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigQuery {
    version: Option<u64>,
}

pub(super) async fn show_config(
    State(context): State<Arc<Context>>,
    Path((namespace, name)): Path<(NamespaceName, SecretName)>,
    Query(query): Query<ConfigQuery>,
) -> ApiResult<Response> {
    let config = secrets::config(&context, &namespace, &name, query.version).await?;
    let revision = secrets::revision(config.version);
    Ok(tagged(Reply(config), revision))
}

pub(super) async fn remove(State(context): State<Arc<Context>>, asked: Asked) -> ApiResult<StatusCode> {
    secrets::remove(&context, &asked.of(ValueKind::Secret)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn remove_config(
    State(context): State<Arc<Context>>,
    asked: Asked,
) -> ApiResult<StatusCode> {
    secrets::remove(&context, &asked.of(ValueKind::Config)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Runs to its end also when the client goes away: broken off, it would be finished only at the next start.
pub(super) async fn rotate_key(
    State(context): State<Arc<Context>>,
    identity: Identity,
) -> ApiResult<(StatusCode, Reply<RotatedKey>)> {
    let by = identity.name();
    let rotation = tokio::spawn(audit::carry(async move {
        let (key, resealed) = rotate(&context.secret_keys, &context.store).await?;
        info!("{resealed} versions of secrets were sealed anew with the key {key}, asked for by {by}");
        Ok(RotatedKey { key, resealed })
    }));
    match rotation.await {
        Ok(Ok(rotated)) => Ok((StatusCode::CREATED, Reply(rotated))),
        Ok(Err(RotateError::Refused(detail))) => Err(ApiError::new(ProblemCode::Conflict, detail)),
        Ok(Err(RotateError::Store(error))) => Err(error.into()),
        Ok(Err(RotateError::Write { source, .. })) => Err(source.into()),
        Err(panicked) => Err(ApiError::internal(&panicked)),
    }
}
