//! Changes an app without a new artifact: variables, scale, restart, and its end.

use wharf_types::api::{Deployed, EnvPatch};
use wharf_types::problem::ProblemCode;
use wharf_types::spec::{AppSpec, REPLICAS_MAX};
use wharf_types::{AppId, Problem};

use super::deploy::{New, make_release};
use super::{Asked, Result, current_release, deployed, find_app, once, problem};
use crate::context::Context;
use crate::store;
use crate::store::app::{App, EnvOverrides};
use crate::store::{Conn, StoreError};

pub(crate) async fn patch_env(context: &Context, asked: &Asked, patch: EnvPatch) -> Result<Deployed> {
    let change = |app: &App, spec: &mut AppSpec| {
        let mut overrides = app.env_overrides.clone();
        for (name, value) in patch.0 {
            match &value {
                Some(value) => spec.env.insert(name.clone(), value.clone()),
                None => spec.env.remove(&name),
            };
            overrides.insert(name, value);
        }
        Some(overrides)
    };
    release_again(context, asked, "env", change).await
}

/// A new release with the same content, so that every instance is replaced without an outage.
pub(crate) async fn restart(context: &Context, asked: &Asked) -> Result<Deployed> {
    release_again(context, asked, "restart", |_, _| None).await
}

/// Makes a release out of the current one. `change` returns the variables that later releases get as well.
async fn release_again(
    context: &Context,
    asked: &Asked,
    cause: &'static str,
    change: impl FnOnce(&App, &mut AppSpec) -> Option<EnvOverrides>,
) -> Result<Deployed> {
    let mut tx = context.store.write().await?;
    if let Some(reply) = once::replay(&mut tx, asked).await? {
        return Ok(reply);
    }
    let app = find_app(&mut tx, asked).await?;
    let Some(before) = current_release(&mut tx, &app).await? else {
        return problem(
            ProblemCode::Conflict,
            format!("the app `{}` has no release yet; deploy one first", app.name),
        );
    };
    let Some(artifact) = store::artifact::get(&mut tx, before.artifact).await? else {
        return Err(StoreError::Corrupt(format!("release {} has no artifact", before.id)).into());
    };
    let mut spec = AppSpec::clone(&before.spec);
    if let Some(overrides) = change(&app, &mut spec) {
        store::app::set_env_overrides(&mut tx, app.id, &overrides).await?;
    }
    spec.validate().map_err(|error| Problem::new(ProblemCode::InvalidSpec, error.to_string()))?;
    let new = New { spec, artifact: &artifact, cause };
    let (release, rollout) = make_release(&mut tx, context, &app, asked, new).await?;
    let reply = deployed(&mut tx, context, &app, &release, &artifact, Some(&before), rollout).await?;
    once::remember(&mut tx, app.id, asked, &reply).await?;
    tx.commit().await?;
    context.changed(app.id);
    Ok(reply)
}

pub(crate) async fn scale(context: &Context, asked: &Asked, replicas: u32) -> Result<AppId> {
    if replicas > REPLICAS_MAX {
        return problem(
            ProblemCode::InvalidSpec,
            format!("replicas: {replicas} is more than {REPLICAS_MAX}"),
        );
    }
    let mut tx = context.store.write().await?;
    let app = find_app(&mut tx, asked).await?;
    store::app::set_replicas(&mut tx, app.id, replicas, true).await?;
    let message = format!("scaled from {} to {replicas} by {}", app.replicas, asked.by);
    record(&mut tx, &app, asked, "app.scaled", &message).await?;
    tx.commit().await?;
    context.changed(app.id);
    Ok(app.id)
}

/// Records the wish; the reconciler stops everything and then takes the app away. Asking twice is as good as once.
pub(crate) async fn delete(context: &Context, asked: &Asked) -> Result<()> {
    let mut tx = context.store.write().await?;
    let app = match store::app::find(&mut tx, &asked.namespace, &asked.app).await? {
        Some(app) if app.deleting => return Ok(()),
        _ => find_app(&mut tx, asked).await?,
    };
    store::app::mark_deleting(&mut tx, app.id).await?;
    store::rollout::supersede(&mut tx, app.id, asked.now).await?;
    record(&mut tx, &app, asked, "app.deleting", &format!("deletion asked for by {}", asked.by)).await?;
    tx.commit().await?;
    context.changed(app.id);
    Ok(())
}

async fn record(conn: &mut Conn, app: &App, asked: &Asked, kind: &str, message: &str) -> Result<()> {
    store::change::touch(conn, app.id, asked.now).await?;
    store::event::append(conn, &app.namespace, Some(&app.name), kind, message, asked.now).await?;
    Ok(())
}
