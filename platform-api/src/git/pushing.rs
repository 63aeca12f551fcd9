//! One push: from when everything of it is here until its branch has moved, or has not.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;
use wharf_git::{CheckoutLimits, Handler, Outcome, Progress, Push, Repository as Folder, Verdict};
use wharf_types::api::{BuildState, PushPolicy, WhenBusy};
use wharf_types::{AppId, AppName, BuildId, NamespaceId, NamespaceName, SetName, Timestamp};

use super::busy::{Holder, Turn};
use super::course::{self, Course, Deploy};
use super::deployer::{Deployment, NotDeployed, Pushed, Runs, Secret, Teller};
use super::log::BuildLog;
use super::{Listed, UnderWay, advance, end};
use crate::context::Context;
use crate::operations::{self, Asked, OperationError};
use crate::reconcile::chain;
use crate::store::build::NewBuild;
use crate::store::repository::Repository;
use crate::store::{self, StoreError};

/// How long a push waits for another one, and how long its own build may take.
const TURN_MAX: Duration = Duration::from_secs(1800);
const DEPLOY_MAX: Duration = Duration::from_secs(3600);
/// How long a preview lasts that nobody pushes to.
const PREVIEW_LASTS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Who pushes, and where to.
pub(crate) struct Pushing {
    pub(crate) context: Arc<Context>,
    pub(crate) namespace_id: NamespaceId,
    pub(crate) namespace: NamespaceName,
    pub(crate) policy: PushPolicy,
    pub(crate) app: AppName,
    pub(crate) by: String,
    pub(crate) secret: Secret,
    pub(crate) repository: Repository,
    pub(crate) folder: Folder,
}

/// A push as it is worked on.
pub(crate) struct Worked {
    pushing: Pushing,
    course: Course,
    begun: Option<Begun>,
}

/// A deploy that has been accepted; its turn lasts until its branch has moved.
struct Begun {
    build: BuildId,
    /// Of the app, before. None: there was none.
    before: Option<u64>,
    /// Once it serves.
    deployment: Deployment,
    _turn: Turn,
    _listed: Listed,
}

impl Pushing {
    pub(crate) fn work(self) -> Worked {
        Worked { pushing: self, course: Course::default(), begun: None }
    }
}

impl Handler for Worked {
    async fn push(&mut self, push: Push, progress: Progress) -> Verdict {
        match self.take(&push, &progress).await {
            Ok(()) => Verdict::Accept,
            Err(refusal) => Verdict::Refuse(format!(" !     {refusal}")),
        }
    }

    async fn ended(self, outcome: Outcome) {
        let Self { pushing, course, begun } = self;
        let has_moved =
            |branch: &str| outcome.moved.iter().any(|update| update.name.branch() == Some(branch));
        for branch in course.ends.iter().filter(|branch| has_moved(branch)) {
            end_preview(&pushing.context, &pushing.repository, &pushing.namespace, branch).await;
        }
        if let (Some(deploy), Some(begun)) = (course.deploy, begun) {
            if outcome.moved.iter().any(|update| update.name.branch() == Some(&*deploy.branch)) {
                pushing.settled(&deploy, &begun).await;
            } else {
                pushing.go_back(&deploy, &begun).await;
            }
        }
        measure(&pushing.context, pushing.repository.id, &pushing.folder).await;
    }
}

impl Worked {
    /// Deploys what is to be deployed. An error is a sentence with the way out; nothing is to move then.
    async fn take(&mut self, push: &Push, progress: &Progress) -> Result<(), String> {
        if let Some(option) = push.options.first() {
            return Err(format!(
                "the push option `{option}` is not known here, as none is: push without `-o`"
            ));
        }
        let Pushing { app, repository, .. } = &self.pushing;
        self.course = course::decide(&push.updates, app, &repository.branch)?;
        self.pushing.room_for(push).await?;
        if let Some(deploy) = &self.course.deploy {
            self.begun = Some(self.pushing.deploy(deploy, push, progress).await?);
        }
        Ok(())
    }
}

impl Pushing {
    /// Refuses what would take the namespace beyond its quota.
    async fn room_for(&self, push: &Push) -> Result<(), String> {
        let brought = push.objects.brought().await.map_err(|error| {
            warn!("a push to {} in {} failed: {}", self.app, self.namespace, chain(&error));
            "the control plane cannot read what was pushed; its log says why".to_owned()
        })?;
        let asked = async {
            let mut tx = self.context.store.read().await?;
            operations::quota::room_for_push(&mut tx, self.namespace_id, &self.namespace, brought.bytes).await
        };
        asked.await.unwrap_or_else(|error| Err(self.unavailable(&error)))
    }

    async fn deploy(&self, deploy: &Deploy, push: &Push, progress: &Progress) -> Result<Begun, String> {
        let build = BuildId::new();
        let turn = self.turn(deploy, build, progress).await?;
        let ours = |error: &dyn std::error::Error| {
            warn!("a push to {} in {} failed: {}", self.app, self.namespace, chain(error));
            "the control plane could not do this; its log says why, and nothing was changed".to_owned()
        };
        // Whoever had the turn may have moved it.
        let is_there = self.folder.find_ref(&deploy.update.name).await.map_err(|error| ours(&error))?;
        if is_there != deploy.update.old {
            return Err(format!(
                "`{}` was moved by another push meanwhile: `git pull wharf {0}`, and push again",
                deploy.branch
            ));
        }
        let commit = push.objects.commit(deploy.commit).await.map_err(|error| ours(&error))?;
        let id = commit.id.to_string();
        let new = NewBuild {
            id: build,
            repository: self.repository.id,
            app: &deploy.app,
            branch: &deploy.branch,
            commit: &id,
            subject: &commit.subject,
            by: &self.by,
        };
        let before = self.begin(&new, deploy).await?;
        let git = &self.context.git;
        let log = Arc::new(BuildLog::create(&git.builds, build).map_err(|error| ours(&error))?);
        let cancel = CancellationToken::new();
        let under_way = UnderWay { cancel: cancel.clone(), log: log.clone() };
        let listed = Listed::new(&self.context, build, under_way);
        let mut begun = Begun { build, before, deployment: Deployment::App, _turn: turn, _listed: listed };
        let teller = Teller { context: self.context.clone(), build, progress: progress.clone(), log };
        teller.step(&format!("Deploying {} to {} in {}", &id[..12], deploy.app, self.namespace));
        teller.detail(&format!("{} (build {build})", commit.subject));
        let folder = git.folder(build);
        let deployed = self.build_and_deploy(deploy, push, &teller, (&id, cancel.clone())).await;
        if let Err(error) = git.discard(folder.clone()).await {
            warn!("cannot remove {}: {error}", folder.display());
        }
        let NotDeployed { why: problem, runs } = match deployed {
            // Somebody may have taken this process for gone, and have gone back.
            Ok(deployment) if advance(&self.context, build, None).await => {
                begun.deployment = deployment;
                return Ok(begun);
            }
            Ok(deployment) => {
                let why = "another control plane took over while this was deployed: push again".to_owned();
                NotDeployed { why, runs: left_by(deployment) }
            }
            Err(problem) => problem,
        };
        let state = if cancel.is_cancelled() { BuildState::Cancelled } else { BuildState::Failed };
        for line in problem.lines() {
            teller.problem(line);
        }
        end(&self.context, build, state, Some(&problem)).await;
        let runs = match (runs, before) {
            (Runs::AsBefore, Some(release)) => format!(", and release {release} is what runs"),
            (Runs::AsBefore, None) => String::new(),
            (Runs::Partly, _) => ", and each service runs what its own rollout has come to".to_owned(),
        };
        Err(format!("build {build} {state}: nothing has moved{runs} (`wharf build logs {build}`)"))
    }

    /// Waits for the app's turn, or refuses.
    async fn turn(&self, deploy: &Deploy, build: BuildId, progress: &Progress) -> Result<Turn, String> {
        let key = (self.namespace.clone(), deploy.app.clone());
        let holder = Holder { build, by: self.by.clone(), since: Timestamp::now() };
        let busy = &self.context.git.busy;
        let other = match busy.try_take(&key, &holder) {
            Ok(turn) => return Ok(turn),
            Err(other) => other.describe(holder.since),
        };
        if self.repository.when_busy == WhenBusy::Fail {
            return Err(format!(
                "{other} is under way: push again after it, or cancel it with `wharf build cancel`; `wharf git set --when-busy wait` makes pushes wait"
            ));
        }
        progress.line(&format!("-----> Waiting for {other}, for up to {} minutes", TURN_MAX.as_secs() / 60));
        busy.take(&key, &holder, TURN_MAX).await.map_err(|other| {
            format!("{} has not ended in time: push again", other.describe(Timestamp::now()))
        })
    }

    /// Takes note of the build; returns the release that the app is on.
    async fn begin(&self, new: &NewBuild<'_>, deploy: &Deploy) -> Result<Option<u64>, String> {
        let begun = async {
            let mut tx = self.context.write_as_leader().await?;
            let app = store::app::find(&mut tx, &self.namespace, &deploy.app).await?;
            let target = app.as_ref().and_then(|app| app.target_release);
            let before = match target {
                Some(release) => store::release::get(&mut tx, release).await?.map(|release| release.number),
                None => None,
            };
            let previews = store::repository::previews(&mut tx, self.repository.id).await?;
            let is_ours = !deploy.is_preview
                || app.is_none()
                || previews
                    .iter()
                    .any(|preview| preview.app == deploy.app && preview.branch == deploy.branch);
            let mut may_be_made = app.is_some() || deploy.is_preview || self.policy.creates_apps;
            if !may_be_made {
                // A stack is there with its services, which need not be called as it is.
                let set = SetName::from(deploy.app.clone());
                may_be_made = !store::app::in_set(&mut tx, self.namespace_id, &set).await?.is_empty();
            }
            if is_ours && may_be_made {
                store::build::create(&mut tx, new, BuildState::Building, Timestamp::now()).await?;
                tx.commit().await?;
            }
            Ok::<_, StoreError>((before, is_ours, may_be_made))
        };
        match begun.await {
            Ok((before, true, true)) => Ok(before),
            Ok((_, true, false)) => Err(format!(
                "there is no app `{0}`, nor a stack, and pushes make none in `{1}`: make it with `wharf deploy --app {0}` or `wharf stack \
                 deploy {0}`, or ask an admin for `wharf namespace pushes {1} --creates-apps true`",
                deploy.app, self.namespace
            )),
            Ok((_, false, _)) => Err(format!(
                "there is an app `{}` already, which is no preview of this: push to another name",
                deploy.app
            )),
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    fn unavailable(&self, error: &StoreError) -> String {
        warn!("a push to {} in {} failed: {}", self.app, self.namespace, chain(error));
        "the control plane cannot write at the moment, so nothing was changed: push again".to_owned()
    }

    async fn build_and_deploy(
        &self,
        deploy: &Deploy,
        push: &Push,
        teller: &Teller,
        (commit, cancel): (&str, CancellationToken),
    ) -> Result<Deployment, NotDeployed> {
        let git = &self.context.git;
        let Some(deployer) = git.deployer.get() else {
            return Err("this control plane builds nothing: push to one that does".to_owned().into());
        };
        let folder = git.folder(teller.build);
        let limits = CheckoutLimits::default();
        let checkout = push.objects.checkout(deploy.commit, &folder, &limits);
        let written = tokio::select! {
            written = checkout => written.map_err(|error| chain(&error).to_string())?,
            () = cancel.cancelled() => return Err("the build was cancelled".to_owned().into()),
        };
        teller.detail(&format!("{} files, {} kB", written.files, written.bytes.div_ceil(1000)));
        let pushed = Pushed {
            build: teller.build,
            namespace: self.namespace.clone(),
            app: deploy.app.clone(),
            is_preview: deploy.is_preview,
            folder,
            cache: AppId::from_uuid(self.repository.id),
            commit: commit.to_owned(),
            build_network: self.policy.build_network,
            may_make_apps: self.policy.creates_apps || deploy.is_preview,
            no_containers: self.no_containers().await?,
            secret: self.secret.clone(),
        };
        let mut deploying = std::pin::pin!(deployer.deploy(pushed, teller.clone(), cancel.clone()));
        let late = tokio::time::timeout(DEPLOY_MAX, &mut deploying).await;
        match late {
            Ok(deployed) => deployed,
            Err(_) => {
                cancel.cancel();
                let runs = deploying.await.map_or_else(|problem| problem.runs, left_by);
                let why = format!("it was not deployed within {} minutes", DEPLOY_MAX.as_secs() / 60);
                Err(NotDeployed { why, runs })
            }
        }
    }

    /// Why the namespace may run no containers. None: it may.
    async fn no_containers(&self) -> Result<Option<String>, String> {
        match operations::containers::check_any(&self.context, &self.namespace).await {
            Ok(()) => Ok(None),
            Err(OperationError::Problem(problem)) => Ok(Some(problem.detail)),
            Err(OperationError::Store(error)) => Err(self.unavailable(&error)),
        }
    }

    /// The branch is where its release is.
    async fn settled(&self, deploy: &Deploy, begun: &Begun) {
        if deploy.is_preview {
            let kept = async {
                let now = Timestamp::now();
                let mut tx = self.context.store.write().await?;
                if let Some(app) = store::app::find(&mut tx, &self.namespace, &deploy.app).await? {
                    let expires_at = now + PREVIEW_LASTS;
                    let (id, branch) = (self.repository.id, &deploy.branch);
                    store::repository::put_preview(&mut tx, app.id, id, branch, expires_at).await?;
                }
                tx.commit().await
            };
            if let Err(error) = kept.await {
                warn!("the preview {} will not be removed by itself: {}", deploy.app, chain(&error));
            }
        }
        end(&self.context, begun.build, BuildState::Succeeded, None).await;
    }

    /// The branch has not moved, so what ran before has to run. Of a stack there is nothing to go back to as a whole.
    async fn go_back(&self, deploy: &Deploy, begun: &Begun) {
        let problem = "the branch could not be moved, as somebody else has, or as the disk is full";
        let problem = match begun.deployment {
            Deployment::App => {
                go_back(&self.context, (&self.namespace, &deploy.app), begun.before).await;
                problem.to_owned()
            }
            Deployment::Stack => format!("{problem}; the services run what was pushed: push again"),
        };
        end(&self.context, begun.build, BuildState::Failed, Some(&problem)).await;
    }
}

/// What runs where something was deployed and its branch does not move.
fn left_by(deployment: Deployment) -> Runs {
    match deployment {
        Deployment::App => Runs::AsBefore,
        Deployment::Stack => Runs::Partly,
    }
}

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
        any_priority: true,
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
async fn end_preview(
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
