//! `/v1/users`

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use wharf_types::api::{CreateUser, Page, UserInfo};
use wharf_types::problem::ProblemCode;
use wharf_types::{Timestamp, UserName};

use super::extract::{Json, Path};
use super::{ApiError, ApiResult};
use crate::audit;
use crate::context::Context;
use crate::store::{self, StoreError};

const USERS_MAX: u64 = 10_000;

pub(super) async fn create(
    State(context): State<Arc<Context>>,
    Json(CreateUser { name }): Json<CreateUser>,
) -> ApiResult<(StatusCode, Reply<UserInfo>)> {
    let now = Timestamp::now();
    let mut tx = context.store.write().await?;
    if store::user::count(&mut tx).await? >= USERS_MAX {
        let detail = format!("there are {USERS_MAX} users, the most; remove one with `wharf user rm`");
        return Err(ApiError::new(ProblemCode::QuotaExceeded, detail));
    }
    match store::user::create(&mut tx, &name, now).await {
        Err(StoreError::Taken) => {
            let detail = format!("the user `{name}` exists already");
            return Err(ApiError::new(ProblemCode::AlreadyExists, detail));
        }
        created => created?,
    };
    audit::object(format!("users/{name}"));
    audit::commit(tx).await?;
    let user = UserInfo { name, memberships: Vec::new(), tokens: 0, created_at: now };
    Ok((StatusCode::CREATED, Reply(user)))
}

pub(super) async fn list(State(context): State<Arc<Context>>) -> ApiResult<Reply<Page<UserInfo>>> {
    let mut tx = context.store.read().await?;
    Ok(Reply(Page { items: store::user::list(&mut tx).await?, next_cursor: None }))
}

pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    Path(name): Path<UserName>,
) -> ApiResult<StatusCode> {
    let mut tx = context.store.write().await?;
    let Some(user) = store::user::find(&mut tx, &name).await? else { return Err(user_not_found(&name)) };
    let memberships = store::member::of_user(&mut tx, user).await?;
    store::user::delete(&mut tx, user).await?;
    audit::change(json!({"memberships": memberships}), Value::Null);
    audit::commit(tx).await?;
    context.access_changed();
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn user_not_found(name: &UserName) -> ApiError {
    let detail = format!("there is no user `{name}`; a cluster admin makes one with `wharf user add {name}`");
    ApiError::new(ProblemCode::NotFound, detail)
}
