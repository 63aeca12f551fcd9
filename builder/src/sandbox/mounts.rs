//! What a build sees of the machine, as arguments of bubblewrap.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::plan::Network;

/// The sources, within the sandbox.
pub(crate) const TREE: &str = "/src";
/// The home of the build's user, with all caches that tools have.
pub(crate) const HOME: &str = "/cache";
const TOOLCHAINS: &str = "/toolchain";

/// Of `/dev/shm`, through which some programs share memory with their children.
const SHARED_MEMORY_MAX_BYTES: u64 = 64 << 20;

/// Files of `/etc` that programs need and that tell nothing of this machine's users.
const ETC: [&str; 9] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/pki",
    "/etc/ssl",
];

/// Files that are made for the sandbox.
pub(crate) const MADE_FILES: [(&str, &str); 4] = [
    ("/etc/passwd", "build:x:1000:1000:build:/cache:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("/etc/group", "build:x:1000:\nnogroup:x:65534:\n"),
    ("/etc/hosts", "127.0.0.1 localhost build\n::1 localhost\n"),
    ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
];

/// A folder or file of this machine that all builds may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// Where it is in the sandbox: `/toolchain/NAME`.
    pub name: String,
    pub source: PathBuf,
    /// The folder of its programs, relative to it. `None`: it is a program itself.
    pub bin: Option<String>,
}

impl Toolchain {
    fn target(&self) -> String {
        match self.bin {
            Some(_) => format!("{TOOLCHAINS}/{}", self.name),
            None => format!("{TOOLCHAINS}/bin/{}", self.name),
        }
    }

    pub(crate) fn path_entry(&self) -> String {
        match &self.bin {
            Some(bin) => format!("{}/{bin}", self.target()),
            None => format!("{TOOLCHAINS}/bin"),
        }
    }
}

/// A place of the system that looks the same inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SystemMount {
    Folder(PathBuf),
    Link { target: PathBuf, path: PathBuf },
}

/// Something of this machine in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) source: PathBuf,
    pub(crate) target: String,
    pub(crate) access: Access,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// The whole view.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) system: Vec<SystemMount>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) network: Network,
    pub(crate) tmp_max_bytes: u64,
    pub(crate) env: Vec<(String, String)>,
}

/// Numbers of files that bubblewrap inherits.
#[derive(Clone, Debug)]
pub(crate) struct Handles {
    pub(crate) status: i32,
    pub(crate) block: i32,
    /// In the order of [`MADE_FILES`].
    pub(crate) made_files: Vec<i32>,
}

/// The programs and libraries of this machine, as they are laid out here.
pub(crate) fn system_mounts() -> Vec<SystemMount> {
    let top = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"].map(|name| Path::new("/").join(name));
    let mut mounts = vec![SystemMount::Folder("/usr".into())];
    for path in top {
        match std::fs::read_link(&path) {
            Ok(target) => mounts.push(SystemMount::Link { target, path }),
            Err(_) if path.is_dir() => mounts.push(SystemMount::Folder(path)),
            Err(_) => {}
        }
    }
    mounts
}

/// Places of everything that comes from this machine.
pub(crate) fn mounts(
    toolchains: &[Toolchain],
    tree: &Path,
    home: &Path,
    kept: &[(String, PathBuf)],
) -> Vec<Mount> {
    let mount = |source: &Path, target: String, access| Mount { source: source.to_owned(), target, access };
    let mut mounts: Vec<Mount> =
        toolchains.iter().map(|it| mount(&it.source, it.target(), Access::Read)).collect();
    mounts.push(mount(tree, TREE.to_owned(), Access::Write));
    mounts.push(mount(home, HOME.to_owned(), Access::Write));
    for (name, folder) in kept {
        mounts.push(mount(folder, format!("{TREE}/{name}"), Access::Write));
    }
    mounts
}

/// All but the command itself.
pub(crate) fn arguments(view: &View, handles: &Handles) -> Vec<OsString> {
    let mut arguments = Arguments::default();
    arguments.add([
        "--unshare-user",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-uts",
        "--unshare-cgroup-try",
    ]);
    if view.network == Network::None {
        arguments.add(["--unshare-net"]);
    }
    arguments.add(["--uid", "1000", "--gid", "1000", "--hostname", "build"]);
    arguments.add(["--disable-userns", "--die-with-parent", "--new-session", "--clearenv"]);
    for mount in &view.system {
        match mount {
            SystemMount::Folder(path) => {
                arguments.add([OsStr::new("--ro-bind"), path.as_ref(), path.as_ref()])
            }
            SystemMount::Link { target, path } => {
                arguments.add([OsStr::new("--symlink"), target.as_ref(), path.as_ref()]);
            }
        }
    }
    for path in ETC {
        arguments.add(["--ro-bind-try", path, path]);
    }
    if view.network == Network::Machine {
        arguments.add(["--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf"]);
    }
    for ((path, _), handle) in MADE_FILES.iter().zip(&handles.made_files) {
        arguments.add(["--perms", "0444", "--ro-bind-data", &handle.to_string(), path]);
    }
    arguments.add(["--proc", "/proc", "--dev", "/dev"]);
    arguments.memory_folder("/dev/shm", SHARED_MEMORY_MAX_BYTES);
    arguments.memory_folder("/tmp", view.tmp_max_bytes);
    for mount in &view.mounts {
        let bind = match mount.access {
            Access::Read => "--ro-bind",
            Access::Write => "--bind",
        };
        arguments.add([OsStr::new(bind), mount.source.as_ref(), mount.target.as_ref()]);
    }
    // Both are in memory, without a limit of their own.
    arguments.add(["--remount-ro", "/dev", "--remount-ro", "/"]);
    for (name, value) in &view.env {
        arguments.add(["--setenv", name, value]);
    }
    arguments.add(["--chdir", TREE]);
    arguments.add([
        "--json-status-fd",
        &handles.status.to_string(),
        "--block-fd",
        &handles.block.to_string(),
    ]);
    arguments.0
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn add<A: AsRef<OsStr>, const N: usize>(&mut self, words: [A; N]) {
        self.0.extend(words.iter().map(|word| word.as_ref().to_owned()));
    }

    fn memory_folder(&mut self, path: &str, max_bytes: u64) {
        self.add(["--perms", "1777", "--size", &max_bytes.to_string(), "--tmpfs", path]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(network: Network) -> Vec<String> {
        let rust = Toolchain { name: "rust".into(), source: "/opt/rust".into(), bin: Some("bin".into()) };
        let wharf = Toolchain { name: "wharf".into(), source: "/opt/wharf".into(), bin: None };
        let kept = [("target".to_owned(), PathBuf::from("/data/kept"))];
        let view = View {
            system: vec![
                SystemMount::Folder("/usr".into()),
                SystemMount::Link { target: "usr/bin".into(), path: "/bin".into() },
            ],
            mounts: mounts(&[rust, wharf], Path::new("/data/tree"), Path::new("/data/home"), &kept),
            network,
            tmp_max_bytes: 1000,
            env: vec![("GIT_REV".into(), "abc".into())],
        };
        let handles = Handles { status: 10, block: 11, made_files: vec![12, 13, 14, 15] };
        arguments(&view, &handles).into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    fn has(arguments: &[String], words: &str) -> bool {
        let words: Vec<&str> = words.split(' ').collect();
        arguments.windows(words.len()).any(|window| window == words)
    }

    #[test]
    fn only_the_tree_and_the_own_cache_are_writable() {
        let arguments = view(Network::None);
        for words in [
            "--ro-bind /usr /usr",
            "--symlink usr/bin /bin",
            "--ro-bind /opt/rust /toolchain/rust",
            "--ro-bind /opt/wharf /toolchain/bin/wharf",
            "--bind /data/tree /src",
            "--bind /data/home /cache",
            "--bind /data/kept /src/target",
            "--size 1000 --tmpfs /tmp",
            "--remount-ro /",
            "--perms 0444 --ro-bind-data 12 /etc/passwd",
            "--setenv GIT_REV abc",
        ] {
            assert!(has(&arguments, words), "{words}: {arguments:?}");
        }
        assert_eq!(arguments.iter().filter(|word| *word == "--bind").count(), 3);
    }

    #[test]
    fn the_network_is_another_one_unless_it_is_granted() {
        let resolver = "--ro-bind-try /etc/resolv.conf /etc/resolv.conf";
        let none = view(Network::None);
        assert!(has(&none, "--unshare-net") && !has(&none, resolver));
        let machine = view(Network::Machine);
        assert!(!has(&machine, "--unshare-net") && has(&machine, resolver));
    }
}
