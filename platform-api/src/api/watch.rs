//! `…/apps/{app}/watch`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use tracing::warn;

use super::extract::Path;
use super::wish::AppPath;
use super::{ApiResult, apps, sse};
use crate::context::Context;
use crate::reconcile::chain;
use crate::view;

/// The app now, and again whenever it changed. A client that comes back gets the newest state, which is all there is to know.
pub(super) async fn follow(
    State(context): State<Arc<Context>>,
    Path(path): Path<AppPath>,
) -> ApiResult<Response> {
    let mut watcher = context.watch();
    let app = apps::load(&context, &path).await?.view.id;
    let source = context.clone();
    let states = async_stream::stream! {
        let mut sent = None;
        loop {
            let loaded = match source.store.read().await {
                Ok(mut tx) => view::load(&mut tx, &source.releases, app).await,
                Err(error) => Err(error),
            };
            match loaded {
                Ok(Some(loaded)) => {
                    if sent != Some(loaded.app.revision) {
                        sent = Some(loaded.app.revision);
                        yield sse::event("app", Some(loaded.app.revision), &loaded.info(&source.config));
                    }
                }
                Ok(None) => {
                    yield sse::event("deleted", sent, &serde_json::json!({}));
                    return;
                }
                Err(error) => {
                    warn!("a stream of an app's states ends: {}", chain(&error));
                    return;
                }
            }
            if !watcher.changed(|changed| changed == app).await {
                return;
            }
        }
    };
    Ok(sse::stream(&context, states))
}
