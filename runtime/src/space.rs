//! Room on the disk of this node: what is there and can be made again, compiled code and copies of artifacts, goes when something else needs
//! its place.
//!
//! Nothing of what is assigned here, or still runs, is ever dropped but for copies that its code was compiled from. Which goes first is
//! decided by [`decide`].

pub mod decide;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use tracing::{info, warn};
use wharf_types::Digest;
use wharf_types::node::{AssignedInstance, ReasonKind};

use self::decide::{Kept, Kind, Need, Room, Short, short, to_drop};
use crate::backend::Failure;

/// Of the worker's folder: compiled code, in a folder for each engine.
pub const COMPILED: &str = "compiled";
/// Of the worker's folder: copies of artifacts.
pub const COPIES: &str = "artifacts";
/// How the name of compiled code ends; the hash that goes with it, whose time says when it was used.
const CODE: &str = "cwasm";
const TAG: &str = "tag";
/// What is left free for others, unless the disk is small.
const FLOOR_BYTES: u64 = 64 << 20;

/// The disk that a worker's folder is on.
#[derive(Debug)]
pub struct Space {
    folder: PathBuf,
    cache_max_bytes: Option<u64>,
    /// Whether this process knows what is in use there.
    is_owner: bool,
    /// The folders of the engines that run here.
    engines: OnceLock<Vec<PathBuf>>,
    in_use: Mutex<InUse>,
    /// Held while something is looked for that can go.
    dropping: Mutex<()>,
}

#[derive(Debug, Default)]
struct InUse {
    /// What the newest assignment speaks of.
    assigned: HashSet<Digest>,
    /// What is prepared or runs, how many times.
    held: HashMap<Digest, usize>,
}

/// Something that is in use until this is dropped.
#[derive(Debug)]
pub struct Hold {
    space: Arc<Space>,
    digests: Vec<Digest>,
}

/// When nothing is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unless {
    /// It would not be enough.
    Hopeless,
    Never,
}

/// A file that may go, with what goes along.
struct Found {
    kept: Kept,
    files: [PathBuf; 2],
}

impl Space {
    /// `cache_max_bytes` bounds what is kept of code and copies together.
    pub fn new(folder: PathBuf, cache_max_bytes: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            folder,
            cache_max_bytes,
            is_owner: true,
            engines: OnceLock::new(),
            in_use: Mutex::default(),
            dropping: Mutex::default(),
        })
    }

    /// A folder that another process may work with: nothing is dropped there.
    pub fn of_others(folder: PathBuf) -> Arc<Self> {
        let space = Arc::into_inner(Self::new(folder, None)).expect("nobody else has it yet");
        Arc::new(Self { is_owner: false, ..space })
    }

    /// Says what the folders of the engines that run here are.
    pub(crate) fn set_engines(&self, folders: impl IntoIterator<Item = PathBuf>) {
        // They are the same for good.
        let _ = self.engines.set(folders.into_iter().collect());
    }

    /// From now on these instances are assigned here, and no others.
    pub fn assign(&self, instances: &[AssignedInstance]) {
        self.in_use().assigned = instances.iter().flat_map(contents).collect();
    }

    /// Keeps what an instance is made of, for as long as the hold is there.
    pub fn hold(self: &Arc<Self>, instance: &AssignedInstance) -> Hold {
        let digests: Vec<Digest> = contents(instance).collect();
        let mut in_use = self.in_use();
        for digest in &digests {
            *in_use.held.entry(*digest).or_default() += 1;
        }
        drop(in_use);
        Hold { space: self.clone(), digests }
    }

    /// Drops what is unused, the oldest first, until there is room. An error says what there would be too little of without all of that;
    /// then nothing is dropped.
    pub async fn make_room(self: &Arc<Self>, need: Need) -> Result<(), Short> {
        self.drop_for(need, Unless::Hopeless).await
    }

    /// Drops everything that is unused, because the disk is full.
    pub async fn drop_unused(self: &Arc<Self>) {
        let _ = self.drop_for(Need { cache_bytes: 0, disk_bytes: u64::MAX / 2 }, Unless::Never).await;
    }

    async fn drop_for(self: &Arc<Self>, need: Need, unless: Unless) -> Result<(), Short> {
        let space = self.clone();
        let dropped = tokio::task::spawn_blocking(move || space.drop_now(need, unless));
        // A panic has dropped nothing that is needed.
        dropped.await.unwrap_or(Ok(()))
    }

    fn drop_now(&self, need: Need, unless: Unless) -> Result<(), Short> {
        let _one_at_a_time = self.dropping.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.found().unwrap_or_else(|error| {
            warn!("cannot look for what may be removed in {}: {error}", self.folder.display());
            Vec::new()
        });
        let in_use = self.used();
        let kept: Vec<Kept> = found.iter().map(|found| found.kept).collect();
        let room = self.room();
        let total: u64 = kept.iter().map(|kept| kept.bytes).sum();
        let dropped = if self.is_owner { to_drop(&kept, &in_use, need, room) } else { Vec::new() };
        let freed: u64 = dropped.iter().map(|at| kept[*at].bytes).sum();
        let room = Room { free_bytes: room.free_bytes.saturating_add(freed), ..room };
        let missing = short(total - freed, need, room);
        if let (Some(missing), Unless::Hopeless) = (missing, unless) {
            return Err(missing);
        }
        for at in &dropped {
            let files = &found[*at].files;
            if let Err(error) = files.iter().try_for_each(|file| remove(file)) {
                warn!("cannot remove {}: {error}", files[0].display());
            }
        }
        if !dropped.is_empty() {
            info!("removed {} files of code and artifacts, {}, to make room", dropped.len(), mib(freed));
        }
        Ok(())
    }

    fn room(&self) -> Room {
        let disk = nix::sys::statvfs::statvfs(&self.folder).ok();
        let (free_bytes, disk_bytes) = disk.map_or((u64::MAX / 4, u64::MAX / 4), |disk| {
            let block = disk.fragment_size();
            (disk.blocks_available().saturating_mul(block), disk.blocks().saturating_mul(block))
        });
        Room {
            free_bytes,
            floor_bytes: FLOOR_BYTES.min(disk_bytes / 20),
            cache_max_bytes: self.cache_max_bytes,
        }
    }

    /// Why something cannot be kept here, in words for whoever runs it.
    pub fn failure(&self, what: &str, needed_bytes: u64, short: Short) -> Failure {
        let needed = mib(needed_bytes);
        let folder = self.folder.display();
        let why = match short {
            Short::Cache { max_bytes, used_bytes } => format!(
                "about {needed} are needed for it, and of the worker's --cache-max of {} what runs here uses {}: start the worker with a \
                 larger --cache-max, or move instances elsewhere",
                mib(max_bytes),
                mib(used_bytes),
            ),
            Short::Disk { free_bytes } => format!(
                "about {needed} are needed for it, and the disk of {folder} has {} free without all that is unused: make room there, or \
                 empty the node with `wharf node drain`",
                mib(free_bytes),
            ),
        };
        Failure::new(ReasonKind::Platform, format!("there is no room for {what}: {why}"))
    }

    /// The same after the disk turned out to be full.
    pub fn disk_is_full(&self, what: &str, needed_bytes: u64) -> Failure {
        self.failure(what, needed_bytes, Short::Disk { free_bytes: self.room().free_bytes })
    }

    /// What is assigned here, prepared or runs.
    pub(crate) fn used(&self) -> HashSet<Digest> {
        let in_use = self.in_use();
        in_use.assigned.iter().chain(in_use.held.keys()).copied().collect()
    }

    fn in_use(&self) -> MutexGuard<'_, InUse> {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for folder in entries(&self.folder.join(COMPILED))? {
            let is_old = self.engines.get().is_some_and(|engines| !engines.contains(&folder));
            let kind = if is_old { Kind::OldCode } else { Kind::Code };
            for file in entries(&folder)? {
                if file.extension().is_some_and(|end| end == CODE) {
                    let tag = file.with_extension(TAG);
                    found.extend(look_at(kind, [file, tag], 1));
                }
            }
        }
        for file in entries(&self.folder.join(COPIES))? {
            if file.extension().is_none() {
                let key = file.with_extension("key");
                found.extend(look_at(Kind::Copy, [file, key], 0));
            }
        }
        Ok(found)
    }
}

/// Something that may go, unless it has gone or is not named by a digest. The time of one of the two files is that of its last use.
fn look_at(kind: Kind, files: [PathBuf; 2], used: usize) -> Option<Found> {
    let name = files[0].file_stem()?.to_str()?;
    let digest = format!("sha256:{name}").parse().ok()?;
    let metadata = fs::metadata(&files[0]).ok()?;
    let used = fs::metadata(&files[used]).unwrap_or(metadata.clone()).modified().ok()?;
    Some(Found { kept: Kept { digest, kind, bytes: metadata.len(), used }, files })
}

/// Notes that something was used now: if that fails, it goes sooner.
pub(crate) fn touch(file: &Path) {
    if let Ok(file) = fs::File::open(file) {
        let _ = file.set_modified(SystemTime::now());
    }
}

/// The same for compiled code, whose own times must stay as they are.
pub(crate) fn touch_code(file: &Path) {
    touch(&file.with_extension(TAG));
}

fn contents(instance: &AssignedInstance) -> impl Iterator<Item = Digest> + '_ {
    std::iter::once(instance.artifact).chain(instance.spec.files.as_ref().map(|files| files.digest))
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// As people read it.
fn mib(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib < 10.0 { format!("{mib:.1} MiB") } else { format!("{mib:.0} MiB") }
}

/// What is in a folder; nothing where there is none.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut in_use = self.space.in_use();
        for digest in &self.digests {
            if let Some(count) = in_use.held.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    in_use.held.remove(digest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn put(folder: &Path, name: &str, bytes: usize, age_secs: u64) -> PathBuf {
        let file = folder.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, vec![0; bytes]).unwrap();
        let used = SystemTime::now() - Duration::from_secs(age_secs);
        fs::File::open(&file).unwrap().set_modified(used).unwrap();
        file
    }

    fn hold(space: &Arc<Space>, digest: Digest) -> Hold {
        space.in_use().held.insert(digest, 1);
        Hold { space: space.clone(), digests: vec![digest] }
    }

    #[tokio::test]
    async fn code_goes_with_its_tag_by_the_time_of_its_last_use_and_stays_while_it_is_held() {
        let folder = tempfile::tempdir().unwrap();
        let digests = [b"a", b"b", b"c"].map(|content| Digest::of(content));
        let files = digests.map(|digest| {
            let name = format!("compiled/0123456789abcdef/{}.cwasm", digest.hex());
            let code = put(folder.path(), &name, 100, 0);
            put(folder.path(), &name.replace(".cwasm", ".tag"), 1, 50);
            code
        });
        let foreign = put(folder.path(), "compiled/0123456789abcdef/compiling-x", 100, 99);
        let space = Space::new(folder.path().into(), Some(250));
        let held = hold(&space, digests[0]);
        touch_code(&files[2]);
        let need = |cache_bytes| Need { cache_bytes, disk_bytes: 0 };
        space.make_room(need(0)).await.unwrap();
        assert!(
            !files[1].exists() && !files[1].with_extension("tag").exists(),
            "the oldest that is not held"
        );
        assert!(files[0].exists() && files[2].exists());
        let short = space.make_room(need(160)).await.unwrap_err();
        assert_eq!(short, Short::Cache { max_bytes: 250, used_bytes: 100 });
        assert!(files[0].exists() && files[2].exists() && foreign.exists(), "it would not have been enough");
        let words = space.failure("the code", 12 << 20, short).reason.message;
        assert!(words.contains("about 12 MiB") && words.contains("--cache-max of 0.0 MiB"), "{words}");
        drop(held);
        space.make_room(need(150)).await.unwrap();
        assert!(!files[0].exists() && files[2].exists(), "the older one is enough");
        space.drop_unused().await;
        assert!(!files[2].exists() && foreign.exists());
    }
}
