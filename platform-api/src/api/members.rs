//! `/v1/namespaces/{namespace}/members`

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use wharf_types::api::{MemberInfo, Page, SetMember};
use wharf_types::problem::ProblemCode;
use wharf_types::{NamespaceId, NamespaceName, Timestamp, UserName};

use super::auth::{Identity, namespace_not_found};
use super::etag::tagged;
use super::extract::{Json, Path};
use super::users::user_not_found;
use super::{ApiError, ApiResult};
use crate::audit;
use crate::conditions;
use crate::context::Context;
use crate::store::{self, Conn};

pub(super) async fn list(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
) -> ApiResult<Reply<Page<MemberInfo>>> {
    let mut tx = context.store.read().await?;
    let namespace = find(&mut tx, &namespace).await?;
    Ok(Reply(Page { items: store::member::list(&mut tx, namespace).await?, next_cursor: None }))
}

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Path((namespace, user)): Path<(NamespaceName, UserName)>,
) -> ApiResult<Response> {
    let mut tx = context.store.read().await?;
    let id = find(&mut tx, &namespace).await?;
    let members = store::member::list(&mut tx, id).await?;
    let found = members.into_iter().find(|member| member.user == user);
    found.map(reply).ok_or_else(|| no_member(&namespace, &user))
}

/// With its revision, which is that of the role.
fn reply(member: MemberInfo) -> Response {
    let revision = conditions::revision_of(&member.role);
    tagged(Reply(member), revision)
}

/// The same for users who exist: whether they do is told to cluster admins only.
fn no_member(namespace: &NamespaceName, user: &UserName) -> ApiError {
    let detail =
        format!("`{user}` is no member of the namespace `{namespace}`; `wharf member ls` lists them");
    ApiError::new(ProblemCode::NotFound, detail)
}

pub(super) async fn set(
    State(context): State<Arc<Context>>,
    identity: Identity,
    Path((namespace, user)): Path<(NamespaceName, UserName)>,
    Json(SetMember { role }): Json<SetMember>,
) -> ApiResult<Response> {
    let (now, by) = (Timestamp::now(), identity.name());
    let mut tx = context.store.write().await?;
    let namespace = find(&mut tx, &namespace).await?;
    let Some(id) = store::user::find(&mut tx, &user).await? else { return Err(user_not_found(&user)) };
    let before = store::member::find(&mut tx, namespace, id).await?;
    conditions::check(&format!("member `{user}`"), before.as_ref().map(conditions::revision_of))?;
    store::member::put(&mut tx, namespace, id, role, &by, now).await?;
    audit::change(before.map_or(Value::Null, |role| json!({"role": role})), json!({"role": role}));
    audit::commit(tx).await?;
    // The role may be a lower one than before.
    context.access_changed();
    Ok(reply(MemberInfo { user, role, since: now, by }))
}

pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    Path((namespace, user)): Path<(NamespaceName, UserName)>,
) -> ApiResult<StatusCode> {
    let mut tx = context.store.write().await?;
    let id = find(&mut tx, &namespace).await?;
    let removed = match store::user::find(&mut tx, &user).await? {
        Some(user) => {
            let role = store::member::find(&mut tx, id, user).await?;
            store::member::delete(&mut tx, id, user).await?;
            role
        }
        None => None,
    };
    let role = removed.ok_or_else(|| no_member(&namespace, &user))?;
    audit::change(json!({"role": role}), Value::Null);
    audit::commit(tx).await?;
    context.access_changed();
    Ok(StatusCode::NO_CONTENT)
}

async fn find(conn: &mut Conn, name: &NamespaceName) -> ApiResult<NamespaceId> {
    match store::namespace::find(conn, name).await? {
        Some(namespace) => Ok(namespace.id),
        None => Err(namespace_not_found(name.as_str())),
    }
}
