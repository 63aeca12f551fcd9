//! Previews of stacks: what each is made of is noted before it is made, and goes with it.
//!
//! An app takes its time to go, and a value cannot before the releases that have it. So a preview that ends is marked as over, and whatever is left of it
//! is looked at every minute until nothing is. One of a single app is a row of the table `preview`, which is there from the app's first release on, and which its
//! app takes along.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};
use uuid::Uuid;
use wharf_types::job::JobState;
use wharf_types::problem::ProblemCode;
use wharf_types::secret::ValueKind;
use wharf_types::{AppName, JobName, NamespaceId, NamespaceName, SecretName, SetName, Timestamp};

use super::aftermath;
use super::deployer::PreviewPart;
use super::recover::forget_branch;
use crate::context::Context;
use crate::operations::jobs::AskedJob;
use crate::operations::secrets::AskedSecret;
use crate::operations::{self, OperationError};
use crate::reconcile::chain;
use crate::store;
use crate::store::stack_preview::{NewStackPreview, StackPreview};

/// How long a preview lasts that nobody pushes to.
pub(super) const LASTS: Duration = Duration::from_secs(7 * 24 * 3600);
/// Who asks for what goes.
const BY: &str = "git";

/// What is pushed to, of which an app or a stack may come.
#[derive(Clone, Debug)]
pub(super) struct PushedTo {
    pub(super) namespace: NamespaceId,
    pub(super) namespace_name: NamespaceName,
    /// Should an app come of it.
    pub(super) app: AppName,
    pub(super) repository: Uuid,
    /// Should a stack come of it.
    pub(super) name: SetName,
    pub(super) branch: String,
}

/// Takes note of a stack that is going to be a preview, so that whatever comes of it goes in the end, also after a failure.
pub(super) async fn note(
    context: &Context,
    pushed_to: &PushedTo,
    parts: &[PreviewPart],
) -> store::Result<()> {
    let PushedTo { namespace, repository, name, branch, .. } = pushed_to;
    let mut tx = context.write_as_leader().await?;
    let new = NewStackPreview {
        namespace: *namespace,
        repository: *repository,
        name,
        branch,
        expires_at: Timestamp::now() + LASTS,
    };
    store::stack_preview::put(&mut tx, &new, parts).await?;
    tx.commit().await
}

/// Takes note that an app has become a preview, so that the next push may go on with it, and it goes in the end, whatever becomes of this push.
pub(super) async fn note_app(context: &Context, pushed_to: &PushedTo) -> store::Result<()> {
    let PushedTo { namespace_name, app, repository, branch, .. } = pushed_to;
    let mut tx = context.write_as_leader().await?;
    if let Some(app) = store::app::find(&mut tx, namespace_name, app).await? {
        let expires_at = Timestamp::now() + LASTS;
        store::repository::put_preview(&mut tx, app.id, *repository, branch, expires_at).await?;
    }
    tx.commit().await
}

/// Begins to remove the previews of a branch that has gone.
pub(super) async fn end(context: &Arc<Context>, repository: Uuid, branch: &str) {
    let ended = async {
        let mut tx = context.store.write().await?;
        store::stack_preview::set_expiry(&mut tx, repository, branch, Timestamp::UNIX_EPOCH).await?;
        tx.commit().await?;
        let mut tx = context.store.read().await?;
        store::stack_preview::of_repository(&mut tx, repository).await
    };
    let previews = ended.await.unwrap_or_else(|error| {
        warn!("cannot look for the stacks that end: {}", chain(&error));
        Vec::new()
    });
    for preview in previews.iter().filter(|it| it.branch == branch) {
        remove_or_warn(context, preview).await;
    }
}

/// Goes on with what is over.
pub(super) async fn tidy(context: &Arc<Context>, now: Timestamp) -> store::Result<()> {
    let mut tx = context.store.read().await?;
    let expired = store::stack_preview::expired(&mut tx, now).await?;
    drop(tx);
    for preview in expired {
        info!("the preview {} in {} is over", preview.name, preview.namespace);
        forget_branch(context, preview.repository, &preview.branch).await;
        remove_or_warn(context, &preview).await;
    }
    Ok(())
}

async fn remove_or_warn(context: &Arc<Context>, preview: &StackPreview) {
    // Seldom, and large.
    if let Err(error) = Box::pin(remove(context, preview)).await {
        let StackPreview { name, namespace, .. } = preview;
        warn!("cannot remove the preview {name} in {namespace}, trying again later: {}", chain(&error));
    }
}

/// Removes what can be by now; the preview is forgotten when nothing is left.
async fn remove(context: &Arc<Context>, preview: &StackPreview) -> store::Result<()> {
    let mut tx = context.store.read().await?;
    let apps = store::app::in_set(&mut tx, preview.namespace_id, &preview.name).await?;
    let parts = store::stack_preview::parts(&mut tx, preview.id).await?;
    drop(tx);
    for app in apps.iter().filter(|app| !app.deleting) {
        aftermath::delete(context, &preview.namespace, &app.name).await;
    }
    let mut is_gone = apps.is_empty();
    // Values last, as jobs may have them.
    for part in &parts {
        let is_free = is_gone;
        is_gone &= match part {
            PreviewPart::App(name) => remove_volumes(context, preview, name).await?,
            PreviewPart::Job(name) => remove_jobs(context, preview, name).await?,
            PreviewPart::Value(kind, name) => remove_value(context, preview, (*kind, name)).await? || is_free,
        };
    }
    if is_gone {
        let mut tx = context.store.write().await?;
        store::stack_preview::delete(&mut tx, preview).await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Removes what is left of an app that has gone from the file, whose volumes were kept then. Those of an app that is there go with it.
async fn remove_volumes(
    context: &Arc<Context>,
    preview: &StackPreview,
    name: &AppName,
) -> store::Result<bool> {
    let mut tx = context.store.read().await?;
    let volumes = store::volume::list(&mut tx, &preview.namespace).await?;
    drop(tx);
    let left = volumes.iter().filter(|it| it.app.is_none() && it.app_name == *name && !it.removing);
    for volume in left {
        let (namespace, now) = (&preview.namespace, Timestamp::now());
        let removed = operations::volumes::remove(context, namespace, volume.id, BY, now).await;
        removed.or_else(problem_is_fine)?;
    }
    Ok(true)
}

/// Whether none is left.
async fn remove_jobs(context: &Arc<Context>, preview: &StackPreview, name: &JobName) -> store::Result<bool> {
    let mut tx = context.store.read().await?;
    let jobs = store::job::named(&mut tx, &preview.namespace, name).await?;
    drop(tx);
    let asked = AskedJob {
        namespace: preview.namespace.clone(),
        by: BY.to_owned(),
        once: None,
        any_rights: true,
        now: Timestamp::now(),
    };
    let mut is_gone = true;
    for job in jobs {
        let id = job.id.to_string();
        is_gone &= match job.state {
            JobState::Pending | JobState::Running => {
                operations::jobs::cancel(context, &asked, &id).await.map(drop).or_else(problem_is_fine)?;
                false
            }
            JobState::Succeeded | JobState::Failed | JobState::Cancelled => {
                operations::jobs::delete(context, &asked, &id).await.or_else(problem_is_fine)?;
                true
            }
        };
    }
    Ok(is_gone)
}

/// It has gone by itself, or somebody else has done something with it meanwhile: the next look will tell.
fn problem_is_fine(error: OperationError) -> store::Result<()> {
    match error {
        OperationError::Problem(_) => Ok(()),
        OperationError::Store(error) => Err(error),
    }
}

/// Whether it is gone. It stays as long as there is an app with it, for good where that has left the stack.
async fn remove_value(
    context: &Arc<Context>,
    preview: &StackPreview,
    (kind, name): (ValueKind, &SecretName),
) -> store::Result<bool> {
    let asked = AskedSecret {
        namespace: preview.namespace.clone(),
        name: name.clone(),
        kind,
        by: BY.to_owned(),
        now: Timestamp::now(),
    };
    match operations::secrets::remove(context, &asked).await {
        Ok(()) => Ok(true),
        Err(OperationError::Problem(problem)) => Ok(problem.code != ProblemCode::Conflict),
        Err(OperationError::Store(error)) => Err(error),
    }
}
