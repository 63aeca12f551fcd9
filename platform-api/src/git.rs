//! `git push`: repositories of apps, and the way from a push to a release that serves.
//!
//! A push is received, checked, built and rolled out before its branch moves; whatever fails leaves the branch as it was, and what runs, but
//! for the services of a stack that have come up by then.
//! How git speaks is [`wharf_git`]'s matter, and how a folder becomes a release the [`Deployer`]'s, which asks the API for everything with the
//! token of whoever pushed. Here is what lies between: what a push asks for ([`course`]), whose turn it is ([`busy`]), what is kept of
//! it ([`log`], table `build`), what goes with a preview ([`previews`]), and what is done about what a process has left behind ([`recover`]).
//!
//! All of it happens at the server that leads, in whose data directory the repositories are.

mod aftermath;
pub(crate) mod busy;
mod course;
mod deployer;
pub(crate) mod log;
mod previews;
mod pushing;
pub(crate) mod recover;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;
use wharf_git::{GitError, Limits, Repositories};
use wharf_types::api::BuildState;
use wharf_types::{BuildId, Timestamp};

use self::busy::Busy;
use self::log::BuildLog;
use crate::context::Context;
use crate::reconcile::chain;
use crate::store;

pub use deployer::{Deployer, Deployment, NotDeployed, PreviewPart, Pushed, Runs, Secret, Teller};
pub(crate) use pushing::Pushing;

/// Within the data directory.
const REPOSITORIES: &str = "git";
const BUILDS: &str = "builds";
/// Of what builds leave for the next ones.
pub const BUILD_CACHES: &str = "build-cache";

/// What the control plane has of git.
pub(crate) struct Git {
    pub(crate) repositories: Repositories,
    /// Where they are.
    folders: PathBuf,
    /// Logs, and folders with what was pushed.
    builds: PathBuf,
    caches: PathBuf,
    deployer: OnceLock<Arc<dyn Deployer>>,
    pub(crate) busy: Busy,
    under_way: Mutex<HashMap<BuildId, UnderWay>>,
    /// Repositories whose objects are in many pieces.
    scattered: Mutex<BTreeSet<Uuid>>,
}

/// A build of this process.
#[derive(Clone)]
struct UnderWay {
    cancel: CancellationToken,
    log: Arc<BuildLog>,
}

impl Git {
    pub(crate) fn open(data_dir: &Path) -> Result<Self, GitError> {
        let folders = data_dir.join(REPOSITORIES);
        Ok(Self {
            repositories: Repositories::open(&folders, Limits::default())?,
            folders,
            builds: data_dir.join(BUILDS),
            caches: data_dir.join(BUILD_CACHES),
            deployer: OnceLock::new(),
            busy: Busy::default(),
            under_way: Mutex::default(),
            scattered: Mutex::default(),
        })
    }

    /// Says who deploys what is pushed. Only the first counts.
    pub(crate) fn set_deployer(&self, deployer: Arc<dyn Deployer>) {
        let _ = self.deployer.set(deployer);
    }

    /// The file of a build's log, and, while it is written by this process, how it grows.
    pub(crate) fn log(&self, build: BuildId) -> (PathBuf, Option<tokio::sync::watch::Receiver<u64>>) {
        let growth = self.under_way(build).map(|it| it.log.growth());
        (log::path_in(&self.builds, build), growth)
    }

    /// `false`: this process has no such build under way.
    pub(crate) fn cancel(&self, build: BuildId) -> bool {
        let under_way = self.under_way(build);
        under_way.inspect(|it| it.cancel.cancel()).is_some()
    }

    fn scattered(&self) -> MutexGuard<'_, BTreeSet<Uuid>> {
        self.scattered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn under_way(&self, build: BuildId) -> Option<UnderWay> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).get(&build).cloned()
    }

    /// Removes a folder that a build has written to.
    async fn discard(&self, folder: PathBuf) -> std::io::Result<()> {
        match self.deployer.get() {
            Some(deployer) => deployer.discard(folder).await,
            // Nobody has built anything here.
            None => Ok(()),
        }
    }

    /// The folder of what was pushed, while it is built.
    fn folder(&self, build: BuildId) -> PathBuf {
        self.builds.join(build.to_string())
    }
}

/// A build that this process looks after, until it is dropped.
struct Listed {
    context: Arc<Context>,
    build: BuildId,
}

impl Listed {
    fn new(context: &Arc<Context>, build: BuildId, under_way: UnderWay) -> Self {
        let mut listed = context.git.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        listed.insert(build, under_way);
        Self { context: context.clone(), build }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.context.git.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.build);
    }
}

/// Takes note that what was built is rolled out. `false`: the build has ended, as its control plane was taken for gone.
async fn advance(context: &Context, build: BuildId, release: Option<u64>) -> bool {
    let advanced = async {
        let mut tx = context.store.write().await?;
        let is_open = store::build::advance(&mut tx, build, BuildState::Deploying, release).await?;
        tx.commit().await?;
        Ok::<_, store::StoreError>(is_open)
    };
    advanced.await.unwrap_or_else(|error| {
        warn!("cannot take note of how build {build} goes: {}", chain(&error));
        false
    })
}

/// The same of its end.
async fn end(context: &Context, build: BuildId, state: BuildState, problem: Option<&str>) {
    let ended = async {
        let mut tx = context.store.write().await?;
        store::build::end(&mut tx, build, state, problem, Timestamp::now()).await?;
        tx.commit().await
    };
    if let Err(error) = ended.await {
        warn!("cannot take note of how build {build} ended; the next start does: {}", chain(&error));
    }
}
