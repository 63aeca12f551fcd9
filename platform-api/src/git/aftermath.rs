//! What follows from pushes when they have ended: the disk that they take, releases that come back, and previews that go.

use std::sync::Arc;

use tracing::warn;
use uuid::Uuid;
use wharf_git::Repository as Folder;
use wharf_types::{AppName, NamespaceName, Timestamp};

use crate::context::Context;
use crate::operations::{self, Asked, OperationError};
use crate::reconcile::chain;
use crate::store;
use crate::store::repository::Repository;

/// Takes note of what a repository takes of the disk.
pub(super) async fn measure(context: &Context, repository: Uuid, folder: &Folder) {
    let held = match folder.held().await {
        Ok(held) => held,
        Err(error) => return warn!("cannot measure a repository: {}", chain(&error)),
    };
    if held.is_scattered() {
        context.git.scattered().insert(repository);
    }
    let noted = async {
        let mut tx = context.store.write().await?;
        store::repository::set_bytes(&mut tx, repository, held.bytes).await?;
        tx.commit().await
    };
    if let Err(error) = noted.await {
        warn!("cannot take note of what a repository takes: {}", chain(&error));
    }
}

/// What the platform itself asks for on account of a push.
fn asked(namespace: &NamespaceName, app: &AppName) -> Asked {
    Asked {
        namespace: namespace.clone(),
        app: app.clone(),
        by: "git".to_owned(),
        once: None,
        any_rights: true,
        now: Timestamp::now(),
    }
}

/// Brings back a release of an app, because the push that made a newer one has come to nothing.
pub(super) async fn go_back(
    context: &Arc<Context>,
    (namespace, app): (&NamespaceName, &AppName),
    release: Option<u64>,
) {
    let Some(release) = release else { return };
    if let Err(error) = operations::rollback(context, &asked(namespace, app), Some(release)).await {
        warn!("cannot bring back release {release} of {app} in {namespace}: {error}");
    }
}

/// Removes the app of a preview, whose branch has gone.
pub(super) async fn end_preview(
    context: &Arc<Context>,
    repository: &Repository,
    namespace: &NamespaceName,
    branch: &str,
) {
    let previews = async {
        let mut tx = context.store.read().await?;
        store::repository::previews(&mut tx, repository.id).await
    };
    let previews = previews.await.unwrap_or_else(|error| {
        warn!("cannot look for the previews that end: {}", chain(&error));
        Vec::new()
    });
    for preview in previews.iter().filter(|it| it.branch == branch) {
        delete(context, namespace, &preview.app).await;
    }
}

pub(super) async fn delete(context: &Arc<Context>, namespace: &NamespaceName, app: &AppName) {
    match operations::delete(context, &asked(namespace, app), true).await {
        Ok(()) | Err(OperationError::Problem(_)) => {}
        Err(error) => warn!("cannot remove the preview {app} in {namespace}: {error}"),
    }
}
