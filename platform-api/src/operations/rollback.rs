//! Rolls out a release that exists: an older one, or the current one anew. It depends on nothing but what is kept here.

use std::sync::Arc;

use wharf_types::api::Deployed;
use wharf_types::problem::ProblemCode;

use super::{
    Asked, Kind, Result, artifact_of, commit, containers, current_release, deployed, find_app, no_release,
    once, outbound, ports, problem, quota, routes, start_rollout, volumes,
};
use crate::audit;
use crate::context::Context;
use crate::store::app::App;
use crate::store::release::Release;
use crate::store::{self, Conn, Tx};
use crate::view;

/// Goes back to an older release.
pub(crate) async fn rollback(context: &Arc<Context>, asked: &Asked, number: Option<u64>) -> Result<Deployed> {
    let mut tx = context.store.write().await?;
    if let Some(reply) = once::replay(&mut tx, asked).await? {
        return Ok(reply);
    }
    let app = find_app(&mut tx, asked).await?;
    let release = choose(&mut tx, &app, number).await?;
    let message = format!("going back to release {}, asked for by {}", release.number, asked.by);
    record(&mut tx, &app, asked, "rollback.started", &message).await?;
    roll_out(context, tx, &app, asked, &release, Kind::Backwards).await
}

/// Gives the release that the app is on new instances in every slot, without an outage.
pub(crate) async fn restart(context: &Arc<Context>, asked: &Asked) -> Result<Deployed> {
    let mut tx = context.store.write().await?;
    if let Some(reply) = once::replay(&mut tx, asked).await? {
        return Ok(reply);
    }
    let app = find_app(&mut tx, asked).await?;
    let Some(release) = current_release(&mut tx, &app).await? else {
        return Err(no_release(&app).into());
    };
    let message = format!("release {} gets new instances, asked for by {}", release.number, asked.by);
    record(&mut tx, &app, asked, "restart.started", &message).await?;
    roll_out(context, tx, &app, asked, &release, Kind::Renewal).await
}

pub(super) async fn roll_out(
    context: &Arc<Context>,
    mut tx: Tx,
    app: &App,
    asked: &Asked,
    release: &Release,
    kind: Kind,
) -> Result<Deployed> {
    let before_change = quota::begin(&mut tx, app.namespace_id, &app.namespace).await?;
    let artifact = artifact_of(&mut tx, release).await?;
    if release.spec.is_global() {
        // There may be other nodes than when it was made.
        let demand =
            quota::demand_among_nodes(&mut tx, &release.spec, artifact.world.with(&release.spec)).await?;
        store::quota::set_nodes(&mut tx, release.id, demand.nodes).await?;
    }
    // What the release was allowed may have been taken back since.
    let namespace = (Some(app.namespace_id), &app.namespace);
    containers::check(&mut tx, namespace, artifact.world, &release.spec).await?;
    quota::check_priority_of(&mut tx, app, asked.any_rights, &release.spec).await?;
    if !asked.any_rights {
        let has = current_release(&mut tx, app).await?;
        let has: Vec<_> = has.iter().map(|release| &release.spec.outbound).collect();
        outbound::check(&mut tx, namespace, &has, &release.spec.outbound).await?;
    }
    if artifact.world.with(&release.spec).is_http() {
        // A route that the release had may have gone to another app since, and so may a port.
        let wanted = view::routes(&app.name, &app.namespace, &context.config.domain, &release.spec);
        routes::claim(&mut tx, &context.config.domain, app, &wanted).await?;
    }
    ports::claim(&mut tx, &context.config.platform_ports, app, &release.spec.tcp.ports).await?;
    volumes::claim(&mut tx, app, &release.spec, asked.now).await?;
    let before = current_release(&mut tx, app).await?;
    let rollout = start_rollout(&mut tx, app, release, kind, asked.now).await?;
    let reply = deployed(&mut tx, context, app, release, &artifact, before.as_ref(), rollout).await?;
    before_change.check(&mut tx).await?;
    audit::release_change(before.as_ref(), release);
    once::remember(&mut tx, app.id, asked, &reply).await?;
    commit(context, tx, [app.id]).await?;
    Ok(reply)
}

async fn record(conn: &mut Conn, app: &App, asked: &Asked, kind: &str, message: &str) -> Result<()> {
    store::event::append(conn, &app.namespace, Some(&app.name), kind, message, asked.now).await?;
    Ok(())
}

async fn choose(conn: &mut Conn, app: &App, number: Option<u64>) -> Result<Release> {
    let target = match app.target_release {
        Some(id) => store::release::get(conn, id).await?,
        None => None,
    };
    let Some(number) = number else {
        let before = target.as_ref().map_or(app.last_release + 1, |target| target.number);
        return match store::release::find_served_before(conn, app.id, before).await? {
            Some(release) => Ok(release),
            None => problem(
                ProblemCode::Conflict,
                format!(
                    "no release of `{}` before {before} served without failing; name the one to go to",
                    app.name
                ),
            ),
        };
    };
    if target.is_some_and(|target| target.number == number) {
        let detail = format!("the app `{}` is on release {number} already, or moving to it", app.name);
        return problem(ProblemCode::Conflict, detail);
    }
    match store::release::find(conn, app.id, number).await? {
        Some(release) => Ok(release),
        None => {
            let kept = match store::release::range(conn, app.id).await? {
                Some((first, last)) => format!("the releases {first} to {last} are kept"),
                None => "it has none".to_owned(),
            };
            problem(ProblemCode::NotFound, format!("there is no release {number} of `{}`; {kept}", app.name))
        }
    }
}
