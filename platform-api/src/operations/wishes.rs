//! What users wish of a rollout that is under way, and of an app as a whole: to pause, to go on, to go back, to stop, to start.

use std::sync::Arc;

use wharf_types::api::{Deployed, Stopped};
use wharf_types::problem::ProblemCode;
use wharf_types::state::RolloutState;
use wharf_types::{AppId, RolloutId};

use super::rollback::roll_out;
use super::{
    Asked, Kind, Result, artifact_of, commit, current_release, deployed, find_app, no_release, once, problem,
};
use crate::context::Context;
use crate::store::app::App;
use crate::store::rollout::Rollout;
use crate::store::{self, Conn};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RolloutWish {
    /// No further slot moves.
    Pause,
    /// It goes on, and what failed before is forgiven.
    Resume,
    /// It goes back now.
    Abort,
}

/// Records the wish. The planner carries it out; asking twice is as good as once.
pub(crate) async fn wish(
    context: &Arc<Context>,
    asked: &Asked,
    wish: RolloutWish,
) -> Result<(AppId, RolloutId)> {
    let mut tx = context.store.write().await?;
    let app = find_app(&mut tx, asked).await?;
    let rollout = under_way(&mut tx, &app).await?;
    let (id, by) = (rollout.view.id, asked.by.as_str());
    if let (Some(aborted_by), RolloutWish::Pause | RolloutWish::Resume) = (&rollout.view.aborted_by, wish) {
        let detail = format!("the rollout of `{}` is going back already, as {aborted_by} asked", app.name);
        return problem(ProblemCode::Conflict, detail);
    }
    let told = match wish {
        RolloutWish::Pause => {
            let paused = store::rollout::pause(&mut tx, id, Some(by), None, asked.now).await?;
            paused.then_some(("rollout.paused", format!("the rollout was paused by {by}")))
        }
        RolloutWish::Resume if rollout.view.paused.is_none() => {
            let detail = format!("the rollout of `{}` is not paused", app.name);
            return problem(ProblemCode::Conflict, detail);
        }
        RolloutWish::Resume => {
            store::rollout::resume(&mut tx, id).await?;
            store::rollout::begin_anew(&mut tx, id, asked.now).await?;
            Some(("rollout.resumed", format!("the rollout goes on, as {by} asked")))
        }
        RolloutWish::Abort if rollout.view.automatic => {
            let detail = format!(
                "the rollout of `{}` is the way back from a failure, and there is no other; deploy another release instead",
                app.name
            );
            return problem(ProblemCode::Conflict, detail);
        }
        RolloutWish::Abort => {
            store::rollout::abort(&mut tx, id, by).await?;
            Some(("rollout.aborted", format!("the rollout is to go back, as {by} asked")))
        }
    };
    if let Some((kind, message)) = told {
        record(&mut tx, &app, asked, kind, &message).await?;
    }
    commit(context, tx, [app.id]).await?;
    Ok((app.id, id))
}

async fn under_way(conn: &mut Conn, app: &App) -> Result<Rollout> {
    let newest = store::rollout::newest(conn, app.id).await?;
    match newest.filter(|rollout| !rollout.view.state.is_final()) {
        Some(rollout) => Ok(rollout),
        None => problem(
            ProblemCode::Conflict,
            format!(
                "no rollout of `{0}` is under way; `wharf rollback {0}` goes back to an older release",
                app.name
            ),
        ),
    }
}

/// Stops every instance. The app stays, and so do its routes, which say that it is stopped.
pub(crate) async fn stop(context: &Arc<Context>, asked: &Asked) -> Result<()> {
    let mut tx = context.store.write().await?;
    let app = find_app(&mut tx, asked).await?;
    if app.stopped.is_some() {
        return Ok(());
    }
    let stopped = Stopped { since: asked.now, by: asked.by.clone() };
    store::app::set_stopped(&mut tx, app.id, Some(&stopped)).await?;
    record(&mut tx, &app, asked, "app.stopped", &format!("stopped by {}", asked.by)).await?;
    commit(context, tx, [app.id]).await
}

/// Lets a stopped app run again: a rollout that waited goes on, or else its release is rolled out.
pub(crate) async fn start(context: &Arc<Context>, asked: &Asked) -> Result<Deployed> {
    let mut tx = context.store.write().await?;
    if let Some(reply) = once::replay(&mut tx, asked).await? {
        return Ok(reply);
    }
    let app = find_app(&mut tx, asked).await?;
    if app.stopped.is_none() {
        let hint = match app.scaled_to {
            Some(0) => format!("; it is scaled to nothing, and `wharf scale {} 1` brings it back", app.name),
            _ => String::new(),
        };
        return problem(ProblemCode::Conflict, format!("the app `{}` is not stopped{hint}", app.name));
    }
    store::app::set_stopped(&mut tx, app.id, None).await?;
    let app = App { stopped: None, ..app };
    record(&mut tx, &app, asked, "app.started", &format!("started by {}", asked.by)).await?;
    let Some(release) = current_release(&mut tx, &app).await? else {
        return Err(no_release(&app).into());
    };
    let newest = store::rollout::newest(&mut tx, app.id).await?;
    // One that had come through has nothing left to do that a new one does not do.
    let Some(waiting) = newest.filter(|rollout| rollout.view.state < RolloutState::Monitoring) else {
        return roll_out(context, tx, &app, asked, &release, Kind::Renewal).await;
    };
    store::rollout::begin_anew(&mut tx, waiting.view.id, asked.now).await?;
    let artifact = artifact_of(&mut tx, &release).await?;
    let reply = deployed(&mut tx, context, &app, &release, &artifact, None, waiting.view.id).await?;
    once::remember(&mut tx, app.id, asked, &reply).await?;
    commit(context, tx, [app.id]).await?;
    Ok(reply)
}

async fn record(conn: &mut Conn, app: &App, asked: &Asked, kind: &str, message: &str) -> Result<()> {
    store::event::append(conn, &app.namespace, Some(&app.name), kind, message, asked.now).await?;
    store::change::touch(conn, app.id, asked.now).await?;
    Ok(())
}
