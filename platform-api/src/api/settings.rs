//! `…/apps/{app}/scale`, `…/env` and `…/restart`

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::{Extension, Json as Reply};
use wharf_types::api::{Deployed, Env, EnvPatch, Scale};

use super::ApiResult;
use super::apps::{self, AppPath, asked, with_etag};
use super::auth::Identity;
use super::extract::{Json, Path};
use crate::context::Context;
use crate::operations;

pub(super) async fn scale(
    State(context): State<Arc<Context>>,
    Extension(identity): Extension<Identity>,
    Path(path): Path<AppPath>,
    headers: HeaderMap,
    Json(request): Json<Scale>,
) -> ApiResult<Response> {
    operations::scale(&context, &asked(path.clone(), identity, &headers)?, request.replicas).await?;
    Ok(with_etag(&context, &apps::load(&context, &path).await?))
}

/// Variables may hold secrets, so reading them needs more than `viewer`.
pub(super) async fn show_env(
    State(context): State<Arc<Context>>,
    Path((namespace, app)): Path<AppPath>,
) -> ApiResult<Reply<Env>> {
    Ok(Reply(operations::env(&context, &namespace, &app).await?))
}

pub(super) async fn patch_env(
    State(context): State<Arc<Context>>,
    Extension(identity): Extension<Identity>,
    Path(path): Path<AppPath>,
    headers: HeaderMap,
    Json(patch): Json<EnvPatch>,
) -> ApiResult<(StatusCode, Reply<Deployed>)> {
    let deployed = operations::patch_env(&context, &asked(path, identity, &headers)?, patch).await?;
    Ok((StatusCode::CREATED, Reply(deployed)))
}

pub(super) async fn restart(
    State(context): State<Arc<Context>>,
    Extension(identity): Extension<Identity>,
    Path(path): Path<AppPath>,
    headers: HeaderMap,
) -> ApiResult<(StatusCode, Reply<Deployed>)> {
    let deployed = operations::restart(&context, &asked(path, identity, &headers)?).await?;
    Ok((StatusCode::CREATED, Reply(deployed)))
}
