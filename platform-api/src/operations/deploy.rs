//! Makes a release and a rollout to it.

use std::sync::Arc;

use wharf_types::api::{CreateRelease, Deployed, Keep};
use wharf_types::problem::ProblemCode;
use wharf_types::spec::AppSpec;
use wharf_types::{NamespaceId, RolloutId};

use super::env::ReleaseEnv;
use super::releases::{self, By, Made, New};
use super::{Asked, Result, check_app, commit, current_release, deployed, once, problem, quota, secrets};
use crate::audit;
use crate::conditions;
use crate::context::Context;
use crate::store::app::{App, EnvOverrides};
use crate::store::release::Release;
use crate::store::{self, Conn, StoreError};

pub(crate) async fn deploy(
    context: &Arc<Context>,
    asked: &Asked,
    request: CreateRelease,
) -> Result<Deployed> {
    let mut tx = context.store.write().await?;
    if let Some(reply) = once::replay(&mut tx, asked).await? {
        return Ok(reply);
    }
    let namespace = find_namespace(&mut tx, asked).await?;
    let before_change = quota::begin(&mut tx, namespace, &asked.namespace).await?;
    let app = find_or_create(&mut tx, namespace, asked).await?;
    check_app(&app)?;
    let digest = request.artifact;
    let Some(artifact) = store::artifact::find(&mut tx, app.namespace_id, digest).await? else {
        let detail = format!("the namespace `{}` has no artifact {digest}; push it first", app.namespace);
        return problem(ProblemCode::NotFound, detail);
    };
    let before = current_release(&mut tx, &app).await?;
    let (spec, own_env) = settle(&app, before.as_ref(), request);
    let secrets = secrets::newest(&mut tx, context, &app, &spec).await?;
    let new = New { app: &app, spec, own_env, secrets, artifact: &artifact };
    let by = By { who: &asked.by, cause: "deploy", any_rights: asked.any_rights, now: asked.now };
    let (release, rollout) = make_release(&mut tx, context, by, new).await?;
    let reply = deployed(&mut tx, context, &app, &release, &artifact, before.as_ref(), rollout).await?;
    before_change.check(&mut tx).await?;
    audit::release_change(before.as_ref(), &release);
    once::remember(&mut tx, app.id, asked, &reply).await?;
    commit(context, tx, [app.id]).await?;
    Ok(reply)
}

async fn find_namespace(conn: &mut Conn, asked: &Asked) -> Result<NamespaceId> {
    match store::namespace::find(conn, &asked.namespace).await? {
        Some(namespace) => Ok(namespace.id),
        None => problem(ProblemCode::NotFound, format!("there is no namespace `{}`", asked.namespace)),
    }
}

async fn find_or_create(conn: &mut Conn, namespace: NamespaceId, asked: &Asked) -> Result<App> {
    if let Some(app) = store::app::find(conn, &asked.namespace, &asked.app).await? {
        return Ok(app);
    }
    conditions::check(&format!("app `{}`", asked.app), None)?;
    let id = store::app::create(conn, namespace, &asked.app, asked.now).await?;
    match store::app::get(conn, id).await? {
        Some(app) => Ok(app),
        None => problem(ProblemCode::Conflict, "the app went away while it was made; try again"),
    }
}

/// The settings of the new release, and what its manifest says of the variables that `env` set over it. What `scale` set is
/// no part of them: it is the app's, and stands over every release.
fn settle(app: &App, before: Option<&Release>, request: CreateRelease) -> (AppSpec, EnvOverrides) {
    match (request.keep, before) {
        (Keep::Spec, Some(before)) => (AppSpec::clone(&before.spec), before.own_env.clone()),
        (Keep::Spec, None) => (AppSpec::default(), EnvOverrides::new()),
        (Keep::Overrides, _) => {
            let env = ReleaseEnv::of_manifest(request.spec.env, &app.env_overrides);
            (AppSpec { env: env.variables, ..request.spec }, env.own)
        }
    }
}

/// Checks the settings and makes the release, as [`releases::make_all`] does.
pub(super) async fn make_release(
    conn: &mut Conn,
    context: &Context,
    by: By<'_>,
    new: New<'_>,
) -> Result<(Release, RolloutId)> {
    releases::validate(&new.spec, new.artifact)?;
    // On the heap, as most of what a deploy keeps is here, and a thread has two megabytes.
    let made = Box::pin(releases::make_all(conn, context, by, vec![new])).await;
    match made.map_err(|refused| refused.error)?.pop() {
        Some(Made { release, rollout }) => Ok((release, rollout)),
        None => Err(StoreError::Corrupt("a release was written and is not there".to_owned()).into()),
    }
}
