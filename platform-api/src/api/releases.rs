//! `…/apps/{app}/releases` and `…/apps/{app}/rollback`

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::StatusCode;
use wharf_types::api::{CreateRelease, Deployed, Page, ReleaseInfo, Rollback, Verb};
use wharf_types::spec::AppSpec;
use wharf_types::world::capabilities;

use super::ApiResult;
use super::auth::Identity;
use super::extract::{PageQuery, Path, Query};
use super::wish::{AppPath, Wish};
use crate::context::Context;
use crate::operations::{self, app_not_found};
use crate::store;

/// Releases of one page.
const PAGE: usize = 50;
/// What a viewer reads in the place of a variable's value.
pub(super) const HIDDEN: &str = "(hidden: reading it needs the role `developer`)";

pub(super) async fn create(
    State(context): State<Arc<Context>>,
    Wish { asked, request }: Wish<CreateRelease>,
) -> ApiResult<(StatusCode, Reply<Deployed>)> {
    Ok((StatusCode::CREATED, Reply(operations::deploy(&context, &asked, request).await?)))
}

pub(super) async fn rollback(
    State(context): State<Arc<Context>>,
    Wish { asked, request }: Wish<Rollback>,
) -> ApiResult<(StatusCode, Reply<Deployed>)> {
    Ok((StatusCode::CREATED, Reply(operations::rollback(&context, &asked, request.release).await?)))
}

/// Variables may hold secrets, so a viewer sees their names only, as with `…/env`.
pub(super) async fn list(
    State(context): State<Arc<Context>>,
    identity: Identity,
    Path((namespace, name)): Path<AppPath>,
    Query(query): Query<PageQuery>,
) -> ApiResult<Reply<Page<ReleaseInfo>>> {
    let before = query.after()?.unwrap_or(u64::MAX);
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
        let secrets = store::secret::pinned(&mut tx, &release).await?;
        let mut spec = AppSpec::clone(&release.spec);
        if !identity.may(Verb::Deploy, &namespace) {
            spec.env.values_mut().for_each(|value| HIDDEN.clone_into(value));
        }
        items.push(ReleaseInfo {
            release: release.number,
            digest: release.artifact,
            capabilities: capabilities(imports.iter().map(String::as_str), &spec),
            current: app.target_release == Some(release.id),
            spec,
            secrets: secrets.into_iter().map(|(name, pinned)| (name, pinned.version)).collect(),
            cause: release.cause,
            created_at: release.created_at,
            created_by: release.created_by,
        });
    }
    Ok(Reply(Page { items, next_cursor }))
}
