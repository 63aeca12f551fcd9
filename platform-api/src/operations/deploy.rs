//! Makes a release and a rollout to it.

use std::sync::Arc;

use wharf_types::api::{CreateRelease, Deployed, Keep};
use wharf_types::problem::ProblemCode;
use wharf_types::spec::AppSpec;
use wharf_types::{Problem, ReleaseId, RolloutId};

use super::{Asked, Result, check_app, current_release, deployed, problem, routes, start_rollout};
use crate::context::Context;
use crate::store::app::App;
use crate::store::artifact::Artifact;
use crate::store::idempotency::Found;
use crate::store::release::Release;
use crate::store::{self, Conn};
use crate::view;

/// A `POST …/releases`.
pub(crate) struct Deploy {
    pub(crate) request: CreateRelease,
    /// From `Idempotency-Key`: the key, and a hash of the whole request.
    pub(crate) idempotency: Option<(String, String)>,
}

pub(crate) async fn deploy(context: &Context, asked: &Asked, deploy: Deploy) -> Result<Deployed> {
    let mut tx = context.store.write().await?;
    let app = find_or_create(&mut tx, asked).await?;
    if let Some((key, hash)) = &deploy.idempotency {
        match store::idempotency::find(&mut tx, app.id, key, hash).await? {
            Some(Found::Reply(reply)) => return Ok(*reply),
            Some(Found::Other) => {
                let detail =
                    format!("the Idempotency-Key `{key}` was used for another request; choose a new one");
                return problem(ProblemCode::Conflict, detail);
            }
            None => {}
        }
    }
    check_app(&app, asked)?;
    let digest = deploy.request.artifact;
    let Some(artifact) = store::artifact::find(&mut tx, app.namespace_id, digest).await? else {
        let detail = format!("the namespace `{}` has no artifact {digest}; push it first", app.namespace);
        return problem(ProblemCode::NotFound, detail);
    };
    let before = current_release(&mut tx, &app).await?;
    let spec = settle(&app, before.as_ref(), deploy.request);
    spec.validate().map_err(|error| Problem::new(ProblemCode::InvalidSpec, error.to_string()))?;
    let new = New { spec, artifact: &artifact, cause: "deploy" };
    let (release, rollout) = make_release(&mut tx, context, &app, asked, new).await?;
    let reply = deployed(&mut tx, context, &app, &release, &artifact, before.as_ref(), rollout).await?;
    if let Some((key, hash)) = &deploy.idempotency {
        store::idempotency::put(&mut tx, app.id, key, hash, &reply, asked.now).await?;
    }
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
    let id = store::app::create(conn, namespace.id, &asked.app, asked.now).await?;
    match store::app::get(conn, id).await? {
        Some(app) => Ok(app),
        None => problem(ProblemCode::Conflict, "the app went away while it was made; try again"),
    }
}

/// The settings of the new release. What `scale` set is no part of them: it is the app's, and stands over every release.
fn settle(app: &App, before: Option<&Release>, request: CreateRelease) -> AppSpec {
    match (request.keep, before) {
        (Keep::Spec, Some(before)) => AppSpec::clone(&before.spec),
        (Keep::Spec, None) => AppSpec::default(),
        (Keep::Overrides, _) => {
            let mut spec = request.spec;
            for (name, value) in &app.env_overrides {
                match value {
                    Some(value) => spec.env.insert(name.clone(), value.clone()),
                    None => spec.env.remove(name),
                };
            }
            spec
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
