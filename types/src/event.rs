//! Append-only facts shown to users.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::name::{AppName, NamespaceName};

/// Something that happened to an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Event {
    /// Grows by at least one; a watcher resumes after the last one that it saw.
    pub seq: i64,
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    pub namespace: NamespaceName,
    /// None: about the namespace or a node.
    pub app: Option<AppName>,
    /// Stable, dotted: `release.created`, `rollout.succeeded`, `instance.failed`.
    pub kind: String,
    /// For people; names the release and the reason.
    pub message: String,
}
