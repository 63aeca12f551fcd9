//! The artifact that a build has left: whether it is there, a file, and in the tree.

use std::path::{Component, Path, PathBuf};

use crate::detect::Artifact;
use crate::tree::inside;

/// Names that an error shows.
const SHOWN_MAX: usize = 8;

/// Why there is no artifact.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("it has not made {wanted}{}", elsewhere(found))]
    Missing { wanted: String, found: Vec<String> },
    #[error("its artifact {path} leads out of the tree")]
    LeadsOut { path: String },
    #[error("its artifact {path} is not a regular file")]
    NotAFile { path: String },
    #[error("its artifact {path} is empty")]
    Empty { path: String },
    #[error("its artifact {path} has {bytes} octets; {max_bytes} are allowed")]
    TooLarge { path: String, bytes: u64, max_bytes: u64 },
    #[error("there are several artifacts: {}; name one as `[build] artifact` in wharf.toml", files.join(", "))]
    Several { files: Vec<String> },
}

fn elsewhere(found: &[String]) -> String {
    if found.is_empty() { String::new() } else { format!("; there is {}", found.join(", ")) }
}

/// Whose tree it is, which decides about links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The file may be wherever the user says.
    User,
    Stranger,
}

/// Folders in which a build has worked. A kept folder stands in the place of one in the tree.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) tree: PathBuf,
    pub(super) kept: Vec<(String, PathBuf)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundArtifact {
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    /// Where it is in the tree, if it is now in a kept folder.
    pub(super) kept_as: Option<PathBuf>,
}

impl Places {
    /// The folder in which a relative path is, and the path in there.
    fn split<'a>(&'a self, path: &'a Path) -> (&'a Path, &'a Path) {
        for (name, folder) in &self.kept {
            if let Ok(rest) = path.strip_prefix(name) {
                return (folder, rest);
            }
        }
        (&self.tree, path)
    }

    /// Removes what an earlier build may have left in kept folders, because it would be taken for the result of this one.
    pub(super) fn forget(&self, artifact: &Artifact) -> std::io::Result<()> {
        let files = match artifact {
            Artifact::Path(path) => vec![normal(path)],
            Artifact::OnlyOneIn(folders) => {
                folders.iter().flat_map(|folder| self.wasm_files(folder)).map(PathBuf::from).collect()
            }
        };
        for path in files {
            let (root, rest) = self.split(&path);
            if root == self.tree {
                continue;
            }
            // A link in it may lead anywhere.
            let Some(file) = root.canonicalize().ok().and_then(|root| inside(&root, rest)) else { continue };
            if file.is_file() {
                std::fs::remove_file(file)?;
            }
        }
        Ok(())
    }

    pub(super) fn find(
        &self,
        artifact: &Artifact,
        max_bytes: u64,
        owner: Owner,
    ) -> Result<FoundArtifact, ArtifactError> {
        match artifact {
            Artifact::Path(path) => self.check(path, max_bytes, owner),
            Artifact::OnlyOneIn(folders) => {
                let found = folders.iter().map(|folder| self.wasm_files(folder));
                match found.into_iter().find(|files| !files.is_empty()).unwrap_or_default().as_slice() {
                    [] => Err(ArtifactError::Missing { wanted: artifact.to_string(), found: Vec::new() }),
                    [file] => self.check(file, max_bytes, owner),
                    several => Err(ArtifactError::Several {
                        files: several.iter().take(SHOWN_MAX).cloned().collect(),
                    }),
                }
            }
        }
    }

    fn check(&self, path: &str, max_bytes: u64, owner: Owner) -> Result<FoundArtifact, ArtifactError> {
        let relative = normal(path);
        let (root, rest) = self.split(&relative);
        let path = shown(path);
        let missing = || ArtifactError::Missing { wanted: path.clone(), found: self.others(&relative) };
        let place = root.join(rest).canonicalize().map_err(|_| missing())?;
        let root = root.canonicalize().map_err(|_| missing())?;
        if owner == Owner::Stranger && !place.starts_with(&root) {
            return Err(ArtifactError::LeadsOut { path });
        }
        let metadata = place.metadata().map_err(|_| missing())?;
        match metadata.len() {
            _ if !metadata.is_file() => Err(ArtifactError::NotAFile { path }),
            0 => Err(ArtifactError::Empty { path }),
            bytes if bytes > max_bytes => Err(ArtifactError::TooLarge { path, bytes, max_bytes }),
            bytes => {
                let kept_as = (root != self.tree).then(|| self.tree.join(&relative));
                Ok(FoundArtifact { path: place, bytes, kept_as })
            }
        }
    }

    /// What else lies where something is missing.
    fn others(&self, missing: &Path) -> Vec<String> {
        let folder = missing.parent().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
        let mut found = self.wasm_files(&folder);
        found.truncate(SHOWN_MAX);
        found.iter().map(|path| shown(path)).collect()
    }

    /// The `.wasm` files of a folder, as paths in the tree, sorted.
    fn wasm_files(&self, folder: &str) -> Vec<String> {
        let folder = normal(folder);
        let (root, rest) = self.split(&folder);
        let place = root.canonicalize().ok().and_then(|root| inside(&root, rest));
        let Some(Ok(entries)) = place.map(std::fs::read_dir) else { return Vec::new() };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let names = names.filter(|name| name.ends_with(".wasm"));
        let mut files: Vec<String> =
            names.map(|name| folder.join(name).to_string_lossy().into_owned()).collect();
        files.sort();
        files
    }
}

/// Without `.` in it. A path that begins with `/` or has `..` in it is left to the check of where it leads.
fn normal(path: &str) -> PathBuf {
    Path::new(path).components().filter(|part| *part != Component::CurDir).collect()
}

fn shown(path: &str) -> String {
    path.chars().take(200).flat_map(char::escape_debug).collect()
}

/// The artifact of a stranger's tree that needs no build.
///
/// # Errors
/// When there is none, or it is no file of the tree.
pub fn find_pushed(tree: &Path, artifact: &Artifact, max_bytes: u64) -> Result<PathBuf, ArtifactError> {
    let places = Places { tree: tree.to_owned(), kept: Vec::new() };
    Ok(places.find(artifact, max_bytes, Owner::Stranger)?.path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn places() -> (tempfile::TempDir, Places) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tree", "kept"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("outside.wasm"), "secret").unwrap();
        let root = folder.path().canonicalize().unwrap();
        let places = Places { tree: root.join("tree"), kept: vec![("target".into(), root.join("kept"))] };
        (folder, places)
    }

    fn find(places: &Places, path: &str) -> Result<FoundArtifact, ArtifactError> {
        places.find(&Artifact::Path(path.into()), 10, Owner::Stranger)
    }

    #[test]
    fn an_artifact_is_a_file_in_the_tree_or_in_a_kept_folder() {
        let (_folder, places) = places();
        std::fs::write(places.tree.join("a.wasm"), "1234").unwrap();
        symlink("a.wasm", places.tree.join("link.wasm")).unwrap();
        std::fs::write(places.kept[0].1.join("b.wasm"), "12345").unwrap();
        for path in ["a.wasm", "./a.wasm", "link.wasm"] {
            let found = find(&places, path).unwrap();
            assert_eq!((found.path, found.bytes), (places.tree.join("a.wasm"), 4));
        }
        let kept = find(&places, "target/b.wasm").unwrap();
        assert_eq!(kept.path, places.kept[0].1.join("b.wasm"));
        assert_eq!(kept.kept_as, Some(places.tree.join("target/b.wasm")));
        places.forget(&Artifact::Path("target/b.wasm".into())).unwrap();
        assert!(matches!(find(&places, "target/b.wasm"), Err(ArtifactError::Missing { .. })));
        places.forget(&Artifact::Path("a.wasm".into())).unwrap();
        find(&places, "a.wasm").unwrap();
    }

    #[test]
    fn what_is_no_file_of_the_tree_is_refused() {
        let (_folder, places) = places();
        symlink("/etc/passwd", places.tree.join("passwd.wasm")).unwrap();
        symlink("../outside.wasm", places.tree.join("up.wasm")).unwrap();
        symlink("/", places.tree.join("root")).unwrap();
        symlink("/", places.kept[0].1.join("root")).unwrap();
        std::fs::create_dir(places.tree.join("folder.wasm")).unwrap();
        nix::unistd::mkfifo(&places.tree.join("pipe.wasm"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(places.tree.join("large.wasm"), "12345678901").unwrap();
        std::fs::write(places.tree.join("empty.wasm"), "").unwrap();
        for path in [
            "passwd.wasm",
            "up.wasm",
            "root/etc/passwd",
            "target/root/etc/passwd",
            "../outside.wasm",
            "/etc/passwd",
        ] {
            assert!(matches!(find(&places, path), Err(ArtifactError::LeadsOut { .. })), "{path}");
        }
        for path in ["folder.wasm", "pipe.wasm"] {
            assert!(matches!(find(&places, path), Err(ArtifactError::NotAFile { .. })), "{path}");
        }
        assert!(matches!(find(&places, "large.wasm"), Err(ArtifactError::TooLarge { bytes: 11, .. })));
        assert!(matches!(find(&places, "empty.wasm"), Err(ArtifactError::Empty { .. })));
    }

    #[test]
    fn what_is_missing_is_named_with_what_is_there() {
        let (_folder, places) = places();
        std::fs::write(places.kept[0].1.join("other.wasm"), "1").unwrap();
        let error = find(&places, "target/app.wasm").unwrap_err().to_string();
        assert_eq!(error, "it has not made target/app.wasm; there is target/other.wasm");
    }

    #[test]
    fn the_only_one_of_the_first_folder_that_has_any_is_taken() {
        let (_folder, places) = places();
        let any = Artifact::OnlyOneIn(["", "target", "dist"].map(str::to_owned).to_vec());
        let find = || places.find(&any, 10, Owner::Stranger);
        let error = find().unwrap_err().to_string();
        assert_eq!(error, "it has not made *.wasm, target/*.wasm, dist/*.wasm");
        std::fs::write(places.kept[0].1.join("b.wasm"), "1").unwrap();
        assert_eq!(find().unwrap().path, places.kept[0].1.join("b.wasm"));
        std::fs::write(places.tree.join("a.wasm"), "1").unwrap();
        assert_eq!(find().unwrap().path, places.tree.join("a.wasm"));
        std::fs::write(places.tree.join("c.wasm"), "1").unwrap();
        assert!(find().unwrap_err().to_string().contains("a.wasm, c.wasm"));
        places.forget(&any).unwrap();
        assert!(!places.kept[0].1.join("b.wasm").exists() && places.tree.join("a.wasm").exists());
    }

    #[test]
    fn a_user_says_where_the_own_artifact_is() {
        let (_folder, places) = places();
        let artifact = Artifact::Path("../outside.wasm".into());
        assert!(places.find(&artifact, 10, Owner::User).is_ok());
    }
}
