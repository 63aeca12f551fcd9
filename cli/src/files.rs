//! The folder that an app is shipped with, as an archive: the same files make the same octets.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use wharf_types::archive::{ARCHIVE_MAX_BYTES, InvalidArchive, Writer};

use crate::exit::{Exit, Failure};

/// Packs every file below `folder`, in the order of their paths. What is neither file nor folder is refused by its name.
pub fn pack(folder: &Path) -> anyhow::Result<Bytes> {
    if !folder.is_dir() {
        let message = format!("there is no folder {}, which `files.path` names", folder.display());
        return Err(Failure::new(Exit::NotFound, message).into());
    }
    let refused = |error: InvalidArchive| Failure::invalid(format!("{}: {error}", folder.display()));
    let mut files = Vec::new();
    list(folder, "", &mut files)?;
    files.sort();
    // Before anything is read: a file may be far larger than what it takes on the disk.
    let bytes = files.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
    if bytes > ARCHIVE_MAX_BYTES {
        return Err(refused(InvalidArchive::TooLarge).into());
    }
    let mut writer = Writer::new(Vec::new());
    let mut left = ARCHIVE_MAX_BYTES;
    for (path, _) in files {
        let file = folder.join(&path);
        let reading = || format!("could not read {}", file.display());
        let mut content = Vec::new();
        // One octet more than is allowed tells that a file has grown meanwhile.
        let read = File::open(&file).and_then(|open| open.take(left + 1).read_to_end(&mut content));
        read.with_context(reading)?;
        writer.append(&path, content.len() as u64, content.as_slice()).map_err(refused)?;
        left = left.saturating_sub(content.len() as u64);
    }
    let (archive, _) = writer.finish().with_context(|| format!("could not pack {}", folder.display()))?;
    Ok(archive.into())
}

/// The paths of all files below `folder`, which itself is at `prefix`, and how many octets they have.
fn list(folder: &Path, prefix: &str, files: &mut Vec<(String, u64)>) -> anyhow::Result<()> {
    let reading = || format!("could not read the folder {}", folder.display());
    for entry in fs::read_dir(folder).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        let shown = entry.path().display().to_string();
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            return Err(Failure::invalid(format!("the name of {shown} is not UTF-8")).into());
        };
        let path = format!("{prefix}{name}");
        let found = entry.metadata().with_context(|| format!("could not look at {shown}"))?;
        if found.is_dir() {
            list(&entry.path(), &format!("{path}/"), files)?;
        } else if found.is_file() {
            files.push((path, found.len()));
        } else {
            let what = if found.is_symlink() { "a symbolic link" } else { "neither a file nor a folder" };
            return Err(Failure::invalid(format!("{shown} is {what}, which cannot be shipped"))
                .help("put the file itself there, or take it out of the folder of `files.path`")
                .into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let file = folder.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, file.file_name().unwrap().as_encoded_bytes()).unwrap();
        }
        folder
    }

    #[test]
    fn the_same_files_are_the_same_octets_wherever_and_whenever_they_were_written() {
        let files = ["index.html", "css/all.css", "css.txt", "a/b/c"];
        let first = pack(folder(&files).path()).unwrap();
        let again = folder(&["a/b/c", "css.txt", "css/all.css", "index.html"]);
        fs::create_dir(again.path().join("empty")).unwrap();
        assert_eq!(first, pack(again.path()).unwrap());
        let mut paths = Vec::new();
        let contents = wharf_types::archive::read(&first[..], |path, _| {
            paths.push(path.to_owned());
            Ok(())
        });
        assert_eq!(contents.unwrap().files, 4);
        assert_eq!(paths, ["a/b/c", "css.txt", "css/all.css", "index.html"]);
    }

    #[test]
    fn links_are_refused_by_name_also_those_that_stay_inside() {
        let folder = folder(&["a.txt"]);
        std::os::unix::fs::symlink("a.txt", folder.path().join("b.txt")).unwrap();
        let error = pack(folder.path()).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Invalid);
        assert!(error.to_string().contains("b.txt is a symbolic link"), "{error}");
    }

    #[test]
    fn files_that_are_too_large_together_are_not_read() {
        let folder = folder(&["a.txt", "b.txt"]);
        File::create(folder.path().join("a.txt")).unwrap().set_len(8 << 30).unwrap();
        let error = pack(folder.path()).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Invalid);
        assert!(error.to_string().contains("more than 256 MiB"), "{error}");
    }

    #[test]
    fn a_folder_that_is_missing_is_named() {
        let error = pack(Path::new("/nowhere/public")).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NotFound);
        assert!(error.to_string().contains("/nowhere/public"), "{error}");
    }
}
