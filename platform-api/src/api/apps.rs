//! `…/apps` and `…/apps/{app}`

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use tokio::time::timeout;
use wharf_types::api::{AppInfo, Page, Why};
use wharf_types::state::{InstanceState, RolloutState};
use wharf_types::{AppName, NamespaceName, Timestamp};

use super::auth::namespace_not_found;
use super::etag::tagged;
use super::extract::{After, PageQuery, Path, Query};
use super::wish::{AppPath, Nothing, Wish};
use super::{ApiError, ApiResult};
use crate::context::Context;
use crate::operations::{self, app_not_found};
use crate::view::Loaded;
use crate::{plan, store};

/// Apps of one page.
const PAGE: usize = 100;
/// How long a deletion is waited for.
const GONE_MAX: Duration = Duration::from_secs(10);
/// Lines of a failed instance that `why` shows.
const LAST_LOG: usize = 10;

pub(super) async fn list(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
    Query(query): Query<PageQuery>,
) -> ApiResult<Reply<Page<AppInfo>>> {
    let mut tx = context.store.read().await?;
    if store::namespace::find(&mut tx, &namespace).await?.is_none() {
        return Err(namespace_not_found(namespace.as_str()));
    }
    let after: Option<After<AppName>> = query.after()?;
    let after = after.as_ref().map_or("", |After(name)| name.as_str());
    let mut apps = store::app::list(&mut tx, &namespace, after, PAGE as i64 + 1).await?;
    let more = apps.len() > PAGE;
    apps.truncate(PAGE);
    let next_cursor = apps.last().filter(|_| more).map(|app| After(&app.name).to_string());
    let mut items = Vec::with_capacity(apps.len());
    for app in apps {
        items.push(context.recent.complete(&mut tx, &context.releases, app).await?.info(&context));
    }
    Ok(Reply(Page { items, next_cursor }))
}

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Path(path): Path<AppPath>,
) -> ApiResult<Response> {
    let loaded = load(&context, &path).await?;
    Ok(with_etag(&context, &loaded))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveQuery {
    volumes: Option<Volumes>,
}

/// What becomes of the volumes of an app that is deleted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Volumes {
    #[default]
    Keep,
    Remove,
}

/// Replies when the app is gone, or after a while that it is on its way: its open requests may take longer.
pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    Query(query): Query<RemoveQuery>,
    Wish { asked, request: Nothing {} }: Wish<Nothing>,
) -> ApiResult<StatusCode> {
    let mut watcher = context.watch();
    let with_volumes = query.volumes.unwrap_or_default() == Volumes::Remove;
    operations::delete(&context, &asked, with_volumes).await?;
    let gone = async {
        loop {
            let mut tx = context.store.read().await?;
            let app = store::app::find(&mut tx, &asked.namespace, &asked.app).await?;
            drop(tx);
            // One that is not being deleted is a new one of this name.
            if app.is_none_or(|app| !app.deleting) || !watcher.changed(|_| true).await {
                return Ok(StatusCode::NO_CONTENT);
            }
        }
    };
    tokio::select! {
        gone = timeout(GONE_MAX, gone) => gone.unwrap_or(Ok(StatusCode::ACCEPTED)),
        () = context.shutdown.cancelled() => Ok(StatusCode::ACCEPTED),
    }
}

pub(super) async fn why(
    State(context): State<Arc<Context>>,
    Path(path): Path<AppPath>,
) -> ApiResult<Reply<Why>> {
    let loaded = load(&context, &path).await?;
    let (condition, _) = plan::condition::condition(&loaded.view);
    let unplaced = context.unplaced().get(&loaded.view.id).cloned().unwrap_or_default();
    let draining = context.nodes.list().into_iter().filter(|node| node.draining);
    let draining = draining.map(|node| (node.id, node.name())).collect();
    let failed = last_failure(&context, &loaded).await?;
    let (mut because, mut advice) = plan::condition::explain(&loaded.view, &unplaced, &draining, failed);
    if let Some(waits) = plan::waits(Timestamp::now(), &loaded.view) {
        because.insert(because.len().min(1), format!("The rollout waits: {waits}."));
        if loaded.view.rollout.as_ref().is_some_and(|rollout| rollout.paused.is_some()) {
            let name = &loaded.view.name;
            advice.insert(
                0,
                format!("`wharf rollout resume {name}` goes on, `wharf rollout abort {name}` goes back."),
            );
        }
    }
    let last_log = last_log(&context, &loaded).await?;
    Ok(Reply(Why { condition, because, advice, last_log }))
}

/// The newest rollout that a user asked for, if it failed.
async fn last_failure(
    context: &Context,
    loaded: &Loaded,
) -> ApiResult<Option<(u64, wharf_types::node::Reason)>> {
    let mut tx = context.store.read().await?;
    let Some(failed) = store::rollout::newest_by_user(&mut tx, loaded.view.id).await? else {
        return Ok(None);
    };
    if failed.view.state != RolloutState::Failed {
        return Ok(None);
    }
    let release = context.releases.get(&mut tx, &loaded.app, failed.view.to).await?;
    Ok(release.map(|release| release.number).zip(failed.reason))
}

/// What the newest failed instance printed last.
async fn last_log(context: &Context, loaded: &Loaded) -> ApiResult<Vec<String>> {
    let failed = loaded.view.instances.iter().filter(|instance| instance.state == InstanceState::Failed);
    let Some(failed) = failed.max_by_key(|instance| (instance.created_at, instance.id)) else {
        return Ok(Vec::new());
    };
    let id = failed.id;
    let of_it = move |record: &wharf_types::log::LogRecord| record.instance == id;
    let records = context.logs.tail(&loaded.view.namespace, &loaded.view.name, LAST_LOG, of_it).await?;
    Ok(records.into_iter().map(|positioned| positioned.record.message).collect())
}

pub(super) async fn load(context: &Context, (namespace, name): &AppPath) -> ApiResult<Arc<Loaded>> {
    let mut conn = context.store.look().await?;
    let known = store::app::find(&mut conn, namespace, name).await?.and_then(|app| context.recent.get(&app));
    drop(conn);
    if let Some(loaded) = known {
        return Ok(loaded);
    }
    let mut tx = context.store.read().await?;
    match store::app::find(&mut tx, namespace, name).await? {
        Some(app) => Ok(context.recent.complete(&mut tx, &context.releases, app).await?),
        None if store::namespace::find(&mut tx, namespace).await?.is_none() => {
            Err(namespace_not_found(namespace.as_str()))
        }
        None => Err(ApiError::from(app_not_found(namespace, name))),
    }
}

/// The app with its revision, which `If-Match` can ask for.
pub(super) fn with_etag(context: &Context, loaded: &Loaded) -> Response {
    tagged(Reply(loaded.info(context)), loaded.app.revision)
}
