//! Makes a release and a rollout to it.

use std::sync::Arc;

use wharf_types::api::{CreateRelease, Deployed, Keep};
use wharf_types::problem::ProblemCode;
use wharf_types::spec::AppSpec;
use wharf_types::{NamespaceId, ReleaseId, RolloutId};

use super::env::ReleaseEnv;
use super::secrets::Pins;
use super::{
    Asked, Kind, Result, autoscale, check_app, commit, containers, current_release, deployed, invalid_spec,
    once, ports, problem, quota, routes, secrets, start_rollout, volumes,
};
use crate::audit;
use crate::conditions;
use crate::context::Context;
use crate::store::app::{App, EnvOverrides};
use crate::store::artifact::Artifact;
use crate::store::release::Release;
use crate::store::{self, Conn};
use crate::view;

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
    let new = New { spec, own_env, secrets, artifact: &artifact, cause: "deploy" };
    let (release, rollout) = make_release(&mut tx, context, &app, asked, new).await?;
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

pub(super) struct New<'a> {
    pub(super) spec: AppSpec,
    pub(super) own_env: EnvOverrides,
    /// Of each secret that the settings name, the version.
    pub(super) secrets: Pins,
    pub(super) artifact: &'a Artifact,
    pub(super) cause: &'static str,
}

/// Checks the settings, writes the release, takes its routes, ports and volumes, and starts the rollout.
pub(super) async fn make_release(
    conn: &mut Conn,
    context: &Context,
    app: &App,
    asked: &Asked,
    new: New<'_>,
) -> Result<(Release, RolloutId)> {
    let world = new.artifact.world.with(&new.spec);
    let valid = new.spec.validate().and_then(|()| new.spec.validate_for(world));
    valid.map_err(invalid_spec)?;
    // On the heap, as most of what a deploy keeps is here, and a thread has two megabytes.
    Box::pin(containers::check(conn, (Some(app.namespace_id), &app.namespace), world, &new.spec)).await?;
    Box::pin(quota::check_priority_of(conn, app, asked, &new.spec)).await?;
    Box::pin(quota::check_processors_of(conn, app, world, &new.spec)).await?;
    secrets::check_size(&new.secrets)?;
    if let Some(files) = &new.spec.files
        && store::archive::find(conn, app.namespace_id, files.digest).await?.is_none()
    {
        let detail =
            format!("the namespace `{}` has no files {}; push them first", app.namespace, files.digest);
        return problem(ProblemCode::NotFound, detail);
    }
    if world.is_http() {
        let wanted = view::routes(&app.name, &app.namespace, &context.config.domain, &new.spec);
        routes::claim(conn, &context.config.domain, app, &wanted).await?;
    }
    ports::claim(conn, &context.config.platform_ports, app, &new.spec.tcp.ports).await?;
    volumes::claim(conn, app, &new.spec, asked.now).await?;
    autoscale::check_most(conn, app, &new.spec).await?;
    let release = Release {
        id: ReleaseId::new(),
        app: app.id,
        number: store::app::next_release(conn, app.id).await?,
        artifact: new.artifact.digest,
        spec: Arc::new(new.spec),
        own_env: new.own_env,
        cause: new.cause.to_owned(),
        created_by: asked.by.clone(),
        served: false,
        created_at: asked.now,
    };
    store::release::create(conn, &release).await?;
    let demand = quota::demand_among_nodes(conn, &release.spec, world).await?;
    store::quota::put_demand(conn, release.id, demand).await?;
    for pinned in new.secrets.values() {
        store::secret::pin(conn, release.id, pinned.id).await?;
    }
    let rollout = start_rollout(conn, app, &release, Kind::Forward, asked.now).await?;
    let message = format!(
        "release {} of {}, made by {} ({})",
        release.number,
        release.artifact.short(),
        release.created_by,
        release.cause
    );
    store::event::append(conn, &app.namespace, Some(&app.name), "release.created", &message, asked.now)
        .await?;
    Ok((release, rollout))
}
