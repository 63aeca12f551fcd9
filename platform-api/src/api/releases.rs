//! `…/apps/{app}/releases` and `…/apps/{app}/rollback`

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json as Reply};
use wharf_types::api::{CreateRelease, Deployed, Page, ReleaseInfo, Role, Rollback};
use wharf_types::problem::ProblemCode;
use wharf_types::spec::AppSpec;
use wharf_types::world::capabilities;

use super::apps::{AppPath, PageQuery, asked};
use super::auth::Identity;
use super::extract::{Json, Path, Query};
use super::{ApiError, ApiResult};
use crate::context::Context;
use crate::operations::{self, Deploy, app_not_found};
use crate::store;

/// Releases of one page.
const PAGE: usize = 50;
const KEY_MAX_BYTES: usize = 200;
/// What a viewer reads in the place of a variable's value.
const HIDDEN: &str = "(hidden: reading it needs the role `developer`)";

pub(super) async fn create(
    State(context): State<Arc<Context>>,
    Extension(identity): Extension<Identity>,
    Path(path): Path<AppPath>,
    headers: HeaderMap,
    Json(request): Json<CreateRelease>,
) -> ApiResult<(StatusCode, Reply<Deployed>)> {
    let idempotency = idempotency(&headers, &request)?;
    let asked = asked(path, identity, &headers)?;
    let deployed = operations::deploy(&context, &asked, Deploy { request, idempotency }).await?;
    Ok((StatusCode::CREATED, Reply(deployed)))
}

pub(super) async fn rollback(
    State(context): State<Arc<Context>>,
    Extension(identity): Extension<Identity>,
    Path(path): Path<AppPath>,
    headers: HeaderMap,
    Json(request): Json<Rollback>,
) -> ApiResult<(StatusCode, Reply<Deployed>)> {
    let deployed = operations::rollback(&context, &asked(path, identity, &headers)?, request.release).await?;
    Ok((StatusCode::CREATED, Reply(deployed)))
}

/// Variables may hold secrets, so a viewer sees their names only, as with `…/env`.
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    Extension(identity): Extension<Identity>,
    Path((namespace, name)): Path<AppPath>,
    Query(query): Query<PageQuery>,
) -> ApiResult<Reply<Page<ReleaseInfo>>> {
    let before = match query.cursor.as_deref() {
        None => u64::MAX,
        Some(cursor) => cursor.parse().map_err(|_| {
            ApiError::new(ProblemCode::InvalidRequest, "cursor: pass the `next_cursor` of the page before")
        })?,
    };
    let mut tx = context.store.read().await?;
    let Some(app) = store::app::find(&mut tx, &namespace, &name).await? else {
        return Err(app_not_found(&namespace, &name).into());
    };
    let mut releases = store::release::list(&mut tx, app.id, before, PAGE as i64 + 1).await?;
    let more = releases.len() > PAGE;
    releases.truncate(PAGE);
    let next_cursor = releases.last().filter(|_| more).map(|release| release.number.to_string());
    let mut items = Vec::with_capacity(releases.len());
    for release in releases {
        let artifact = store::artifact::get(&mut tx, release.artifact).await?;
        let imports = artifact.map(|artifact| artifact.imports).unwrap_or_default();
        let mut spec = AppSpec::clone(&release.spec);
        if identity.token.role < Role::Developer {
            spec.env.values_mut().for_each(|value| HIDDEN.clone_into(value));
        }
        items.push(ReleaseInfo {
            release: release.number,
            digest: release.artifact,
            capabilities: capabilities(imports.iter().map(String::as_str), &spec.outbound.allow),
            current: app.target_release == Some(release.id),
            spec,
            cause: release.cause,
            created_at: release.created_at,
            created_by: release.created_by,
        });
    }
    Ok(Reply(Page { items, next_cursor }))
}

/// The key of `Idempotency-Key`, and a hash of what it stands for.
fn idempotency(headers: &HeaderMap, request: &CreateRelease) -> ApiResult<Option<(String, String)>> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= KEY_MAX_BYTES => {
            let request = serde_json::to_vec(request).map_err(|error| ApiError::internal(&error))?;
            Ok(Some((key.to_owned(), blake3::hash(&request).to_hex().to_string())))
        }
        _ => {
            let detail = format!("Idempotency-Key: use 1 to {KEY_MAX_BYTES} printable ASCII characters");
            Err(ApiError::new(ProblemCode::InvalidRequest, detail))
        }
    }
}
