//! `/v1/plans`, `/v1/applies` and `…/apps/{app}/declaration`

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Json as Reply;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;
use wharf_types::api::Verb;
use wharf_types::declare::change::{Applied, ApplyRequest, Plan, PlanRequest};
use wharf_types::declare::{Prune, Resource};
use wharf_types::problem::ProblemCode;
use wharf_types::{NamespaceName, Timestamp};

use super::auth::Identity;
use super::extract::{Path, parse, read};
use super::wish::{AppPath, idempotency_key};
use super::{ApiError, ApiResult, BODY_MAX_BYTES};
use crate::context::Context;
use crate::operations::{self, AskedApply, Once};

/// How long a large request waits for its turn.
const TURN_MAX: Duration = Duration::from_secs(30);

pub(super) async fn plan(
    State(context): State<Arc<Context>>,
    identity: Identity,
    request: Request,
) -> ApiResult<Reply<Plan>> {
    let (asked, request, _turn) = take::<PlanRequest>(&context, &identity, request).await?;
    check_namespaces(&identity, &request.resources, request.prune.as_ref())?;
    Ok(Reply(operations::plan_apply(&context, &asked, &request).await?))
}

pub(super) async fn apply(
    State(context): State<Arc<Context>>,
    identity: Identity,
    request: Request,
) -> ApiResult<Reply<Applied>> {
    let (asked, request, _turn) = take::<ApplyRequest>(&context, &identity, request).await?;
    check_namespaces(&identity, &request.resources, request.prune.as_ref())?;
    Ok(Reply(operations::apply(&context, &asked, &request).await?))
}

pub(super) async fn declaration(
    State(context): State<Arc<Context>>,
    Path((namespace, app)): Path<AppPath>,
) -> ApiResult<Reply<Resource>> {
    Ok(Reply(operations::declaration(&context, &namespace, &app).await?))
}

/// Reads a request that may be large, in its turn.
async fn take<'a, T: DeserializeOwned + Send + 'static>(
    context: &'a Context,
    identity: &Identity,
    request: Request,
) -> ApiResult<(AskedApply, T, Option<SemaphorePermit<'a>>)> {
    let turn = turn(context, request.headers()).await?;
    let key = idempotency_key(request.headers())?;
    let bytes = read(request, &()).await?;
    let once = key.map(|key| Once { key, request_hash: blake3::hash(&bytes).to_hex().to_string() });
    // Tens of megabytes take a while, in which the other connections of this thread would wait.
    let parsed = tokio::task::spawn_blocking(move || parse(&bytes)).await;
    let request = parsed.map_err(|error| ApiError::internal(&error))??;
    let asked = AskedApply {
        by: identity.name(),
        token: identity.token.id,
        no_namespaces: identity.demand_everywhere(Verb::Admin).err().map(Into::into),
        once,
        now: Timestamp::now(),
    };
    Ok((asked, request, turn))
}

/// Small requests need none.
async fn turn<'a>(context: &'a Context, headers: &HeaderMap) -> ApiResult<Option<SemaphorePermit<'a>>> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: usize| bytes <= BODY_MAX_BYTES) {
        return Ok(None);
    }
    match timeout(TURN_MAX, context.large_plans.acquire()).await {
        Ok(Ok(permit)) => Ok(Some(permit)),
        _ => Err(ApiError::new(
            ProblemCode::Unavailable,
            "other large plans are being worked on; try again in a moment",
        )),
    }
}

/// The caller's role must suffice in every namespace that the request touches.
fn check_namespaces(identity: &Identity, resources: &[Resource], prune: Option<&Prune>) -> ApiResult<()> {
    let mut namespaces: BTreeSet<&NamespaceName> = resources.iter().map(Resource::namespace).collect();
    namespaces.extend(prune.into_iter().flat_map(|prune| &prune.namespaces));
    namespaces.into_iter().try_for_each(|namespace| identity.demand(Verb::Deploy, namespace))
}
