//! What a component or module may import and export here, and what an import means to a person.
//!
//! The list is the contract between the control plane, which refuses a component at push, and the worker, which links it.
//! Tests in `wharf-runtime` and the end-to-end suites hold the two together.

use serde::{Deserialize, Serialize};

use crate::spec::AppSpec;

/// How an artifact is run, found from its exports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum World {
    /// Exports `wasi:http/incoming-handler@0.2`.
    HttpProxy,
    /// Exports `wasi:http/handler@0.3`.
    HttpService,
    /// Exports `wasi:cli/run@0.2`.
    CommandP2,
    /// Exports `wasi:cli/run@0.3`.
    CommandP3,
    /// A core module of WASI 0.1 with `_start`.
    CommandP1,
    /// An image of a container. As the world of an artifact this says nothing of what it listens to: see [`World::with`].
    Container,
    /// An image of a container, of an app whose settings say at which port it takes requests.
    HttpContainer,
}

impl World {
    pub fn is_http(self) -> bool {
        matches!(self, Self::HttpProxy | Self::HttpService | Self::HttpContainer)
    }

    pub fn is_container(self) -> bool {
        matches!(self, Self::Container | Self::HttpContainer)
    }

    /// How an artifact of this world is run with these settings.
    pub fn with(self, spec: &AppSpec) -> Self {
        match self {
            Self::Container if spec.container.http_port.is_some() => Self::HttpContainer,
            world => world,
        }
    }

    pub fn describe(self) -> &'static str {
        match self {
            Self::HttpProxy => "HTTP app, WASI 0.2",
            Self::HttpService => "HTTP app, WASI 0.3",
            Self::CommandP2 => "command, WASI 0.2",
            Self::CommandP3 => "command, WASI 0.3",
            Self::CommandP1 => "command, WASI 0.1 module",
            Self::Container => "container",
            Self::HttpContainer => "container, HTTP app",
        }
    }

    /// The world of a component with these exports. HTTP comes before commands, the newer WASI before the older.
    pub fn of_exports<'a>(exports: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut found: Option<(u8, Self)> = None;
        for export in exports {
            let Some(name) = InterfaceName::parse(export) else { continue };
            let candidate = match (name.package, name.interface, name.track()) {
                ("wasi:http", "handler", Some((0, 3))) => (0, Self::HttpService),
                ("wasi:http", "incoming-handler", Some((0, 2))) => (1, Self::HttpProxy),
                ("wasi:cli", "run", Some((0, 3))) => (2, Self::CommandP3),
                ("wasi:cli", "run", Some((0, 2))) => (3, Self::CommandP2),
                _ => continue,
            };
            if found.is_none_or(|best| candidate.0 < best.0) {
                found = Some(candidate);
            }
        }
        found.map(|(_, world)| world)
    }
}

/// `wasi:http/types@0.2.6`, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceName<'a> {
    pub package: &'a str,
    pub interface: &'a str,
    pub version: Option<&'a str>,
}

impl<'a> InterfaceName<'a> {
    pub fn parse(name: &'a str) -> Option<Self> {
        let (path, version) = match name.split_once('@') {
            Some((path, version)) => (path, Some(version)),
            None => (name, None),
        };
        let (package, interface) = path.split_once('/')?;
        package.contains(':').then_some(Self { package, interface, version })
    }

    /// The numbers that must be the same for two versions to link: `(0, 2)` for 0.2.x. None for a pre-release.
    fn track(&self) -> Option<(u64, u64)> {
        let version = self.version?;
        if version.contains('-') {
            return None;
        }
        let mut parts = version.split('.').map(str::parse::<u64>);
        Some((parts.next()?.ok()?, parts.next()?.ok()?))
    }
}

/// Interfaces of one WASI version, by package.
type Interfaces = &'static [(&'static str, &'static [&'static str])];

/// Provided at every 0.2.x.
const WASI_02: Interfaces = &[
    ("wasi:io", &["error", "poll", "streams"]),
    ("wasi:clocks", &["monotonic-clock", "wall-clock"]),
    ("wasi:random", &["random", "insecure", "insecure-seed"]),
    ("wasi:filesystem", &["types", "preopens"]),
    (
        "wasi:sockets",
        &[
            "instance-network",
            "ip-name-lookup",
            "network",
            "tcp",
            "tcp-create-socket",
            "udp",
            "udp-create-socket",
        ],
    ),
    (
        "wasi:cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("wasi:http", &["types", "outgoing-handler"]),
];

/// Provided at every 0.3.x.
const WASI_03: Interfaces = &[
    ("wasi:clocks", &["monotonic-clock", "system-clock", "types"]),
    ("wasi:random", &["random", "insecure", "insecure-seed"]),
    ("wasi:filesystem", &["types", "preopens"]),
    ("wasi:sockets", &["types", "ip-name-lookup"]),
    (
        "wasi:cli",
        &[
            "environment",
            "exit",
            "stdin",
            "stdout",
            "stderr",
            "types",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("wasi:http", &["types", "client"]),
];

/// Provided at exactly this version: drafts promise nothing to each other.
const DRAFTS: &[&str] = &[
    "wasi:keyvalue/store@0.2.0-draft",
    "wasi:keyvalue/atomics@0.2.0-draft",
    "wasi:keyvalue/batch@0.2.0-draft",
    "wasi:config/store@0.2.0-rc.1",
];

fn contains(interfaces: Interfaces, name: InterfaceName<'_>) -> bool {
    interfaces.iter().any(|(package, names)| *package == name.package && names.contains(&name.interface))
}

/// Whether the host provides an imported interface. Patch versions do not matter, pre-releases must be the same.
pub fn is_provided(import: &str) -> bool {
    let Some(name) = InterfaceName::parse(import) else { return false };
    match name.track() {
        Some((0, 2)) => contains(WASI_02, name),
        Some((0, 3)) => contains(WASI_03, name),
        _ => DRAFTS.contains(&import),
    }
}

/// Where a core module imports WASI 0.1 from.
pub const WASI_P1: &str = "wasi_snapshot_preview1";

/// The functions of WASI 0.1.
pub const WASI_01: &[&str] = &[
    "args_get",
    "args_sizes_get",
    "environ_get",
    "environ_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_get",
    "fd_prestat_dir_name",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "sched_yield",
    "random_get",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// Whether the host provides a function that a core module imports from [`WASI_P1`].
pub fn is_provided_function(name: &str) -> bool {
    WASI_01.contains(&name)
}

/// What a release asks for, in a user's words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Capability {
    /// Stable: `outbound-http`, `sockets`, `keyvalue`, `filesystem`, `grant`, `listen`, `secret`.
    pub kind: String,
    pub description: String,
    /// Whether the release's settings grant it. An import that is not granted answers the guest with an error.
    pub granted: bool,
}

/// The capabilities of an artifact with these imports under these settings. What every guest has (clocks, random
/// numbers, its environment, printing) is not worth a user's attention and left out.
pub fn capabilities<'a>(imports: impl IntoIterator<Item = &'a str>, spec: &AppSpec) -> Vec<Capability> {
    let (outbound_allow, ports) = (&spec.outbound.allow, &spec.tcp.ports);
    let mut found = Vec::new();
    let mut add = |kind: &str, description: String, granted: bool| {
        let capability = Capability { kind: kind.to_owned(), description, granted };
        if !found.contains(&capability) {
            found.push(capability);
        }
    };
    let http_grants = outbound_allow.iter().any(|grant| grant.starts_with("http"));
    let socket_grants =
        outbound_allow.iter().any(|grant| grant.starts_with("tcp:") || grant.starts_with("udp:"));
    for import in imports {
        let Some(name) = InterfaceName::parse(import) else { continue };
        match (name.package, name.interface) {
            ("wasi:http", "outgoing-handler" | "client") => {
                add("outbound-http", "may call HTTP servers that its grants list".into(), http_grants);
            }
            ("wasi:sockets", "tcp" | "udp" | "tcp-create-socket" | "udp-create-socket" | "types") => {
                // For one that listens, sockets are of use also where it may connect to nothing.
                let is_granted = socket_grants || !ports.is_empty();
                add("sockets", "may open sockets to addresses that its grants list".into(), is_granted);
            }
            ("wasi:keyvalue", _) => add("keyvalue", "keeps data in the app's key-value store".into(), true),
            _ => {}
        }
    }
    for port in ports {
        add("listen", format!("takes connections at port {port}"), true);
    }
    for grant in outbound_allow {
        add("grant", format!("may reach {grant}"), true);
    }
    for secret in spec.secrets.values() {
        add("secret", format!("reads the secret {secret}"), true);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patch_versions_do_not_matter_but_pre_releases_do() {
        assert!(is_provided("wasi:http/types@0.2.0") && is_provided("wasi:http/types@0.2.12"));
        assert!(is_provided("wasi:http/types@0.3.2"));
        assert!(!is_provided("wasi:http/types@0.3.0-rc-2026-03-15"));
        assert!(!is_provided("wasi:http/types@0.4.0") && !is_provided("wasi:http/types"));
        assert!(!is_provided("wasi:nn/tensor@0.2.0") && !is_provided("env") && !is_provided(""));
    }

    #[test]
    fn http_comes_before_commands() {
        let both = ["wasi:cli/run@0.2.6", "wasi:http/incoming-handler@0.2.0"];
        assert_eq!(World::of_exports(both), Some(World::HttpProxy));
        assert_eq!(World::of_exports(["wasi:http/handler@0.3.0"]), Some(World::HttpService));
        assert_eq!(World::of_exports(["my:own/thing@1.0.0", "memory"]), None);
    }

    #[test]
    fn capabilities_name_what_is_not_granted() {
        let found = capabilities(
            ["wasi:http/outgoing-handler@0.2.0", "wasi:clocks/wall-clock@0.2.0"],
            &AppSpec::default(),
        );
        assert_eq!(found.len(), 1);
        assert!(!found[0].granted);
    }

    #[test]
    fn a_server_asks_for_its_ports_and_has_use_for_sockets() {
        let mut spec = AppSpec::default();
        spec.tcp.ports = vec![7000];
        let found = capabilities(["wasi:sockets/tcp@0.2.0"], &spec);
        let kinds: Vec<_> = found.iter().map(|asked| (asked.kind.as_str(), asked.granted)).collect();
        assert_eq!(kinds, [("sockets", true), ("listen", true)]);
    }
}
