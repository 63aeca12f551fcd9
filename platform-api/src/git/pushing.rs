//! One push: from when everything of it is here until its branch has moved, or has not.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;
use wharf_git::{CheckoutLimits, Handler, Outcome, Progress, Push, Repository as Folder, Verdict};
use wharf_types::api::{BuildState, PushPolicy, WhenBusy};
use wharf_types::{AppId, AppName, BuildId, NamespaceId, NamespaceName, SetName, Timestamp};

use super::aftermath::{end_preview, go_back, measure};
use super::busy::{Holder, Key, Turn};
use super::course::{self, Course, Deploy};
use super::deployer::{Deployment, NotDeployed, Pushed, Runs, Secret, Teller};
use super::log::BuildLog;
use super::previews::{self, PushedTo};
use super::{Listed, UnderWay, advance, end};
use crate::context::Context;
use crate::operations::{self, OperationError};
use crate::reconcile::chain;
use crate::store::build::NewBuild;
use crate::store::repository::Repository;
use crate::store::{self, Conn, StoreError};

/// How long a push waits for another one, and how long its own build may take.
const TURN_MAX: Duration = Duration::from_secs(1800);
const DEPLOY_MAX: Duration = Duration::from_secs(3600);

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

/// What there was before a deploy.
struct Before {
    /// That the app is on. None: there is no app, or it is on none.
    release: Option<u64>,
    /// Whether the last that was deployed from the repository was a stack.
    is_stack: bool,
}

/// What becomes of the row of a build.
enum Row {
    New(BuildState),
    /// It has waited.
    GoesOn,
}

/// How a wait ended that came to nothing.
struct Ended {
    state: BuildState,
    why: String,
}

impl Ended {
    fn failed(why: String) -> Self {
        Self { state: BuildState::Failed, why }
    }

    fn cancelled(why: &str) -> Self {
        Self { state: BuildState::Cancelled, why: why.to_owned() }
    }
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
            previews::end(&pushing.context, pushing.repository.id, branch).await;
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
        let holder = Holder { build, by: self.by.clone(), since: Timestamp::now() };
        let turn = self.turn(deploy, &holder)?;
        self.check_ref(deploy).await?;
        let commit = push.objects.commit(deploy.commit).await.map_err(|error| self.ours(&error))?;
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
        let state = if turn.is_ok() { BuildState::Building } else { BuildState::Waiting };
        let before = self.begin(&new, deploy, Row::New(state)).await?;
        let git = &self.context.git;
        let log = match BuildLog::create(&git.builds, build) {
            Ok(log) => Arc::new(log),
            Err(error) => {
                let why = self.ours(&error);
                end(&self.context, build, BuildState::Failed, Some(&why)).await;
                return Err(why);
            }
        };
        let cancel = CancellationToken::new();
        let under_way = UnderWay { cancel: cancel.clone(), log: log.clone() };
        let listed = Listed::new(&self.context, build, under_way);
        let preview = deploy.is_preview.then(|| Arc::new(self.preview_of(deploy)));
        let teller =
            Teller { context: self.context.clone(), build, progress: progress.clone(), log, preview };
        teller.step(&format!("Deploying {} to {} in {}", &id[..12], deploy.app, self.namespace));
        teller.detail(&format!("{} (build {build})", commit.subject));
        let (turn, before) = match turn {
            Ok(turn) => (turn, before),
            Err(other) => match self.wait(&new, deploy, (&holder, &other), &teller, &cancel).await {
                Ok(waited) => waited,
                Err(Ended { state, why }) => {
                    return Err(self.refused(&teller, state, why.into(), None).await);
                }
            },
        };
        let mut begun = Begun {
            build,
            before: before.release,
            deployment: Deployment::App,
            _turn: turn,
            _listed: listed,
        };
        let folder = git.folder(build);
        let deployed =
            self.build_and_deploy(deploy, push, &teller, (&id, before.is_stack, cancel.clone())).await;
        if let Err(error) = git.discard(folder.clone()).await {
            warn!("cannot remove {}: {error}", folder.display());
        }
        let problem = match deployed {
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
        Err(self.refused(&teller, state, problem, before.release).await)
    }

    /// Ends a build that has come to nothing, and says it. `before`: the release that the app is on.
    async fn refused(
        &self,
        teller: &Teller,
        state: BuildState,
        problem: NotDeployed,
        before: Option<u64>,
    ) -> String {
        let NotDeployed { why, runs } = problem;
        for line in why.lines() {
            teller.problem(line);
        }
        let build = teller.build;
        end(&self.context, build, state, Some(&why)).await;
        let runs = match (runs, before) {
            (Runs::AsBefore, Some(release)) => format!(", and release {release} is what runs"),
            (Runs::AsBefore, None) => String::new(),
            (Runs::Partly, _) => ", and each service runs what its own rollout has come to".to_owned(),
        };
        format!("build {build} {state}: nothing has moved{runs} (`wharf build logs {build}`)")
    }

    /// The app's turn, or who has it; refuses where pushes do not wait.
    fn turn(&self, deploy: &Deploy, holder: &Holder) -> Result<Result<Turn, Holder>, String> {
        match self.context.git.busy.try_take(&self.key(deploy), holder) {
            Err(other) if self.repository.when_busy == WhenBusy::Fail => Err(format!(
                "{} is under way: push again after it, or cancel it with `wharf build cancel`; `wharf git set --when-busy wait` makes pushes wait",
                other.describe(holder.since)
            )),
            taken => Ok(taken),
        }
    }

    /// Waits for the app's turn, as long as somebody wants it; returns it with what there is then.
    async fn wait(
        &self,
        new: &NewBuild<'_>,
        deploy: &Deploy,
        (holder, other): (&Holder, &Holder),
        teller: &Teller,
        cancel: &CancellationToken,
    ) -> Result<(Turn, Before), Ended> {
        let minutes = TURN_MAX.as_secs() / 60;
        teller.step(&format!("Waiting for {}, for up to {minutes} minutes", other.describe(holder.since)));
        let key = self.key(deploy);
        let turn = tokio::select! {
            // Where its turn comes at the same time, it is left to others.
            biased;
            () = cancel.cancelled() => Err(Ended::cancelled("the build was cancelled while it waited")),
            () = teller.progress.gone() => {
                Err(Ended::cancelled("whoever pushed has gone while it waited, so it was not begun: push again"))
            }
            taken = self.context.git.busy.take(&key, holder, TURN_MAX) => taken.map_err(|other| {
                let other = other.describe(Timestamp::now());
                Ended::failed(format!("{other} has not ended in time: push again"))
            }),
        }?;
        // Whoever had the turn may have changed everything.
        self.check_ref(deploy).await.map_err(Ended::failed)?;
        let before = self.begin(new, deploy, Row::GoesOn).await.map_err(Ended::failed)?;
        Ok((turn, before))
    }

    /// What a preview is, whatever comes of it.
    fn preview_of(&self, deploy: &Deploy) -> PushedTo {
        PushedTo {
            namespace: self.namespace_id,
            namespace_name: self.namespace.clone(),
            app: deploy.app.clone(),
            repository: self.repository.id,
            name: SetName::from(deploy.app.clone()),
            branch: deploy.branch.clone(),
        }
    }

    fn key(&self, deploy: &Deploy) -> Key {
        (self.namespace.clone(), deploy.app.clone())
    }

    /// Refuses where somebody has moved the branch since the client looked.
    async fn check_ref(&self, deploy: &Deploy) -> Result<(), String> {
        let is_there = self.folder.find_ref(&deploy.update.name).await.map_err(|error| self.ours(&error))?;
        if is_there == deploy.update.old {
            return Ok(());
        }
        Err(format!(
            "`{}` was moved by another push meanwhile: `git pull wharf {0}`, and push again",
            deploy.branch
        ))
    }

    /// Takes note of the build; returns what there is before it.
    async fn begin(&self, new: &NewBuild<'_>, deploy: &Deploy, row: Row) -> Result<Before, String> {
        let begun = async {
            let mut tx = self.context.write_as_leader().await?;
            let app = store::app::find(&mut tx, &self.namespace, &deploy.app).await?;
            let target = app.as_ref().and_then(|app| app.target_release);
            let release = match target {
                Some(release) => store::release::get(&mut tx, release).await?.map(|release| release.number),
                None => None,
            };
            let previews = store::repository::previews(&mut tx, self.repository.id).await?;
            let is_ours = !deploy.is_preview
                || app.is_none()
                || previews
                    .iter()
                    .any(|preview| preview.app == deploy.app && preview.branch == deploy.branch);
            if !is_ours {
                return Ok(Err(format!(
                    "there is an app `{}` already, which is no preview of this: push to another name",
                    deploy.app
                )));
            }
            if deploy.is_preview && !self.may_be_preview(&mut tx, deploy).await? {
                return Ok(Err(format!(
                    "there is a stack `{}` already, which is no preview of this: push to another name",
                    deploy.app
                )));
            }
            // A stack is there with its services, which need not be called as it is.
            let set = SetName::from(self.app.clone());
            let has_services = !store::app::in_set(&mut tx, self.namespace_id, &set).await?.is_empty();
            if app.is_none() && !deploy.is_preview && !self.policy.creates_apps && !has_services {
                return Ok(Err(format!(
                    "there is no app `{0}`, nor a stack, and pushes make none in `{1}`: make it with `wharf deploy --app {0}` or `wharf stack \
                     deploy {0}`, or ask an admin for `wharf namespace pushes {1} --creates-apps true`",
                    deploy.app, self.namespace
                )));
            }
            // Builds are kept for some time only. Without one, services that are there are what the repository is.
            let was_stack = store::build::was_stack(&mut tx, self.repository.id, &self.app).await?;
            let before = Before { release, is_stack: was_stack.unwrap_or(has_services) };
            match row {
                Row::New(state) => store::build::create(&mut tx, new, state, Timestamp::now()).await?,
                Row::GoesOn => {
                    if !store::build::advance(&mut tx, new.id, BuildState::Building, None).await? {
                        return Ok(Err(
                            "another control plane took over while it waited: push again".to_owned()
                        ));
                    }
                }
            }
            tx.commit().await?;
            Ok::<_, StoreError>(Ok(before))
        };
        begun.await.unwrap_or_else(|error| Err(self.unavailable(&error)))
    }

    /// Whether a stack may become this preview: it is that already, or there is none of the name.
    async fn may_be_preview(&self, conn: &mut Conn, deploy: &Deploy) -> store::Result<bool> {
        let set = SetName::from(deploy.app.clone());
        match store::stack_preview::find(conn, self.namespace_id, &set).await? {
            Some(preview) => Ok(preview.repository == self.repository.id && preview.branch == deploy.branch),
            None => Ok(store::app::in_set(conn, self.namespace_id, &set).await?.is_empty()),
        }
    }

    /// What is told of an error that is this host's.
    fn ours(&self, error: &dyn std::error::Error) -> String {
        warn!("a push to {} in {} failed: {}", self.app, self.namespace, chain(error));
        "the control plane could not do this; its log says why, and nothing was changed".to_owned()
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
        (commit, is_stack, cancel): (&str, bool, CancellationToken),
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
        let files = if written.files == 1 { "file" } else { "files" };
        teller.detail(&format!("{} {files}, {} kB", written.files, written.bytes.div_ceil(1000)));
        let pushed = Pushed {
            build: teller.build,
            namespace: self.namespace.clone(),
            app: deploy.app.clone(),
            repository: self.app.clone(),
            is_stack,
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
                let expires_at = Timestamp::now() + previews::LASTS;
                let (id, branch) = (self.repository.id, &deploy.branch);
                let mut tx = self.context.store.write().await?;
                if let Some(app) = store::app::find(&mut tx, &self.namespace, &deploy.app).await? {
                    store::repository::put_preview(&mut tx, app.id, id, branch, expires_at).await?;
                }
                store::stack_preview::set_expiry(&mut tx, id, branch, expires_at).await?;
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
