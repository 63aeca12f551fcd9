//! What this crate does not know: how a folder is built and becomes a release.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use wharf_git::Progress;
use wharf_types::secret::ValueKind;
use wharf_types::{AppId, AppName, BuildId, JobName, NamespaceName, SecretName};

use super::log::BuildLog;
use super::previews::{self, PushedTo};
use crate::context::Context;
use crate::reconcile::chain;

/// What was pushed.
#[derive(Debug)]
pub struct Pushed {
    pub build: BuildId,
    pub namespace: NamespaceName,
    /// What gets it. The name in its manifest does not count.
    pub app: AppName,
    /// The app whose repository it is: the same, unless it is a preview.
    pub repository: AppName,
    /// Whether the last that was deployed from the repository was a stack.
    pub is_stack: bool,
    /// Whether it must not take anything that is the app's alone, such as routes and ports.
    pub is_preview: bool,
    /// The files of the commit, and nothing else. It is removed afterwards.
    pub folder: PathBuf,
    /// Whose builds may use what its build leaves behind. It is no app's id, but is the repository's alone.
    pub cache: AppId,
    pub commit: String,
    /// Whether its build may connect to whatever this host can.
    pub build_network: bool,
    /// Whether it may make apps that are not there. A preview may.
    pub may_make_apps: bool,
    /// Why the namespace may run no containers, with the way out. None: it may.
    pub no_containers: Option<String>,
    /// The secret of who pushed, with which everything is done that is done for it.
    pub secret: Secret,
}

/// A token's secret, which no log shows.
#[derive(Clone)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What is made for the preview of a stack, and goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PreviewPart {
    /// An app. It is of the stack's set, and goes as such; what its volumes hold may have been kept when it went before.
    App(AppName),
    Value(ValueKind, SecretName),
    /// Every job of this name.
    Job(JobName),
}

/// What was deployed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deployment {
    /// A release of the app.
    App,
    /// The services of a stack: several apps, each with releases of its own.
    Stack,
}

/// What runs after a push that has come to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// What ran before, or it will when the way back that has been started has ended.
    AsBefore,
    /// Of a stack: each app runs what its own rollout has come to.
    Partly,
}

/// Why the branch is not to move: what was wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct NotDeployed {
    pub why: String,
    pub runs: Runs,
}

/// Before anything was changed.
impl From<String> for NotDeployed {
    fn from(why: String) -> Self {
        Self { why, runs: Runs::AsBefore }
    }
}

/// Builds and deploys what was pushed.
#[async_trait]
pub trait Deployer: Send + Sync {
    /// Comes back when all that was pushed serves, or with why it does not. After `cancel` it comes back soon, in the same way.
    async fn deploy(
        &self,
        pushed: Pushed,
        teller: Teller,
        cancel: CancellationToken,
    ) -> Result<Deployment, NotDeployed>;

    /// Removes a folder of what was pushed, or what builds left behind. Whoever made it may have made it hard to remove.
    async fn discard(&self, folder: PathBuf) -> std::io::Result<()>;

    /// Removes images that builds left behind, but for those of these repositories.
    async fn keep_images_of(&self, repositories: HashSet<AppId>);
}

/// Tells whoever pushed, and the log of the build, how it goes.
#[derive(Clone)]
pub struct Teller {
    pub(super) context: Arc<Context>,
    pub(super) build: BuildId,
    pub(super) progress: Progress,
    pub(super) log: Arc<BuildLog>,
    /// None: it is no preview.
    pub(super) preview: Option<Arc<PushedTo>>,
}

impl Teller {
    /// Something begins.
    pub fn step(&self, text: &str) {
        self.say("-----> ", text);
    }

    /// More about what goes on.
    pub fn detail(&self, text: &str) {
        self.say("       ", text);
    }

    /// Something is wrong.
    pub fn problem(&self, text: &str) {
        self.say(" !     ", text);
    }

    fn say(&self, head: &str, text: &str) {
        for line in text.lines() {
            let line = format!("{head}{line}");
            self.progress.line(&line);
            self.log.line(&line);
        }
    }

    /// The release is there, and its rollout begins. `false`: the build has been given up meanwhile.
    pub async fn released(&self, release: u64) -> bool {
        // The first release has made the app, which is nobody else's then.
        if let Some(pushed_to) = self.preview.as_ref().filter(|_| release == 1)
            && let Err(error) = previews::note_app(&self.context, pushed_to).await
        {
            warn!("cannot take note of the preview {}: {}", pushed_to.app, chain(&error));
        }
        super::advance(&self.context, self.build, Some(release)).await
    }

    /// A stack is about to become the preview that was pushed to, with these parts: they go with it, whatever becomes of the push.
    /// `false`: that could not be noted, so nothing is to be made.
    pub async fn makes_preview(&self, parts: &[PreviewPart]) -> bool {
        let Some(pushed_to) = &self.preview else { return false };
        match previews::note(&self.context, pushed_to, parts).await {
            Ok(()) => true,
            Err(error) => {
                warn!("cannot take note of the preview {}: {}", pushed_to.name, chain(&error));
                false
            }
        }
    }

    /// The apps of a stack are about to change. `false`: as above.
    pub async fn rolls_out(&self) -> bool {
        super::advance(&self.context, self.build, None).await
    }
}
