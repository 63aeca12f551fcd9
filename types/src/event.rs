//! Append-only facts shown to users.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::name::{AppName, NamespaceName};

/// Something that happened to an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Event {
    /// Grows by at least one; a watcher resumes after the last one that it saw.
    pub seq: i64,
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    pub namespace: NamespaceName,
    /// None: about the namespace.
    pub app: Option<AppName>,
    /// Stable, dotted: `release.created`, `rollout.succeeded`, `instance.failed`, `instance.lost`, `instance.moved`.
    pub kind: String,
    /// For people; names the release and the reason.
    pub message: String,
}

/// Something that happened to a node, which is nobody's in particular.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeEvent {
    /// Grows by at least one; a watcher resumes after the last one that it saw.
    pub seq: i64,
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    pub node: NodeId,
    /// Stable, dotted: `node.joined`, `node.silent`, `node.lost`, `node.back`, `node.draining`, `node.resumed`, `node.removed`.
    pub kind: String,
    /// For people; names the node by its hostname.
    pub message: String,
}
