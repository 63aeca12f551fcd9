//! `/v1/tokens`

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::StatusCode;
use wharf_types::api::{CreateToken, CreatedToken, Page, TokenInfo};
use wharf_types::problem::ProblemCode;
use wharf_types::{Timestamp, TokenId};

use super::auth::{Identity, namespace_not_found};
use super::extract::{Json, Path};
use super::{ApiError, ApiResult};
use crate::context::{Context, hash_secret, new_secret};
use crate::store;

const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
const LIFETIME_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
const NAME_MAX_CHARS: usize = 80;

pub(super) async fn create(
    State(context): State<Arc<Context>>,
    Json(request): Json<CreateToken>,
) -> ApiResult<(StatusCode, Reply<CreatedToken>)> {
    let now = Timestamp::now();
    let name = request.name.trim();
    if name.is_empty() || name.chars().count() > NAME_MAX_CHARS || name.chars().any(char::is_control) {
        let detail = format!("name: give the token a name of 1 to {NAME_MAX_CHARS} printable characters");
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
    }
    let lifetime = request.expires_in.map_or(LIFETIME, |span| span.as_duration());
    let expires_at = now.checked_add(lifetime).ok().filter(|_| lifetime <= LIFETIME_MAX);
    let Some(expires_at) = expires_at else {
        return Err(ApiError::new(
            ProblemCode::InvalidRequest,
            "expires_in: a token lasts ten years at the most",
        ));
    };
    let secret = new_secret();
    let id = TokenId::new();
    let mut tx = context.store.write().await?;
    let namespace = match &request.namespace {
        None => None,
        Some(name) => match store::namespace::find(&mut tx, name).await? {
            Some(namespace) => Some(namespace.id),
            None => return Err(namespace_not_found(name.as_str())),
        },
    };
    let token = store::token::NewToken {
        id,
        name,
        secret_hash: &hash_secret(&secret),
        role: request.role,
        namespace,
        bootstrap: false,
        expires_at: Some(expires_at),
    };
    store::token::create(&mut tx, token, now).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Reply(CreatedToken { id, name: name.to_owned(), secret, expires_at })))
}

pub(super) async fn list(State(context): State<Arc<Context>>) -> ApiResult<Reply<Page<TokenInfo>>> {
    let mut tx = context.store.read().await?;
    Ok(Reply(Page { items: store::token::list(&mut tx).await?, next_cursor: None }))
}

pub(super) async fn revoke(
    State(context): State<Arc<Context>>,
    identity: Identity,
    Path(id): Path<TokenId>,
) -> ApiResult<StatusCode> {
    if identity.token.id == id {
        return Err(ApiError::new(
            ProblemCode::Conflict,
            "a token cannot revoke itself; use another admin's token",
        ));
    }
    let mut tx = context.store.write().await?;
    if !store::token::delete(&mut tx, id).await? {
        return Err(ApiError::new(ProblemCode::NotFound, format!("there is no token {id}")));
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}
