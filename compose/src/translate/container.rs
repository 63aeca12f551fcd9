//! A service as a container: what a backend that runs images needs to know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use wharf_types::quantity::{ByteSize, CpuShare, Span};
use wharf_types::spec::{AppSpec, HttpSpec};

use super::ContainerApp;
use super::One;
use super::common::{CommonSettings, one_of, processors};
use super::sink::Sink;
use crate::model::{
    Attachment, BlockIo, Build, Device, DeviceRequest, FileGrant, HealthCheck, Hook, Logging, Mount, Port,
    Service, Ulimit,
};
use crate::problem::shown;

/// How a container is made of an image. What is left out is as the image, or else the engine, has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerSettings {
    /// None: the one that `build` makes.
    pub image: Option<String>,
    pub build: Option<Build>,
    /// As the specification writes it, such as `linux/arm64`.
    pub platform: Option<String>,
    pub entrypoint: Option<Vec<String>>,
    pub command: Option<Vec<String>>,
    pub env: BTreeMap<String, String>,
    pub user: Option<String>,
    pub group_add: Vec<String>,
    pub working_dir: Option<String>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub tty: bool,
    pub stdin_open: bool,
    pub init: Option<bool>,
    pub stop_signal: Option<String>,
    pub stop_grace: Option<Span>,
    pub health: Option<HealthCheck>,
    pub post_start: Vec<Hook>,
    pub pre_stop: Vec<Hook>,
    pub logging: Option<Logging>,

    pub mounts: Vec<ContainerMount>,
    /// Services whose mounts this one has as well, with `:ro` if it may only read.
    pub volumes_from: Vec<String>,
    /// Folders in memory, each with its options.
    pub tmpfs: Vec<String>,
    pub secrets: Vec<FileGrant>,
    pub configs: Vec<FileGrant>,
    pub read_only: bool,
    pub shm_size: Option<ByteSize>,
    pub storage_opt: BTreeMap<String, String>,

    /// By the key of the network. Others of the network reach it by the names of its service and its aliases.
    pub networks: BTreeMap<String, Attachment>,
    /// `none`, `host` or `bridge`, in place of networks.
    pub network_mode: Option<String>,
    pub ports: Vec<Port>,
    /// Routes of the front door, to the first port.
    pub http: Option<HttpSpec>,
    pub dns: Vec<String>,
    pub dns_opt: Vec<String>,
    pub dns_search: Vec<String>,
    pub extra_hosts: BTreeMap<String, Vec<String>>,
    pub mac_address: Option<String>,

    pub memory: Option<ByteSize>,
    /// A size, or `-1` for any.
    pub memory_swap: Option<String>,
    pub memory_swappiness: Option<i64>,
    pub oom_kill_disable: Option<bool>,
    pub oom_score_adj: Option<i64>,
    pub cpus: Option<CpuShare>,
    pub cpu_shares: Option<i64>,
    pub cpu_quota: Option<i64>,
    pub cpu_period: Option<i64>,
    pub cpu_rt_period: Option<String>,
    pub cpu_rt_runtime: Option<String>,
    pub cpuset: Option<String>,
    /// -1: any number.
    pub pids: Option<i64>,
    pub ulimits: BTreeMap<String, Ulimit>,
    pub block_io: Option<BlockIo>,
    pub devices: Vec<Device>,
    pub device_cgroup_rules: Vec<String>,
    /// `gpus` and `deploy.resources.reservations.devices`.
    pub device_requests: Vec<DeviceRequest>,

    pub privileged: bool,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub security_opt: Vec<String>,
    pub sysctls: BTreeMap<String, String>,
    pub cgroup: Option<String>,
    pub cgroup_parent: Option<String>,
    pub ipc: Option<String>,
    pub pid: Option<String>,
    pub uts: Option<String>,
    pub userns: Option<String>,
    pub runtime: Option<String>,
}

/// Files of a container.
pub type ContainerMount = Mount;

/// Everything of the service, by name, so that a key that comes to be is not forgotten here.
pub(super) fn container(one: &One<'_>, common: CommonSettings, sink: &mut Sink) -> ContainerApp {
    refuse_sharing(one, sink);
    refuse_other_keys(one, sink);
    let memory = one_of(
        one,
        ("mem_limit", one.settings.mem_limit),
        ("deploy.resources.limits.memory", one.settings.deploy.resources.limits.memory),
        sink,
    );
    let limits = &one.settings.deploy.resources.limits;
    let cpus = one_of(one, ("cpus", one.settings.cpus), ("deploy.resources.limits.cpus", limits.cpus), sink);
    let at = one.place(if limits.cpus.is_some() { "deploy.resources.limits.cpus" } else { "cpus" });
    let cpus = cpus.and_then(|cpus| processors(cpus, at, sink));
    let pids = one_of(
        one,
        ("pids_limit", one.settings.pids_limit),
        ("deploy.resources.limits.pids", limits.pids),
        sink,
    );
    let http: Option<HttpSpec> = one.wharf("http", sink);
    if let Err(error) = spec_of(&common, http.clone().unwrap_or_default()).validate() {
        one.invalid(&error, sink);
    }
    let Service {
        annotations,
        blkio_config,
        build,
        cap_add,
        cap_drop,
        cgroup,
        cgroup_parent,
        command,
        configs,
        cpu_period,
        cpu_quota,
        cpu_rt_period,
        cpu_rt_runtime,
        cpu_shares,
        cpuset,
        device_cgroup_rules,
        devices,
        dns,
        dns_opt,
        dns_search,
        domainname,
        entrypoint,
        environment,
        extra_hosts,
        gpus,
        group_add,
        healthcheck,
        hostname,
        image,
        init,
        ipc,
        labels,
        logging,
        mac_address,
        mem_swappiness,
        memswap_limit,
        network_mode,
        networks,
        oom_kill_disable,
        oom_score_adj,
        pid,
        platform,
        ports,
        post_start,
        pre_stop,
        privileged,
        read_only,
        runtime,
        secrets,
        security_opt,
        shm_size,
        stdin_open,
        stop_grace_period,
        stop_signal,
        storage_opt,
        sysctls,
        tmpfs,
        tty,
        ulimits,
        user,
        userns_mode,
        uts,
        volumes,
        volumes_from,
        working_dir,
        deploy,
        // Said above, or by `common`.
        cpus: _,
        mem_limit: _,
        mem_reservation: _,
        pids_limit: _,
        restart: _,
        scale: _,
        depends_on: _,
        wharf: _,
        // The loader is done with them.
        profiles: _,
        // Translated or refused by the table, and of no more use.
        attach: _,
        container_name: _,
        cpu_count: _,
        cpu_percent: _,
        credential_spec: _,
        develop: _,
        expose: _,
        external_links: _,
        isolation: _,
        links: _,
        models: _,
        provider: _,
        pull_policy: _,
        pull_refresh_after: _,
        use_api_socket: _,
    } = one.settings.clone();
    let mut device_requests = gpus;
    device_requests.extend(deploy.resources.reservations.devices);
    let container = ContainerSettings {
        image,
        build,
        platform,
        entrypoint,
        command,
        env: environment,
        user,
        group_add,
        working_dir,
        hostname,
        domainname,
        labels,
        annotations,
        tty,
        stdin_open,
        init,
        stop_signal,
        stop_grace: stop_grace_period,
        health: healthcheck,
        post_start,
        pre_stop,
        logging,
        mounts: volumes,
        volumes_from,
        tmpfs,
        secrets,
        configs,
        read_only,
        shm_size,
        storage_opt,
        networks,
        network_mode,
        ports,
        http,
        dns,
        dns_opt,
        dns_search,
        extra_hosts,
        mac_address,
        memory,
        memory_swap: memswap_limit,
        memory_swappiness: mem_swappiness,
        oom_kill_disable,
        oom_score_adj,
        cpus,
        cpu_shares,
        cpu_quota,
        cpu_period,
        cpu_rt_period,
        cpu_rt_runtime,
        cpuset,
        pids,
        ulimits,
        block_io: blkio_config,
        devices,
        device_cgroup_rules,
        device_requests,
        privileged,
        cap_add,
        cap_drop,
        security_opt,
        sysctls,
        cgroup,
        cgroup_parent,
        ipc,
        pid,
        uts,
        userns: userns_mode,
        runtime,
    };
    ContainerApp { common, container }
}

/// What a container has of the settings that every app has, to be checked as they are.
fn spec_of(common: &CommonSettings, http: HttpSpec) -> AppSpec {
    let CommonSettings { scale, placement, reserve, restart, update, stop } = common.clone();
    let scale = scale.unwrap_or_default();
    AppSpec { http, scale, placement, reserve, restart, update, stop, ..AppSpec::default() }
}

/// Instances of two services may be on two nodes.
fn refuse_sharing(one: &One<'_>, sink: &mut Sink) {
    let Service { network_mode, ipc, pid, .. } = one.settings;
    for (key, mode) in [("network_mode", network_mode), ("ipc", ipc), ("pid", pid)] {
        let Some(mode) = mode else { continue };
        if mode.starts_with("service:") || mode.starts_with("container:") {
            let message = format!(
                "`{}`: instances of two services may run on two nodes, and share nothing but networks and volumes",
                shown(mode)
            );
            sink.problem(one.place(key), message);
        }
    }
    for (index, mount) in one.settings.volumes.iter().enumerate() {
        if mount.kind == "cluster" {
            let message = "there are no volumes of a cluster; use a volume with a driver that every node has";
            sink.problem(one.item("volumes", index), message);
        }
    }
}

/// What `x-wharf` says of Wasm apps only.
fn refuse_other_keys(one: &One<'_>, sink: &mut Sink) {
    for key in ["tcp", "limits", "outbound", "reuse", "engine"] {
        if one.settings.wharf.contains_key(key) {
            let message =
                format!("`x-wharf.{key}` is about Wasm apps, and this is a container; leave it out");
            sink.problem(one.place(&format!("x-wharf.{key}")), message);
        }
    }
}
