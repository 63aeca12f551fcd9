//! What the engine is sent to build: the files of a folder, and a Dockerfile that is not among them.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::ImageBuild;
use crate::archive::Chunks;

/// The engine removes what it names of the Dockerfile and of itself before the first step.
const IGNORE_FILE: &str = ".dockerignore";

/// Where the error is left of whatever could not be read.
pub(super) type Failed = std::sync::Arc<std::sync::Mutex<Option<io::Error>>>;

/// One that nothing in a folder has, as nobody can foresee it.
pub(super) fn dockerfile_name() -> String {
    format!(".wharf-{}", Uuid::now_v7())
}

/// The files as an archive, which is written while it is read, and the Dockerfile in it by that name.
pub(super) fn context(
    build: &ImageBuild,
    name: String,
) -> (impl Stream<Item = io::Result<Bytes>> + Send + 'static + use<>, Failed) {
    let (folder, files, dockerfile) = (build.folder.clone(), build.files.clone(), build.dockerfile.clone());
    let (to, mut chunks) = mpsc::channel::<io::Result<Bytes>>(4);
    let failed = Failed::default();
    let left = failed.clone();
    tokio::task::spawn_blocking(move || {
        let mut chunks = Chunks::new(to);
        if let Err(error) = write_context(&folder, &files, (name.as_str(), dockerfile.as_str()), &mut chunks)
        {
            // Nobody listens any more if it was the engine that has ended this.
            if error.kind() != io::ErrorKind::BrokenPipe
                && let Ok(mut left) = left.lock()
            {
                *left = Some(io::Error::new(error.kind(), error.to_string()));
            }
            chunks.fail(error);
        }
    });
    (futures::stream::poll_fn(move |context| chunks.poll_recv(context)), failed)
}

fn write_context(
    folder: &Path,
    files: &[PathBuf],
    (name, dockerfile): (&str, &str),
    to: impl io::Write,
) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    archive.follow_symlinks(false);
    // The same files are the same archive, so that the builder finds its steps again.
    archive.mode(tar::HeaderMode::Deterministic);
    for file in files.iter().filter(|file| !file.starts_with(IGNORE_FILE)) {
        archive.append_path_with_name(folder.join(file), file)?;
    }
    // The Dockerfile is not for the image, where its name would make each build a new one.
    let ignored = format!("{IGNORE_FILE}\n{name}\n");
    for (path, text) in [(IGNORE_FILE, ignored.as_str()), (name, dockerfile)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, text.as_bytes())?;
    }
    archive.into_inner()?.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dockerfile_is_what_was_given_and_not_what_is_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["Dockerfile", "said"] {
            std::fs::write(folder.path().join(file), "of the folder").unwrap();
        }
        std::os::unix::fs::symlink("said", folder.path().join(IGNORE_FILE)).unwrap();
        let files = [IGNORE_FILE, "Dockerfile", "said"].map(PathBuf::from);
        let mut octets = Vec::new();
        write_context(folder.path(), &files, (".wharf-1", "FROM given"), &mut octets).unwrap();
        let mut found = Vec::new();
        for entry in tar::Archive::new(&octets[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            assert!(entry.header().entry_type().is_file());
            let path = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            io::Read::read_to_string(&mut entry, &mut text).unwrap();
            found.push((path, text));
        }
        let expected = [
            ("Dockerfile", "of the folder"),
            ("said", "of the folder"),
            (IGNORE_FILE, ".dockerignore\n.wharf-1\n"),
            (".wharf-1", "FROM given"),
        ];
        assert_eq!(found, expected.map(|(path, text)| (path.to_owned(), text.to_owned())));
        assert_ne!(dockerfile_name(), dockerfile_name());
    }
}
