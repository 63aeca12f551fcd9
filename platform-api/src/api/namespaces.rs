//! `/v1/namespaces`

use std::sync::Arc;

use axum::Json as Reply;
use axum::extract::State;
use axum::http::StatusCode;
use wharf_types::api::{CreateNamespace, NamespaceInfo, Page};
use wharf_types::problem::ProblemCode;
use wharf_types::{NamespaceName, Timestamp};

use super::auth::{Identity, namespace_not_found};
use super::extract::{Json, Path};
use super::{ApiError, ApiResult};
use crate::audit;
use crate::context::Context;
use crate::store::namespace::Namespace;
use crate::store::{self, StoreError};

pub(super) async fn create(
    State(context): State<Arc<Context>>,
    Json(request): Json<CreateNamespace>,
) -> ApiResult<(StatusCode, Reply<NamespaceInfo>)> {
    let now = Timestamp::now();
    let mut tx = context.store.write().await?;
    match store::namespace::create(&mut tx, &request.name, now).await {
        Err(StoreError::Taken) => {
            let detail = format!("the namespace `{}` exists already", request.name);
            return Err(ApiError::new(ProblemCode::AlreadyExists, detail));
        }
        created => created?,
    };
    audit::object(format!("namespaces/{}", request.name));
    audit::commit(tx).await?;
    Ok((StatusCode::CREATED, Reply(NamespaceInfo { name: request.name, apps: 0, created_at: now })))
}

pub(super) async fn list(
    State(context): State<Arc<Context>>,
    identity: Identity,
) -> ApiResult<Reply<Page<NamespaceInfo>>> {
    let mut tx = context.store.read().await?;
    let reachable = |namespace: &Namespace| identity.role_in(namespace.name.as_str()).is_some();
    let items = store::namespace::list(&mut tx).await?.into_iter().filter(reachable).map(info).collect();
    Ok(Reply(Page { items, next_cursor: None }))
}

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Path(name): Path<NamespaceName>,
) -> ApiResult<Reply<NamespaceInfo>> {
    let mut tx = context.store.read().await?;
    let namespace = store::namespace::find(&mut tx, &name).await?;
    namespace.map(|found| Reply(info(found))).ok_or_else(|| namespace_not_found(name.as_str()))
}

pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    Path(name): Path<NamespaceName>,
) -> ApiResult<StatusCode> {
    let mut tx = context.store.write().await?;
    let Some(namespace) = store::namespace::find(&mut tx, &name).await? else {
        return Err(namespace_not_found(name.as_str()));
    };
    let volumes = store::volume::count(&mut tx, namespace.id).await?;
    if namespace.apps == 0 && volumes > 0 {
        let detail = format!(
            "the namespace `{name}` still has {volumes} volumes of deleted apps; `wharf volume ls` lists them, `wharf volume rm` removes one"
        );
        return Err(ApiError::new(ProblemCode::Conflict, detail));
    }
    let (_, jobs) = store::job::count(&mut tx, namespace.id).await?;
    let schedules = store::schedule::count(&mut tx, namespace.id).await?;
    if jobs + schedules > 0 {
        let detail = format!(
            "the namespace `{name}` still has {schedules} schedules, and {jobs} jobs that have not ended; `wharf schedule rm` \
             removes the ones, `wharf job cancel` ends the others"
        );
        return Err(ApiError::new(ProblemCode::Conflict, detail));
    }
    if !store::namespace::delete(&mut tx, namespace.id).await? {
        let detail = format!("the namespace `{name}` still has {} apps; delete them first", namespace.apps);
        return Err(ApiError::new(ProblemCode::Conflict, detail));
    }
    // What is kept by name must not be found by the next namespace that has it. Its apps, and so their logs, are gone.
    store::event::delete(&mut tx, &name).await?;
    context.logs.remove_namespace(&name).await;
    audit::commit(tx).await?;
    context.access_changed();
    context.rates_changed();
    Ok(StatusCode::NO_CONTENT)
}

fn info(namespace: Namespace) -> NamespaceInfo {
    NamespaceInfo { name: namespace.name, apps: namespace.apps, created_at: namespace.created_at }
}
