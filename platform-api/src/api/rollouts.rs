//! `…/apps/{app}/rollouts/{rollout}`, and what is wished of the one that is under way: `…/apps/{app}/rollout/…`

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Reply;
use axum::extract::State;
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use wharf_types::api::RolloutInfo;
use wharf_types::problem::ProblemCode;
use wharf_types::quantity::Span;
use wharf_types::state::RolloutState;
use wharf_types::{AppId, AppName, NamespaceName, RolloutId};

use super::extract::{Path, Query};
use super::wish::{Nothing, Wish};
use super::{ApiError, ApiResult, apps};
use crate::context::Context;
use crate::operations::{self, Asked, RolloutWish};
use crate::{store, view};

const WAIT_MAX: Duration = Duration::from_secs(120);

#[derive(Deserialize)]
pub(super) struct Wait {
    wait: Option<Span>,
}

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Path((namespace, app, id)): Path<(NamespaceName, AppName, RolloutId)>,
    Query(query): Query<Wait>,
) -> ApiResult<Reply<RolloutInfo>> {
    let mut watcher = context.watch();
    let app = apps::load(&context, &(namespace, app)).await?.view.id;
    let wait = query.wait.map_or(Duration::ZERO, Span::as_duration).min(WAIT_MAX);
    let deadline = Instant::now() + wait;
    loop {
        let rollout = read(&context, app, id).await?;
        let stands_still = rollout.paused.is_some();
        if rollout.state >= RolloutState::Monitoring || stands_still || Instant::now() >= deadline {
            return Ok(Reply(rollout));
        }
        tokio::select! {
            changed = timeout_at(deadline, watcher.changed(|changed| changed == app)) => {
                if changed.is_err() {
                    return Ok(Reply(read(&context, app, id).await?));
                }
            }
            () = context.shutdown.cancelled() => return Ok(Reply(rollout)),
        }
    }
}

pub(super) async fn pause(
    State(context): State<Arc<Context>>,
    Wish { asked, request: Nothing {} }: Wish<Nothing>,
) -> ApiResult<Reply<RolloutInfo>> {
    wish(&context, &asked, RolloutWish::Pause).await
}

pub(super) async fn resume(
    State(context): State<Arc<Context>>,
    Wish { asked, request: Nothing {} }: Wish<Nothing>,
) -> ApiResult<Reply<RolloutInfo>> {
    wish(&context, &asked, RolloutWish::Resume).await
}

pub(super) async fn abort(
    State(context): State<Arc<Context>>,
    Wish { asked, request: Nothing {} }: Wish<Nothing>,
) -> ApiResult<Reply<RolloutInfo>> {
    wish(&context, &asked, RolloutWish::Abort).await
}

async fn wish(context: &Arc<Context>, asked: &Asked, wish: RolloutWish) -> ApiResult<Reply<RolloutInfo>> {
    let (app, rollout) = operations::wish(context, asked, wish).await?;
    Ok(Reply(read(context, app, rollout).await?))
}

async fn read(context: &Context, app: AppId, id: RolloutId) -> ApiResult<RolloutInfo> {
    let not_found =
        || ApiError::new(ProblemCode::NotFound, format!("the app has no rollout {id}, or no longer"));
    let mut tx = context.store.read().await?;
    let Some(mut loaded) = view::load(&mut tx, &context.releases, app).await? else {
        return Err(not_found());
    };
    let Some(mut rollout) = store::rollout::find(&mut tx, app, id).await? else { return Err(not_found()) };
    for release in rollout.view.from.into_iter().chain([rollout.view.to]) {
        if let Some(view) = context.releases.get(&mut tx, &loaded.app, release).await? {
            loaded.releases.insert(release, view);
        }
    }
    let stored = store::requests::of_rollout(&mut tx, id).await?;
    // Whoever counts has to read, too, and keeps others from the counts meanwhile: waiting for it with one of the few connections would be
    // waiting for oneself.
    drop(tx);
    rollout.view.requests = match context.ledger.now(&context.nodes, app, id).await {
        Some(newest) => newest,
        None => store::requests::by_release(&stored),
    };
    loaded.rollout_info(&rollout).ok_or_else(not_found)
}
