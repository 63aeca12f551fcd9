//! Volumes of apps on this node: folders that outlive the instances that have them.
//!
//! A folder is named by its volume's id, which is never used again. It is made when an instance first has the volume, and removed
//! only when the control plane asks for just that: a folder that nobody mentions is kept. Here it is also made sure that of two instances
//! that must not both write, one waits until the other has gone, whatever the control plane believes of either. How much a guest
//! may write is [`quota`]; what it does with its handles comes by in [`handles`].

mod archive;
mod backup;
mod handles;
mod hooks02;
mod hooks03;
mod measure;
mod quota;
mod remove;
mod restore;
mod stream;
pub mod transfers;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};
use tokio::time::timeout;
use wasmtime::component::Linker;
use wasmtime_wasi::filesystem::Dir;
use wasmtime_wasi::{FsPerms, OpenMode};
use wharf_types::figures::VolumeFigures;
use wharf_types::node::{AssignedInstance, ReasonKind};
use wharf_types::spec::VolumeSpec;
use wharf_types::{VolumeId, VolumeName};

use super::engine::Profile;
use super::state::State;
use crate::backend::Failure;
pub(super) use handles::VolumeHandles;
use quota::Quota;
use remove::remove_tree;

/// How long an instance waits for another one to let go of a volume. That one has been told to stop already, so this is only about
/// its last calls.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(10);
/// How often volumes that were written to are measured.
const MEASURE_PERIOD: Duration = Duration::from_secs(10);
/// How long what could not be removed waits for the next try.
const REMOVE_RETRY: Duration = Duration::from_secs(1);
/// How often a folder is opened that is another one each time it was.
const OPEN_TRIES_MAX: usize = 5;
/// A folder of this ending is being removed.
const REMOVING: &str = "removing";
/// One of this ending is being filled from an archive, and takes the place of the volume's own when that is done.
const RESTORING: &str = "restoring";
/// One of this ending was the volume's own until another took its place.
const BEFORE: &str = "before";

/// The volumes of a node.
pub struct Volumes {
    dir: PathBuf,
    known: Mutex<HashMap<VolumeId, Arc<Volume>>>,
    /// Those that are being filled from an archive, which nobody gets meanwhile. Looked at while `known` is held.
    restoring: Mutex<HashSet<VolumeId>>,
    /// Of those that are to be removed, the ones that are gone.
    removed: Mutex<Vec<VolumeId>>,
}

struct Volume {
    root: Arc<File>,
    quota: Arc<Quota>,
    /// Held by those that write: by one, or by several that share.
    writers: Arc<RwLock<()>>,
    /// As the newest instance that has it is called.
    labels: Mutex<VolumeFigures>,
}

/// The volumes of one instance.
pub(crate) struct Mounts(Vec<Mounted>);

struct Mounted {
    name: VolumeName,
    dir: Dir,
    guest_path: String,
    quota: Arc<Quota>,
    read_only: bool,
    _claim: Claim,
}

/// The right to write, for as long as it is there.
enum Claim {
    /// It only reads.
    None,
    Shared {
        _held: OwnedRwLockReadGuard<()>,
    },
    Exclusive {
        _held: OwnedRwLockWriteGuard<()>,
    },
}

/// What a container may write to: it adds to its volumes past whoever counts, so they are measured from time to time.
pub(crate) struct Written(Vec<(VolumeName, Arc<Quota>)>);

/// A volume that holds more than it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Overfull {
    pub(crate) name: VolumeName,
    pub(crate) used_bytes: u64,
    pub(crate) size_bytes: u64,
}

impl Mounts {
    /// Holds none of them: whoever measures keeps nobody from writing.
    pub(crate) fn written(&self) -> Written {
        let written = self.0.iter().filter(|mounted| !mounted.read_only);
        Written(written.map(|mounted| (mounted.name.clone(), mounted.quota.clone())).collect())
    }
}

impl Written {
    /// Looks up what they hold.
    pub(crate) async fn measure(&self) {
        for (name, quota) in &self.0 {
            if let Err(error) = quota.measure().await {
                tracing::warn!(
                    "cannot measure the volume `{name}` of a container, trying again later: {error}"
                );
            }
        }
    }

    /// The size of the smallest.
    pub(crate) fn smallest(&self) -> Option<u64> {
        self.0.iter().map(|(_, quota)| quota.size()).min()
    }

    /// One that holds more than its size and an eighth: nobody is told the moment in which it is full.
    pub(crate) fn overfull(&self) -> Option<Overfull> {
        let mut looked = self.0.iter().map(|(name, quota)| Overfull {
            name: name.clone(),
            used_bytes: quota.used(),
            size_bytes: quota.size(),
        });
        looked.find(|it| it.used_bytes > it.size_bytes.saturating_add(it.size_bytes / 8))
    }
}

impl Volumes {
    /// `dir` is made if there is none. To be called within a runtime.
    pub fn new(dir: PathBuf) -> io::Result<Arc<Self>> {
        fs::create_dir_all(&dir)?;
        let mut half_removed = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            let ends = |ending: &str| path.extension().is_some_and(|it| it == ending);
            if ends(BEFORE) {
                if !take_back(&path.with_extension(""))? {
                    half_removed.push(path);
                }
            } else if ends(REMOVING) || ends(RESTORING) {
                half_removed.push(path);
            }
        }
        tokio::task::spawn_blocking(move || remove_left_over(&half_removed));
        let volumes = Arc::new(Self {
            dir,
            known: Mutex::default(),
            restoring: Mutex::default(),
            removed: Mutex::default(),
        });
        tokio::spawn(keep_measured(Arc::downgrade(&volumes)));
        Ok(volumes)
    }

    /// The volumes of an instance that is about to start; waits for who writes to them now. None: it has none.
    pub(crate) async fn mount(&self, assigned: &AssignedInstance) -> Result<Option<Arc<Mounts>>, Failure> {
        let mut mounted = Vec::new();
        for spec in &assigned.spec.volumes {
            let known = assigned.volumes.iter().find(|volume| volume.name == spec.name);
            let Some(id) = known.map(|volume| volume.id) else {
                let problem = "the control plane has not said which folder it is";
                return Err(failed(spec, ReasonKind::Platform, problem));
            };
            mounted.push(self.mount_one(id, spec, assigned).await?);
        }
        Ok((!mounted.is_empty()).then(|| Arc::new(Mounts(mounted))))
    }

    /// Where all of them are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a volume's files are, for a container.
    pub(crate) fn folder(&self, id: VolumeId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    async fn mount_one(
        &self,
        id: VolumeId,
        spec: &VolumeSpec,
        assigned: &AssignedInstance,
    ) -> Result<Mounted, Failure> {
        let unusable = |error: io::Error| {
            failed(spec, ReasonKind::Platform, &format!("its folder on the node cannot be used: {error}"))
        };
        let volume = self.open(id, spec, assigned).await.map_err(unusable)?;
        let claim = async {
            match (spec.read_only, spec.shared) {
                (true, _) => Claim::None,
                (false, true) => Claim::Shared { _held: volume.writers.clone().read_owned().await },
                (false, false) => Claim::Exclusive { _held: volume.writers.clone().write_owned().await },
            }
        };
        let claim = timeout(CLAIM_TIMEOUT, claim).await.map_err(|_| {
            failed(
                spec,
                ReasonKind::Platform,
                "another instance still writes to it, and did not stop in time",
            )
        })?;
        volume.quota.set_size(spec.size.as_bytes());
        volume.labels.lock().unwrap_or_else(PoisonError::into_inner).size_bytes = spec.size.as_bytes();
        // What was there before is counted before anything is added.
        if let Err(error) = volume.quota.measure().await {
            tracing::warn!(volume.id = %id, "cannot measure volume {id}, so nothing can be added to it: {error}");
            volume.quota.assume_full();
        }
        let (perms, mode) = match spec.read_only {
            true => (FsPerms::ReadOnly, OpenMode::READ),
            false => (FsPerms::ReadWrite, OpenMode::READ | OpenMode::WRITE),
        };
        let root = volume.root.try_clone().map_err(unusable)?;
        Ok(Mounted {
            name: spec.name.clone(),
            dir: Dir::new(root, perms, mode, false),
            guest_path: spec.path.clone(),
            quota: volume.quota.clone(),
            read_only: spec.read_only,
            _claim: claim,
        })
    }

    async fn open(
        &self,
        id: VolumeId,
        spec: &VolumeSpec,
        assigned: &AssignedInstance,
    ) -> io::Result<Arc<Volume>> {
        for _ in 0..OPEN_TRIES_MAX {
            if let Some(volume) = self.find_known(id)? {
                return Ok(volume);
            }
            let dir = self.dir.clone();
            let opened = tokio::task::spawn_blocking(move || open_folder(&dir, id)).await;
            let root = opened.map_err(io::Error::other)??;
            if let Some(volume) = self.keep_opened(id, root, spec, assigned)? {
                return Ok(volume);
            }
        }
        Err(io::Error::other("another folder takes its place again and again"))
    }

    fn find_known(&self, id: VolumeId) -> io::Result<Option<Arc<Volume>>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.refuse_restoring(id)?;
        Ok(known.get(&id).cloned())
    }

    /// None: since it was opened, another folder has taken its place, or it was removed.
    fn keep_opened(
        &self,
        id: VolumeId,
        root: File,
        spec: &VolumeSpec,
        assigned: &AssignedInstance,
    ) -> io::Result<Option<Arc<Volume>>> {
        let root = Arc::new(root);
        let quota = Arc::new(Quota::new(root.clone(), spec.size.as_bytes()));
        let labels = VolumeFigures {
            id,
            namespace: assigned.namespace.clone(),
            app: assigned.app.clone(),
            name: spec.name.clone(),
            used_bytes: 0,
            size_bytes: spec.size.as_bytes(),
            full: false,
        };
        let volume = Arc::new(Volume { root, quota, writers: Arc::default(), labels: Mutex::new(labels) });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.refuse_restoring(id)?;
        if !is_at(&volume.root, &self.folder(id))? {
            return Ok(None);
        }
        // Another instance may have been here meanwhile, and two must not count beside each other.
        Ok(Some(known.entry(id).or_insert(volume).clone()))
    }

    /// To be called while `known` is held.
    fn refuse_restoring(&self, id: VolumeId) -> io::Result<()> {
        if self.is_restoring(id) {
            return Err(io::Error::other(
                "an archive is being put into it; it can be used when that has ended",
            ));
        }
        Ok(())
    }

    /// How full each is that an instance has had since the start.
    pub fn figures(&self) -> Vec<VolumeFigures> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = known.values().map(|volume| {
            let labels = volume.labels.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let used_bytes = volume.quota.used();
            // A container may have added to it past its quota.
            let full = volume.quota.is_full() || used_bytes > labels.size_bytes;
            VolumeFigures { used_bytes, full, ..labels }
        });
        let mut figures: Vec<_> = figures.collect();
        figures.sort_by_key(|volume| volume.id);
        figures
    }

    /// Of those that are to be removed, the ones that are gone.
    pub fn removed(&self) -> Vec<VolumeId> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Removes what is asked for, until nobody asks any more.
    pub async fn remove_as_asked(self: Arc<Self>, mut asked: watch::Receiver<Vec<VolumeId>>) {
        loop {
            let ids = asked.borrow_and_update().clone();
            let mut removed = Vec::new();
            for id in &ids {
                match self.remove(*id).await {
                    Ok(()) => removed.push(*id),
                    Err(error) => {
                        tracing::warn!(volume.id = %id, "cannot remove volume {id}, trying again: {error}");
                    }
                }
            }
            let all_gone = removed.len() == ids.len();
            *self.removed.lock().unwrap_or_else(PoisonError::into_inner) = removed;
            let changed = match all_gone {
                true => asked.changed().await,
                false => timeout(REMOVE_RETRY, asked.changed()).await.unwrap_or(Ok(())),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn is_restoring(&self, id: VolumeId) -> bool {
        self.restoring.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    async fn remove(&self, id: VolumeId) -> io::Result<()> {
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.get(&id).is_some_and(|volume| is_held(volume)) {
                return Err(io::Error::other("an instance still has it"));
            }
            if self.is_restoring(id) {
                return Err(io::Error::other("an archive is being put into it"));
            }
            known.remove(&id);
        }
        let path = self.dir.join(id.to_string());
        tokio::task::spawn_blocking(move || remove_folder(&path)).await.map_err(io::Error::other)?
    }
}

/// Whether somebody beside the table knows its quota, as every instance that has it does.
fn is_held(volume: &Volume) -> bool {
    Arc::strong_count(&volume.quota) > 1
}

/// The folder of a volume among all of them, made if there is none.
fn open_folder(dir: &Path, id: VolumeId) -> io::Result<File> {
    let path = dir.join(id.to_string());
    if is_aside(&path)? {
        return Err(io::Error::other("what it holds lies aside, because an archive was to take its place"));
    }
    match fs::create_dir(&path) {
        // The folder's name is on the disk before anything in it is.
        Ok(()) => File::open(dir)?.sync_all()?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    File::open(path)
}

/// Whether a path still leads to the folder that was opened there.
fn is_at(root: &File, path: &Path) -> io::Result<bool> {
    let of = |it: fs::Metadata| (it.dev(), it.ino());
    match fs::metadata(path) {
        Ok(there) => Ok(of(there) == of(root.metadata()?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the volume has no folder but the one that another was to take the place of.
fn is_aside(path: &Path) -> io::Result<bool> {
    Ok(!path.try_exists()? && path.with_extension(BEFORE).try_exists()?)
}

/// Makes the folder of before the volume's own again, if no other has taken its place. False: there is none, or one has.
fn take_back(path: &Path) -> io::Result<bool> {
    let before = path.with_extension(BEFORE);
    if !before.try_exists()? {
        return Ok(false);
    }
    let is_filled = match fs::read_dir(path) {
        Ok(mut entries) => Some(entries.next().transpose()?.is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if has_taken_place(is_filled, path.with_extension(RESTORING).try_exists()?) {
        return Ok(false);
    }
    // In the place of an empty folder too.
    fs::rename(&before, path)?;
    Ok(true)
}

/// Whether the volume's folder is the one of an archive, beside the one of before. None: it has no folder.
fn has_taken_place(is_filled: Option<bool>, is_restoring: bool) -> bool {
    match is_filled {
        None => false,
        // An archive may hold nothing; but one that still lies beside it is not in its place.
        Some(false) => !is_restoring,
        Some(true) => true,
    }
}

/// Renamed first, so that half a folder is never taken for a whole one. What an archive has left beside it goes before, so that no
/// start takes that for the volume's.
fn remove_folder(path: &Path) -> io::Result<()> {
    let doomed = path.with_extension(REMOVING);
    remove_tree(&doomed)?;
    let (before, restoring) = (path.with_extension(BEFORE), path.with_extension(RESTORING));
    for folder in [before.as_path(), restoring.as_path(), path] {
        match fs::rename(folder, &doomed) {
            Ok(()) => remove_tree(&doomed)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What an earlier process did not come to the end of. That takes its time, and nobody waits for it.
fn remove_left_over(folders: &[PathBuf]) {
    for path in folders {
        if let Err(error) = remove_tree(path) {
            let path = path.display();
            tracing::warn!(
                "cannot remove the rest of a volume, {path}, trying again at the next start: {error}"
            );
        }
    }
}

fn failed(spec: &VolumeSpec, kind: ReasonKind, problem: &str) -> Failure {
    Failure::new(kind, format!("the volume `{}` cannot be given to the app: {problem}", spec.name))
}

/// Measures what was written to until nobody has the volumes.
async fn keep_measured(volumes: Weak<Volumes>) {
    loop {
        tokio::time::sleep(MEASURE_PERIOD).await;
        let Some(volumes) = volumes.upgrade() else { return };
        let known: Vec<_> = {
            let known = volumes.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter().map(|(id, volume)| (*id, volume.quota.clone())).collect()
        };
        for (id, quota) in known {
            if let Err(error) = quota.measure_if_touched().await {
                tracing::warn!(volume.id = %id, "cannot measure volume {id}, trying again later: {error}");
            }
        }
    }
}

/// Puts the volumes behind the functions of `wasi:filesystem`, which the linker has already.
pub(super) fn link(linker: &mut Linker<State>, profile: Profile) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    hooks02::link(linker)?;
    if profile == Profile::Concurrent {
        hooks03::link(linker)?;
    }
    linker.allow_shadowing(false);
    Ok(())
}

#[cfg(any(test, fuzzing))]
pub(crate) use archive::read_all as read_archive;

#[cfg(test)]
mod tests;
