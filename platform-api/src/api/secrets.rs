//! `/v1/namespaces/{namespace}/secrets` and `/v1/secret-keys`
//!
//! A value comes as the body itself, not inside a document: no parser can then quote it in an error.

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use tracing::info;
use wharf_types::api::{Page, RotatedKey, SecretInfo, SecretSet};
use wharf_types::problem::ProblemCode;
use wharf_types::secret::{InvalidValue, SecretValue};
use wharf_types::{NamespaceName, SecretName, Timestamp};

use super::auth::Identity;
use super::extract::{Path, read_octets};
use super::{ApiError, ApiResult};
use crate::audit;
use crate::context::Context;
use crate::operations::secrets::{self, AskedSecret};
use crate::secrets::{RotateError, rotate};

/// Who asks, and about which secret.
pub(super) struct Asked(AskedSecret);

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> ApiResult<Self> {
        let Path((namespace, name)) =
            Path::<(NamespaceName, SecretName)>::from_request_parts(parts, state).await?;
        let identity = Identity::from_request_parts(parts, state).await?;
        let by = identity.name();
        Ok(Self(AskedSecret { namespace, name, by, now: Timestamp::now() }))
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
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
) -> ApiResult<Reply<Page<SecretInfo>>> {
    let items = secrets::list(&context, &namespace).await?;
    Ok(Reply(Page { items, next_cursor: None }))
}

pub(super) async fn set(
    State(context): State<Arc<Context>>,
    Asked(asked): Asked,
    Value(value): Value,
) -> ApiResult<Reply<SecretSet>> {
    Ok(Reply(secrets::set(&context, &asked, &value).await?))
}

pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    Asked(asked): Asked,
) -> ApiResult<StatusCode> {
    secrets::remove(&context, &asked).await?;
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
