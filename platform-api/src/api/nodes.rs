//! `/v1/nodes`, and what the nodes say was used.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use wharf_types::api::{NodeInfo, Page, Usage};
use wharf_types::{AppName, NamespaceName, Timestamp};

use super::ApiResult;
use super::auth::namespace_not_found;
use super::extract::Path;
use crate::context::Context;
use crate::store;

pub(super) async fn list(State(context): State<Arc<Context>>) -> ApiResult<Json<Page<NodeInfo>>> {
    let mut tx = context.store.read().await?;
    let mut instances = store::instance::live_by_node(&mut tx).await?;
    for (node, runs) in store::run::live_by_node(&mut tx).await? {
        *instances.entry(node).or_default() += runs;
    }
    let info = |node: crate::nodes::NodeStatus| NodeInfo {
        id: node.id,
        ready: node.ready,
        instances: instances.get(&node.id).copied().unwrap_or(0),
        memory_bytes: node.registration.memory_bytes,
        cpus: node.registration.cpus,
        version: node.registration.version,
        hostname: node.registration.hostname,
        labels: node.registration.labels,
        os: node.registration.os,
        arch: node.registration.arch,
        role: node.registration.role,
        seen_at: node.seen_at,
    };
    Ok(Json(Page { items: context.nodes.list().into_iter().map(info).collect(), next_cursor: None }))
}

pub(super) async fn usage(
    State(context): State<Arc<Context>>,
    Path(namespace): Path<NamespaceName>,
) -> ApiResult<Json<Usage>> {
    let mut tx = context.store.read().await?;
    if store::namespace::find(&mut tx, &namespace).await?.is_none() {
        return Err(namespace_not_found(namespace.as_str()));
    }
    // Workers count by name, and go on doing so for a while when an app is gone.
    let apps = store::app::list(&mut tx, &namespace, "", i64::MAX).await?;
    let names: BTreeSet<AppName> = apps.into_iter().map(|app| app.name).collect();
    let usage = context.nodes.usage(&namespace).into_iter();
    let apps = usage.filter(|usage| names.contains(&usage.app)).collect();
    Ok(Json(Usage { time: Timestamp::now(), apps }))
}
