//! Control groups: bounds for all processes of a build together, where this machine lets us make groups.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::plan::BuildLimits;

const NAME: &str = "wharf-build-";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// Where groups can be made. With the second version all three are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cgroups {
    pub(crate) version: Version,
    pub(crate) memory: Option<PathBuf>,
    pub(crate) pids: Option<PathBuf>,
    pub(crate) cpu: Option<PathBuf>,
}

/// The group of one build. It is removed when nobody has it any more.
#[derive(Debug)]
pub(crate) struct Group {
    version: Version,
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
    cpu: Option<PathBuf>,
}

/// Where this process is in each hierarchy: the mount, and the folder of its own group below it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hierarchies {
    v2: Option<(PathBuf, PathBuf)>,
    v1: BTreeMap<String, (PathBuf, PathBuf)>,
}

impl Cgroups {
    /// None: this process may make no groups.
    pub(crate) fn find() -> Option<Self> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let hierarchies = hierarchies(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        Self::find_v2(&hierarchies).or_else(|| Self::find_v1(&hierarchies))
    }

    fn find_v2(hierarchies: &Hierarchies) -> Option<Self> {
        let (mount, own) = hierarchies.v2.as_ref()?;
        let parent = own.ancestors().take_while(|folder| folder.starts_with(mount)).find(|folder| {
            // Refused where processes are in the group itself; then one further up may do.
            let _ = std::fs::write(folder.join("cgroup.subtree_control"), "+memory +pids");
            can_make_groups(folder, &["memory.max", "pids.max"])
        })?;
        reap(parent);
        let parent = Some(parent.to_owned());
        Some(Self { version: Version::V2, memory: parent.clone(), pids: parent.clone(), cpu: parent })
    }

    fn find_v1(hierarchies: &Hierarchies) -> Option<Self> {
        let find = |controller: &str, file: &str| {
            let (mount, own) = hierarchies.v1.get(controller)?;
            let mut folders = own.ancestors().take_while(|folder| folder.starts_with(mount));
            let parent = folders.find(|folder| can_make_groups(folder, &[file]))?;
            reap(parent);
            Some(parent.to_owned())
        };
        let found = Self {
            version: Version::V1,
            memory: find("memory", "memory.limit_in_bytes"),
            pids: find("pids", "pids.max"),
            cpu: find("cpuacct", "cpuacct.usage"),
        };
        (found.memory.is_some() || found.pids.is_some()).then_some(found)
    }

    pub(crate) fn make(&self, limits: &BuildLimits) -> io::Result<Group> {
        let name = new_name();
        let below = |parent: &Option<PathBuf>| parent.as_ref().map(|parent| parent.join(&name));
        let group = Group {
            version: self.version,
            memory: below(&self.memory),
            pids: below(&self.pids),
            cpu: below(&self.cpu),
        };
        group.folders().try_for_each(|folder| match std::fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        })?;
        group.limit(limits)?;
        Ok(group)
    }
}

impl Group {
    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.memory, &self.pids, &self.cpu].into_iter().flatten()
    }

    fn limit(&self, limits: &BuildLimits) -> io::Result<()> {
        let memory = limits.memory_max_bytes.to_string();
        if let Some(folder) = &self.pids {
            std::fs::write(folder.join("pids.max"), limits.processes_max.to_string())?;
        }
        let Some(folder) = &self.memory else { return Ok(()) };
        // Files that kernels without swap, or older ones, do not have are left alone.
        match self.version {
            Version::V2 => {
                std::fs::write(folder.join("memory.max"), &memory)?;
                let _ = std::fs::write(folder.join("memory.swap.max"), "0");
                let _ = std::fs::write(folder.join("memory.oom.group"), "1");
            }
            Version::V1 => {
                std::fs::write(folder.join("memory.limit_in_bytes"), &memory)?;
                let _ = std::fs::write(folder.join("memory.memsw.limit_in_bytes"), &memory);
            }
        }
        Ok(())
    }

    /// Files to which a process writes 0 to come into the group.
    pub(crate) fn doors(&self) -> io::Result<Vec<File>> {
        let mut folders: Vec<&PathBuf> = self.folders().collect();
        folders.dedup();
        let open = |folder: &&PathBuf| File::options().write(true).open(folder.join("cgroup.procs"));
        folders.iter().map(open).collect()
    }

    pub(crate) fn has_memory(&self) -> bool {
        self.memory.is_some()
    }

    pub(crate) fn memory_peak_bytes(&self) -> Option<u64> {
        let file = match self.version {
            Version::V2 => "memory.peak",
            Version::V1 => "memory.max_usage_in_bytes",
        };
        number(self.memory.as_ref()?, file)
    }

    /// Whether a process was ended because the memory was used up.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let file = match self.version {
            Version::V2 => "memory.events",
            Version::V1 => "memory.oom_control",
        };
        let kills = self.memory.as_ref().and_then(|folder| keyed(folder, file, "oom_kill"));
        kills.is_some_and(|kills| kills > 0)
    }

    pub(crate) fn cpu(&self) -> Option<Duration> {
        let folder = self.cpu.as_ref()?;
        match self.version {
            Version::V2 => keyed(folder, "cpu.stat", "usage_usec").map(Duration::from_micros),
            Version::V1 => number(folder, "cpuacct.usage").map(Duration::from_nanos),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that has just ended may still be counted. What stays is empty, and `reap` takes it.
        for folder in self.folders() {
            for _ in 0..50 {
                match std::fs::remove_dir(folder) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    _ => break,
                }
            }
        }
    }
}

/// `wharf-build-PROCESS-NUMBER`, of this process and no group before.
fn new_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{NAME}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn can_make_groups(folder: &Path, files: &[&str]) -> bool {
    let probe = folder.join(new_name());
    if std::fs::create_dir(&probe).is_err() {
        return false;
    }
    let fits = files.iter().all(|file| probe.join(file).exists());
    let _ = std::fs::remove_dir(&probe);
    fits
}

/// Removes groups of builds that ended together with the process that had started them. Those of a process that is there stay, also
/// the empty ones: a group is empty from when it is made until the build begins.
fn reap(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix(NAME).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

fn number(folder: &Path, file: &str) -> Option<u64> {
    std::fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
}

fn keyed(folder: &Path, file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(folder.join(file)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Reads proc_pid_mountinfo(5) and cgroups(7).
fn hierarchies(mountinfo: &str, own: &str) -> Hierarchies {
    let mut found = Hierarchies::default();
    let own = |wanted: &str| {
        own.lines().find_map(|line| {
            let (_, line) = line.split_once(':')?;
            let (controllers, path) = line.split_once(':')?;
            controllers.split(',').any(|controller| controller == wanted).then_some(path)
        })
    };
    for line in mountinfo.lines() {
        let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
        let mount: Vec<&str> = mount.split(' ').collect();
        let (Some(root), Some(place)) = (mount.get(3), mount.get(4).map(PathBuf::from)) else { continue };
        let filesystem: Vec<&str> = filesystem.split(' ').collect();
        let below = |path: &str| {
            let path = path.strip_prefix(root.trim_end_matches('/')).unwrap_or_default();
            (place.clone(), place.join(path.trim_start_matches('/')))
        };
        match filesystem.as_slice() {
            ["cgroup2", ..] => found.v2 = own("").map(below),
            ["cgroup", _, options] => {
                for controller in options.split(',') {
                    if let Some(path) = own(controller) {
                        found.v1.insert(controller.to_owned(), below(path));
                    }
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(mount: &str, own: &str) -> (PathBuf, PathBuf) {
        (mount.into(), own.into())
    }

    #[test]
    fn a_service_of_systemd_finds_its_own_group() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = hierarchies(mountinfo, "0::/system.slice/wharf.service\n");
        let own = "/sys/fs/cgroup/system.slice/wharf.service";
        assert_eq!(found, Hierarchies { v2: Some(place("/sys/fs/cgroup", own)), ..Hierarchies::default() });
    }

    #[test]
    fn each_controller_of_the_first_version_has_a_place() {
        let mountinfo = "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                         32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                         33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                         34 30 0:30 / /proc rw - proc proc rw\n";
        let found = hierarchies(mountinfo, "5:cpu,cpuacct:/a/b\n4:memory:/\n0::/u\n");
        assert_eq!(found.v1["memory"], place("/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory/"));
        assert_eq!(
            found.v1["cpuacct"],
            place("/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct/a/b")
        );
        assert_eq!(found.v2, Some(place("/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/u")));
        assert!(!found.v1.contains_key("pids"));
    }

    #[test]
    fn only_groups_of_processes_that_are_gone_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        // Numbers of processes end below this one.
        let gone = parent.path().join(format!("{NAME}5000000-1"));
        let kept = [parent.path().join(new_name()), parent.path().join("other-5000000-1")];
        for group in kept.iter().chain([&gone]) {
            std::fs::create_dir(group).unwrap();
        }
        reap(parent.path());
        assert!(!gone.exists() && kept.iter().all(|group| group.exists()));
    }

    #[test]
    fn a_container_sees_its_group_as_the_root() {
        let mountinfo = "31 30 0:27 /docker/abc /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n";
        let found = hierarchies(mountinfo, "3:pids:/docker/abc\n");
        assert_eq!(found.v1["pids"], place("/sys/fs/cgroup/pids", "/sys/fs/cgroup/pids/"));
        assert_eq!(hierarchies("nonsense\n\n - \n", ":::"), Hierarchies::default());
    }
}
