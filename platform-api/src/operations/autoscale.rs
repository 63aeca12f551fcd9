//! Carries out what open requests decide: how many instances an app has, within its range and its namespace's quota.

use wharf_types::problem::ProblemCode;
use wharf_types::spec::{AppSpec, ReplicaRange, Replicas};
use wharf_types::{AppId, NamespaceName, Problem, Timestamp};

use super::{OperationError, Result, current_release, quota};
use crate::context::Context;
use crate::plan::autoscale::{Scaling, Why};
use crate::store::app::App;
use crate::store::{self, Conn};

/// What became of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// The app is no longer as it was when it was decided on.
    Outdated,
    /// The namespace may not have one more, and nothing was written but that it may not.
    Refused,
}

/// Writes the number. Where the quota of the namespace lets it have fewer, it gets these; that it gets none is told if `tells_refusal`.
pub(crate) async fn scale(
    context: &Context,
    id: AppId,
    decided_on: Option<u32>,
    scaling: &Scaling,
    tells_refusal: bool,
    now: Timestamp,
) -> Result<Outcome> {
    let mut tx = context.write_as_leader().await?;
    let Some(app) = store::app::get(&mut tx, id).await? else { return Ok(Outcome::Outdated) };
    let is_ours = app.scaled_to.is_none() && app.stopped.is_none() && !app.deleting;
    if !is_ours || app.autoscaled_to != decided_on {
        return Ok(Outcome::Outdated);
    }
    let (to, left_out) = set_within_quota(&mut tx, &app, scaling.from, scaling.to).await?;
    if to == scaling.from {
        // What was tried is not written. Nor is the number from which it would have grown: in a rollout that may be one more than what counts.
        drop(tx);
        if tells_refusal {
            let mut tx = context.write_as_leader().await?;
            let (kind, message) = ("app.autoscale-refused", format!("stays at {to}{left_out}"));
            store::event::append(&mut tx, &app.namespace, Some(&app.name), kind, &message, now).await?;
            tx.commit().await?;
        }
        return Ok(Outcome::Refused);
    }
    let kind = match scaling.why {
        Why::Load { .. } => "app.autoscaled",
        Why::Woken { .. } => "app.woken",
        Why::Quiet { .. } => "app.asleep",
    };
    let message = Scaling { to, ..scaling.clone() }.to_string() + &left_out;
    store::change::touch(&mut tx, id, now).await?;
    store::event::append(&mut tx, &app.namespace, Some(&app.name), kind, &message, now).await?;
    tx.commit().await?;
    context.changed(id);
    Ok(Outcome::Done)
}

/// Sets `to`, or the most from `from` on that the quota allows, and what is to be said of that.
async fn set_within_quota(conn: &mut Conn, app: &App, from: u32, to: u32) -> Result<(u32, String)> {
    let before = quota::begin(conn, app.namespace_id, &app.namespace).await?;
    store::app::set_autoscale(conn, app.id, to).await?;
    let exceeded = match before.check_still(conn).await {
        Err(OperationError::Problem(problem)) => problem.detail,
        other => return other.map(|()| (to, String::new())),
    };
    let (mut fits, mut exceeds) = (from, to);
    while exceeds - fits > 1 {
        let middle = fits + (exceeds - fits) / 2;
        store::app::set_autoscale(conn, app.id, middle).await?;
        match before.check_still(conn).await {
            Ok(()) => fits = middle,
            Err(OperationError::Problem(_)) => exceeds = middle,
            Err(error) => return Err(error),
        }
    }
    store::app::set_autoscale(conn, app.id, fits).await?;
    Ok((fits, format!("; {to} were needed, but {exceeded}")))
}

/// Gives an app that is about to move to `spec` a number to begin with: that of before, and at least one instance, so that a rollout
/// has something to prove itself with.
pub(super) async fn begin(conn: &mut Conn, app: &App, spec: &AppSpec, now: Timestamp) -> Result<()> {
    if spec.scale.replicas.range().is_none() {
        // That of before stays, for a way back.
        return Ok(());
    }
    let before = current_release(conn, app).await?.map(|release| release.spec);
    let to = first(before.as_deref(), app.autoscaled_to, spec);
    if app.autoscaled_to == Some(0) && app.stopped.is_none() && app.scaled_to.is_none() {
        let message = "woken for a rollout, which needs an instance to prove the release";
        store::event::append(conn, &app.namespace, Some(&app.name), "app.woken", message, now).await?;
    }
    store::app::set_autoscale(conn, app.id, to).await?;
    Ok(())
}

/// The number that an app with a range begins with, by the settings that it is on and what open requests have decided on for them.
pub(super) fn first(before: Option<&AppSpec>, autoscaled_to: Option<u32>, spec: &AppSpec) -> u32 {
    let before = match before.map(|before| &before.scale.replicas) {
        Some(Replicas::Fixed(replicas)) => *replicas,
        _ => autoscaled_to.unwrap_or_else(|| spec.scale.replicas.first()),
    };
    before.max(1)
}

/// Refuses a range that could never be used up. One that is as it was is let be: a quota takes nothing away.
pub(super) async fn check_most(conn: &mut Conn, app: &App, spec: &AppSpec) -> Result<()> {
    let Some(range) = spec.scale.replicas.range() else { return Ok(()) };
    let Some(limit) = store::quota::find(conn, app.namespace_id).await?.and_then(|quota| quota.instances)
    else {
        return Ok(());
    };
    let before = current_release(conn, app).await?.map(|release| release.spec);
    too_wide(&app.namespace, limit, before.as_deref(), range).map_or(Ok(()), |refused| Err(refused.into()))
}

/// Why a namespace that may have so many instances cannot have a range.
pub fn too_wide(
    namespace: &NamespaceName,
    limit: u64,
    before: Option<&AppSpec>,
    range: &ReplicaRange,
) -> Option<Problem> {
    let before = before.map_or(0, |before| before.scale.replicas.most());
    if u64::from(range.max) <= limit || range.max <= before {
        return None;
    }
    let detail = format!(
        "scale.replicas.max: {} is more than the {limit} instances that the namespace `{namespace}` may have; lower it, or ask a \
         cluster admin for `wharf quota set -n {namespace} --instances`",
        range.max
    );
    Some(Problem::new(ProblemCode::QuotaExceeded, detail))
}
