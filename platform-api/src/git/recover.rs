//! What a process has left behind, and what has become old: looked at when a server begins to lead, and then every minute.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;
use wharf_types::api::BuildState;
use wharf_types::{AppId, Timestamp};

use super::{aftermath, end, log, previews};
use crate::context::Context;
use crate::reconcile::chain;
use crate::store::build::Unfinished;
use crate::store::{self, StoreError};

const PERIOD: Duration = Duration::from_secs(60);
/// How long builds are kept, and how many of one repository.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
const KEPT: i64 = 100;
/// How long a repository is kept that no app has come of.
const UNUSED_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Looks after what was pushed, until `shutdown`.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let recovered = tokio::select! {
        recovered = recover(&context) => recovered,
        () = shutdown.cancelled() => return,
    };
    if let Err(error) = recovered {
        warn!("cannot look for builds that were under way: {}", chain(&error));
    }
    let mut period = interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = period.tick() => {}
        }
        let tidied = tokio::select! {
            tidied = tidy(&context) => tidied,
            () = shutdown.cancelled() => return,
        };
        if let Err(error) = tidied {
            warn!("cannot tidy up what was pushed, trying again later: {}", chain(&error));
        }
    }
}

/// Ends the builds that the process before has left: the release of one whose branch has moved stays, that of another one goes.
pub(crate) async fn recover(context: &Arc<Context>) -> store::Result<()> {
    let mut tx = context.store.read().await?;
    let unfinished = store::build::unfinished(&mut tx).await?;
    let unmeasured = store::repository::unmeasured(&mut tx).await?;
    drop(tx);
    for id in unmeasured {
        if let Ok(Some(folder)) = context.git.repositories.find(id).await {
            aftermath::measure(context, id, &folder).await;
        }
    }
    for build in unfinished.into_iter().filter(|build| context.git.under_way(build.info.id).is_none()) {
        if has_moved(context, &build).await {
            end(context, build.info.id, BuildState::Succeeded, None).await;
            continue;
        }
        let problem = Box::pin(interrupted(context, &build)).await?;
        warn!("build {} of {} in {}: {problem}", build.info.id, build.info.app, build.info.namespace);
        end(context, build.info.id, BuildState::Failed, Some(&problem)).await;
    }
    Ok(())
}

async fn has_moved(context: &Context, build: &Unfinished) -> bool {
    let Ok(name) = format!("refs/heads/{}", build.info.branch).parse() else { return false };
    match context.git.repositories.find(build.repository).await {
        Ok(Some(folder)) => match folder.find_ref(&name).await {
            Ok(found) => found.is_some_and(|commit| commit.to_string() == build.info.commit),
            Err(error) => {
                warn!("cannot read where {name} is: {}", chain(&error));
                false
            }
        },
        _ => false,
    }
}

/// Goes back where a release was made; says what has happened.
async fn interrupted(context: &Arc<Context>, build: &Unfinished) -> store::Result<String> {
    let info = &build.info;
    let ended = "the control plane ended before the branch could move";
    let Some(release) = info.release else { return Ok(format!("{ended}: push again")) };
    let mut tx = context.store.read().await?;
    let Some(app) = store::app::find(&mut tx, &info.namespace, &info.app).await? else {
        return Ok(format!("{ended}, and the app has gone since"));
    };
    let target = match app.target_release {
        Some(target) => store::release::get(&mut tx, target).await?.map(|release| release.number),
        None => None,
    };
    if target != Some(release) {
        return Ok(format!("{ended}; release {release} is not what runs: push again"));
    }
    let before = store::release::list(&mut tx, app.id, release, 20).await?;
    drop(tx);
    let Some(before) = before.iter().find(|before| before.served) else {
        return Ok(format!("{ended}; release {release} stays, as none has served before: push again"));
    };
    aftermath::go_back(context, (&info.namespace, &info.app), Some(before.number)).await;
    Ok(format!("{ended}; release {} is back: push again", before.number))
}

/// Removes previews whose time is over, builds that are old, and folders that are nobody's.
pub(crate) async fn tidy(context: &Arc<Context>) -> store::Result<()> {
    let now = Timestamp::now();
    let mut tx = context.store.read().await?;
    let expired = store::repository::expired(&mut tx, now).await?;
    drop(tx);
    for preview in expired {
        info!("the preview {} in {} has expired", preview.app, preview.namespace);
        forget_branch(context, preview.repository, &preview.branch).await;
        // Seldom, and large.
        Box::pin(aftermath::delete(context, &preview.namespace, &preview.app)).await;
    }
    previews::tidy(context, now).await?;
    let before = now.checked_sub(KEPT_FOR).unwrap_or(Timestamp::MIN);
    let mut tx = context.write_as_leader().await?;
    let pruned = store::build::prune(&mut tx, before, KEPT).await?;
    store::repository::prune(&mut tx, now.checked_sub(UNUSED_MAX).unwrap_or(Timestamp::MIN)).await?;
    let known: HashSet<Uuid> = store::repository::ids(&mut tx).await?.into_iter().collect();
    tx.commit().await?;
    if let Some(deployer) = context.git.deployer.get() {
        deployer.keep_images_of(known.iter().copied().map(AppId::from_uuid).collect()).await;
    }
    for build in pruned {
        let _ = tokio::fs::remove_file(log::path_in(&context.git.builds, build)).await;
    }
    remove_folders(context, &known).await.map_err(|error| StoreError::Database(sqlx::Error::Io(error)))?;
    gather(context).await;
    Ok(())
}

/// Puts together the objects of one repository that many pushes have scattered.
async fn gather(context: &Context) {
    let Some(id) = context.git.scattered().pop_first() else { return };
    let gathered = async {
        let Some(folder) = context.git.repositories.find(id).await? else { return Ok(()) };
        folder.tidy().await?;
        aftermath::measure(context, id, &folder).await;
        // What is still in pieces is kept for a day by git, so the next push is soon enough.
        context.git.scattered().remove(&id);
        Ok::<_, wharf_git::GitError>(())
    };
    if let Err(error) = gathered.await {
        warn!(
            "cannot put together what was pushed to repository {id}, trying again after the next push: {}",
            chain(&error)
        );
    }
}

/// A branch whose preview has gone would say that it is still there.
pub(super) async fn forget_branch(context: &Context, repository: Uuid, branch: &str) {
    let forgotten = async {
        let Some(folder) = context.git.repositories.find(repository).await? else { return Ok(()) };
        let Ok(name) = format!("refs/heads/{branch}").parse() else { return Ok(()) };
        if let Some(commit) = folder.find_ref(&name).await? {
            folder.delete_ref(&name, commit).await?;
        }
        Ok::<_, wharf_git::GitError>(())
    };
    if let Err(error) = forgotten.await {
        warn!("cannot remove the branch {branch}: {}", chain(&error));
    }
}

async fn remove_folders(context: &Context, known: &HashSet<Uuid>) -> std::io::Result<()> {
    for id in ids_in(&context.git.caches).await? {
        if !known.contains(&id) {
            context.git.discard(context.git.caches.join(id.to_string())).await?;
        }
    }
    for id in ids_in(&context.git.folders).await? {
        // One of all zeros is what is shown of repositories that are not there yet.
        if !known.contains(&id) && !id.is_nil() {
            context.git.repositories.remove(id).await.map_err(std::io::Error::other)?;
        }
    }
    // What was pushed is removed after its build; what is left was of a process that is gone.
    for id in ids_in(&context.git.builds).await? {
        let id = wharf_types::BuildId::from_uuid(id);
        if context.git.under_way(id).is_none() {
            context.git.discard(context.git.folder(id)).await?;
        }
    }
    Ok(())
}

/// The folders that are called by an id.
async fn ids_in(dir: &std::path::Path) -> std::io::Result<Vec<Uuid>> {
    let mut entries = match tokio::fs::read_dir(dir).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut ids = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        if entry.file_type().await?.is_dir()
            && let Some(id) =
                entry.file_name().to_str().and_then(|name| name.trim_end_matches(".git").parse().ok())
        {
            ids.push(id);
        }
    }
    Ok(ids)
}
