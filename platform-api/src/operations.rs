//! What users do to apps. Each operation is one transaction: it has happened as a whole, or not at all, and a handler that is
//! dropped because its client went away leaves nothing half done.

pub(crate) mod autoscale;
pub(crate) mod containers;
pub(crate) mod jobs;
pub(crate) mod keyvalue;
pub(crate) mod quota;
mod releases;
pub(crate) mod report;
pub(crate) mod routes;
pub(crate) mod schedules;
pub(crate) mod secrets;
pub(crate) mod volumes;

mod declare;
mod deploy;
mod env;
mod once;
mod outbound;
mod ports;
mod rollback;
mod settings;
mod wishes;

pub(crate) use declare::{AskedApply, Turns, apply, declaration, plan_apply};
pub(crate) use deploy::deploy;
pub(crate) use once::Once;
pub(crate) use rollback::{restart, rollback};
pub(crate) use settings::{delete, env, patch_env, scale};
pub(crate) use wishes::{RolloutWish, start, stop, wish};

use std::sync::Arc;

use wharf_types::api::Deployed;
use wharf_types::problem::ProblemCode;
use wharf_types::spec::{AppSpec, InvalidSpec};
use wharf_types::world::capabilities;
use wharf_types::{AppId, AppName, NamespaceName, Problem, RolloutId, Timestamp};

use crate::audit;
use crate::conditions;
use crate::context::Context;
use crate::store::app::App;
use crate::store::artifact::Artifact;
use crate::store::release::Release;
use crate::store::rollout::NewRollout;
use crate::store::{self, Conn, StoreError, Tx};
use crate::view::{self, Loaded};

/// Why an operation did nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OperationError {
    /// The request's fault; said to the user as it is.
    #[error(transparent)]
    Problem(#[from] Problem),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for OperationError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

pub(crate) type Result<T> = std::result::Result<T, OperationError>;

/// Who asks, and whether for a second time.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) namespace: NamespaceName,
    pub(crate) app: AppName,
    /// Name of the token.
    pub(crate) by: String,
    /// From `Idempotency-Key`.
    pub(crate) once: Option<Once>,
    /// Whether what is asked for may be more than a cluster admin has allowed the namespace, in priorities and in private destinations: one asks, or
    /// nothing new is asked for.
    pub(crate) any_rights: bool,
    pub(crate) now: Timestamp,
}

pub(crate) fn problem<T>(code: ProblemCode, detail: impl Into<String>) -> Result<T> {
    Err(Problem::new(code, detail).into())
}

pub(crate) fn app_not_found(namespace: &NamespaceName, app: &AppName) -> Problem {
    let detail = format!(
        "there is no app `{app}` in the namespace `{namespace}`; `wharf apps -n {namespace}` lists those that there are"
    );
    Problem::new(ProblemCode::NotFound, detail)
}

/// The app that is asked for, if it may be changed.
async fn find_app(conn: &mut Conn, asked: &Asked) -> Result<App> {
    let Some(app) = store::app::find(conn, &asked.namespace, &asked.app).await? else {
        return Err(app_not_found(&asked.namespace, &asked.app).into());
    };
    check_app(&app)?;
    Ok(app)
}

/// Whether the app may be changed, and is as whoever asks has read it.
fn check_app(app: &App) -> Result<()> {
    if app.deleting {
        let detail = format!("the app `{}` is being deleted; try again when it is gone", app.name);
        return problem(ProblemCode::Conflict, detail);
    }
    check_revision(app)
}

fn check_revision(app: &App) -> Result<()> {
    Ok(conditions::check(&format!("app `{}`", app.name), Some(app.revision))?)
}

/// The release that an app is on, or else the newest that it has.
async fn current_release(conn: &mut Conn, app: &App) -> Result<Option<Release>> {
    if let Some(id) = app.target_release {
        return Ok(store::release::get(conn, id).await?);
    }
    Ok(store::release::list(conn, app.id, app.last_release + 1, 1).await?.pop())
}

/// What the current release asks for.
async fn current_spec(conn: &mut Conn, context: &Context, app: &App) -> Result<Option<Arc<AppSpec>>> {
    if let Some(id) = app.target_release
        && let Some(release) = context.releases.get(conn, app, id).await?
    {
        return Ok(Some(release.spec.clone()));
    }
    Ok(current_release(conn, app).await?.map(|release| release.spec))
}

async fn artifact_of(conn: &mut Conn, release: &Release) -> Result<Artifact> {
    match store::artifact::get(conn, release.artifact).await? {
        Some(artifact) => Ok(artifact),
        None => Err(StoreError::Corrupt(format!("release {} has no artifact", release.id)).into()),
    }
}

fn no_release(app: &App) -> Problem {
    let detail = format!("the app `{}` has no release yet; deploy one first", app.name);
    Problem::new(ProblemCode::Conflict, detail)
}

fn invalid_spec(error: InvalidSpec) -> Problem {
    Problem::new(ProblemCode::InvalidSpec, error.to_string())
}

/// Commits with a record of who asked for it, and tells the reconciler and the watchers of these apps. A handler may be dropped at any moment, and a commit that
/// it waited for may then stand all the same: so somebody else waits for it, who is not dropped.
pub(crate) async fn commit(
    context: &Arc<Context>,
    tx: Tx,
    apps: impl IntoIterator<Item = AppId>,
) -> Result<()> {
    let apps: Vec<AppId> = apps.into_iter().collect();
    commit_then(context, tx, move |context| apps.into_iter().for_each(|app| context.changed(app))).await
}

/// The same of one app, as somebody knows that the transaction leaves it: whoever is told need not read it.
async fn commit_known(context: &Arc<Context>, tx: Tx, loaded: Arc<Loaded>) -> Result<()> {
    let app = loaded.app.id;
    commit_and(context, tx, move |context, is_committed| {
        if is_committed {
            context.recent.put(loaded);
        }
        context.changed(app);
    })
    .await
}

/// The same with anything that has to be told.
pub(crate) async fn commit_then(
    context: &Arc<Context>,
    tx: Tx,
    tell: impl FnOnce(&Arc<Context>) + Send + 'static,
) -> Result<()> {
    commit_and(context, tx, move |context, _| tell(context)).await
}

/// What is told learns whether the commit is known to stand.
async fn commit_and(
    context: &Arc<Context>,
    mut tx: Tx,
    tell: impl FnOnce(&Arc<Context>, bool) + Send + 'static,
) -> Result<()> {
    audit::write(&mut tx).await?;
    let context = context.clone();
    let committed = tokio::spawn(async move {
        let outcome = tx.commit().await;
        tell(&context, outcome.is_ok());
        outcome
    });
    match committed.await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(StoreError::Database(sqlx::Error::WorkerCrashed).into()),
    }
}

/// What a user's rollout is for that makes no release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It brings back an older release.
    Backwards,
    /// Instances that the release has already are replaced.
    Renewal,
}

/// Starts a rollout; one that is under way is superseded.
async fn start_rollout(
    conn: &mut Conn,
    app: &App,
    to: &Release,
    kind: Kind,
    now: Timestamp,
) -> Result<RolloutId> {
    autoscale::begin(conn, app, &to.spec, now).await?;
    let to = to.id;
    store::rollout::supersede(conn, &[app.id], now).await?;
    let id = RolloutId::new();
    let (backwards, renews) = (kind == Kind::Backwards, kind == Kind::Renewal);
    let from = app.stable_release;
    let rollout = NewRollout { id, app: app.id, from, to, automatic: false, backwards, renews };
    store::rollout::create(conn, &rollout, now).await?;
    store::app::set_target(conn, app.id, Some(to)).await?;
    store::change::touch(conn, app.id, now).await?;
    Ok(id)
}

/// The reply to everything that starts a rollout. `before` is the release that the app was on.
async fn deployed(
    conn: &mut Conn,
    context: &Context,
    app: &App,
    release: &Release,
    artifact: &Artifact,
    before: Option<&Release>,
    rollout: RolloutId,
) -> Result<Deployed> {
    let asks = |artifact: &Artifact, release: &Release| {
        capabilities(artifact.imports.iter().map(String::as_str), &release.spec)
    };
    let mut asked_before = Vec::new();
    if let Some(before) = before
        && let Some(artifact) = store::artifact::get(conn, before.artifact).await?
    {
        asked_before = asks(&artifact, before);
    }
    let capabilities = asks(artifact, release);
    let new_capabilities =
        capabilities.iter().filter(|asked| !asked_before.contains(asked)).cloned().collect();
    let mut urls = Vec::new();
    if artifact.world.with(&release.spec).is_http() {
        let routes = view::routes(&app.name, &app.namespace, &context.config.domain, &release.spec);
        urls.extend(routes.iter().map(|route| view::url(&context.config.http_url, route)));
    }
    let ports = release.spec.tcp.ports.iter();
    urls.extend(ports.map(|port| view::tcp_url(&context.config, *port)));
    Ok(Deployed {
        namespace: app.namespace.clone(),
        app: app.name.clone(),
        release: release.number,
        rollout,
        digest: release.artifact,
        url: urls.first().cloned().unwrap_or_default(),
        urls,
        capabilities,
        new_capabilities,
        stopped: app.stopped.is_some(),
    })
}
