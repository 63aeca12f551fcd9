//! `/v1/nodes`, and what the nodes say was used.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use wharf_types::api::{NodeInfo, NodePatch, Page, Usage};
use wharf_types::node::{InvalidLabel, LABELS_MAX, parse_label};
use wharf_types::problem::ProblemCode;
use wharf_types::protocol;
use wharf_types::{AppName, NamespaceName, NodeId, Timestamp};

use super::auth::namespace_not_found;
use super::etag::tagged;
use super::extract::{self, Path};
use super::{ApiError, ApiResult};
use crate::context::Context;
use crate::nodes::NodeStatus;
use crate::store::node::NodeSettings;
use crate::{audit, conditions, store};

pub(super) async fn list(State(context): State<Arc<Context>>) -> ApiResult<Json<Page<NodeInfo>>> {
    let instances = instances(&context).await?;
    let items = context.nodes.list().into_iter().map(|node| info(node, &instances)).collect();
    Ok(Json(Page { items, next_cursor: None }))
}

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Path(node): Path<NodeId>,
) -> ApiResult<Response> {
    one(&context, node).await
}

/// Sets what admins say of a node.
pub(super) async fn patch(
    State(context): State<Arc<Context>>,
    Path(node): Path<NodeId>,
    extract::Json(patch): extract::Json<NodePatch>,
) -> ApiResult<Response> {
    let labels = checked(patch.labels)?;
    let mut tx = context.store.write().await?;
    // As they are in this transaction: somebody else may have just set them.
    let before = store::node::settings(&mut tx, node).await?.ok_or_else(|| not_found(node))?;
    conditions::check(&format!("node {node}"), Some(conditions::revision_of(&shown(&before))))?;
    let mut after = before.clone();
    after.draining = patch.draining.unwrap_or(before.draining);
    for (key, value) in labels {
        match value {
            None => drop(after.labels.remove(&key)),
            Some(value) => drop(after.labels.insert(key, value)),
        }
    }
    if after.labels.len() > LABELS_MAX {
        let detail = InvalidLabel::Many(after.labels.len()).to_string();
        return Err(ApiError::new(ProblemCode::InvalidSpec, detail));
    }
    if !store::node::set(&mut tx, node, &after).await? {
        return Err(not_found(node));
    }
    audit::change(shown(&before), shown(&after));
    audit::commit(tx).await?;
    context.nodes.set(node, after);
    context.dirty.nudge();
    one(&context, node).await
}

/// Labels that an admin may set, and those that may be taken back.
fn checked(labels: BTreeMap<String, Option<String>>) -> ApiResult<Vec<(String, Option<String>)>> {
    let check = |(key, value): (String, Option<String>)| -> ApiResult<(String, Option<String>)> {
        let Some(value) = value else { return Ok((key, None)) };
        let invalid = |error: InvalidLabel| ApiError::new(ProblemCode::InvalidSpec, error.to_string());
        let (key, value) = parse_label(&format!("{key}={value}")).map_err(invalid)?;
        if key == protocol::LABEL {
            let detail = format!(
                "the label `{key}` is the platform's: nodes with an older worker have it; choose another key"
            );
            return Err(ApiError::new(ProblemCode::InvalidSpec, detail));
        }
        Ok((key, Some(value)))
    };
    labels.into_iter().map(check).collect()
}

/// What can be set of a node.
fn shown(settings: &NodeSettings) -> Value {
    json!({"draining": settings.draining, "labels": settings.labels})
}

/// Takes a node out of the cluster. Its certificates count no more.
pub(super) async fn remove(
    State(context): State<Arc<Context>>,
    Path(node): Path<NodeId>,
) -> ApiResult<StatusCode> {
    // Only the server that leads hears of nodes: to any other each of them is silent.
    context.epoch()?;
    let found = context.nodes.list().into_iter().find(|known| known.id == node);
    let found = found.ok_or_else(|| not_found(node))?;
    let live = instances(&context).await?.get(&node).copied().unwrap_or(0);
    if found.ready && live > 0 {
        let detail = format!(
            "node {node} is there and runs {live} instances; empty it first: `wharf node drain {node}`, or stop its worker"
        );
        return Err(ApiError::new(ProblemCode::Conflict, detail));
    }
    if live > 0 && context.nodes.may_run_singletons(node) {
        let detail = format!(
            "node {node} may still run an app with `scale.singleton`; it has ended it ten seconds after it was last seen: try again then"
        );
        return Err(ApiError::new(ProblemCode::Conflict, detail));
    }
    let mut tx = context.store.write().await?;
    store::joining::expel(&mut tx, node, Timestamp::now()).await?;
    store::node::delete(&mut tx, node).await?;
    audit::change(json!({"hostname": found.registration.hostname}), Value::Null);
    audit::commit(tx).await?;
    context.nodes.remove(node);
    context.removed_changed();
    Ok(StatusCode::NO_CONTENT)
}

/// With the revision of what can be set of it.
async fn one(context: &Context, node: NodeId) -> ApiResult<Response> {
    let found = context.nodes.list().into_iter().find(|known| known.id == node);
    let settings = context.nodes.settings(node);
    let (found, settings) = found.zip(settings).ok_or_else(|| not_found(node))?;
    let instances = instances(context).await?;
    Ok(tagged(Json(info(found, &instances)), conditions::revision_of(&shown(&settings))))
}

fn not_found(node: NodeId) -> ApiError {
    ApiError::new(ProblemCode::NotFound, format!("there is no node {node}; `wharf node ls` lists them"))
}

/// How many live instances and runs each node has.
async fn instances(context: &Context) -> ApiResult<HashMap<NodeId, u64>> {
    let mut tx = context.store.read().await?;
    let mut instances = store::instance::live_by_node(&mut tx).await?;
    for (node, runs) in store::run::live_by_node(&mut tx).await? {
        *instances.entry(node).or_default() += runs;
    }
    Ok(instances)
}

fn info(node: NodeStatus, instances: &HashMap<NodeId, u64>) -> NodeInfo {
    NodeInfo {
        id: node.id,
        ready: node.is_there(),
        draining: node.draining,
        instances: instances.get(&node.id).copied().unwrap_or(0),
        memory_bytes: node.registration.memory_bytes,
        cpus: node.registration.cpus,
        version: node.registration.version,
        hostname: node.registration.hostname,
        labels: node.registration.labels,
        os: node.registration.os,
        arch: node.registration.arch,
        role: node.registration.role,
        address: node.registration.address.map(|address| address.to_string()),
        seen_at: node.seen_at,
    }
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
