//! `/v1/tokens`: cluster admins see and make all of them, users their own.

use std::sync::Arc;
use std::time::Duration;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use wharf_types::api::{CreateToken, CreatedToken, Page, Role, TokenInfo};
use wharf_types::problem::ProblemCode;
use wharf_types::{NamespaceId, Timestamp, TokenId, UserId};

use super::auth::{Identity, namespace_not_found};
use super::extract::{Json, Path};
use super::users::user_not_found;
use super::{ApiError, ApiResult};
use crate::audit;
use crate::context::{Context, hash_secret, new_secret};
use crate::store::{self, Conn};

const LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
const LIFETIME_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
const NAME_MAX_CHARS: usize = 80;
/// Tokens of one user that have not expired.
const OF_USER_MAX: u64 = 100;
/// How long a user's expired tokens are still listed.
const EXPIRED_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) async fn create(
    State(context): State<Arc<Context>>,
    identity: Identity,
    Json(request): Json<CreateToken>,
) -> ApiResult<(StatusCode, Reply<CreatedToken>)> {
    let now = Timestamp::now();
    let name = checked_name(&request.name)?;
    let expires_at = expiry(&request, now)?;
    let secret = new_secret();
    let id = TokenId::new();
    let mut tx = context.store.write().await?;
    let owner = owner(&mut tx, &identity, &request).await?;
    if let Some(owner) = owner {
        make_room(&mut tx, owner, now).await?;
    }
    let mut verbs = request.verbs.clone();
    verbs.sort_unstable();
    verbs.dedup();
    let token = store::token::NewToken {
        id,
        name,
        secret_hash: &hash_secret(&secret),
        owner,
        // A user's token needs no role of its own: it has the user's.
        role: request.role.unwrap_or(if owner.is_some() { Role::Admin } else { Role::Developer }),
        namespace: namespace(&mut tx, &identity, &request).await?,
        verbs: &verbs,
        first_of: None,
        expires_at: Some(expires_at),
    };
    let made = json!({
        "name": name, "user": request.user.as_ref().or(identity.token.user.as_ref()), "role": token.role,
        "namespace": request.namespace, "verbs": verbs, "expires_at": expires_at,
    });
    store::token::create(&mut tx, token, now).await?;
    audit::object(format!("tokens/{id}"));
    audit::change(Value::Null, made);
    audit::commit(tx).await?;
    Ok((StatusCode::CREATED, Reply(CreatedToken { id, name: name.to_owned(), secret, expires_at })))
}

fn checked_name(name: &str) -> ApiResult<&str> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > NAME_MAX_CHARS || name.chars().any(char::is_control) {
        let detail = format!("name: give the token a name of 1 to {NAME_MAX_CHARS} printable characters");
        return Err(ApiError::new(ProblemCode::InvalidRequest, detail));
    }
    Ok(name)
}

fn expiry(request: &CreateToken, now: Timestamp) -> ApiResult<Timestamp> {
    let lifetime = request.expires_in.map_or(LIFETIME, |span| span.as_duration());
    if lifetime.is_zero() {
        let detail =
            "expires_in: a token of no time is never good for anything; say how long it lasts, such as `30d`";
        return Err(ApiError::new(ProblemCode::InvalidSpec, detail));
    }
    let expires_at = now.checked_add(lifetime).ok().filter(|_| lifetime <= LIFETIME_MAX);
    expires_at.ok_or_else(|| {
        ApiError::new(ProblemCode::InvalidSpec, "expires_in: a token lasts ten years at the most")
    })
}

/// Whose the token is to be: users make their own only.
async fn owner(conn: &mut Conn, identity: &Identity, request: &CreateToken) -> ApiResult<Option<UserId>> {
    if let (Some(owner), Some(caller)) = (identity.owner, &identity.token.user) {
        return match &request.user {
            Some(user) if user != caller => Err(ApiError::new(
                ProblemCode::Forbidden,
                format!("`{caller}` makes tokens for `{caller}` only; leave `user` out"),
            )),
            _ => Ok(Some(owner)),
        };
    }
    match &request.user {
        None => Ok(None),
        Some(user) => match store::user::find(conn, user).await? {
            Some(owner) => Ok(Some(owner)),
            None => Err(user_not_found(user)),
        },
    }
}

async fn namespace(
    conn: &mut Conn,
    identity: &Identity,
    request: &CreateToken,
) -> ApiResult<Option<NamespaceId>> {
    let Some(name) = &request.namespace else { return Ok(None) };
    // As everywhere, one that the caller does not reach is not looked for.
    if identity.role_in(name.as_str()).is_none() {
        return Err(namespace_not_found(name.as_str()));
    }
    match store::namespace::find(conn, name).await? {
        Some(namespace) => Ok(Some(namespace.id)),
        None => Err(namespace_not_found(name.as_str())),
    }
}

async fn make_room(conn: &mut Conn, owner: UserId, now: Timestamp) -> ApiResult<()> {
    let before = now.checked_sub(EXPIRED_KEPT).unwrap_or(Timestamp::MIN);
    store::token::delete_expired(conn, owner, before).await?;
    if store::token::count(conn, owner, now).await? < OF_USER_MAX {
        return Ok(());
    }
    let detail =
        format!("the user has {OF_USER_MAX} tokens, the most; revoke one with `wharf token revoke ID`");
    Err(ApiError::new(ProblemCode::QuotaExceeded, detail))
}

pub(super) async fn list(
    State(context): State<Arc<Context>>,
    identity: Identity,
) -> ApiResult<Reply<Page<TokenInfo>>> {
    let mut tx = context.store.read().await?;
    Ok(Reply(Page { items: store::token::list(&mut tx, identity.owner).await?, next_cursor: None }))
}

pub(super) async fn revoke(
    State(context): State<Arc<Context>>,
    identity: Identity,
    Path(id): Path<TokenId>,
) -> ApiResult<StatusCode> {
    if identity.token.id == id && identity.owner.is_none() {
        return Err(ApiError::new(
            ProblemCode::Conflict,
            "a token cannot revoke itself; use another admin's token",
        ));
    }
    let mut tx = context.store.write().await?;
    let found = store::token::get(&mut tx, id).await?;
    // One of somebody else is answered as one that does not exist.
    let Some(token) = found.filter(|token| identity.owner.is_none() || token.owner == identity.owner) else {
        return Err(ApiError::new(ProblemCode::NotFound, format!("there is no token {id}")));
    };
    store::token::delete(&mut tx, id).await?;
    audit::change(json!(token.info), Value::Null);
    audit::commit(tx).await?;
    context.access_changed();
    Ok(StatusCode::NO_CONTENT)
}
