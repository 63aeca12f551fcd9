//! What a repository takes of the disk, and in how many pieces it is.

use std::io;
use std::path::{Path, PathBuf};

use crate::git::GitError;
use crate::repositories::Repository;

/// Above these, git takes long to find an object; it has them gathered at 50 and 6,700 itself, but a push is always one pack here.
const PACKS_MAX: u64 = 20;
const LOOSE_MAX: u64 = 2000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub bytes: u64,
    pub packs: u64,
    /// Objects that are in no pack.
    pub loose: u64,
}

impl Held {
    /// Whether it is worth gathering.
    pub fn is_scattered(self) -> bool {
        self.packs > PACKS_MAX || self.loose > LOOSE_MAX
    }
}

impl Repository {
    pub async fn held(&self) -> Result<Held, GitError> {
        in_folder(self.path.clone()).await
    }
}

pub(crate) async fn in_folder(folder: PathBuf) -> Result<Held, GitError> {
    let looked_at = tokio::task::spawn_blocking({
        let folder = folder.clone();
        move || held(&folder)
    });
    let held = looked_at.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
    held.map_err(|source| GitError::Disk { path: folder, source })
}

/// Looks at every file. What goes meanwhile does not count.
fn held(folder: &Path) -> io::Result<Held> {
    let mut held = Held::default();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // Objects that are in no pack are in folders such as `2f`.
        let is_loose = folder.file_name().is_some_and(|name| name.len() == 2);
        for entry in some(std::fs::read_dir(&folder))?.into_iter().flatten() {
            let entry = entry?;
            let Some(metadata) = some(entry.metadata())? else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
                continue;
            }
            held.bytes = held.bytes.saturating_add(metadata.len());
            held.packs += u64::from(entry.path().extension().is_some_and(|end| end == "pack"));
            held.loose += u64::from(is_loose);
        }
    }
    Ok(held)
}

fn some<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_counts_and_objects_in_no_pack_are_told_from_others() {
        let folder = tempfile::tempdir().unwrap();
        for (path, bytes) in [
            ("HEAD", 5),
            ("objects/2f/8a", 7),
            ("objects/pack/pack-1.pack", 11),
            ("objects/pack/pack-1.idx", 13),
        ] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, vec![0; bytes]).unwrap();
        }
        assert_eq!(held(folder.path()).unwrap(), Held { bytes: 36, packs: 1, loose: 1 });
        assert_eq!(held(&folder.path().join("nothing")).unwrap(), Held::default());
    }

    #[test]
    fn a_few_pushes_are_left_as_they_are() {
        let of = |packs, loose| Held { bytes: 0, packs, loose }.is_scattered();
        assert!(!of(20, 2000) && of(21, 0) && of(0, 2001));
    }
}
