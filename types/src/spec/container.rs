//! What a container is given beside what every app has.
//!
//! The image is the app's artifact. `args` are the command's arguments, `env`, `secrets` and `configs` its variables, `volumes` its named
//! volumes, `limits.memory` and `reserve` its bounds, `stop.drain` the time in which it has to end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::TcpSpec;
use super::validate::{InvalidSpec, at_most, invalid, validate_mount};
use crate::quantity::{ByteSize, CpuShare, Span};

/// Networks, files, folders and the like: each is set up before a container starts.
const EACH_MAX: usize = 64;
const NETWORK_NAME_MAX_BYTES: usize = 63;
const HOST_MAX_BYTES: usize = 253;
/// Labels that begin like this are the platform's own.
const OWN_LABELS: &str = "wharf.";

/// A container's settings. The defaults take away what most images never use: all capabilities but those that servers begin with and
/// give up, and the right to gain others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerSpec {
    /// The port of the container that answers HTTP. None: it gets no requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65535)]
    pub http_port: Option<u16>,
    /// Which port of the container is behind each public one of `tcp.ports`. Left out: the same number.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tcp: BTreeMap<u16, u16>,
    /// Instead of the image's own; `args` follow it. None: the image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// `USER` or `USER:GROUP`, by name or number. None: the image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Further groups, by name or number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Whether its root file system cannot be written to.
    pub read_only: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<TmpfsSpec>,
    /// Capabilities beside the usual ones, such as `NET_ADMIN`: only where the cluster's admin has allowed it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities_add: Vec<String>,
    /// Capabilities to take away; `ALL` takes all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities_drop: Vec<String>,
    /// Whether its processes may gain privileges that they were not started with.
    pub new_privileges: bool,
    /// Whether an init process reaps children and passes signals on.
    pub init: bool,
    /// Processes and threads at most.
    pub pids: u32,
    /// Processors at most. None: as many as the node has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CpuShare>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ulimits: BTreeMap<String, UlimitSpec>,
    /// None: 64 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shm_size: Option<ByteSize>,
    /// What it may write outside its volumes, from 1MiB: one that has written more is ended. None: 10 GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_max: Option<ByteSize>,
    /// Such as `SIGINT`. None: the image's, or SIGTERM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<ContainerHealthSpec>,
    /// Networks of the namespace that it is in, with the names that it has there beside its own. Empty: the namespace's own network.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, Vec<String>>,
    /// Those of `networks` out of which no way leads: a container that is in no others reaches nothing beyond its node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub internal_networks: Vec<String>,
    /// Names that resolve to addresses, as in `/etc/hosts`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_hosts: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sysctls: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Files that are made of secrets and configs of the namespace.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<ContainerFileSpec>,
    /// The variable of `secrets` whose value opens the registry of the image: `USER:PASSWORD`. The variable itself is then not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry_login: Option<String>,
    // What follows gives a container parts of its node: only where the cluster's admin has allowed it.
    pub privileged: bool,
    pub host_network: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host_paths: Vec<HostPathSpec>,
    /// Such as `/dev/fuse`, or `/dev/sda:/dev/xvda:r`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
}

/// A folder in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TmpfsSpec {
    pub path: String,
    /// None: half of the node's memory, within the container's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// In octal digits, such as `1777`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UlimitSpec {
    /// -1: none.
    pub soft: i64,
    pub hard: i64,
}

/// A file with the value of a secret or a config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContainerFileSpec {
    /// The variable of `secrets` or `configs` whose value it has; the variable itself is then not set.
    pub from: String,
    pub path: String,
    /// In octal digits. None: `0444`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// A folder or file of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostPathSpec {
    pub host: String,
    pub path: String,
    #[serde(default)]
    pub read_only: bool,
}

/// A health check by a command in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerHealthSpec {
    /// The command with its arguments. Empty: the image's, or none where `disable` says so.
    pub command: Vec<String>,
    /// Whether the image's is not to be run.
    pub disable: bool,
    pub interval: Span,
    pub timeout: Span,
    pub retries: u32,
    /// Failures within this time after the start do not count, until the first success.
    pub start_period: Span,
    /// How often it is run within `start_period`.
    pub start_interval: Span,
}

impl Default for ContainerHealthSpec {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            disable: false,
            interval: Span::from_secs(1),
            timeout: Span::from_secs(1),
            retries: 3,
            start_period: Span::from_secs(60),
            start_interval: Span::from_millis(200),
        }
    }
}

impl Default for ContainerSpec {
    fn default() -> Self {
        Self {
            http_port: None,
            tcp: BTreeMap::new(),
            entrypoint: None,
            user: None,
            groups: Vec::new(),
            workdir: None,
            hostname: None,
            read_only: false,
            tmpfs: Vec::new(),
            capabilities_add: Vec::new(),
            capabilities_drop: Vec::new(),
            new_privileges: false,
            init: false,
            pids: 4096,
            cpus: None,
            ulimits: BTreeMap::new(),
            shm_size: None,
            disk_max: None,
            stop_signal: None,
            health: None,
            networks: BTreeMap::new(),
            internal_networks: Vec::new(),
            extra_hosts: BTreeMap::new(),
            dns: Vec::new(),
            sysctls: BTreeMap::new(),
            labels: BTreeMap::new(),
            files: Vec::new(),
            registry_login: None,
            privileged: false,
            host_network: false,
            host_paths: Vec::new(),
            devices: Vec::new(),
        }
    }
}

impl ContainerSpec {
    /// The memory of one of which nobody says how much it may have, such as one of a Compose file: enough for most servers, and several
    /// to a node. `limits.memory` of an app has a default of its own, which is a guest's.
    pub const MEMORY_USUAL: ByteSize = ByteSize::mib(512);

    /// What a container may write outside its volumes where nobody says how much.
    pub const DISK_USUAL: ByteSize = ByteSize::mib(10 << 10);
    /// The least that one may be held to: the engine itself puts some files there.
    const DISK_LEAST: ByteSize = ByteSize::mib(1);

    /// What it may write outside its volumes.
    pub fn disk_max(&self) -> ByteSize {
        self.disk_max.unwrap_or(Self::DISK_USUAL)
    }

    /// The bounds of the schema.
    pub(super) fn validate_http_port(&self) -> Result<(), InvalidSpec> {
        match self.http_port {
            Some(0) => invalid("container.http_port", "0 is not a port"),
            _ => Ok(()),
        }
    }

    /// Checks what the field types do not. `is_value` says whether a variable is that of a secret or a config.
    pub(super) fn validate(&self, tcp: &TcpSpec, is_value: impl Fn(&str) -> bool) -> Result<(), InvalidSpec> {
        for (field, count) in [
            ("container.networks", self.networks.len()),
            ("container.internal_networks", self.internal_networks.len()),
            ("container.files", self.files.len()),
            ("container.tmpfs", self.tmpfs.len()),
            ("container.host_paths", self.host_paths.len()),
            ("container.devices", self.devices.len()),
            ("container.labels", self.labels.len()),
            ("container.extra_hosts", self.extra_hosts.len()),
        ] {
            at_most(field, "entries", count, EACH_MAX)?;
        }
        self.validate_http_port()?;
        if let Some(port) = self.tcp.keys().find(|port| !tcp.ports.contains(port)) {
            return invalid("container.tcp", format!("{port} is none of the public ports, `tcp.ports`"));
        }
        if self.tcp.values().any(|port| *port == 0) {
            return invalid("container.tcp", "0 is not a port");
        }
        if self.pids == 0 {
            return invalid("container.pids", "0 is less than 1");
        }
        if let Some(most) = self.disk_max.filter(|most| *most < Self::DISK_LEAST) {
            return invalid("container.disk_max", format!("{most} is less than {}", Self::DISK_LEAST));
        }
        if self.entrypoint.as_ref().is_some_and(Vec::is_empty) {
            return invalid("container.entrypoint", "is empty; leave it out for the image's own");
        }
        for alias in self.networks.values().flatten() {
            if !is_host(alias) {
                let problem = format!("`{}` is no name that others could reach", alias.escape_debug());
                return invalid("container.networks", problem);
            }
        }
        for name in self.networks.keys() {
            let is_name = !name.is_empty()
                && name.len() <= NETWORK_NAME_MAX_BYTES
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
            if !is_name {
                return invalid(
                    "container.networks",
                    format!("`{}` is no network's name", name.escape_debug()),
                );
            }
        }
        if let Some(name) = self.internal_networks.iter().find(|name| !self.networks.contains_key(*name)) {
            let problem = format!("`{}` is none of `networks`", name.escape_debug());
            return invalid("container.internal_networks", problem);
        }
        if self.host_network && !self.networks.is_empty() {
            return invalid("container.host_network", "has the node's network, and so none of `networks`");
        }
        if let Some(label) = self.labels.keys().find(|label| label.starts_with(OWN_LABELS)) {
            return invalid(
                "container.labels",
                format!("`{label}` begins with `{OWN_LABELS}`, which is the platform's"),
            );
        }
        for tmpfs in &self.tmpfs {
            validate_mount("container.tmpfs", &tmpfs.path)?;
        }
        for path in &self.host_paths {
            validate_mount("container.host_paths", &path.host)?;
            validate_mount("container.host_paths", &path.path)?;
        }
        for file in &self.files {
            validate_mount("container.files", &file.path)?;
            if !is_value(&file.from) {
                let problem =
                    format!("`{}` is no variable of `secrets` or `configs`", file.from.escape_debug());
                return invalid("container.files", problem);
            }
        }
        let Some(health) = &self.health else { return Ok(()) };
        if health.disable && !health.command.is_empty() {
            return invalid("container.health", "has a `command`, and is disabled; write one of them");
        }
        if health.retries == 0 {
            return invalid("container.health.retries", "0 is less than 1");
        }
        for (field, span) in [
            ("container.health.interval", health.interval),
            ("container.health.timeout", health.timeout),
            ("container.health.start_interval", health.start_interval),
        ] {
            let least = Span::from_millis(10);
            if span < least {
                return invalid(field, format!("{span} is less than {least}"));
            }
        }
        Ok(())
    }

    /// What a run of a job has of its app's settings: nothing that is about requests, connections or health, and no names that others would
    /// reach it by. Where it has another image than the app, only what is around a container.
    pub(crate) fn of_task(&self, is_apps_image: bool) -> Self {
        let networks = self.networks.keys().map(|name| (name.clone(), Vec::new())).collect();
        if is_apps_image {
            return Self { http_port: None, tcp: BTreeMap::new(), health: None, networks, ..self.clone() };
        }
        Self {
            networks,
            internal_networks: self.internal_networks.clone(),
            extra_hosts: self.extra_hosts.clone(),
            dns: self.dns.clone(),
            files: self.files.clone(),
            ..Self::default()
        }
    }

    /// Fills in, setting by setting, what another has and this does not say itself. A network that is internal to one of them is so to both.
    pub(crate) fn or(self, other: Self) -> Self {
        let usual = Self::default();
        let (mut internal_networks, others) = (self.internal_networks, other.internal_networks);
        macro_rules! each {
            ($($field:ident)*) => {
                Self {
                    $($field: if self.$field == usual.$field { other.$field } else { self.$field },)*
                    internal_networks: Vec::new(),
                }
            };
        }
        let both = each!(
            http_port tcp entrypoint user groups workdir hostname read_only tmpfs capabilities_add capabilities_drop
            new_privileges init pids cpus ulimits shm_size disk_max stop_signal health networks extra_hosts dns sysctls labels files
            registry_login privileged host_network host_paths devices
        );
        for name in others {
            if both.networks.contains_key(&name) && !internal_networks.contains(&name) {
                internal_networks.push(name);
            }
        }
        Self { internal_networks, ..both }
    }

    /// Refuses what makes no sense for a run of a job.
    pub(crate) fn validate_for_run(&self) -> Result<(), InvalidSpec> {
        let has_names = self.networks.values().any(|names| !names.is_empty());
        for (field, is_asked, problem) in [
            ("container.http_port", self.http_port.is_some(), "a run gets no requests; leave it out"),
            ("container.tcp", !self.tcp.is_empty(), "a run gets no connections; leave it out"),
            (
                "container.health",
                self.health.is_some(),
                "the end of a run says what became of it; leave it out",
            ),
            (
                "container.networks",
                has_names,
                "a run has no names that others would reach it by; write a network as `NAME = []`",
            ),
        ] {
            if is_asked {
                return invalid(field, problem);
            }
        }
        Ok(())
    }

    /// What of it only a namespace may have that the cluster's admin has allowed to reach the node itself: the settings, by name.
    pub fn reaches_node(&self) -> Vec<&'static str> {
        let asked = [
            (self.privileged, "privileged"),
            (self.host_network, "host_network"),
            (!self.host_paths.is_empty(), "host_paths"),
            (!self.devices.is_empty(), "devices"),
            (!self.capabilities_add.is_empty(), "capabilities_add"),
            (!self.sysctls.is_empty(), "sysctls"),
        ];
        asked.into_iter().filter_map(|(is_asked, name)| is_asked.then_some(name)).collect()
    }
}

/// Whether a container can be reached by this name: labels of the DNS, with dots between them. Compose files also have `_`.
pub fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= NETWORK_NAME_MAX_BYTES
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    name.len() <= HOST_MAX_BYTES && name.split('.').all(is_label)
}
