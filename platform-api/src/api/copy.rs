//! `…/apps/{app}/copy`: files out of a container of an app, and into one.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wharf_types::copy::{CopyOrder, CopySpec};
use wharf_types::problem::ProblemCode;

use super::exec::{asked, frames, of_node, taken_over};
use super::extract::Path;
use super::wish::AppPath;
use super::{ApiError, ApiResult, apps};
use crate::audit;
use crate::context::Context;
use crate::execs::relay::{FRAMES_MAX, Session};
use crate::execs::{EXECS_MAX, Refused, SHARE_MAX};
use crate::plan;
use crate::plan::exec::Purpose;

/// Answers when the copy is on its way to its worker; what goes wrong from there on is said in a frame.
pub(super) async fn start(
    State(context): State<Arc<Context>>,
    Path(path): Path<AppPath>,
    request: Request,
) -> ApiResult<Response> {
    let (client, spec) = taken_over(request, "wharf cp").await?;
    let spec: CopySpec = asked(&spec)?;
    spec.validate().map_err(|error| ApiError::new(ProblemCode::InvalidRequest, error.to_string()))?;
    let loaded = apps::load(&context, &path).await?;
    let chosen = plan::exec::choose_for(&loaded.view, Purpose::Copy, (spec.slot, spec.instance))?;
    let (id, node) = of_node(&context, chosen)?;
    let place = context.copies.reserve_share(id, &path.0).map_err(|why| explain(why, &node))?;
    // Before it begins, so that nothing is ever read or written without a record.
    let (instance, slot) = (chosen.id, chosen.slot_number());
    let shown = json!({"way": spec.way, "path": spec.path, "instance": instance, "slot": slot});
    audit::change(Value::Null, shown);
    audit::commit(context.store.write().await?).await?;
    let CopySpec { way, path, .. } = spec;
    let joined =
        place.order(|id| CopyOrder { id, instance, way, path }).map_err(|why| explain(why, &node))?;
    let (to_client, said) = mpsc::channel(FRAMES_MAX);
    let session = Session { place, what: "copy", joined, client, to_client, node };
    tokio::spawn(session.run(context));
    Ok(frames(ReceiverStream::new(said)))
}

fn explain(why: Refused, node: &str) -> ApiError {
    ApiError::unavailable(match why {
        Refused::Away => format!(
            "{node} copies nothing now: it has just started, has no Docker engine, or is older than this control plane; try again in a moment, or upgrade it"
        ),
        Refused::Full => format!(
            "{node} has {EXECS_MAX} copies under way, which is the most; wait until one of them has ended"
        ),
        Refused::ShareFull => format!(
            "{SHARE_MAX} copies of the namespace are under way on {node}, which is the most of one namespace; try again when one of them has ended"
        ),
    })
}
