//! Holds containers to what they may write: outside their volumes (`container.disk_max`), and into them (their sizes).
//!
//! The kernel does not do it: what a container writes is a folder of the engine's disk, and a volume one of the worker's. To know how large they are
//! they are walked through, so that is done when a disk has lost room since the last time, and seldom otherwise. A container that has
//! written more than it may is ended, with a reason that its owner reads.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Weak;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};
use wharf_types::InstanceId;
use wharf_types::node::ReasonKind;
use wharf_types::quantity::ByteSize;

use super::backend::ContainerBackend;
use crate::backend::Failure;
use crate::wasm::volumes::Overfull;

/// How often it is looked how much room the disks have.
const LOOK: Duration = Duration::from_secs(5);
/// When they have lost something, containers are measured this long after the last time,
const USUAL: Duration = Duration::from_secs(60);
/// and this long after it however little they have lost: others may have made as much room as a container took.
const SELDOM: Duration = Duration::from_secs(600);
/// Less than this is what logs and databases of the machine itself write.
const SOME_BYTES: u64 = 8 << 20;
/// So much is lost by somebody who is about to fill the disk, or as much as one of them may write at all: containers are measured at once.
const MUCH_BYTES: u64 = 512 << 20;
/// For so many times as long as measuring took, nobody measures again.
const PAUSE_TIMES: u32 = 20;
/// The same of containers that were never measured, which may be about to fill the disk.
const PAUSE_TIMES_NEW: u32 = 4;

/// The last time.
struct Last {
    at: Instant,
    /// None: the disks cannot be looked at, as where the engine is on another machine.
    free_bytes: Option<u64>,
}

/// Whether nothing is measured because that took so long, of those that were measured before, or of the others. Instances that are made again
/// and again would have it done without end.
fn rests(since: Duration, took: Duration, is_new: bool) -> bool {
    since < took.saturating_mul(if is_new { PAUSE_TIMES_NEW } else { PAUSE_TIMES })
}

/// Whether containers are measured now, of which one may write no more than `least_bytes`. None: how much was lost is not known.
fn is_due(since: Duration, lost_bytes: Option<u64>, least_bytes: u64) -> bool {
    match lost_bytes {
        Some(lost) if lost >= MUCH_BYTES.min(least_bytes.max(SOME_BYTES)) => true,
        Some(lost) if lost < SOME_BYTES => since >= SELDOM,
        _ => since >= USUAL,
    }
}

/// Measures for as long as the backend is there.
pub(super) async fn keep_bounded(backend: Weak<ContainerBackend>) {
    let mut folders: Option<[PathBuf; 2]> = None;
    let mut last: Option<Last> = None;
    let mut measured: HashSet<InstanceId> = HashSet::new();
    // When measuring ended, and how long it took.
    let mut worked: Option<(Instant, Duration)> = None;
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(backend) = backend.upgrade() else { return };
        let ids = backend.running_ids();
        if ids.is_empty() {
            last = None;
            continue;
        }
        let rests = |is_new| worked.is_some_and(|(ended, took)| rests(ended.elapsed(), took, is_new));
        if rests(true) {
            continue;
        }
        if folders.is_none() {
            let engines = backend.engine().folder().await.ok().flatten();
            folders = engines.map(|engines| [engines, backend.volumes_folder()]);
        }
        let free_bytes: Option<u64> =
            folders.as_ref().and_then(|folders| Some(free(folders)?.into_values().sum()));
        let is_due = !rests(false)
            && last.as_ref().is_none_or(|last| {
                let lost = last.free_bytes.zip(free_bytes).map(|(before, now)| before.saturating_sub(now));
                is_due(last.at.elapsed(), lost, least(&backend, &ids))
            });
        // One that was just started is measured whatever the disks say: others that end make as much room as it takes.
        let (known, new): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| measured.contains(id));
        measured = known.iter().chain(&new).copied().collect();
        let mut took = Duration::ZERO;
        for id in new.into_iter().chain(known.into_iter().filter(|_| is_due)) {
            let began = Instant::now();
            let failure = check(&backend, id).await;
            took += began.elapsed();
            if let Some(failure) = failure {
                backend.end_for(id, failure).await;
            }
        }
        if !took.is_zero() {
            worked = Some((Instant::now(), took));
        }
        if is_due {
            last = Some(Last { at: Instant::now(), free_bytes });
        }
    }
}

/// The least that one of them may write, to its own file system or to a volume.
fn least(backend: &ContainerBackend, ids: &[InstanceId]) -> u64 {
    let bounds = ids.iter().filter_map(|id| backend.may_write(*id)).map(|(most, volumes)| {
        let smallest = volumes.and_then(|volumes| volumes.smallest()).unwrap_or(u64::MAX);
        smallest.min(most.as_bytes())
    });
    bounds.min().unwrap_or(u64::MAX)
}

/// Room on each disk that has one of these folders. They may be on the same.
fn free(folders: &[PathBuf]) -> Option<BTreeMap<u64, u64>> {
    let disk = |folder: &PathBuf| {
        let disk = nix::sys::statvfs::statvfs(folder.as_path()).ok()?;
        let free = disk.blocks_available().saturating_mul(disk.fragment_size());
        Some((std::fs::metadata(folder).ok()?.dev(), free))
    };
    folders.iter().map(disk).collect()
}

/// Why a container is to be ended, if it is.
async fn check(backend: &ContainerBackend, id: InstanceId) -> Option<Failure> {
    let (most, volumes) = backend.may_write(id)?;
    match backend.engine().written(id).await {
        Ok(Some(written)) if written > most.as_bytes() => return Some(too_much(written, most)),
        Ok(_) => {}
        Err(error) if error.is_away() => debug!("what instance {id} has written is not known: {error}"),
        Err(error) => warn!(instance.id = %id, "what instance {id} has written is not known: {error}"),
    }
    let volumes = volumes?;
    volumes.measure().await;
    volumes.overfull().map(|overfull| is_overfull(&overfull))
}

fn too_much(written: u64, most: ByteSize) -> Failure {
    let written = rounded_up(written);
    let message = format!(
        "the container has written {written} outside its volumes, more than `container.disk_max`, {most}, and was ended: write to a volume, or raise it"
    );
    Failure::new(ReasonKind::Limit, message)
}

/// Why a container with such a volume does not run.
pub(super) fn is_overfull(overfull: &Overfull) -> Failure {
    let Overfull { name, used_bytes, size_bytes } = overfull;
    let (used, size) = (rounded_up(*used_bytes), ByteSize::bytes(*size_bytes));
    let message = format!(
        "the volume `{name}` holds {used}, more than its size, {size}, and an eighth, so no container runs with it: deploy with a larger `size`"
    );
    Failure::new(ReasonKind::Limit, message)
}

/// To a whole MiB.
fn rounded_up(bytes: u64) -> ByteSize {
    ByteSize::bytes(bytes.checked_next_multiple_of(1 << 20).unwrap_or(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_measured_when_a_disk_has_lost_room_and_seldom_otherwise() {
        let secs = Duration::from_secs;
        let is_due = |since, lost| is_due(since, lost, u64::MAX);
        assert!(!is_due(secs(59), Some(SOME_BYTES)) && is_due(secs(60), Some(SOME_BYTES)));
        assert!(!is_due(secs(599), Some(0)) && is_due(secs(600), Some(0)));
        assert!(is_due(secs(5), Some(MUCH_BYTES)), "somebody is filling it");
        assert!(!is_due(secs(59), None) && is_due(secs(60), None));
        assert!(
            rests(secs(99), secs(5), false) && !rests(secs(100), secs(5), false),
            "it takes a small part of the time"
        );
        assert!(
            rests(secs(19), secs(5), true) && !rests(secs(20), secs(5), true),
            "and no large one for those that are new"
        );
        let small = |lost| super::is_due(secs(5), Some(lost), 64 << 20);
        assert!(!small((64 << 20) - 1) && small(64 << 20), "a container may have written as much as it may");
    }

    #[test]
    fn folders_on_one_disk_have_its_room_once() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other");
        std::fs::create_dir(&other).unwrap();
        assert_eq!(free(&[folder.path().to_owned(), other.clone()]).unwrap().len(), 1);
        assert!(free(&[other.join("absent")]).is_none());
    }

    #[test]
    fn an_owner_reads_what_was_too_much_and_what_to_do() {
        let told = too_much((10 << 30) + 1, ByteSize::mib(10 << 10)).to_string();
        assert!(
            told.contains("10241MiB outside its volumes, more than `container.disk_max`, 10GiB"),
            "{told}"
        );
        let overfull = Overfull { name: "data".parse().unwrap(), used_bytes: 3 << 20, size_bytes: 2 << 20 };
        let failure = is_overfull(&overfull);
        assert_eq!(failure.reason.kind, ReasonKind::Limit);
        assert!(failure.to_string().contains("`data` holds 3MiB, more than its size, 2MiB"), "{failure}");
    }
}
