//! Goes back to an older release, which depends on nothing but what is kept here.

use wharf_types::api::Deployed;
use wharf_types::problem::ProblemCode;

use super::{Asked, Result, current_release, deployed, find_app, once, problem, routes, start_rollout};
use crate::context::Context;
use crate::store::app::App;
use crate::store::release::Release;
use crate::store::{self, Conn, StoreError};
use crate::view;

pub(crate) async fn rollback(context: &Context, asked: &Asked, number: Option<u64>) -> Result<Deployed> {
    let mut tx = context.store.write().await?;
    if let Some(reply) = once::replay(&mut tx, asked).await? {
        return Ok(reply);
    }
    let app = find_app(&mut tx, asked).await?;
    let release = choose(&mut tx, &app, number).await?;
    let Some(artifact) = store::artifact::get(&mut tx, release.artifact).await? else {
        return Err(StoreError::Corrupt(format!("release {} has no artifact", release.id)).into());
    };
    if artifact.world.is_http() {
        // A route that the release had may have gone to another app since.
        let wanted = view::routes(&app.name, &app.namespace, &context.config.domain, &release.spec);
        routes::claim(&mut tx, &context.config.domain, &app, &wanted).await?;
    }
    let before = current_release(&mut tx, &app).await?;
    let rollout = start_rollout(&mut tx, &app, release.id, asked.now).await?;
    let message = format!("going back to release {}, asked for by {}", release.number, asked.by);
    store::event::append(&mut tx, &app.namespace, Some(&app.name), "rollback.started", &message, asked.now)
        .await?;
    let reply = deployed(&mut tx, context, &app, &release, &artifact, before.as_ref(), rollout).await?;
    once::remember(&mut tx, app.id, asked, &reply).await?;
    tx.commit().await?;
    context.changed(app.id);
    Ok(reply)
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
                    "no release of `{}` before {before} has ever served; name the one to go to",
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
