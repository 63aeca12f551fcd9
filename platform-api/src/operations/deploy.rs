//! Makes a release and a rollout to it.

use std::sync::Arc;

use wharf_types::api::{CreateRelease, Deployed, Keep};
use wharf_types::problem::ProblemCode;
use wharf_types::spec::AppSpec;
use wharf_types::{Problem, ReleaseId, RolloutId};

use super::{Asked, Result, check_app, current_release, deployed, once, problem, routes, start_rollout};
use crate::context::Context;
use crate::store::app::App;
use crate::store::artifact::Artifact;
use crate::store::release::Release;
use crate::store::{self, Conn};
use crate::view;

pub(crate) async fn deploy(context: &Context, asked: &Asked, request: CreateRelease) -> Result<Deployed> {
    let mut tx = context.store.write().await?;
    if let Some(reply) = once::replay(&mut tx, asked).await? {
        return Ok(reply);
    }
    let app = find_or_create(&mut tx, asked).await?;
    check_app(&app, asked)?;
    let digest = request.artifact;
    let Some(artifact) = store::artifact::find(&mut tx, app.namespace_id, digest).await? else {
        let detail = format!("the namespace `{}` has no artifact {digest}; push it first", app.namespace);
        return problem(ProblemCode::NotFound, detail);
    };
    let before = current_release(&mut tx, &app).await?;
    let (spec, replicas) = settle(&app, before.as_ref(), request);
    spec.validate().map_err(|error| Problem::new(ProblemCode::InvalidSpec, error.to_string()))?;
    if !app.replicas_override {
        store::app::set_replicas(&mut tx, app.id, replicas, false).await?;
    }
    let new = New { spec, artifact: &artifact, cause: "deploy" };
    let (release, rollout) = make_release(&mut tx, context, &app, asked, new).await?;
    let reply = deployed(&mut tx, context, &app, &release, &artifact, before.as_ref(), rollout).await?;
    once::remember(&mut tx, app.id, asked, &reply).await?;
    tx.commit().await?;
    context.changed(app.id);
    Ok(reply)
}

async fn find_or_create(conn: &mut Conn, asked: &Asked) -> Result<App> {
    if let Some(app) = store::app::find(conn, &asked.namespace, &asked.app).await? {
        return Ok(app);
    }
    let Some(namespace) = store::namespace::find(conn, &asked.namespace).await? else {
        return problem(ProblemCode::NotFound, format!("there is no namespace `{}`", asked.namespace));
    };
    if asked.revision.is_some() {
        let detail = format!("there is no app `{}` that If-Match could ask for", asked.app);
        return problem(ProblemCode::PreconditionFailed, detail);
    }
    let id = store::app::create(conn, namespace.id, &asked.app, 1, asked.now).await?;
    match store::app::get(conn, id).await? {
        Some(app) => Ok(app),
        None => problem(ProblemCode::Conflict, "the app went away while it was made; try again"),
    }
}

/// The settings of the new release, and how many slots it asks for.
fn settle(app: &App, before: Option<&Release>, request: CreateRelease) -> (AppSpec, u32) {
    match (request.keep, before) {
        (Keep::Spec, Some(before)) => (AppSpec::clone(&before.spec), app.replicas),
        (Keep::Spec, None) => (AppSpec::default(), AppSpec::default().scale.replicas),
        (Keep::Overrides, _) => {
            let mut spec = request.spec;
            for (name, value) in &app.env_overrides {
                match value {
                    Some(value) => spec.env.insert(name.clone(), value.clone()),
                    None => spec.env.remove(name),
                };
            }
            if app.replicas_override {
                spec.scale.replicas = app.replicas;
            }
            let replicas = spec.scale.replicas;
            (spec, replicas)
        }
    }
}

pub(super) struct New<'a> {
    pub(super) spec: AppSpec,
    pub(super) artifact: &'a Artifact,
    pub(super) cause: &'static str,
}

/// Writes the release, takes its routes, and starts the rollout.
pub(super) async fn make_release(
    conn: &mut Conn,
    context: &Context,
    app: &App,
    asked: &Asked,
    new: New<'_>,
) -> Result<(Release, RolloutId)> {
    if new.artifact.world.is_http() {
        let wanted = view::routes(&app.name, &app.namespace, &context.config.domain, &new.spec);
        routes::claim(conn, &context.config.domain, app, &wanted).await?;
    }
    let release = Release {
        id: ReleaseId::new(),
        app: app.id,
        number: store::app::next_release(conn, app.id).await?,
        artifact: new.artifact.digest,
        spec: Arc::new(new.spec),
        cause: new.cause.to_owned(),
        created_by: asked.by.clone(),
        served: false,
        created_at: asked.now,
    };
    store::release::create(conn, &release).await?;
    let rollout = start_rollout(conn, app, release.id, asked.now).await?;
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
