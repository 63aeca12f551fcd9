//! A service as an app that runs an image.

mod mounts;
mod ports;

use std::collections::BTreeMap;
use std::net::IpAddr;

use wharf_types::declare::document::{AppDocument, AppKind};
use wharf_types::name::SecretName;
use wharf_types::quantity::{ByteSize, CpuShare, Span};
use wharf_types::spec::{
    ContainerFileSpec, ContainerHealthSpec, ContainerSpec, EngineSpec, LimitsSpec, OutboundSpec, ReserveSpec,
    ReuseSpec, UlimitSpec, is_host,
};
use wharf_types::world::World;

use super::One;
use super::common::{CommonSettings, limits, one_of, processors};
use super::network::{internal, joined, own_names};
use super::sink::Sink;
use super::values::{NamedValue, variable_of};
use crate::model::{FileGrant, HealthCheck, Service, Ulimit};
use crate::node::Place;
use crate::problem::shown;
use crate::quantity;
use mounts::Mounts;
use ports::Ports;

/// More the kernel does not have.
const PIDS_MAX: u32 = 4 << 20;

/// Every key of the service, by name, so that one that comes to be is not forgotten here.
pub(super) fn document(one: &One<'_>, common: CommonSettings, sink: &mut Sink) -> Option<AppDocument> {
    let Service {
        cap_add,
        cap_drop,
        environment,
        group_add,
        image,
        init,
        privileged,
        read_only,
        shm_size,
        stop_signal,
        sysctls,
        user,
        working_dir,
        // Read below, each where its name says.
        annotations: _,
        command: _,
        configs: _,
        cpus: _,
        devices: _,
        dns: _,
        entrypoint: _,
        extra_hosts: _,
        healthcheck: _,
        hostname: _,
        labels: _,
        links: _,
        mem_limit: _,
        network_mode: _,
        pids_limit: _,
        ports: _,
        secrets: _,
        security_opt: _,
        tmpfs: _,
        ulimits: _,
        volumes: _,
        wharf: _,
        // By `network`.
        container_name: _,
        networks: _,
        // By `common`, and `deploy.resources.limits` below.
        deploy: _,
        mem_reservation: _,
        platform: _,
        restart: _,
        scale: _,
        stop_grace_period: _,
        // By `order`, and by the loader.
        depends_on: _,
        profiles: _,
        // Translated or refused by the table, whatever they say.
        attach: _,
        blkio_config: _,
        build: _,
        cgroup: _,
        cgroup_parent: _,
        cpu_count: _,
        cpu_percent: _,
        cpu_period: _,
        cpu_quota: _,
        cpu_rt_period: _,
        cpu_rt_runtime: _,
        cpu_shares: _,
        cpuset: _,
        credential_spec: _,
        develop: _,
        device_cgroup_rules: _,
        dns_opt: _,
        dns_search: _,
        domainname: _,
        expose: _,
        external_links: _,
        gpus: _,
        ipc: _,
        isolation: _,
        logging: _,
        mac_address: _,
        mem_swappiness: _,
        memswap_limit: _,
        models: _,
        oom_kill_disable: _,
        oom_score_adj: _,
        pid: _,
        post_start: _,
        pre_stop: _,
        provider: _,
        pull_policy: _,
        pull_refresh_after: _,
        runtime: _,
        stdin_open: _,
        storage_opt,
        tty: _,
        use_api_socket: _,
        userns_mode: _,
        uts: _,
        volumes_from: _,
    } = one.settings;
    refuse_names_of_links(one, sink);
    let (entrypoint, args) = command(one, sink);
    let Ports { http_port, tcp, own } = ports::ports(one, sink);
    let Mounts { volumes, host_paths, tmpfs } = mounts::mounts(one, sink);
    let Values { mut secrets, configs, files } = values(one, sink);
    let registry_login = registry_login(one, &mut secrets, sink);
    let CommonSettings { scale, placement, reserve, restart, update, stop } = common;
    let container = ContainerSpec {
        http_port,
        tcp: own,
        entrypoint,
        user: user.clone(),
        groups: group_add.clone(),
        workdir: working_dir.clone(),
        hostname: hostname(one, sink),
        read_only: *read_only,
        tmpfs,
        capabilities_add: cap_add.clone(),
        capabilities_drop: cap_drop.clone(),
        new_privileges: new_privileges(one, sink),
        init: init.unwrap_or_default(),
        pids: pids(one, sink),
        cpus: cpus(one, sink),
        ulimits: ulimits(one),
        shm_size: *shm_size,
        disk_max: disk_max(one, storage_opt, sink),
        stop_signal: stop_signal.clone(),
        health: health(one, sink),
        networks: joined(one, sink),
        internal_networks: internal(one, sink),
        extra_hosts: extra_hosts(one, sink),
        dns: dns(one, sink),
        sysctls: sysctls.clone(),
        labels: labels(one, sink),
        files,
        registry_login,
        privileged: *privileged,
        host_network: host_network(one, sink),
        host_paths,
        devices: devices(one, sink),
    };
    let Some(image) = image else {
        sink.problem(&one.node.place, "`image` is needed: what runs is an image that was made before");
        return None;
    };
    let document = AppDocument {
        kind: AppKind::App,
        name: one.name.clone(),
        namespace: one.context.namespace.clone(),
        artifact: None,
        image: Some(image.clone()),
        env: environment.clone(),
        secrets,
        configs,
        args,
        http: one.wharf("http", sink).unwrap_or_default(),
        tcp,
        files: None,
        volumes,
        scale,
        placement,
        limits: bounds(one, &reserve, sink),
        reserve,
        restart,
        update,
        stop,
        outbound: OutboundSpec::default(),
        names: own_names(one, sink),
        reuse: ReuseSpec::default(),
        engine: EngineSpec::default(),
        container,
    };
    let spec = document.spec();
    let world = World::Container.with(&spec);
    if let Err(error) = document.validate().and_then(|()| spec.validate_for(world)) {
        one.invalid(&error, sink);
    }
    Some(document)
}

/// Links make networks of their own, and names in them, which services that share a network have without.
fn refuse_names_of_links(one: &One<'_>, sink: &mut Sink) {
    for (index, link) in one.settings.links.iter().enumerate() {
        if let Some((service, alias)) = link.split_once(':').filter(|(service, alias)| service != alias) {
            let (service, alias) = (shown(service), shown(alias));
            let message = format!(
                "`{alias}`: a link gives no names here; give `{service}` the alias in a network of both: \
                 `networks: {{default: {{aliases: [{alias}]}}}}`"
            );
            sink.problem(one.item("links", index), message);
        }
    }
}

/// What is run in place of the image's entry point, and the arguments. With another entry point the image's own arguments do not count, as in
/// Compose.
fn command(one: &One<'_>, sink: &mut Sink) -> (Option<Vec<String>>, Vec<String>) {
    match (one.settings.entrypoint.as_deref(), one.settings.command.as_deref()) {
        // Without an entry point, the command is all that is run.
        (Some([]), Some([program, args @ ..])) => (Some(vec![program.clone()]), args.to_vec()),
        (Some([]), _) => {
            let message =
                "the image's entry point cannot be taken away alone; write what is run as `entrypoint`";
            sink.problem(one.place("entrypoint"), message);
            (None, Vec::new())
        }
        (None, Some([])) => {
            let message =
                "the image's own arguments cannot be taken away alone; write its `entrypoint` as well";
            sink.problem(one.place("command"), message);
            (None, Vec::new())
        }
        (entrypoint, command) => {
            (entrypoint.map(<[String]>::to_vec), command.map(<[String]>::to_vec).unwrap_or_default())
        }
    }
}

fn bounds(one: &One<'_>, reserve: &ReserveSpec, sink: &mut Sink) -> LimitsSpec {
    let (limits, memory) = limits(one, sink);
    if one.settings.wharf.get("limits").is_some_and(|limits| limits.get("cpu").is_some()) {
        let message = "`cpu` is about single requests of Wasm apps; write `cpus` for a container";
        sink.problem(one.place("x-wharf.limits"), message);
    }
    let memory = memory.unwrap_or_else(|| {
        let usual = ContainerSpec::MEMORY_USUAL;
        let memory = reserve.memory.map_or(usual, |reserved| reserved.max(usual));
        sink.unlimited.push((one.node.place.clone(), format!("`{}` {memory}", shown(one.service))));
        memory
    });
    LimitsSpec { memory, ..limits }
}

impl Sink {
    /// One notice for all containers that have the usual limit.
    pub(super) fn say_what_is_unlimited(&mut self) {
        let Some((place, _)) = self.unlimited.first().cloned() else { return };
        let given: Vec<&str> = self.unlimited.iter().map(|(_, given)| given.as_str()).collect();
        let message = format!(
            "every container has a limit for its memory; where none is written it is {}: write `mem_limit`, or \
             `deploy.resources.limits.memory`",
            given.join(", ")
        );
        self.notice(&place, message);
    }
}

fn cpus(one: &One<'_>, sink: &mut Sink) -> Option<CpuShare> {
    let limits = &one.settings.deploy.resources.limits;
    let cpus = one_of(one, ("cpus", one.settings.cpus), ("deploy.resources.limits.cpus", limits.cpus), sink);
    let at = one.place(if limits.cpus.is_some() { "deploy.resources.limits.cpus" } else { "cpus" });
    // 0 is as many as there are.
    cpus.and_then(|cpus| processors(cpus, at, sink)).filter(|cpus| cpus.as_millis() > 0)
}

fn pids(one: &One<'_>, sink: &mut Sink) -> u32 {
    let limits = &one.settings.deploy.resources.limits;
    let written = one_of(
        one,
        ("pids_limit", one.settings.pids_limit),
        ("deploy.resources.limits.pids", limits.pids),
        sink,
    );
    match written {
        None => ContainerSpec::default().pids,
        Some(-1 | 0) => PIDS_MAX,
        Some(pids) if pids > 0 => u32::try_from(pids).unwrap_or(PIDS_MAX).min(PIDS_MAX),
        Some(pids) => {
            let at = if limits.pids.is_some() { "deploy.resources.limits.pids" } else { "pids_limit" };
            sink.problem(one.place(at), format!("{pids} is not a number of processes; -1 is any number"));
            PIDS_MAX
        }
    }
}

/// What it may write outside its volumes: the only option that there is.
fn disk_max(one: &One<'_>, options: &BTreeMap<String, String>, sink: &mut Sink) -> Option<ByteSize> {
    let place = one.place("storage_opt");
    if let Some(other) = options.keys().find(|name| *name != "size") {
        sink.problem(place, format!("`{}`: a container is held to a `size` only", shown(other)));
    }
    let text = options.get("size")?;
    let size = quantity::size(text).and_then(|size| size.parse().map_err(|_| "is not a size".to_owned()));
    size.map_err(|problem| sink.problem(place, format!("`{}` {problem}", shown(text)))).ok()
}

fn ulimits(one: &One<'_>) -> BTreeMap<String, UlimitSpec> {
    let of = |(name, limit): (&String, &Ulimit)| {
        let Ulimit { soft, hard } = *limit;
        (name.clone(), UlimitSpec { soft, hard })
    };
    one.settings.ulimits.iter().map(of).collect()
}

fn hostname(one: &One<'_>, sink: &mut Sink) -> Option<String> {
    let hostname = one.settings.hostname.as_ref()?;
    // Longer ones the kernel does not take.
    if !is_host(hostname) || hostname.len() > 64 {
        sink.problem(one.place("hostname"), format!("`{}` is no name of a host", shown(hostname)));
    }
    Some(hostname.clone())
}

fn new_privileges(one: &One<'_>, sink: &mut Sink) -> bool {
    let mut may_gain = ContainerSpec::default().new_privileges;
    for (index, option) in one.settings.security_opt.iter().enumerate() {
        let (name, value) = option.split_once([':', '=']).unwrap_or((option, "true"));
        match (name, value) {
            ("no-new-privileges", "true") => may_gain = false,
            ("no-new-privileges", "false") => may_gain = true,
            _ => {
                let message = format!(
                    "`{}`: containers have their engine's own profiles; leave it out, or write `privileged: true` where the \
                     namespace may",
                    shown(option)
                );
                sink.problem(one.item("security_opt", index), message);
            }
        }
    }
    may_gain
}

fn health(one: &One<'_>, sink: &mut Sink) -> Option<ContainerHealthSpec> {
    let HealthCheck { disable, interval, retries, start_interval, start_period, test, timeout } =
        one.settings.healthcheck.as_ref()?;
    let usual = ContainerHealthSpec::default();
    if *disable || matches!(test.as_slice(), [how] if how == "NONE") {
        return Some(ContainerHealthSpec { disable: true, ..usual });
    }
    let command = match test.as_slice() {
        [] => Vec::new(),
        [how, line] if how == "CMD-SHELL" => ["/bin/sh", "-c", line.as_str()].map(str::to_owned).to_vec(),
        [how, words @ ..] if how == "CMD" && !words.is_empty() => words.to_vec(),
        _ => {
            let message = "a test is `CMD` and the words of a command, `CMD-SHELL` and one line, or `NONE`";
            sink.problem(one.place("healthcheck.test"), message);
            Vec::new()
        }
    };
    // 0 is what is usual.
    let span = |written: &Option<Span>, usual: Span| {
        written.filter(|written| !written.as_duration().is_zero()).unwrap_or(usual)
    };
    let retries = match retries {
        None | Some(0) => usual.retries,
        Some(retries) => u32::try_from(*retries).unwrap_or_else(|_| {
            let message = format!("{retries} is not a number of tries");
            sink.problem(one.place("healthcheck.retries"), message);
            usual.retries
        }),
    };
    Some(ContainerHealthSpec {
        command,
        disable: false,
        interval: span(interval, usual.interval),
        timeout: span(timeout, usual.timeout),
        retries,
        start_period: span(start_period, usual.start_period),
        start_interval: span(start_interval, usual.start_interval),
    })
}

/// Whether it has its node's own network.
fn host_network(one: &One<'_>, sink: &mut Sink) -> bool {
    let Some(mode) = one.settings.network_mode.as_deref() else { return false };
    let problem = match mode {
        "host" if one.context.preview.is_some() => {
            "a preview cannot have the ports of its node, which the stack has; give it networks, or push it to a namespace of its own on other nodes"
        }
        "host" => return true,
        "bridge" | "default" => return false,
        "none" => "a container is in a network always; give it one of its own, which nobody else is in",
        mode if mode.starts_with("service:") || mode.starts_with("container:") => {
            "instances of two services may run on two nodes, and share nothing but networks"
        }
        _ => "networks are listed in `networks`, and defined at the top of the file",
    };
    sink.problem(one.place("network_mode"), format!("`{}`: {problem}", shown(mode)));
    false
}

fn extra_hosts(one: &One<'_>, sink: &mut Sink) -> BTreeMap<String, String> {
    let mut hosts = BTreeMap::new();
    for (host, addresses) in &one.settings.extra_hosts {
        let entry = one.node.get("extra_hosts").and_then(|hosts| hosts.entry(host));
        let place = entry.map_or(&one.node.place, |entry| &entry.place);
        match addresses.as_slice() {
            // The engine's word for the node itself.
            [address] if address == "host-gateway" || address.parse::<IpAddr>().is_ok() => {
                hosts.insert(host.clone(), address.clone());
            }
            [address] => sink.problem(place, format!("`{}` is not an address", shown(address))),
            _ => {
                let message = format!("`{}` has one address here; write one of them", shown(host));
                sink.problem(place, message);
            }
        }
    }
    hosts
}

fn dns(one: &One<'_>, sink: &mut Sink) -> Vec<String> {
    for (index, server) in one.settings.dns.iter().enumerate() {
        if server.parse::<IpAddr>().is_err() {
            sink.problem(one.item("dns", index), format!("`{}` is not an address", shown(server)));
        }
    }
    one.settings.dns.clone()
}

/// With annotations, which nothing but a runtime of another kind would read.
fn labels(one: &One<'_>, sink: &mut Sink) -> BTreeMap<String, String> {
    let mut labels = one.settings.labels.clone();
    for (name, text) in &one.settings.annotations {
        let known = labels.entry(name.clone()).or_insert_with(|| text.clone());
        if known != text {
            let message = format!("`{}` is a label as well, which says something else", shown(name));
            sink.problem(one.place("annotations"), message);
        }
    }
    labels
}

fn devices(one: &One<'_>, sink: &mut Sink) -> Vec<String> {
    let mut devices = Vec::new();
    for (index, device) in one.settings.devices.iter().enumerate() {
        let crate::model::Device { source, target, permissions } = device;
        let is_device = source.starts_with('/')
            && target.starts_with('/')
            && !format!("{source}{target}").contains(':')
            && !permissions.is_empty()
            && permissions.chars().all(|c| "rwm".contains(c));
        if !is_device {
            let message =
                format!("`{}` is no device of a node, such as `/dev/sda:/dev/xvda:rwm`", shown(source));
            sink.problem(one.item("devices", index), message);
        }
        devices.push(format!("{source}:{target}:{permissions}"));
    }
    devices
}

/// Secrets and configs: variables that become files.
struct Values {
    secrets: BTreeMap<String, SecretName>,
    configs: BTreeMap<String, SecretName>,
    files: Vec<ContainerFileSpec>,
}

fn values(one: &One<'_>, sink: &mut Sink) -> Values {
    let (mut secrets, mut configs, mut files) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
    for (index, grant) in one.settings.secrets.iter().enumerate() {
        let place = one.item("secrets", index).clone();
        let file = file(one, (grant, "/run/secrets/"), &files, &place, sink);
        secrets.extend(name_of(one.secrets, grant).map(|name| (file.from.clone(), name)));
        files.push(file);
    }
    for (index, grant) in one.settings.configs.iter().enumerate() {
        let place = one.item("configs", index).clone();
        let file = file(one, (grant, "/"), &files, &place, sink);
        configs.extend(name_of(one.configs, grant).map(|name| (file.from.clone(), name)));
        files.push(file);
    }
    Values { secrets, configs, files }
}

/// The variable with what opens the registry, which is a secret of the file.
fn registry_login(
    one: &One<'_>,
    secrets: &mut BTreeMap<String, SecretName>,
    sink: &mut Sink,
) -> Option<String> {
    let key: String = one.wharf("registry_login", sink)?;
    let Some(value) = one.secrets.iter().find(|value| value.key == key) else {
        let message = format!("`{}` is none of the `secrets` at the top of the file", shown(&key));
        sink.problem(one.place("x-wharf.registry_login"), message);
        return None;
    };
    let usual = "REGISTRY_LOGIN".to_owned();
    let others = (2..).map(|number: u32| format!("{usual}_{number}"));
    let is_taken =
        |variable: &String| secrets.contains_key(variable) || one.settings.environment.contains_key(variable);
    let variable = std::iter::once(usual.clone()).chain(others).find(|variable| !is_taken(variable))?;
    secrets.insert(variable.clone(), value.name.clone());
    Some(variable)
}

/// None: its name was refused.
fn name_of(values: &[NamedValue], grant: &FileGrant) -> Option<SecretName> {
    values.iter().find(|value| value.key == grant.source).map(|value| value.name.clone())
}

fn file(
    one: &One<'_>,
    (grant, folder): (&FileGrant, &str),
    before: &[ContainerFileSpec],
    place: &Place,
    sink: &mut Sink,
) -> ContainerFileSpec {
    let FileGrant { source: _, target, uid, gid, mode } = grant;
    let path = if target.starts_with('/') { target.clone() } else { format!("{folder}{target}") };
    if before.iter().any(|other| other.path == path) {
        sink.problem(place, format!("there are two values for the file `{}`", shown(&path)));
    }
    let mut number = |field: &str, text: &Option<String>| {
        let text = text.as_ref()?;
        let number = text.parse::<u32>().ok();
        if number.is_none() {
            let message = format!("`{field}`: `{}` is not a number; names are the image's own", shown(text));
            sink.problem(place, message);
        }
        number
    };
    let (uid, gid) = (number("uid", uid), number("gid", gid));
    ContainerFileSpec { from: variable(one, target, before), path, mode: mode.clone(), uid, gid }
}

/// Nobody sees the variable of a file. It is as for a Wasm app, unless that is taken.
fn variable(one: &One<'_>, target: &str, before: &[ContainerFileSpec]) -> String {
    let usual = variable_of(target);
    let is_taken = |variable: &String| {
        one.settings.environment.contains_key(variable) || before.iter().any(|other| other.from == *variable)
    };
    let others = (2..).map(|number: u32| format!("{usual}_{number}"));
    std::iter::once(usual.clone()).chain(others).find(|variable| !is_taken(variable)).unwrap_or_default()
}
