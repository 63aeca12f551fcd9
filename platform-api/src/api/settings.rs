//! `…/apps/{app}/scale`, `…/env`, `…/restart`, `…/stop` and `…/start`

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use wharf_types::api::{Deployed, Env, EnvPatch, Scale};

use super::ApiResult;
use super::apps::{self, with_etag};
use super::extract::Path;
use super::wish::{AppPath, Nothing, Wish};
use crate::context::Context;
use crate::operations;

pub(super) async fn scale(
    State(context): State<Arc<Context>>,
    Wish { asked, request }: Wish<Scale>,
) -> ApiResult<Response> {
    let loaded = match operations::scale(&context, &asked, request.replicas).await? {
        Some(loaded) => loaded,
        None => apps::load(&context, &(asked.namespace, asked.app)).await?,
    };
    Ok(with_etag(&context, &loaded))
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
    Wish { asked, request }: Wish<EnvPatch>,
) -> ApiResult<(StatusCode, Reply<Deployed>)> {
    let deployed = operations::patch_env(&context, &asked, request).await?;
    Ok((StatusCode::CREATED, Reply(deployed)))
}

pub(super) async fn restart(
    State(context): State<Arc<Context>>,
    Wish { asked, request: Nothing {} }: Wish<Nothing>,
) -> ApiResult<(StatusCode, Reply<Deployed>)> {
    let deployed = operations::restart(&context, &asked).await?;
    Ok((StatusCode::CREATED, Reply(deployed)))
}

/// Replies at once; the instances finish their open requests first.
pub(super) async fn stop(
    State(context): State<Arc<Context>>,
    Wish { asked, request: Nothing {} }: Wish<Nothing>,
) -> ApiResult<Response> {
    operations::stop(&context, &asked).await?;
    let loaded = apps::load(&context, &(asked.namespace, asked.app)).await?;
    Ok(with_etag(&context, &loaded))
}

pub(super) async fn start(
    State(context): State<Arc<Context>>,
    Wish { asked, request: Nothing {} }: Wish<Nothing>,
) -> ApiResult<(StatusCode, Reply<Deployed>)> {
    let deployed = operations::start(&context, &asked).await?;
    Ok((StatusCode::CREATED, Reply(deployed)))
}
