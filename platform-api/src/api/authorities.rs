//! `/v1/authorities`

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use wharf_types::Timestamp;
use wharf_types::api::{AuthorityInfo, AuthorityState, Page, RotateAuthority};
use wharf_types::problem::ProblemCode;

use super::extract::Json;
use super::joining::joining;
use super::{ApiError, ApiResult};
use crate::audit;
use crate::authority::Known;
use crate::authority::rotation::{self, RotateError};
use crate::context::{Context, Joining};
use crate::store::authority::Stage;

pub(super) async fn list(State(context): State<Arc<Context>>) -> ApiResult<Reply<Page<AuthorityInfo>>> {
    Ok(Reply(page(&context, joining(&context)?)))
}

pub(super) async fn rotate(
    State(context): State<Arc<Context>>,
    Json(request): Json<RotateAuthority>,
) -> ApiResult<(StatusCode, Reply<Page<AuthorityInfo>>)> {
    let joining = joining(&context)?;
    let now = Timestamp::now();
    let mut tx = context.store.write().await?;
    rotation::begin(&mut tx, &context, request.force, now).await.map_err(|error| match error {
        RotateError::UnderWay | RotateError::NoKey => ApiError::new(ProblemCode::Conflict, error.to_string()),
        RotateError::Pki(error) => ApiError::internal(&error),
        RotateError::Store(error) => error.into(),
    })?;
    audit::change(Value::Null, json!({"force": request.force}));
    audit::commit(tx).await?;
    joining.authorities.changed();
    // What is answered is what holds from now on.
    if let Err(error) = joining.authorities.look(&context, now).await {
        return Err(ApiError::internal(&error));
    }
    Ok((StatusCode::CREATED, Reply(page(&context, joining))))
}

fn page(context: &Context, joining: &Joining) -> Page<AuthorityInfo> {
    let current = joining.authorities.current();
    let is_under_way = current.known.len() > 1;
    let holders = if is_under_way { rotation::holders(context, joining) } else { Vec::new() };
    let lacking: Vec<_> = holders.iter().filter(|it| !it.holds).map(|it| it.node).collect();
    let info = |known: &Known| AuthorityInfo {
        id: known.id.clone(),
        state: match known.stage {
            Stage::Next => AuthorityState::Next,
            Stage::Signs => AuthorityState::Signs,
            Stage::Old => AuthorityState::Old,
        },
        created_at: known.created_at,
        changed_at: known.changed_at,
        waits_for: if known.stage == Stage::Signs { Vec::new() } else { lacking.clone() },
        forced: known.forced,
    };
    Page { items: current.known.iter().map(info).collect(), next_cursor: None }
}
