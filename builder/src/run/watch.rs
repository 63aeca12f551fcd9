//! Looks at what a running build has written and computed, because nothing bounds that for all of its processes together.
//!
//! Files that are open and have no name are not seen; for them there is a bound of what has to stay free.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failure::Limit;
use crate::disk::{Unmeasurable, measure};
use crate::plan::BuildLimits;
use crate::sandbox::Group;

const PERIOD: Duration = Duration::from_millis(250);

/// Returns when a limit is passed, and waits forever otherwise.
pub(super) async fn watch(folders: Vec<PathBuf>, limits: BuildLimits, group: Option<Arc<Group>>) -> Limit {
    loop {
        let (folders, limits, group) = (folders.clone(), limits.clone(), group.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let since = Instant::now();
            (passed(&folders, &limits, group.as_deref()), since.elapsed())
        });
        let took = match looked.await {
            Ok((Some(limit), _)) => return limit,
            Ok((None, took)) => took,
            Err(_) => PERIOD,
        };
        // At most a fifth of the time is spent on looking.
        tokio::time::sleep(PERIOD.max(took * 4)).await;
    }
}

/// The limit that is passed now.
pub(super) fn passed(folders: &[PathBuf], limits: &BuildLimits, group: Option<&Group>) -> Option<Limit> {
    if group.and_then(Group::cpu).is_some_and(|used| used > limits.cpu_max) {
        return Some(Limit::Cpu(limits.cpu_max));
    }
    if folders.iter().any(|folder| free_bytes(folder).is_some_and(|free| free < limits.disk_free_min_bytes)) {
        return Some(Limit::DiskFree(limits.disk_free_min_bytes));
    }
    match measure(folders, limits.files_max) {
        Ok(usage) if usage.bytes > limits.disk_max_bytes => Some(Limit::Disk(limits.disk_max_bytes)),
        Ok(_) => None,
        Err(Unmeasurable::TooMany) => Some(Limit::Files(limits.files_max)),
        Err(Unmeasurable::Closed) => Some(Limit::Unmeasurable),
    }
}

fn free_bytes(folder: &PathBuf) -> Option<u64> {
    let figures = nix::sys::statvfs::statvfs(folder).ok()?;
    Some(figures.blocks_available().saturating_mul(figures.fragment_size()))
}
