//! What a namespace may use in all, and what it uses.

use serde::{Deserialize, Serialize};

use crate::spec::Priority;

/// `PUT /v1/namespaces/{namespace}/quota`: the limits of a namespace, as a whole. What is null, or left out, has no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    pub apps: Option<u64>,
    /// Slots of all apps together.
    pub instances: Option<u64>,
    /// What all instances reserve on their nodes, or, in containers, may use, in octets. On each node the guests hold no more at once.
    pub memory_bytes: Option<u64>,
    /// What all instances reserve by `reserve.cpu`, or, in containers, may use, in thousandths of a processor. On each node the guests compute no
    /// more in a second.
    pub cpu_millis: Option<u64>,
    /// Sizes of all volumes, also of those that are kept without an app, in octets.
    pub volume_bytes: Option<u64>,
    /// Artifacts and archives of files, in octets.
    pub artifact_bytes: Option<u64>,
    /// Repositories that were pushed to, in octets.
    pub repository_bytes: Option<u64>,
    pub secrets: Option<u64>,
    /// Requests that the front door lets through to all apps together; more get 429.
    pub requests_per_second: Option<u64>,
    /// Octets that all apps together send from a node, to clients through the front door, and by themselves; more waits.
    pub egress_bytes_per_second: Option<u64>,
    /// Whether it may run containers, which are kept apart less well than WebAssembly. What is null, or left out, may not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub containers: Option<ContainerRights>,
    /// The highest priority that it may give to what it runs. What is null, or left out, is `normal`. A cluster admin may give any, and what has
    /// a higher one keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// Destinations that are not public which its apps and jobs may be granted by `outbound.allow`, such as `127.0.0.1:5432`, `10.0.0.0/8` or `*`.
    /// A cluster admin may grant any, and what has one keeps it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub private_outbound: Vec<String>,
}

/// What a namespace may do with containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContainerRights {
    /// None may run. `wharf up` does not allow them by itself then.
    Denied,
    /// They may run, with nothing of their node but what an image needs.
    Isolated,
    /// They may be given parts of their node: its network, folders, devices, further capabilities, or all of it.
    Node,
}

/// What a namespace uses of what a quota counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct QuotaUsed {
    pub apps: u64,
    pub instances: u64,
    pub memory_bytes: u64,
    pub cpu_millis: u64,
    pub volume_bytes: u64,
    pub artifact_bytes: u64,
    pub repository_bytes: u64,
    pub secrets: u64,
}

/// `GET` and `PUT /v1/namespaces/{namespace}/quota`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct QuotaInfo {
    pub quota: Quota,
    pub used: QuotaUsed,
    /// What is used beyond its limit, such as `apps: used 12 of 10`. Nothing is taken away for it; only growth is refused.
    pub over: Vec<String>,
}
