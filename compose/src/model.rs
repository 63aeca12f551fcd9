//! A resolved project as types: every key of the specification in its long form. What is refused or left out whatever it says is a [`Value`].
//!
//! Unknown keys are refused here as well, so that a key which the loader lets pass and nobody takes up is an error.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use wharf_types::quantity::{ByteSize, Span};

type Texts = Vec<String>;
type Pairs = BTreeMap<String, String>;

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    pub annotations: Pairs,
    pub attach: Option<bool>,
    pub blkio_config: Option<Value>,
    pub build: Option<Value>,
    pub cap_add: Texts,
    pub cap_drop: Texts,
    pub cgroup: Option<String>,
    pub cgroup_parent: Option<String>,
    pub command: Option<Texts>,
    pub configs: Vec<FileGrant>,
    pub container_name: Option<String>,
    pub cpu_count: Option<i64>,
    pub cpu_percent: Option<f64>,
    pub cpu_period: Option<i64>,
    pub cpu_quota: Option<i64>,
    pub cpu_rt_period: Option<String>,
    pub cpu_rt_runtime: Option<String>,
    pub cpu_shares: Option<i64>,
    pub cpus: Option<f64>,
    pub cpuset: Option<String>,
    pub credential_spec: Option<Value>,
    pub depends_on: BTreeMap<String, Dependency>,
    pub deploy: Deploy,
    pub develop: Option<Value>,
    pub device_cgroup_rules: Texts,
    pub devices: Vec<Device>,
    pub dns: Texts,
    pub dns_opt: Texts,
    pub dns_search: Texts,
    pub domainname: Option<String>,
    pub entrypoint: Option<Texts>,
    pub environment: Pairs,
    pub expose: Texts,
    pub external_links: Texts,
    pub extra_hosts: BTreeMap<String, Texts>,
    pub gpus: Vec<Value>,
    pub group_add: Texts,
    pub healthcheck: Option<HealthCheck>,
    pub hostname: Option<String>,
    pub image: Option<String>,
    pub init: Option<bool>,
    pub ipc: Option<String>,
    pub isolation: Option<String>,
    pub labels: Pairs,
    pub links: Texts,
    pub logging: Option<Value>,
    pub mac_address: Option<String>,
    pub mem_limit: Option<ByteSize>,
    pub mem_reservation: Option<ByteSize>,
    pub mem_swappiness: Option<i64>,
    /// A size, or `-1`.
    pub memswap_limit: Option<String>,
    pub models: BTreeMap<String, Value>,
    pub network_mode: Option<String>,
    pub networks: BTreeMap<String, Attachment>,
    pub oom_kill_disable: Option<bool>,
    pub oom_score_adj: Option<i64>,
    pub pid: Option<String>,
    pub pids_limit: Option<i64>,
    pub platform: Option<String>,
    pub ports: Vec<Port>,
    pub post_start: Vec<Value>,
    pub pre_stop: Vec<Value>,
    pub privileged: bool,
    pub profiles: Texts,
    pub provider: Option<Value>,
    pub pull_policy: Option<String>,
    pub pull_refresh_after: Option<String>,
    pub read_only: bool,
    pub restart: Option<String>,
    pub runtime: Option<String>,
    pub scale: Option<i64>,
    pub secrets: Vec<FileGrant>,
    pub security_opt: Texts,
    pub shm_size: Option<ByteSize>,
    pub stdin_open: bool,
    pub stop_grace_period: Option<Span>,
    pub stop_signal: Option<String>,
    pub storage_opt: Pairs,
    pub sysctls: Pairs,
    pub tmpfs: Texts,
    pub tty: bool,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub use_api_socket: Option<bool>,
    pub user: Option<String>,
    pub userns_mode: Option<String>,
    pub uts: Option<String>,
    pub volumes: Vec<Mount>,
    pub volumes_from: Texts,
    pub working_dir: Option<String>,
    #[serde(rename = "x-wharf")]
    pub wharf: BTreeMap<String, Value>,
}

/// A secret or a config as a file of the container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FileGrant {
    pub source: String,
    pub target: String,
    pub uid: Option<String>,
    pub gid: Option<String>,
    /// Octal.
    pub mode: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dependency {
    #[serde(default)]
    pub condition: Condition,
    /// Whether it is an error if the other service is not there.
    #[serde(default = "yes")]
    pub required: bool,
    /// Whether the service is restarted after the other one was.
    #[serde(default)]
    pub restart: bool,
}

fn yes() -> bool {
    true
}

/// What must hold of another service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Condition {
    #[default]
    #[serde(rename = "service_started")]
    Started,
    #[serde(rename = "service_healthy")]
    Healthy,
    #[serde(rename = "service_completed_successfully")]
    Completed,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Deploy {
    pub mode: Option<String>,
    pub endpoint_mode: Option<String>,
    pub replicas: Option<i64>,
    pub labels: BTreeMap<String, Option<String>>,
    pub placement: Placement,
    pub resources: Resources,
    pub restart_policy: Option<RestartPolicy>,
    pub rollback_config: Option<Rolling>,
    pub update_config: Option<Rolling>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Placement {
    pub constraints: Texts,
    pub preferences: Vec<Preference>,
    pub max_replicas_per_node: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preference {
    pub spread: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    pub limits: Limits,
    pub reservations: Reservations,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub cpus: Option<f64>,
    pub memory: Option<ByteSize>,
    pub pids: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reservations {
    pub cpus: Option<f64>,
    pub memory: Option<ByteSize>,
    pub generic_resources: Vec<Value>,
    pub devices: Vec<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RestartPolicy {
    pub condition: Option<String>,
    pub delay: Option<Span>,
    pub max_attempts: Option<i64>,
    pub window: Option<Span>,
}

/// `update_config` and `rollback_config`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rolling {
    pub parallelism: Option<i64>,
    pub delay: Option<Span>,
    pub failure_action: Option<String>,
    pub monitor: Option<Span>,
    pub max_failure_ratio: Option<f64>,
    pub order: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Device {
    pub source: String,
    pub target: String,
    pub permissions: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthCheck {
    pub disable: bool,
    pub interval: Option<Span>,
    pub retries: Option<i64>,
    pub start_interval: Option<Span>,
    pub start_period: Option<Span>,
    /// `CMD` or `CMD-SHELL`, and what is run; or `NONE`.
    pub test: Texts,
    pub timeout: Option<Span>,
}

/// A service in a network.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Attachment {
    pub aliases: Texts,
    pub driver_opts: BTreeMap<String, Option<String>>,
    pub gw_priority: Option<i64>,
    pub interface_name: Option<String>,
    pub ipv4_address: Option<String>,
    pub ipv6_address: Option<String>,
    pub link_local_ips: Texts,
    pub mac_address: Option<String>,
    pub priority: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Port {
    pub name: Option<String>,
    /// `ingress`: at every node; `host`: at the node of an instance.
    pub mode: String,
    pub host_ip: Option<String>,
    pub target: u16,
    /// A port, or a range that one is taken from. None: any.
    pub published: Option<String>,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    pub app_protocol: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ulimit {
    pub soft: i64,
    pub hard: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mount {
    /// `bind`, `volume`, `tmpfs`, `cluster` or `image`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The name of a volume, a path, or an image. None: a volume without a name, or a `tmpfs`.
    pub source: Option<String>,
    pub target: String,
    pub read_only: bool,
    pub consistency: Option<String>,
    pub bind: Option<BindOptions>,
    pub volume: Option<VolumeOptions>,
    pub tmpfs: Option<TmpfsOptions>,
    pub image: Option<ImageOptions>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BindOptions {
    pub create_host_path: Option<bool>,
    pub propagation: Option<String>,
    pub recursive: Option<String>,
    pub selinux: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VolumeOptions {
    pub labels: BTreeMap<String, Option<String>>,
    pub nocopy: bool,
    pub subpath: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TmpfsOptions {
    /// Octal.
    pub mode: Option<String>,
    pub size: Option<ByteSize>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageOptions {
    pub subpath: Option<String>,
}

/// A network, as the top of a file has it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    pub attachable: Option<bool>,
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, Option<String>>,
    pub enable_ipv4: Option<bool>,
    pub enable_ipv6: Option<bool>,
    pub external: bool,
    pub internal: bool,
    pub ipam: Option<Value>,
    pub labels: BTreeMap<String, Option<String>>,
    pub name: Option<String>,
}

/// A volume, as the top of a file has it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Volume {
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, Option<String>>,
    pub external: bool,
    pub labels: BTreeMap<String, Option<String>>,
    pub name: Option<String>,
    #[serde(rename = "x-wharf")]
    pub wharf: VolumeOfWharf,
}

/// What a volume has, and no key of the specification says.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VolumeOfWharf {
    /// What it may hold, such as `10GiB`.
    pub size: Option<Value>,
    /// Whether several instances may write to it at once.
    pub shared: bool,
}

/// A secret or a config, as the top of a file has it. One of the ways to a value is given.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValueSource {
    pub content: Option<String>,
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, Option<String>>,
    pub environment: Option<String>,
    pub external: bool,
    pub file: Option<String>,
    pub labels: BTreeMap<String, Option<String>>,
    pub name: Option<String>,
    pub template_driver: Option<String>,
}
