//! What a container is made of: a function of the run, without an engine.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, DeviceMapping, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig,
    Mount, MountType, NetworkingConfig, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use wharf_types::InstanceId;
use wharf_types::quantity::ByteSize;
use wharf_types::spec::{ContainerSpec, TmpfsSpec};

use crate::container::RunError;
use crate::image::ImageId;
use crate::labels::{self, Owner};
use crate::network::NetworkName;

/// One run of an instance.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    pub id: InstanceId,
    pub owner: Owner,
    pub image: ImageId,
    pub spec: &'a ContainerSpec,
    pub args: &'a [String],
    /// The engine keeps them on its disk: a secret that must not be there is one of `files`.
    pub env: Vec<(&'a str, &'a str)>,
    /// Of all its processes together, without swap.
    pub memory: ByteSize,
    pub volumes: Vec<VolumeMount>,
    /// Empty: it has none, unless the spec gives it the host's.
    pub networks: Vec<NetworkJoin>,
    pub files: Vec<MemoryFile<'a>>,
    /// The name servers that the engine asks for it, where the spec names none. Empty: those of the engine.
    pub dns: Vec<String>,
    /// How long it may take to end where nobody but the engine ends it.
    pub stop_grace: Duration,
    pub log: LogLimit,
}

/// A folder of the host that outlives the container.
#[derive(Clone, Debug)]
pub struct VolumeMount {
    /// It is made if missing. While it is empty it gets the owner and the mode that its path has in the image, as Docker's own volumes do; where the
    /// image has no such folder it is root's, with mode 0755.
    pub folder: PathBuf,
    pub path: String,
    pub is_read_only: bool,
}

/// A network that the container is in, and its names there.
#[derive(Clone, Debug)]
pub struct NetworkJoin {
    pub network: NetworkName,
    pub aliases: Vec<String>,
}

/// A file that is in memory only, and that the container can read and not change.
#[derive(Clone)]
pub struct MemoryFile<'a> {
    pub content: &'a [u8],
    pub path: &'a str,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// How much of what a container prints is kept on the disk: the newest.
#[derive(Clone, Copy, Debug)]
pub struct LogLimit {
    pub file_max: ByteSize,
    /// At least 1. Whoever follows a container that prints faster than it reads loses what is older than all of them.
    pub files: u32,
}

impl Default for LogLimit {
    fn default() -> Self {
        Self { file_max: ByteSize::mib(16), files: 3 }
    }
}

impl std::fmt::Debug for MemoryFile<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// In microseconds, as the kernel has it by default.
const CPU_PERIOD: i64 = 100_000;
/// The engine takes no shorter one.
const CPU_QUOTA_MIN: i64 = 1000;
const ALIAS_MAX_BYTES: usize = 253;
/// As the kernel has it.
const HOSTNAME_MAX_BYTES: usize = 64;

/// What the engine is asked for. `files` are the bind mounts of the run's files.
pub(crate) fn create_body(
    run: &Run<'_>,
    platform: &str,
    files: Vec<Mount>,
) -> Result<ContainerCreateBody, RunError> {
    let spec = run.spec;
    let mut labels = labels::of_instance(platform, run.id, &run.owner);
    for (name, value) in &spec.labels {
        if name.starts_with(labels::PREFIX) {
            return Err(setting(
                "labels",
                format!("`{name}` begins with `{}`, which is kept for the platform", labels::PREFIX),
            ));
        }
        labels.insert(name.clone(), value.clone());
    }
    if let Some(hostname) = spec.hostname.as_ref().filter(|it| it.len() > HOSTNAME_MAX_BYTES || !is_host(it))
    {
        return Err(setting("hostname", format!("`{hostname:.60}` is no name of a host")));
    }
    Ok(ContainerCreateBody {
        hostname: spec.hostname.clone(),
        user: spec.user.clone(),
        env: Some(environment(&run.env)?),
        cmd: some(run.args.to_vec()),
        entrypoint: spec.entrypoint.clone(),
        // Checks are run from outside, by the supervisor's rules.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".into()]), ..HealthConfig::default() }),
        image: Some(run.image.to_string()),
        working_dir: spec.workdir.clone(),
        labels: Some(labels),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: Some(i64::try_from(run.stop_grace.as_secs()).unwrap_or(i64::MAX).max(1)),
        host_config: Some(host_config(run, files)?),
        networking_config: networking(run)?,
        ..ContainerCreateBody::default()
    })
}

fn host_config(run: &Run<'_>, files: Vec<Mount>) -> Result<HostConfig, RunError> {
    let spec = run.spec;
    let memory = bytes(run.memory);
    let mut mounts: Vec<Mount> =
        run.volumes.iter().map(|it| bind(&it.folder.to_string_lossy(), &it.path, it.is_read_only)).collect();
    mounts.extend(spec.host_paths.iter().map(|it| bind(&it.host, &it.path, it.read_only)));
    mounts.extend(files);
    let hosts = spec.extra_hosts.iter().map(|(name, address)| format!("{name}:{address}"));
    Ok(HostConfig {
        memory: Some(memory),
        // The same limit with swap: it gets none.
        memory_swap: Some(memory),
        pids_limit: Some(i64::from(spec.pids)),
        cpu_period: spec.cpus.map(|_| CPU_PERIOD),
        cpu_quota: spec
            .cpus
            .map(|cpus| (i64::from(cpus.as_millis()) * (CPU_PERIOD / 1000)).max(CPU_QUOTA_MIN)),
        ulimits: some(ulimits(spec)),
        devices: some(spec.devices.iter().map(|device| device_of(device)).collect::<Result<_, _>>()?),
        sysctls: (!spec.sysctls.is_empty()).then(|| spec.sysctls.clone().into_iter().collect()),
        cap_add: some(capabilities("capabilities_add", &spec.capabilities_add)?),
        cap_drop: some(dropped(spec)?),
        privileged: Some(spec.privileged),
        security_opt: (!spec.new_privileges && !spec.privileged)
            .then(|| vec!["no-new-privileges:true".to_owned()]),
        readonly_rootfs: Some(spec.read_only),
        tmpfs: (!spec.tmpfs.is_empty())
            .then(|| spec.tmpfs.iter().map(tmpfs).collect::<Result<HashMap<_, _>, _>>())
            .transpose()?,
        shm_size: spec.shm_size.map(bytes),
        init: Some(spec.init),
        group_add: some(spec.groups.clone()),
        mounts: some(mounts),
        extra_hosts: some(hosts.collect()),
        dns: some(if spec.dns.is_empty() { run.dns.clone() } else { spec.dns.clone() }),
        network_mode: Some(network_mode(run)),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        // How it ended is asked for afterwards.
        auto_remove: Some(false),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), run.log.file_max.as_bytes().max(1).to_string()),
                ("max-file".to_owned(), run.log.files.max(1).to_string()),
            ])),
        }),
        ..HostConfig::default()
    })
}

fn network_mode(run: &Run<'_>) -> String {
    match run.networks.first() {
        _ if run.spec.host_network => "host".to_owned(),
        Some(first) => first.network.to_string(),
        None => "none".to_owned(),
    }
}

/// Of the first network only: engines before 25 take no more at once.
fn networking(run: &Run<'_>) -> Result<Option<NetworkingConfig>, RunError> {
    let Some(first) = run.networks.first().filter(|_| !run.spec.host_network) else { return Ok(None) };
    let endpoints = HashMap::from([(first.network.to_string(), endpoint(first)?)]);
    Ok(Some(NetworkingConfig { endpoints_config: Some(endpoints) }))
}

pub(crate) fn endpoint(join: &NetworkJoin) -> Result<EndpointSettings, RunError> {
    for alias in &join.aliases {
        if alias.len() > ALIAS_MAX_BYTES || !is_host(alias) {
            return Err(setting("networks", format!("`{alias:.60}` is no name of a host")));
        }
    }
    Ok(EndpointSettings { aliases: some(join.aliases.clone()), ..EndpointSettings::default() })
}

/// A DNS label or several. Compose files also have `_`.
fn is_host(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn environment(env: &[(&str, &str)]) -> Result<Vec<String>, RunError> {
    let line = |(name, value): &(&str, &str)| {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(setting("env", format!("`{name:.60}` is no name of a variable")));
        }
        if value.contains('\0') {
            return Err(setting("env", format!("the value of `{name:.60}` contains a NUL character")));
        }
        Ok(format!("{name}={value}"))
    };
    env.iter().map(line).collect()
}

/// Written as the engine has them, so that `NET_ADMIN`, `net_admin` and `CAP_NET_ADMIN` are one.
fn capabilities(name: &'static str, names: &[String]) -> Result<Vec<String>, RunError> {
    let one = |capability: &String| {
        let upper = capability.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let is_capability = !short.is_empty() && short.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        is_capability
            .then(|| short.to_owned())
            .ok_or_else(|| setting(name, format!("`{capability:.60}` is no capability, such as `NET_ADMIN`")))
    };
    names.iter().map(one).collect()
}

/// What the engine would give to every container and next to none uses: each is a way out of its place.
/// - `MKNOD` makes device files. A device in a volume is one of the node to whoever may open it.
/// - `NET_RAW` sends packets with any sender, to all that share the network.
/// - `AUDIT_WRITE` writes into the node's audit log.
const SELDOM_USED: [&str; 3] = ["MKNOD", "NET_RAW", "AUDIT_WRITE"];

fn dropped(spec: &ContainerSpec) -> Result<Vec<String>, RunError> {
    let mut dropped = capabilities("capabilities_drop", &spec.capabilities_drop)?;
    let added = capabilities("capabilities_add", &spec.capabilities_add)?;
    if spec.privileged {
        return Ok(dropped);
    }
    for capability in SELDOM_USED {
        let has_it = |those: &[String]| those.iter().any(|it| it == capability || it == "ALL");
        if !has_it(&added) && !has_it(&dropped) {
            dropped.push(capability.to_owned());
        }
    }
    Ok(dropped)
}

fn tmpfs(spec: &TmpfsSpec) -> Result<(String, String), RunError> {
    let mut options = Vec::new();
    if let Some(size) = spec.size {
        options.push(format!("size={}", size.as_bytes()));
    }
    if let Some(mode) = &spec.mode {
        if mode.is_empty() || mode.len() > 5 || !mode.bytes().all(|digit| (b'0'..=b'7').contains(&digit)) {
            return Err(setting(
                "tmpfs",
                format!("mode `{mode:.60}` is not written in octal digits, such as `1777`"),
            ));
        }
        options.push(format!("mode={mode}"));
    }
    Ok((spec.path.clone(), options.join(",")))
}

fn ulimits(spec: &ContainerSpec) -> Vec<ResourcesUlimits> {
    let ulimits = spec.ulimits.iter();
    ulimits
        .map(|(name, limit)| ResourcesUlimits {
            name: Some(name.clone()),
            soft: Some(limit.soft),
            hard: Some(limit.hard),
        })
        .collect()
}

/// `HOST[:CONTAINER[:rwm]]`.
fn device_of(text: &str) -> Result<DeviceMapping, RunError> {
    let invalid = || {
        setting(
            "devices",
            format!("`{text:.60}` is no device, such as `/dev/fuse` or `/dev/sda:/dev/xvda:r`"),
        )
    };
    let is_rights = |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c));
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, rights) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, container] if container.starts_with('/') => (*host, *container, "rwm"),
        [host, rights] => (*host, *host, *rights),
        [host, container, rights] => (*host, *container, *rights),
        _ => return Err(invalid()),
    };
    if !host.starts_with('/') || !container.starts_with('/') || !is_rights(rights) {
        return Err(invalid());
    }
    Ok(DeviceMapping {
        path_on_host: Some(host.to_owned()),
        path_in_container: Some(container.to_owned()),
        cgroup_permissions: Some(rights.to_owned()),
    })
}

pub(crate) fn bind(host: &str, path: &str, is_read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(host.to_owned()),
        target: Some(path.to_owned()),
        read_only: Some(is_read_only),
        ..Mount::default()
    }
}

fn bytes(size: ByteSize) -> i64 {
    i64::try_from(size.as_bytes()).unwrap_or(i64::MAX)
}

fn some<T>(values: Vec<T>) -> Option<Vec<T>> {
    (!values.is_empty()).then_some(values)
}

fn setting(name: &'static str, problem: String) -> RunError {
    RunError::Setting { name, problem }
}

#[cfg(test)]
mod tests {
    use wharf_types::Digest;
    use wharf_types::quantity::CpuShare;

    use super::*;
    use crate::network::WayOut;

    fn body(spec: &ContainerSpec) -> Result<ContainerCreateBody, RunError> {
        body_with(spec, Vec::new())
    }

    fn body_with(spec: &ContainerSpec, env: Vec<(&str, &str)>) -> Result<ContainerCreateBody, RunError> {
        let run = Run {
            id: InstanceId::new(),
            owner: Owner { namespace: "a".parse().unwrap(), app: "b".parse().unwrap(), release: 1, slot: 0 },
            image: Digest::of(b"image").to_string().parse().unwrap(),
            spec,
            args: &[],
            env,
            memory: ByteSize::mib(64),
            volumes: Vec::new(),
            networks: Vec::new(),
            files: Vec::new(),
            dns: vec!["198.18.0.1".to_owned()],
            stop_grace: Duration::from_secs(10),
            log: LogLimit::default(),
        };
        create_body(&run, "platform", Vec::new())
    }

    fn host(spec: &ContainerSpec) -> HostConfig {
        body(spec).unwrap().host_config.unwrap()
    }

    #[test]
    fn the_defaults_bound_everything_and_gain_nothing() {
        let host = host(&ContainerSpec::default());
        assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
        assert_eq!(host.pids_limit, Some(4096));
        assert_eq!(host.security_opt, Some(vec!["no-new-privileges:true".to_owned()]));
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!((host.privileged, host.auto_remove), (Some(false), Some(false)));
        assert_eq!((host.cap_add, host.devices, host.mounts), (None, None, None));
        assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::NO));
        assert_eq!(host.log_config.unwrap().config.unwrap()["max-size"], (16 << 20).to_string());
    }

    #[test]
    fn the_name_servers_of_the_spec_stand_for_those_of_the_node() {
        assert_eq!(host(&ContainerSpec::default()).dns, Some(vec!["198.18.0.1".to_owned()]));
        let spec = ContainerSpec { dns: vec!["10.0.0.1".to_owned()], ..ContainerSpec::default() };
        assert_eq!(host(&spec).dns, Some(vec!["10.0.0.1".to_owned()]));
    }

    #[test]
    fn a_part_of_a_processor_is_a_quota_that_the_engine_takes() {
        let quota = |millis| {
            let cpus = Some(CpuShare::millis(millis));
            host(&ContainerSpec { cpus, ..ContainerSpec::default() }).cpu_quota
        };
        assert_eq!(quota(1500), Some(150_000));
        assert_eq!(quota(1), Some(1000));
        assert_eq!(quota(u32::MAX), Some(i64::from(u32::MAX) * 100));
    }

    #[test]
    fn capabilities_have_one_name() {
        let spec = ContainerSpec {
            capabilities_add: vec!["cap_net_admin".into(), "SYS_TIME".into()],
            capabilities_drop: vec!["all".into()],
            ..ContainerSpec::default()
        };
        let host = host(&spec);
        assert_eq!(host.cap_add, Some(vec!["NET_ADMIN".to_owned(), "SYS_TIME".to_owned()]));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
    }

    #[test]
    fn what_is_seldom_used_is_only_for_who_is_given_it() {
        let dropped = |change: fn(&mut ContainerSpec)| {
            let mut spec = ContainerSpec::default();
            change(&mut spec);
            host(&spec).cap_drop.unwrap_or_default()
        };
        assert_eq!(dropped(|_| {}), SELDOM_USED);
        assert_eq!(
            dropped(|spec| spec.capabilities_drop = vec!["CHOWN".into()]),
            ["CHOWN", "MKNOD", "NET_RAW", "AUDIT_WRITE"]
        );
        assert_eq!(dropped(|spec| spec.capabilities_drop = vec!["cap_mknod".into()]), SELDOM_USED);
        assert_eq!(dropped(|spec| spec.capabilities_drop = vec!["ALL".into()]), ["ALL"]);
        assert_eq!(
            dropped(|spec| spec.capabilities_add = vec!["net_raw".into()]),
            ["MKNOD", "AUDIT_WRITE"],
            "what is asked for by name is not taken away again"
        );
        assert!(dropped(|spec| spec.capabilities_add = vec!["ALL".into()]).is_empty());
        assert!(dropped(|spec| spec.privileged = true).is_empty());
    }

    #[test]
    fn devices_are_written_as_for_docker() {
        let parts = |text: &str| {
            device_of(text).ok().map(|it| (it.path_in_container.unwrap(), it.cgroup_permissions.unwrap()))
        };
        assert_eq!(parts("/dev/fuse"), Some(("/dev/fuse".into(), "rwm".into())));
        assert_eq!(parts("/dev/fuse:r"), Some(("/dev/fuse".into(), "r".into())));
        assert_eq!(parts("/dev/sda:/dev/xvda:rw"), Some(("/dev/xvda".into(), "rw".into())));
        for bad in ["", "fuse", "/dev/a:/dev/b:x", "/dev/a:", "/a:/b:r:w", "/dev/a:/dev/b:"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_setting() {
        let with = |change: fn(&mut ContainerSpec)| {
            let mut spec = ContainerSpec::default();
            change(&mut spec);
            body(&spec).unwrap_err().to_string()
        };
        let tmpfs = |spec: &mut ContainerSpec| {
            let mode = Some("1777,size=1".to_owned());
            spec.tmpfs = vec![TmpfsSpec { path: "/a".into(), size: None, mode }];
        };
        assert!(with(tmpfs).contains("tmpfs"));
        assert!(with(|spec| spec.capabilities_add = vec!["a b".into()]).contains("capabilities_add"));
        assert!(with(|spec| spec.hostname = Some("a\nb".into())).contains("hostname"));
        assert!(with(|spec| spec.hostname = Some("h".repeat(65))).contains("hostname"));
        assert!(with(|spec| spec.devices = vec!["fuse".into()]).contains("devices"));
        let error = with(|spec| drop(spec.labels.insert("wharf.app".into(), "other".into())));
        assert!(error.contains("wharf.app"), "{error}");
        for env in [("", "a"), ("A=B", "c"), ("A", "b\0")] {
            assert!(matches!(
                body_with(&ContainerSpec::default(), vec![env]),
                Err(RunError::Setting { name: "env", .. })
            ));
        }
    }

    #[test]
    fn no_value_of_a_variable_is_in_an_error() {
        let error = body_with(&ContainerSpec::default(), vec![("A", "hunter2\0")]).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[test]
    fn aliases_are_names_of_hosts() {
        let network: NetworkName = NetworkName::of("p", &"a".parse().unwrap(), None, WayOut::Open);
        for (alias, is_good) in
            [("db", true), ("my_db.internal", true), ("", false), ("a b", false), ("ä", false)]
        {
            let join = NetworkJoin { network: network.clone(), aliases: vec![alias.to_owned()] };
            assert_eq!(endpoint(&join).is_ok(), is_good, "{alias}");
        }
    }
}
