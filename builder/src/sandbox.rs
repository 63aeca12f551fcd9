//! Where builds run: in a sandbox of bubblewrap, or, on the user's own machine, without one.
//!
//! A build in the sandbox sees the system's programs, the toolchains that it is given, its sources and its app's cache; nothing else of this
//! machine, no process of it, and its network only where that is granted. It has no capabilities, and gets none. What it cannot have is
//! never replaced by something weaker: where there is no sandbox there is no build.

mod cgroup;
mod mounts;
mod spawn;

use std::fmt;
use std::path::{Path, PathBuf};

use wharf_types::AppId;

pub use self::cgroup::Version as CgroupVersion;
pub(crate) use self::cgroup::{Cgroups, Group};
pub use self::mounts::Toolchain;
pub(crate) use self::mounts::{HOME, SystemMount, View, mounts, system_mounts};
pub(crate) use self::spawn::{
    Control, Launch, bound_processes, kill_process, open_process, wait_until_readable,
};
use crate::plan::{BuildLimits, BuildPlan, Network};
use crate::rust::{NoRust, RustFacts, RustWay};
use crate::{Artifact, Steps, cache, run};

/// How a build is kept from everything else.
#[derive(Clone, Debug)]
pub enum Sandbox {
    Confined(Confined),
    /// Not at all: a user's own build on the user's own machine. Never for the sources of anybody else.
    Unconfined,
}

/// A sandbox that works on this machine.
#[derive(Clone, Debug)]
pub struct Confined {
    pub(crate) bwrap: PathBuf,
    pub(crate) system: Vec<SystemMount>,
    pub(crate) settings: SandboxSettings,
    pub(crate) cgroups: Option<Cgroups>,
    /// None: builds run as ourselves, in a user namespace.
    pub(crate) uids: Option<UidRange>,
}

#[derive(Clone, Debug)]
pub struct SandboxSettings {
    /// Folder of the apps' caches. It is made if it is not there, and only we get into it.
    pub caches: PathBuf,
    /// What builds find beside `/usr`.
    pub toolchains: Vec<Toolchain>,
    /// Users that builds run as where we are root. Nothing else on this machine may belong to them.
    pub uids: UidRange,
}

/// Consecutive numbers of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UidRange {
    pub first: u32,
    pub count: u32,
}

impl Default for UidRange {
    /// A range that neither distributions nor systemd give to anybody.
    fn default() -> Self {
        Self { first: 1_900_000_000, count: 200_000_000 }
    }
}

impl UidRange {
    /// The user of an app's builds: always the same one, so that its cache stays its own.
    pub(crate) fn of(self, app: Option<AppId>) -> u32 {
        // The last octets of an id are random. Two apps with the same user still see nothing of each other.
        let number = app.map_or(0, |app| app.as_uuid().as_u128());
        let offset = number % u128::from(self.count.max(1));
        self.first.saturating_add(u32::try_from(offset).unwrap_or_default())
    }

    /// This range, or one that exists where a container has only a part of all users; from user_namespaces(7).
    fn fitting(self, uid_map: &str) -> Self {
        let numbers = |line: &str| -> Option<(u64, u64)> {
            let mut numbers = line.split_whitespace().map(str::parse::<u64>);
            let (first, _, count) = (numbers.next()?.ok()?, numbers.next(), numbers.next()?.ok()?);
            Some((first, first.saturating_add(count)))
        };
        let (first, end) = (u64::from(self.first), u64::from(self.first) + u64::from(self.count));
        let maps: Vec<(u64, u64)> = uid_map.lines().filter_map(numbers).collect();
        if maps.is_empty() || maps.iter().any(|&(from, to)| from <= first && end <= to) {
            return self;
        }
        Self { first: 30_000, count: 20_000 }
    }
}

/// Why there is no sandbox here. The message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error(
        "builds need bubblewrap, and there is no `bwrap` in the PATH: install it, on Debian and Ubuntu with `apt-get install \
         bubblewrap`"
    )]
    NoBubblewrap,
    #[error(
        "bubblewrap may not make a sandbox here ({words}): this system forbids user namespaces. Allow them with \
         `sysctl -w user.max_user_namespaces=15000`{}; in a container, allow the system calls `unshare` and `mount`",
        sysctl_words(*apparmor, *debian)
    )]
    Forbidden { words: String, apparmor: bool, debian: bool },
    #[error(
        "bubblewrap is too old here ({words}): 0.8 or later is needed, which Debian 12 and Ubuntu 24.04 have"
    )]
    TooOld { words: String },
    #[error("bubblewrap does not work here: {words}")]
    Broken { words: String },
    #[error("the folder of caches {} cannot be used", folder.display())]
    Caches {
        folder: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

fn sysctl_words(apparmor: bool, debian: bool) -> String {
    let mut words = String::new();
    if apparmor {
        words += ", and `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` or a profile of AppArmor for bwrap";
    }
    if debian {
        words += ", and `sysctl -w kernel.unprivileged_userns_clone=1`";
    }
    words
}

impl Sandbox {
    /// Finds out what this machine has, by running something in a sandbox.
    ///
    /// # Errors
    /// When there can be no sandbox.
    pub async fn available(settings: SandboxSettings) -> Result<Self, Unavailable> {
        let bwrap = find_program("bwrap").ok_or(Unavailable::NoBubblewrap)?;
        let uids = spawn::is_root().then(|| {
            settings.uids.fitting(&std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default())
        });
        let mut confined =
            Confined { bwrap, system: system_mounts(), settings, cgroups: Cgroups::find(), uids };
        let mut trial = confined.try_out().await;
        if trial.is_err() && confined.cgroups.is_some() {
            // Groups can be made, and nothing can be moved into them.
            confined.cgroups = None;
            trial = confined.try_out().await;
        }
        trial.map(|()| Self::Confined(confined))
    }

    /// Removes what the builds of an app have kept, because there is no such app any more.
    ///
    /// # Errors
    /// While one of its builds is running.
    pub fn remove_cache(&self, app: AppId) -> std::io::Result<()> {
        match self {
            Self::Confined(confined) => cache::remove(&confined.settings.caches, app),
            Self::Unconfined => Ok(()),
        }
    }

    /// How Cargo projects are built in it, where `wharf` is this very program.
    ///
    /// # Errors
    /// When there is no Rust that builds for WebAssembly.
    pub async fn rust(&self, tree: &Path) -> Result<RustWay, NoRust> {
        match self {
            Self::Confined(confined) => {
                let toolchain = confined.settings.toolchains.iter().find(|it| it.name == RUST);
                let sysroot = toolchain.map_or(Path::new("/usr"), |toolchain| &toolchain.source);
                RustFacts::of(Some(sysroot)).way(WHARF)
            }
            Self::Unconfined => {
                let wharf = std::env::current_exe().ok();
                let wharf = wharf.and_then(|path| path.to_str().map(str::to_owned));
                RustFacts::of(crate::rust::sysroot(tree).await.as_deref())
                    .way(&wharf.unwrap_or_else(|| WHARF.to_owned()))
            }
        }
    }
}

const RUST: &str = "rust";
const WHARF: &str = "wharf";

impl SandboxSettings {
    /// With the Rust of this process's user, and this program as `wharf`.
    pub async fn of_this_machine(caches: PathBuf) -> Self {
        let mut toolchains = Vec::new();
        let sysroot = crate::rust::sysroot(Path::new("/")).await;
        if let Some(source) = sysroot.filter(|sysroot| !sysroot.starts_with("/usr")) {
            toolchains.push(Toolchain { name: RUST.to_owned(), source, bin: Some("bin".to_owned()) });
        }
        if let Ok(source) = std::env::current_exe() {
            toolchains.push(Toolchain { name: WHARF.to_owned(), source, bin: None });
        }
        Self { caches, toolchains, uids: UidRange::default() }
    }
}

impl Confined {
    async fn try_out(&self) -> Result<(), Unavailable> {
        let caches = &self.settings.caches;
        let tree = caches.join(cache::temporary_name());
        let unusable = |source| Unavailable::Caches { folder: caches.clone(), source };
        cache::make_private(&tree).map_err(unusable)?;
        cache::reap(caches);
        let plan = BuildPlan {
            app: None,
            part: None,
            tree: tree.clone(),
            steps: Steps {
                command: Some("echo made > trial".to_owned()),
                artifact: Artifact::Path("trial".to_owned()),
                kept: Vec::new(),
            },
            env: std::collections::BTreeMap::new(),
            network: Network::None,
            limits: BuildLimits { disk_free_min_bytes: 0, ..BuildLimits::default() },
        };
        let cancel = tokio_util::sync::CancellationToken::new();
        let sandbox = Sandbox::Confined(self.clone());
        let tried = run::run(&plan, &sandbox, &mut |_| {}, &cancel).await;
        let _ = crate::disk::remove_tree(&tree);
        tried.map(drop).map_err(|failed| {
            let first: &dyn std::error::Error = &failed.reason;
            let chain = std::iter::successors(Some(first), |error| error.source());
            let chain = || chain.map(ToString::to_string).collect::<Vec<_>>().join(": ");
            unavailable(&failed.last_lines.last().cloned().unwrap_or_else(chain))
        })
    }

    /// What holds for builds here.
    pub fn enforced(&self) -> Enforced {
        let has = |folder: fn(&Cgroups) -> &Option<PathBuf>| {
            self.cgroups.as_ref().is_some_and(|groups| folder(groups).is_some())
        };
        Enforced {
            isolation: match self.uids {
                Some(_) => Isolation::OwnUser,
                None => Isolation::Namespaces,
            },
            cgroups: self.cgroups.as_ref().map(|groups| groups.version),
            memory: if has(|it| &it.memory) { Bound::Together } else { Bound::EachProcess },
            processes: Bound::Together,
            cpu: if has(|it| &it.cpu) { Bound::Together } else { Bound::EachProcess },
            disk: Bound::Measured,
        }
    }
}

fn unavailable(words: &str) -> Unavailable {
    let words = words.trim_start_matches("bwrap: ").to_owned();
    let is_set =
        |file: &str, value: &str| std::fs::read_to_string(file).is_ok_and(|text| text.trim() == value);
    let forbidden = ["permission denied", "not permitted", "no space left", "uid map", "namespace"]
        .iter()
        .any(|it| words.to_lowercase().contains(it));
    if words.to_lowercase().contains("unknown option") {
        return Unavailable::TooOld { words };
    }
    if !forbidden {
        return Unavailable::Broken { words };
    }
    Unavailable::Forbidden {
        words,
        apparmor: is_set("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
        debian: is_set("/proc/sys/kernel/unprivileged_userns_clone", "0"),
    }
}

fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_absolute() && file.is_file())
}

/// Which limits really held, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enforced {
    pub isolation: Isolation,
    pub cgroups: Option<CgroupVersion>,
    pub memory: Bound,
    pub processes: Bound,
    pub cpu: Bound,
    pub disk: Bound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    None,
    /// Namespaces of its own, with our user behind its own one.
    Namespaces,
    /// The same, with a user behind it to whom nothing else belongs.
    OwnUser,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    None,
    EachProcess,
    /// All processes of the build.
    Together,
    /// Looked at now and then, so that it may be passed for a moment.
    Measured,
}

impl Enforced {
    pub(crate) const NOTHING: Self = Self {
        isolation: Isolation::None,
        cgroups: None,
        memory: Bound::None,
        processes: Bound::None,
        cpu: Bound::None,
        disk: Bound::None,
    };
}

impl fmt::Display for Enforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.isolation {
            Isolation::None => return f.write_str("no sandbox and no limits"),
            Isolation::Namespaces => "namespaces of its own",
            Isolation::OwnUser => "namespaces and a user of its own",
        })?;
        match self.cgroups {
            Some(CgroupVersion::V1) => f.write_str(", control groups v1")?,
            Some(CgroupVersion::V2) => f.write_str(", control groups v2")?,
            None => f.write_str(", no control groups")?,
        }
        let bounds =
            [("memory", self.memory), ("processes", self.processes), ("CPU", self.cpu), ("disk", self.disk)];
        for (what, bound) in bounds {
            let words = match bound {
                Bound::None => "not limited",
                Bound::EachProcess => "limited for each process",
                Bound::Together => "limited for all processes together",
                Bound::Measured => "measured",
            };
            write!(f, "; {what} {words}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_keeps_its_user_and_others_have_others() {
        let uids = UidRange::default();
        let app = AppId::new();
        assert_eq!(uids.of(Some(app)), uids.of(Some(app)));
        assert_ne!(uids.of(Some(app)), uids.of(Some(AppId::new())));
        for range in [UidRange { first: 100, count: 1 }, UidRange { first: 100, count: 0 }] {
            assert_eq!(range.of(Some(app)), 100);
        }
    }

    #[test]
    fn a_container_with_few_users_gets_a_range_that_it_has() {
        let uids = UidRange::default();
        assert_eq!(uids.fitting("         0          0 4294967295\n"), uids);
        assert_eq!(uids.fitting("nonsense"), uids);
        assert_eq!(uids.fitting("0 100000 65536\n"), UidRange { first: 30_000, count: 20_000 });
    }

    #[test]
    fn what_is_missing_comes_with_the_way_out() {
        let forbidden = unavailable("bwrap: setting up uid map: Permission denied").to_string();
        assert!(
            forbidden.contains("setting up uid map") && forbidden.contains("max_user_namespaces"),
            "{forbidden}"
        );
        assert!(matches!(unavailable("bwrap: Unknown option --x"), Unavailable::TooOld { .. }));
        assert!(matches!(unavailable("bwrap: what is this?"), Unavailable::Broken { .. }));
        assert!(Unavailable::NoBubblewrap.to_string().contains("apt-get install bubblewrap"));
        assert!(sysctl_words(true, true).contains("apparmor") && sysctl_words(false, false).is_empty());
    }
}
