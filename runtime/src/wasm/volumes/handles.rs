//! Which handles of a guest lie in which of its volumes.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::filesystem::Descriptor;

use super::quota::Quota;
use super::{Mounted, Mounts};

/// The volumes of a store, and its handles into them. A handle that is closed stays here until its number is used again: every way
/// to a new one comes by.
#[derive(Default)]
pub(in super::super) struct VolumeHandles {
    mounts: Option<Arc<Mounts>>,
    /// By the handle's number in the resource table: which of the mounts.
    of: HashMap<u32, usize>,
}

impl VolumeHandles {
    pub(in super::super) fn new(mounts: Option<Arc<Mounts>>) -> Self {
        Self { mounts, of: HashMap::new() }
    }

    /// A handle to the root of each volume, with the path at which the guest is to see it.
    pub(super) fn roots(
        &mut self,
        table: &mut ResourceTable,
    ) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        let Some(mounts) = self.mounts.clone() else { return Ok(Vec::new()) };
        let mut roots = Vec::with_capacity(mounts.0.len());
        for (index, mounted) in mounts.0.iter().enumerate() {
            let root = table.push(Descriptor::Dir(mounted.dir.clone()))?;
            self.of.insert(root.rep(), index);
            roots.push((root, mounted.guest_path.clone()));
        }
        Ok(roots)
    }

    /// Which volume the handle lies in.
    pub(super) fn volume_of(&self, handle: &Resource<Descriptor>) -> Option<usize> {
        self.of.get(&handle.rep()).copied()
    }

    /// The quota of what is written by this handle. None: it lies in no volume, or in one that cannot be written to anyway.
    pub(super) fn quota_of(&self, handle: &Resource<Descriptor>) -> Option<Arc<Quota>> {
        let mounted = self.mounted(self.volume_of(handle)?)?;
        (!mounted.read_only).then(|| mounted.quota.clone())
    }

    /// Notes a handle that was opened from one that lies in `volume`.
    pub(super) fn opened(
        &mut self,
        table: &ResourceTable,
        volume: Option<usize>,
        handle: &Resource<Descriptor>,
    ) {
        let Some(volume) = volume else {
            self.of.remove(&handle.rep());
            return;
        };
        self.of.insert(handle.rep(), volume);
        if let (Some(file), Some(mounted)) = (file_of(table, handle), self.mounted(volume)) {
            mounted.quota.opened(&file);
        }
    }

    fn mounted(&self, volume: usize) -> Option<&Mounted> {
        self.mounts.as_ref()?.0.get(volume)
    }
}

/// Whether a handle leads to a file or a folder. What a container has left in its volume may be a device, and opened with the worker's rights
/// that is the node's own; a pipe may keep whoever reads it for ever.
pub(super) fn is_plain(table: &ResourceTable, handle: &Resource<Descriptor>) -> bool {
    match table.get(handle) {
        Ok(Descriptor::File(file)) => file.file.metadata().is_ok_and(|it| it.is_file()),
        Ok(Descriptor::Dir(_)) => true,
        Err(_) => false,
    }
}

/// The file that a handle leads to. None: it is a folder, or no handle.
pub(super) fn file_of(table: &ResourceTable, handle: &Resource<Descriptor>) -> Option<Arc<File>> {
    match table.get(handle) {
        Ok(Descriptor::File(file)) => Some(file.file.clone()),
        Ok(Descriptor::Dir(_)) | Err(_) => None,
    }
}
