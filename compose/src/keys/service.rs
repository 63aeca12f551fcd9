//! The keys of a service, but for `deploy`.

use super::Kind::{
    Any, Bool, Duration, Int, List, Mode, Named, Number, Pairs, Size, SizeOrNone, Table, Text, Texts, Word,
    Words,
};
use super::Support::{Refused, Translated};
use super::{Key, Support, TMPFS_MODE};
use crate::short;

const NO_LABELS: Support = Translated("Wharf keeps no labels of apps; they are left out");
const NO_BUILD: Support =
    Refused("a component is built before; build it with `cargo build`, and name the `.wasm` file as `image`");
const BUILT_BEFORE: Support = Refused(
    "images are built before: build it and push it to a registry, or `docker save` it and deploy that with `wharf deploy --image-archive`",
);
const NO_CGROUPS: Support = Refused("a guest is no process with a control group; leave it out");
const OWN_CGROUP: Support =
    Refused("each container has a control group of its own, made by the platform; leave it out");
const NO_CPU_DIALS: Support =
    Translated("guests share the processors of their node in short turns; there is nothing to set");
const NO_QUOTA: Support =
    Refused("write it as `cpus`, which is the quota divided by the period: 50000 of 100000 is `cpus: 0.5`");
const NO_REALTIME: Support = Refused("no processor is given in real time; bound it with `cpus`");
const NO_DEVICES: Support = Refused("a guest reaches no devices of its node; run the service as a container");
const NO_DNS: Support = Refused(
    "names are looked up by the platform as its node does; grant addresses in `x-wharf.outbound` instead",
);
const NO_RESOLVER: Support =
    Refused("a container is told servers only, by `dns`; write whole names, and leave it out");
const NO_GPUS: Support = Refused(
    "devices are given by their paths: write `devices: [/dev/dri]`, and a placement constraint for the nodes that have them",
);
const NO_HOOKS: Support = Refused("nothing runs beside a guest; do it in the guest itself");
const NO_CONTAINER_HOOKS: Support = Refused(
    "nothing is run in a container but its command; do it there, or with `wharf job run` before or after",
);
const NO_KERNEL: Support = Refused("a guest has no kernel to set anything in; leave it out");
const NO_NAMESPACES: Support = Refused("a guest shares nothing with others; leave it out");
const OWN_NAMESPACES: Support = Refused(
    "a container shares its processes, names and memory with no other and not with its node; leave it out",
);
const OWN_INTERFACES: Support = Refused("the engine makes and names a container's interfaces; leave it out");
const NO_PROCESSES: Support = Translated("a guest has no processes; there is nothing to set");
const NO_MODELS: Support =
    Refused("Wharf runs no language models; run one as a service, or grant the address of one");
const NO_INTERFACES: Support = Translated("a guest has no network interfaces to order");
const ANY_ORDER: Support = Translated("the engine orders the networks of a container, by their names");
const NO_PROPAGATION: Support =
    Refused("a folder of the node is seen as it was when the container started; leave it out");
const NO_MOUNT_OPTIONS: Support =
    Translated("the files of a Wasm app are shipped with it; how they would be mounted says nothing");
const STATIC: Support =
    Refused("instances come and go, and no address is one's own; reach the service by its name");
const NO_CONTAINER_SWAP: Support =
    Translated("a container gets no swap beside its memory; raise `mem_limit` if it needs more");
const NO_SWAP: Support = Translated("a guest has a limit for its memory, which is never swapped for it");
const NO_CONTAINER_TERMINAL: Support = Translated("a container has no terminal and an empty stdin");
const NO_TERMINAL: Support = Translated("a guest has no terminal and an empty stdin");
const PULLED: Support =
    Translated("an image is pinned to a digest when it is deployed, and fetched where it is missing");
const WINDOWS_ONLY: Support = Refused("it is about Windows, and workers run on Linux; leave it out");

pub(super) const KEYS: &[Key] = &[
    Key::new("services.*", Table),
    Key::new("services.*.develop", Table)
        .both(Translated("it is for development on one machine; a stack that is deployed watches no files")),
    Key::new("services.*.develop.watch", List),
    Key::new("services.*.develop.watch.*", Table),
    Key::new("services.*.develop.watch.*.ignore", Texts).short(short::one_or_many),
    Key::new("services.*.develop.watch.*.include", Texts).short(short::one_or_many),
    Key::new("services.*.develop.watch.*.path", Text),
    Key::new(
        "services.*.develop.watch.*.action",
        Word(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"]),
    ),
    Key::new("services.*.develop.watch.*.target", Text),
    Key::new("services.*.develop.watch.*.initial_sync", Bool),
    Key::new("services.*.develop.watch.*.exec", Table),
    Key::new("services.*.develop.watch.*.exec.command", Words).replaced(),
    Key::new("services.*.develop.watch.*.exec.user", Text),
    Key::new("services.*.develop.watch.*.exec.privileged", Bool),
    Key::new("services.*.develop.watch.*.exec.working_dir", Text),
    Key::new("services.*.develop.watch.*.exec.environment", Pairs),
    Key::new("services.*.annotations", Pairs).app(NO_LABELS).container(Translated("annotations become labels of the container")),
    Key::new("services.*.attach", Bool)
        .both(Translated("the platform keeps what every service prints; `wharf logs` shows it")),
    Key::new("services.*.build", Table).short(short::build).app(NO_BUILD).container(BUILT_BEFORE),
    Key::new("services.*.build.context", Text),
    Key::new("services.*.build.dockerfile", Text),
    Key::new("services.*.build.dockerfile_inline", Text),
    Key::new("services.*.build.entitlements", Texts),
    Key::new("services.*.build.args", Pairs),
    Key::new("services.*.build.ssh", Pairs).short(short::ssh),
    Key::new("services.*.build.labels", Pairs),
    Key::new("services.*.build.cache_from", Texts),
    Key::new("services.*.build.cache_to", Texts),
    Key::new("services.*.build.no_cache", Bool),
    Key::new("services.*.build.additional_contexts", Pairs),
    Key::new("services.*.build.network", Text),
    Key::new("services.*.build.provenance", Text),
    Key::new("services.*.build.sbom", Text),
    Key::new("services.*.build.pull", Bool),
    Key::new("services.*.build.target", Text),
    Key::new("services.*.build.shm_size", Size),
    Key::new("services.*.build.extra_hosts", Named).short(short::hosts),
    Key::new("services.*.build.extra_hosts.*", Texts).short(short::one_or_many),
    Key::new("services.*.build.isolation", Text),
    Key::new("services.*.build.privileged", Bool),
    Key::new("services.*.build.secrets", List).short(short::grants).unique(&["target"]),
    Key::new("services.*.build.secrets.*", Table),
    Key::new("services.*.build.secrets.*.source", Text),
    Key::new("services.*.build.secrets.*.target", Text),
    Key::new("services.*.build.secrets.*.uid", Text),
    Key::new("services.*.build.secrets.*.gid", Text),
    Key::new("services.*.build.secrets.*.mode", Mode),
    Key::new("services.*.build.tags", Texts),
    Key::new("services.*.build.ulimits", Named),
    Key::new("services.*.build.ulimits.*", Table).short(short::ulimit),
    Key::new("services.*.build.ulimits.*.hard", Int),
    Key::new("services.*.build.ulimits.*.soft", Int),
    Key::new("services.*.build.platforms", Texts),
    Key::new("services.*.blkio_config", Table)
        .app(Refused("a guest reaches volumes through the platform, which paces nobody there; leave it out")).container(Refused("nobody is paced at the disks of a node; leave it out")),
    Key::new("services.*.blkio_config.device_read_bps", List).unique(&["path"]),
    Key::new("services.*.blkio_config.device_read_bps.*", Table),
    Key::new("services.*.blkio_config.device_read_bps.*.path", Text),
    Key::new("services.*.blkio_config.device_read_bps.*.rate", Size),
    Key::new("services.*.blkio_config.device_read_iops", List).unique(&["path"]),
    Key::new("services.*.blkio_config.device_read_iops.*", Table),
    Key::new("services.*.blkio_config.device_read_iops.*.path", Text),
    Key::new("services.*.blkio_config.device_read_iops.*.rate", Int),
    Key::new("services.*.blkio_config.device_write_bps", List).unique(&["path"]),
    Key::new("services.*.blkio_config.device_write_bps.*", Table),
    Key::new("services.*.blkio_config.device_write_bps.*.path", Text),
    Key::new("services.*.blkio_config.device_write_bps.*.rate", Size),
    Key::new("services.*.blkio_config.device_write_iops", List).unique(&["path"]),
    Key::new("services.*.blkio_config.device_write_iops.*", Table),
    Key::new("services.*.blkio_config.device_write_iops.*.path", Text),
    Key::new("services.*.blkio_config.device_write_iops.*.rate", Int),
    Key::new("services.*.blkio_config.weight", Int),
    Key::new("services.*.blkio_config.weight_device", List).unique(&["path"]),
    Key::new("services.*.blkio_config.weight_device.*", Table),
    Key::new("services.*.blkio_config.weight_device.*.path", Text),
    Key::new("services.*.blkio_config.weight_device.*.weight", Int),
    Key::new("services.*.cap_add", Texts)
        .app(Refused("a guest has no Linux capabilities; what it may reach is listed in `x-wharf.outbound`")),
    Key::new("services.*.cap_drop", Texts).app(Translated("a guest has no Linux capabilities in the first place")),
    Key::new("services.*.cgroup", Word(&["host", "private"])).app(NO_CGROUPS).container(OWN_CGROUP),
    Key::new("services.*.cgroup_parent", Text).app(NO_CGROUPS).container(OWN_CGROUP),
    Key::new("services.*.command", Words).replaced(),
    Key::new("services.*.configs", List).short(short::config_grants).unique(&["target"]),
    Key::new("services.*.configs.*", Table),
    Key::new("services.*.configs.*.source", Text),
    Key::new("services.*.configs.*.target", Text),
    Key::new("services.*.configs.*.uid", Text).app(NO_PROCESSES),
    Key::new("services.*.configs.*.gid", Text).app(NO_PROCESSES),
    Key::new("services.*.configs.*.mode", Mode).app(NO_PROCESSES),
    Key::new("services.*.container_name", Text)
        .app(Translated("instances are named by the platform; others reach the service by its own name"))
        .container(Translated("instances are named by the platform; in its networks the service is reached by this name, too")),
    Key::new("services.*.cpu_count", Int).both(WINDOWS_ONLY),
    Key::new("services.*.cpu_percent", Number).both(WINDOWS_ONLY),
    Key::new("services.*.cpu_shares", Int).app(NO_CPU_DIALS).container(Translated("processors are shared evenly; `deploy.resources.reservations.cpus` keeps some free for a service")),
    Key::new("services.*.cpu_quota", Int).app(NO_CPU_DIALS).container(NO_QUOTA),
    Key::new("services.*.cpu_period", Int).app(NO_CPU_DIALS).container(NO_QUOTA),
    Key::new("services.*.cpu_rt_period", Text).app(NO_CPU_DIALS).container(NO_REALTIME),
    Key::new("services.*.cpu_rt_runtime", Text).app(NO_CPU_DIALS).container(NO_REALTIME),
    Key::new("services.*.cpus", Number).app(NO_CPU_DIALS),
    Key::new("services.*.cpuset", Text).app(NO_CPU_DIALS).container(Refused("no processor is one's own; bound them with `cpus`, or keep some free with `deploy.resources.reservations.cpus`")),
    Key::new("services.*.credential_spec", Table).both(WINDOWS_ONLY),
    Key::new("services.*.credential_spec.config", Text),
    Key::new("services.*.credential_spec.file", Text),
    Key::new("services.*.credential_spec.registry", Text),
    Key::new("services.*.depends_on", Named).short(short::depends_on),
    Key::new("services.*.depends_on.*", Table),
    Key::new("services.*.depends_on.*.restart", Bool),
    Key::new("services.*.depends_on.*.required", Bool),
    Key::new(
        "services.*.depends_on.*.condition",
        Word(&["service_started", "service_healthy", "service_completed_successfully"]),
    ),
    Key::new("services.*.device_cgroup_rules", Texts).app(NO_DEVICES).container(Refused("list the devices themselves under `devices`")),
    Key::new("services.*.devices", List).short(short::devices).unique(&["target"]).app(NO_DEVICES),
    Key::new("services.*.devices.*", Table),
    Key::new("services.*.devices.*.source", Text),
    Key::new("services.*.devices.*.target", Text),
    Key::new("services.*.devices.*.permissions", Text),
    Key::new("services.*.dns", Texts).short(short::one_or_many).app(NO_DNS),
    Key::new("services.*.dns_opt", Texts).app(NO_DNS).container(NO_RESOLVER),
    Key::new("services.*.dns_search", Texts).short(short::one_or_many).app(NO_DNS).container(NO_RESOLVER),
    Key::new("services.*.domainname", Text).app(Translated("a guest has no hostname; others reach it by its app's name")).container(Refused("a container has a hostname alone; write both as that, such as `hostname: web.example.com`")),
    Key::new("services.*.entrypoint", Words)
        .replaced()
        .app(Refused("a component has one entry point; write its arguments as `command`")),
    Key::new("services.*.env_file", List).short(short::env_file).unique(&["path"]),
    Key::new("services.*.env_file.*", Table),
    Key::new("services.*.env_file.*.path", Text),
    Key::new("services.*.env_file.*.format", Word(&["raw"])),
    Key::new("services.*.env_file.*.required", Bool),
    Key::new("services.*.label_file", Texts).short(short::one_or_many).app(NO_LABELS),
    Key::new("services.*.environment", Pairs),
    Key::new("services.*.expose", Texts)
        .both(Translated("services that share a network reach each other without it")),
    Key::new("services.*.extends", Table).short(short::extends).replaced(),
    Key::new("services.*.extends.service", Text),
    Key::new("services.*.extends.file", Text),
    Key::new("services.*.provider", Table).both(Refused(
        "it starts a program of the machine where Compose runs; run what it provides as a service, or grant its address",
    )),
    Key::new("services.*.provider.type", Text),
    Key::new("services.*.provider.options", Any),
    Key::new("services.*.external_links", Texts)
        .both(Refused("nothing outside the stack is linked; list what is reached in `x-wharf.outbound`")),
    Key::new("services.*.extra_hosts", Named).short(short::hosts).app(NO_DNS),
    Key::new("services.*.extra_hosts.*", Texts).short(short::one_or_many),
    Key::new("services.*.gpus", List).short(short::gpus).app(NO_DEVICES).container(NO_GPUS),
    Key::new("services.*.gpus.*", Table),
    Key::new("services.*.gpus.*.capabilities", Texts),
    Key::new("services.*.gpus.*.count", Text),
    Key::new("services.*.gpus.*.device_ids", Texts),
    Key::new("services.*.gpus.*.driver", Text),
    Key::new("services.*.gpus.*.options", Pairs),
    Key::new("services.*.group_add", Texts).app(NO_PROCESSES),
    Key::new("services.*.healthcheck", Table),
    Key::new("services.*.healthcheck.disable", Bool),
    Key::new("services.*.healthcheck.interval", Duration),
    Key::new("services.*.healthcheck.retries", Int),
    Key::new("services.*.healthcheck.test", Texts).short(short::test).replaced(),
    Key::new("services.*.healthcheck.timeout", Duration),
    Key::new("services.*.healthcheck.start_period", Duration)
        .app(Translated("a guest that starts is asked until it first answers, and failures do not count before")),
    Key::new("services.*.healthcheck.start_interval", Duration),
    Key::new("services.*.hostname", Text).app(Translated("a guest has no hostname; others reach it by its app's name")),
    Key::new("services.*.image", Text),
    Key::new("services.*.init", Bool).app(NO_PROCESSES),
    Key::new("services.*.ipc", Text).app(NO_NAMESPACES).container(OWN_NAMESPACES),
    Key::new("services.*.isolation", Text).both(WINDOWS_ONLY),
    Key::new("services.*.labels", Pairs).app(NO_LABELS),
    Key::new("services.*.links", Texts)
        .both(Translated("services that share a network reach each other without it; an alias belongs into `networks`")),
    Key::new("services.*.logging", Table)
        .both(Translated("the platform keeps what every service prints; drains are set there, and not by service")),
    Key::new("services.*.logging.driver", Text),
    Key::new("services.*.logging.options", Pairs),
    Key::new("services.*.mac_address", Text).app(NO_NAMESPACES).container(OWN_INTERFACES),
    Key::new("services.*.mem_limit", Size),
    Key::new("services.*.mem_reservation", Size),
    Key::new("services.*.mem_swappiness", Int).app(NO_SWAP).container(NO_CONTAINER_SWAP),
    Key::new("services.*.memswap_limit", SizeOrNone).app(NO_SWAP).container(NO_CONTAINER_SWAP),
    Key::new("services.*.network_mode", Text),
    Key::new("services.*.models", Named).short(short::names).both(NO_MODELS),
    Key::new("services.*.models.*", Table),
    Key::new("services.*.models.*.endpoint_var", Text),
    Key::new("services.*.models.*.model_var", Text),
    Key::new("services.*.networks", Named).short(short::names),
    Key::new("services.*.networks.*", Table),
    Key::new("services.*.networks.*.aliases", Texts),
    Key::new("services.*.networks.*.interface_name", Text).app(NO_NAMESPACES).container(OWN_INTERFACES),
    Key::new("services.*.networks.*.ipv4_address", Text).both(STATIC),
    Key::new("services.*.networks.*.ipv6_address", Text).both(STATIC),
    Key::new("services.*.networks.*.link_local_ips", Texts).both(STATIC),
    Key::new("services.*.networks.*.mac_address", Text).app(NO_NAMESPACES).container(OWN_INTERFACES),
    Key::new("services.*.networks.*.driver_opts", Pairs).app(NO_NAMESPACES).container(OWN_INTERFACES),
    Key::new("services.*.networks.*.priority", Int).app(NO_INTERFACES).container(ANY_ORDER),
    Key::new("services.*.networks.*.gw_priority", Int).app(NO_INTERFACES).container(ANY_ORDER),
    Key::new("services.*.oom_kill_disable", Bool).app(NO_PROCESSES).container(Refused("what takes more memory than its limit ends, and is started again; raise `mem_limit`")),
    Key::new("services.*.oom_score_adj", Int).app(NO_PROCESSES).container(Translated("which process ends first where a node has no memory left is not set by service")),
    Key::new("services.*.pid", Text).app(NO_NAMESPACES).container(OWN_NAMESPACES),
    Key::new("services.*.pids_limit", Int).app(NO_PROCESSES),
    Key::new("services.*.platform", Text),
    Key::new("services.*.ports", List).short(short::ports).unique(&["host_ip", "target", "published", "protocol"]),
    Key::new("services.*.ports.*", Table),
    Key::new("services.*.ports.*.name", Text)
        .both(Translated("ports have numbers only; the name is left out")),
    Key::new("services.*.ports.*.mode", Word(&["host", "ingress"])),
    Key::new("services.*.ports.*.host_ip", Text),
    Key::new("services.*.ports.*.target", Int),
    Key::new("services.*.ports.*.published", Text),
    Key::new("services.*.ports.*.protocol", Word(&["tcp", "udp", "sctp"])),
    Key::new("services.*.ports.*.app_protocol", Text),
    Key::new("services.*.post_start", List).app(NO_HOOKS).container(NO_CONTAINER_HOOKS),
    Key::new("services.*.post_start.*", Table),
    Key::new("services.*.post_start.*.command", Words).replaced(),
    Key::new("services.*.post_start.*.user", Text),
    Key::new("services.*.post_start.*.privileged", Bool),
    Key::new("services.*.post_start.*.working_dir", Text),
    Key::new("services.*.post_start.*.environment", Pairs),
    Key::new("services.*.pre_stop", List).app(NO_HOOKS).container(NO_CONTAINER_HOOKS),
    Key::new("services.*.pre_stop.*", Table),
    Key::new("services.*.pre_stop.*.command", Words).replaced(),
    Key::new("services.*.pre_stop.*.user", Text),
    Key::new("services.*.pre_stop.*.privileged", Bool),
    Key::new("services.*.pre_stop.*.working_dir", Text),
    Key::new("services.*.pre_stop.*.environment", Pairs),
    Key::new("services.*.privileged", Bool)
        .app(Refused("a guest has no privileges to extend; what it may reach is listed in `x-wharf.outbound`")),
    Key::new("services.*.profiles", Texts),
    Key::new("services.*.pull_policy", Text).both(PULLED),
    Key::new("services.*.pull_refresh_after", Text).both(PULLED),
    Key::new("services.*.read_only", Bool)
        .app(Translated("a guest can write to its volumes only, with or without it")),
    Key::new("services.*.restart", Text),
    Key::new("services.*.runtime", Text).app(Refused("a guest is run by the platform's own engine; leave it out")).container(Refused("containers run in the runtime that their engine has by default; leave it out")),
    Key::new("services.*.scale", Int),
    Key::new("services.*.security_opt", Texts)
        .app(Translated("a guest reaches nothing that is not granted, with or without it")),
    Key::new("services.*.shm_size", Size).app(NO_PROCESSES),
    Key::new("services.*.secrets", List).short(short::grants).unique(&["target"]),
    Key::new("services.*.secrets.*", Table),
    Key::new("services.*.secrets.*.source", Text),
    Key::new("services.*.secrets.*.target", Text),
    Key::new("services.*.secrets.*.uid", Text).app(NO_PROCESSES),
    Key::new("services.*.secrets.*.gid", Text).app(NO_PROCESSES),
    Key::new("services.*.secrets.*.mode", Mode).app(NO_PROCESSES),
    Key::new("services.*.sysctls", Pairs).app(NO_KERNEL),
    Key::new("services.*.stdin_open", Bool).app(NO_TERMINAL).container(NO_CONTAINER_TERMINAL),
    Key::new("services.*.stop_grace_period", Duration),
    Key::new("services.*.stop_signal", Text)
        .app(Translated("a guest gets no signals: it is taken off its routes, may finish, and ends")),
    Key::new("services.*.storage_opt", Pairs).app(NO_KERNEL),
    Key::new("services.*.tmpfs", Texts)
        .short(short::one_or_many)
        .app(Refused("a guest has no temporary file system; give it a volume")),
    Key::new("services.*.tty", Bool).app(NO_TERMINAL).container(NO_CONTAINER_TERMINAL),
    Key::new("services.*.ulimits", Named)
        .app(Translated("a guest has limits of its own; see `x-wharf.limits`")),
    Key::new("services.*.ulimits.*", Table).short(short::ulimit),
    Key::new("services.*.ulimits.*.hard", Int),
    Key::new("services.*.ulimits.*.soft", Int),
    Key::new("services.*.use_api_socket", Bool)
        .both(Refused("it would give the service the whole machine; talk to Wharf's own API with a token instead")),
    Key::new("services.*.user", Text).app(Translated("a guest is nobody's process; there is no user to be")),
    Key::new("services.*.uts", Text).app(NO_NAMESPACES).container(OWN_NAMESPACES),
    Key::new("services.*.userns_mode", Text).app(NO_NAMESPACES).container(OWN_NAMESPACES),
    Key::new("services.*.volumes", List).short(short::mounts).unique(&["target"]),
    Key::new("services.*.volumes.*", Table),
    Key::new(
        "services.*.volumes.*.type",
        Word(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"]),
    ),
    Key::new("services.*.volumes.*.source", Text),
    Key::new("services.*.volumes.*.target", Text),
    Key::new("services.*.volumes.*.read_only", Bool),
    Key::new("services.*.volumes.*.consistency", Text)
        .both(Translated("it was for another system than Linux, and says nothing here")),
    Key::new("services.*.volumes.*.bind", Table).app(NO_MOUNT_OPTIONS),
    Key::new("services.*.volumes.*.bind.propagation", Text).container(NO_PROPAGATION),
    Key::new("services.*.volumes.*.bind.create_host_path", Bool).container(Translated("no folder of a node is made: it has to be there, on every node where the service may run")),
    Key::new(
        "services.*.volumes.*.bind.recursive",
        Word(&["enabled", "disabled", "writable", "readonly"]),
    ).container(NO_PROPAGATION),
    Key::new("services.*.volumes.*.bind.selinux", Word(&["z", "Z"])).container(Refused("nothing on a node gets another SELinux label; leave it out, and label the folder there, once, if the node has SELinux")),
    Key::new("services.*.volumes.*.volume", Table),
    Key::new("services.*.volumes.*.volume.labels", Pairs).both(NO_LABELS),
    Key::new("services.*.volumes.*.volume.nocopy", Bool)
        .app(Translated("nothing is ever copied into a new volume of a Wasm app")).container(Translated("nothing is copied from the image into a new volume, with or without it")),
    Key::new("services.*.volumes.*.volume.subpath", Text)
        .both(Refused("a volume is seen as a whole; give the service one for each folder")),
    Key::new("services.*.volumes.*.tmpfs", Table),
    Key::new("services.*.volumes.*.tmpfs.size", Size),
    Key::new("services.*.volumes.*.tmpfs.mode", Mode).container(Translated(TMPFS_MODE)),
    Key::new("services.*.volumes.*.image", Table),
    Key::new("services.*.volumes.*.image.subpath", Text),
    Key::new("services.*.volumes_from", Texts)
        .both(Refused("a volume belongs to one app; let one service have it, and the others ask that for what is in it")),
    Key::new("services.*.working_dir", Text)
        .app(Refused("a guest has no working folder; write paths from `/` on")),
];
