//! What this machine has.

/// Memory in octets: `MemTotal` of proc(5), or less where a control group allows less.
pub fn memory_total_bytes() -> Option<u64> {
    let total = meminfo("MemTotal")?;
    Some(limit().map_or(total, |limit| limit.min(total)))
}

/// Memory in octets that could be had without swapping: `MemAvailable` of proc(5), or less where a control group allows less.
pub fn memory_available_bytes() -> Option<u64> {
    let available = meminfo("MemAvailable")?;
    let of_group = || {
        let used = number(["/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes"])?;
        let stat = ["/sys/fs/cgroup/memory.stat", "/sys/fs/cgroup/memory/memory.stat"];
        let stat = stat.iter().find_map(|file| std::fs::read_to_string(file).ok())?;
        // Pages of files that nobody has used lately are given up for whoever asks.
        let cached =
            stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse::<u64>().ok())?;
        Some(limit()?.saturating_sub(used.saturating_sub(cached)))
    };
    Some(of_group().map_or(available, |of_group: u64| of_group.min(available)))
}

/// What the control group allows: of the second version of control groups, or of the first. "max" and absurd numbers mean no limit.
fn limit() -> Option<u64> {
    number(["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"])
}

fn number(files: [&str; 2]) -> Option<u64> {
    files.iter().find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok())
}

fn meminfo(name: &str) -> Option<u64> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_a_part_of_the_whole() {
        let (total, available) = (memory_total_bytes().unwrap(), memory_available_bytes().unwrap());
        assert!(available > 0 && available <= total, "{available} of {total}");
    }
}
