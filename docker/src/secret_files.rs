//! Files for containers that are in memory only: in a folder of tmpfs on the host, and mounted from there one by one.
//!
//! The engine's own way of copying files into a container writes them to its disk.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use bollard::models::Mount;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use wharf_types::InstanceId;

use crate::container::RunError;
use crate::run::{MemoryFile, bind};

/// Writes the files of an instance, over those of an earlier try, and says how they are mounted.
pub(crate) fn write(folder: &Path, id: InstanceId, files: &[MemoryFile<'_>]) -> Result<Vec<Mount>, RunError> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |path: &Path, source| RunError::File { path: path.to_owned(), source };
    make_folder(folder).map_err(|source| failed(folder, source))?;
    let is_in_memory = statfs(folder).map(|found| found.filesystem_type() == TMPFS_MAGIC).unwrap_or(false);
    if !is_in_memory {
        return Err(RunError::NotInMemory { folder: folder.to_owned() });
    }
    let own = of_instance(folder, id);
    make_folder(&own).map_err(|source| failed(&own, source))?;
    let mut mounts = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let path = own.join(index.to_string());
        write_one(&path, file).map_err(|source| failed(&path, source))?;
        mounts.push(bind(&path.to_string_lossy(), file.path, true));
    }
    Ok(mounts)
}

/// Forgets the files of an instance.
pub(crate) fn remove(folder: &Path, id: InstanceId) -> io::Result<()> {
    match std::fs::remove_dir_all(of_instance(folder, id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The instances that have files.
pub(crate) fn instances(folder: &Path) -> Vec<InstanceId> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn of_instance(folder: &Path, id: InstanceId) -> PathBuf {
    folder.join(id.to_string())
}

fn make_folder(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn write_one(path: &Path, file: &MemoryFile<'_>) -> io::Result<()> {
    // A new file, because the one of an earlier try may belong to the container's user by now.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = std::fs::OpenOptions::new();
    let mut to = options.write(true).create_new(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut to, file.content)?;
    chown(path, Some(file.uid), Some(file.gid))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(file.mode & 0o777))
}
