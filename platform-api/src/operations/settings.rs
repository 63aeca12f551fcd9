//! Changes an app without a new artifact: variables, scale, and its end.

use std::sync::Arc;

use serde_json::json;
use wharf_types::api::{Deployed, Env, EnvPatch};
use wharf_types::problem::ProblemCode;
use wharf_types::spec::{AppSpec, REPLICAS_MAX, Replicas};
use wharf_types::{AppName, NamespaceName};

use super::deploy::make_release;
use super::env::{ReleaseEnv, check_overrides, check_patch};
use super::releases::{By, New};
use super::{
    Asked, Result, app_not_found, artifact_of, check_revision, commit, commit_known, current_release,
    current_spec, deployed, find_app, invalid_spec, no_release, once, problem, quota,
};
use crate::audit;
use crate::context::Context;
use crate::store;
use crate::store::Conn;
use crate::store::app::App;
use crate::view::Loaded;

/// The variables of the release that a change would start from.
pub(crate) async fn env(context: &Context, namespace: &NamespaceName, name: &AppName) -> Result<Env> {
    let mut tx = context.store.read().await?;
    let Some(app) = store::app::find(&mut tx, namespace, name).await? else {
        return Err(app_not_found(namespace, name).into());
    };
    let release = current_release(&mut tx, &app).await?;
    Ok(Env(release.map(|release| release.spec.env.clone()).unwrap_or_default()))
}

/// Makes a release out of the current one, with other variables.
pub(crate) async fn patch_env(context: &Arc<Context>, asked: &Asked, patch: EnvPatch) -> Result<Deployed> {
    check_patch(&patch)?;
    let mut tx = context.store.write().await?;
    if let Some(reply) = once::replay(&mut tx, asked).await? {
        return Ok(reply);
    }
    let app = find_app(&mut tx, asked).await?;
    let Some(before) = current_release(&mut tx, &app).await? else {
        return Err(no_release(&app).into());
    };
    let before_change = quota::begin(&mut tx, app.namespace_id, &app.namespace).await?;
    let artifact = artifact_of(&mut tx, &before).await?;
    let mut overrides = app.env_overrides.clone();
    let mut env = ReleaseEnv::of_release(&before.spec, &before.own_env);
    env.patch(&mut overrides, patch);
    check_overrides(&overrides).map_err(invalid_spec)?;
    store::app::set_env_overrides(&mut tx, app.id, &overrides).await?;

    let spec = AppSpec { env: env.variables, ..AppSpec::clone(&before.spec) };
    // The app stays on the values that it has: what is asked for is other variables.
    let secrets = store::secret::pinned(&mut tx, &before).await?;
    let new = New { app: &app, spec, own_env: env.own, secrets, artifact: &artifact };
    let by = By { who: &asked.by, cause: "env", any_rights: asked.any_rights, now: asked.now };
    let (release, rollout) = make_release(&mut tx, context, by, new).await?;
    let reply = deployed(&mut tx, context, &app, &release, &artifact, Some(&before), rollout).await?;
    before_change.check(&mut tx).await?;
    audit::release_change(Some(&before), &release);
    once::remember(&mut tx, app.id, asked, &reply).await?;
    commit(context, tx, [app.id]).await?;
    Ok(reply)
}

/// Sets the number of slots, or, with None, leaves it to the releases again. Returns the app as it is then, where that is known without reading it.
pub(crate) async fn scale(
    context: &Arc<Context>,
    asked: &Asked,
    replicas: Option<u32>,
) -> Result<Option<Arc<Loaded>>> {
    if let Some(replicas) = replicas.filter(|replicas| *replicas > REPLICAS_MAX) {
        return problem(
            ProblemCode::InvalidSpec,
            format!("replicas: {replicas} is more than {REPLICAS_MAX}"),
        );
    }
    let mut tx = context.store.write().await?;
    let app = find_app(&mut tx, asked).await?;
    let known = context.recent.get(&app);
    let spec = current_spec(&mut tx, context, &app).await?;
    if let (Some(spec), Some(replicas)) = (&spec, replicas) {
        spec.validate_replicas("replicas", replicas).map_err(invalid_spec)?;
    }
    let before_change = quota::begin(&mut tx, app.namespace_id, &app.namespace).await?;
    let revision = store::change::touch_to(&mut tx, app.id, asked.now).await?;
    store::app::set_scale(&mut tx, app.id, replicas).await?;
    if let (None, Some(before)) = (replicas, app.scaled_to) {
        // Where open requests decide from now on, they begin with what there is.
        store::app::set_autoscale(&mut tx, app.id, before).await?;
    }
    before_change.check(&mut tx).await?;
    let of_release = spec.map(|spec| spec.scale.replicas.clone()).unwrap_or_else(|| 0.into());
    let before = app.scaled_to.map_or_else(|| of_release.clone(), Replicas::from);
    let message = match replicas {
        Some(replicas) => format!("scaled from {before} to {replicas} by {}", asked.by),
        None => format!("scaled from {before} back to the release's own {of_release} by {}", asked.by),
    };
    tell(&mut tx, &app, asked, "app.scaled", &message).await?;
    let after = replicas.map_or(of_release, Replicas::from);
    audit::change(json!({"replicas": before}), json!({"replicas": after}));
    let Some((known, replicas)) = known.zip(replicas) else {
        commit(context, tx, [app.id]).await?;
        return Ok(None);
    };
    // Nobody else has written since the app was looked at, and nothing else of it is changed where there is a number.
    let scaled = Arc::new(known.scaled(replicas, revision, asked.now));
    commit_known(context, tx, scaled.clone()).await?;
    Ok(Some(scaled))
}

/// Records the wish; the reconciler stops everything and then takes the app away. Asking twice is as good as once. Its volumes
/// are kept unless `with_volumes`.
pub(crate) async fn delete(context: &Arc<Context>, asked: &Asked, with_volumes: bool) -> Result<()> {
    let mut tx = context.store.write().await?;
    let app = match store::app::find(&mut tx, &asked.namespace, &asked.app).await? {
        // Whoever asks again may want more gone than before.
        Some(app) if app.deleting && !with_volumes => return Ok(()),
        Some(app) if app.deleting => {
            check_revision(&app)?;
            app
        }
        _ => find_app(&mut tx, asked).await?,
    };
    store::app::mark_deleting(&mut tx, &[app.id]).await?;
    if with_volumes {
        store::volume::remove_with_app(&mut tx, app.id).await?;
    }
    store::rollout::supersede(&mut tx, &[app.id], asked.now).await?;
    // An app of the same name that is pushed afterwards has nothing of this one.
    store::repository::remove(&mut tx, app.namespace_id, &app.name).await?;
    record(&mut tx, &app, asked, "app.deleting", &format!("deletion asked for by {}", asked.by)).await?;
    audit::change(
        json!({"releases": app.last_release}),
        json!({"volumes": if with_volumes { "remove" } else { "keep" }}),
    );
    commit(context, tx, [app.id]).await?;
    Ok(())
}

async fn record(conn: &mut Conn, app: &App, asked: &Asked, kind: &str, message: &str) -> Result<()> {
    store::change::touch(conn, app.id, asked.now).await?;
    tell(conn, app, asked, kind, message).await
}

async fn tell(conn: &mut Conn, app: &App, asked: &Asked, kind: &str, message: &str) -> Result<()> {
    store::event::append(conn, &app.namespace, Some(&app.name), kind, message, asked.now).await?;
    Ok(())
}
