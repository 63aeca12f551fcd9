//! Whose the artifacts of a folder or a bucket are: a server of another platform would remove what it does not know.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::data_dir::sync_dir;

/// What says so, beside the artifacts.
pub(super) const MARK: &str = "wharf.json";

/// What stands in [`MARK`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    format: u32,
    /// Whose artifacts are here, and for which time they have been brought to another place with this.
    pub(crate) platform: String,
    pub(crate) moves: u64,
}

impl Mark {
    pub(super) fn new(platform: &str, moves: u64) -> Self {
        Self { format: 1, platform: platform.to_owned(), moves }
    }
}

/// Why a folder is not used. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error(transparent)]
    Disk(#[from] io::Error),
    #[error(
        "{} has the artifacts of another platform, and two of them would remove what they do not know of each other: start with the database \
         of that one (`--database`), or with a data directory of your own (--data). If that platform is gone for good, move the folder away",
        folder.display()
    )]
    OfAnother { folder: PathBuf },
    #[error(
        "{} has artifacts, of which the database, which is a new one, knows none: start with the database that they belong to \
         (`--database`), or with another data directory (--data). If nobody needs them, move the folder away",
        folder.display()
    )]
    Unknown { folder: PathBuf },
    #[error(
        "{} has to say whose the artifacts beside it are, and says nothing that this version knows ({why}): see what is there",
        file.display()
    )]
    Unreadable { file: PathBuf, why: String },
}

/// What is found in a folder of artifacts, before it is used.
#[derive(Debug)]
pub(crate) struct Found {
    folder: PathBuf,
    mark: Option<Mark>,
    is_empty: bool,
}

/// Looks at a folder, which need not be there.
pub(crate) fn look(folder: &Path) -> Result<Found, FolderError> {
    let file = folder.join(MARK);
    let mark = match fs::read(&file) {
        Ok(content) => Some(
            serde_json::from_slice(&content)
                .map_err(|error| FolderError::Unreadable { file, why: error.to_string() })?,
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    Ok(Found { mark, is_empty: is_empty(&folder.join("sha256"))?, folder: folder.to_owned() })
}

/// Whether none of the groups of artifacts has any.
fn is_empty(dir: &Path) -> io::Result<bool> {
    let groups = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        groups => groups?,
    };
    for group in groups {
        let group = group?.path();
        // What is not named like an artifact is not ours.
        if group.is_dir() && fs::read_dir(group)?.next().transpose()?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Found {
    /// Makes sure that it is not another platform's.
    pub(crate) fn check(&self, platform: &str) -> Result<(), FolderError> {
        match &self.mark {
            Some(mark) if mark.platform != platform => {
                Err(FolderError::OfAnother { folder: self.folder.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Makes sure that a platform which knows no artifacts begins with none: it would take those that it finds for left over.
    pub(super) fn check_new(&self) -> Result<(), FolderError> {
        match &self.mark {
            None if !self.is_empty => Err(FolderError::Unknown { folder: self.folder.clone() }),
            _ => Ok(()),
        }
    }

    /// Says that it is this platform's, where nothing says so yet.
    pub(super) fn claim(self, platform: &str, moves: u64) -> Result<(), FolderError> {
        self.check(platform)?;
        if self.mark.is_some() {
            return Ok(());
        }
        write(&self.folder, &Mark::new(platform, moves))?;
        // Another one may have done the same at this moment, and then only one of the two is read.
        look(&self.folder)?.check(platform)
    }
}

/// The file is whole or absent, whenever the machine stops. Servers of other users may read it, as they do artifacts.
fn write(folder: &Path, mark: &Mark) -> io::Result<()> {
    let (file, draft) = (folder.join(MARK), folder.join(format!("{MARK}.{}", uuid::Uuid::now_v7())));
    let written = || -> io::Result<()> {
        let mut out = File::create_new(&draft)?;
        out.write_all(&serde_json::to_vec(mark)?)?;
        out.sync_all()?;
        fs::rename(&draft, &file)
    };
    if let Err(error) = written() {
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    sync_dir(&file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_platform_has_a_folder_and_another_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        look(folder).unwrap().claim("a", 0).unwrap();
        look(folder).unwrap().claim("a", 1).unwrap();
        let refused = look(folder).unwrap().claim("b", 0).unwrap_err();
        assert!(matches!(refused, FolderError::OfAnother { .. }), "{refused}");
        assert!(refused.to_string().contains("`--database`"), "{refused}");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "nothing else is left there");
    }

    #[test]
    fn a_new_platform_begins_with_no_artifacts_but_those_that_are_said_to_be_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("artifacts");
        look(&folder).unwrap().check_new().unwrap();
        fs::create_dir_all(folder.join("sha256/ab")).unwrap();
        look(&folder).unwrap().check_new().unwrap();
        fs::write(folder.join("sha256/ab/ab"), "x").unwrap();
        let refused = look(&folder).unwrap().check_new().unwrap_err();
        assert!(matches!(refused, FolderError::Unknown { .. }), "{refused}");
        look(&folder).unwrap().claim("a", 0).unwrap();
        look(&folder).unwrap().check_new().unwrap();
    }

    #[test]
    fn a_mark_that_says_nothing_is_not_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(MARK), "{}").unwrap();
        let refused = look(dir.path()).unwrap_err();
        assert!(refused.to_string().contains(MARK), "{refused}");
    }
}
