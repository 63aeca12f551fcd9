//! What guests print.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{InstanceId, JobId};
use crate::name::{AppName, NamespaceName};

/// One line of a guest, or one that the platform says in the app's own stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogRecord {
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    pub namespace: NamespaceName,
    pub app: AppName,
    /// The job whose stream it is in. None: it is in the app's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Number of the release; 0 for a job that is none of an app.
    pub release: u64,
    pub instance: InstanceId,
    pub stream: LogStream,
    /// Counts the records of an instance from 0, in the order they were said.
    pub seq: u64,
    /// Without the line's end; at most 16 KiB, longer lines are cut into several records.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    Stdout,
    Stderr,
    /// Said by the platform: a trap, a limit, a failed probe, `dropped n records`.
    Platform,
}

/// The longest message of one record, in octets.
pub const MESSAGE_MAX_BYTES: usize = 16 << 10;
