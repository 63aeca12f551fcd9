//! What is to be built, and what it may take.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use wharf_types::AppId;

use crate::detect::Steps;

/// One build.
#[derive(Clone, Debug)]
pub struct BuildPlan {
    /// Whose cache it uses. None: it begins with nothing, and nothing is kept.
    pub app: Option<AppId>,
    /// Which part of the app's sources is built, where it has several: what a compiler keeps of one must not be taken for another's. None: it
    /// is the whole.
    pub part: Option<String>,
    /// The sources, in a folder that is the build's own: it is given to the build's user and written to.
    pub tree: PathBuf,
    pub steps: Steps,
    /// Beside what the sandbox sets, such as `GIT_REV`.
    pub env: BTreeMap<String, String>,
    pub network: Network,
    pub limits: BuildLimits,
}

/// What a build in a sandbox may connect to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// Nothing, not even this machine: there is no other interface than a loopback of its own.
    #[default]
    None,
    /// Whatever this machine can connect to, which includes what listens on 127.0.0.1. Only for who is trusted with that.
    Machine,
}

/// Bounds of one build in a sandbox. Without one, only `artifact_max_bytes` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildLimits {
    pub wall_max: Duration,
    /// Of each process, and of all together where they can be counted.
    pub cpu_max: Duration,
    pub memory_max_bytes: u64,
    pub processes_max: u64,
    /// Tree and cache together; also the largest file.
    pub disk_max_bytes: u64,
    /// Files and folders in tree and cache.
    pub files_max: u64,
    /// What has to stay free where the tree and the cache are, so that others can go on writing.
    pub disk_free_min_bytes: u64,
    /// Of `/tmp`, which is in memory.
    pub tmp_max_bytes: u64,
    /// A larger cache is emptied before the build.
    pub cache_max_bytes: u64,
    pub artifact_max_bytes: u64,
    /// Lines that are handed on; more are only counted.
    pub lines_max: usize,
    /// A build that prints more is ended.
    pub output_max_bytes: u64,
}

impl Default for BuildLimits {
    fn default() -> Self {
        Self {
            wall_max: Duration::from_secs(15 * 60),
            cpu_max: Duration::from_secs(45 * 60),
            memory_max_bytes: 4 << 30,
            processes_max: 512,
            disk_max_bytes: 8 << 30,
            files_max: 500_000,
            disk_free_min_bytes: 1 << 30,
            tmp_max_bytes: 512 << 20,
            cache_max_bytes: 4 << 30,
            artifact_max_bytes: 256 << 20,
            lines_max: 20_000,
            output_max_bytes: 64 << 20,
        }
    }
}
