//! What one compilation may take.

use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};

/// Bounds of one compilation. The parent keeps the one of the wall clock; the others reach the child as arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    pub address_space_max_bytes: u64,
    pub cpu_max_secs: u64,
    pub output_max_bytes: u64,
    /// Longer than the CPU time, because a compilation gives way to requests.
    pub wall_max: Duration,
    /// As `nice` has it: a compilation uses all cores, and requests come first.
    pub niceness: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            address_space_max_bytes: 8 << 30,
            cpu_max_secs: 120,
            output_max_bytes: 1 << 30,
            wall_max: Duration::from_secs(300),
            niceness: 10,
        }
    }
}

impl CompileLimits {
    pub(in super::super) fn to_args(&self) -> [String; 4] {
        [self.address_space_max_bytes, self.cpu_max_secs, self.output_max_bytes, self.niceness]
            .map(|limit| limit.to_string())
    }

    /// None: these are not four numbers.
    pub(super) fn from_args(args: impl Iterator<Item = String>) -> Option<Self> {
        let limits: Option<Vec<u64>> = args.map(|arg| arg.parse().ok()).collect();
        let [address_space_max_bytes, cpu_max_secs, output_max_bytes, niceness] = limits?.try_into().ok()?;
        Some(Self { address_space_max_bytes, cpu_max_secs, output_max_bytes, niceness, ..Self::default() })
    }

    /// Puts this process under the limits, for good.
    pub(super) fn apply(&self) -> std::io::Result<()> {
        for (resource, soft, hard) in [
            (Resource::RLIMIT_AS, self.address_space_max_bytes, self.address_space_max_bytes),
            // At the soft limit the signal says which one it was; at the hard one it would be SIGKILL.
            (Resource::RLIMIT_CPU, self.cpu_max_secs, self.cpu_max_secs + 5),
            (Resource::RLIMIT_FSIZE, self.output_max_bytes, self.output_max_bytes),
            (Resource::RLIMIT_CORE, 0, 0),
            (Resource::RLIMIT_NOFILE, 64, 64),
        ] {
            setrlimit(resource, soft, hard)?;
        }
        let niceness = self.niceness.min(19) as i32;
        // SAFETY: a plain system call; 0 means this process.
        if unsafe { nix::libc::setpriority(nix::libc::PRIO_PROCESS, 0, niceness) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_arrive_as_they_were_sent() {
        let limits = CompileLimits { cpu_max_secs: 3, niceness: 19, ..CompileLimits::default() };
        assert_eq!(CompileLimits::from_args(limits.to_args().into_iter()), Some(limits));
        for args in
            [&["1", "2", "3"][..], &["1", "2", "3", "4", "5"], &["1", "2", "-3", "4"], &["1", "2", "3", "x"]]
        {
            assert_eq!(CompileLimits::from_args(args.iter().map(|&arg| arg.to_owned())), None, "{args:?}");
        }
    }
}
