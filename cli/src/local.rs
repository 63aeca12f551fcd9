//! The local platform file: how clients on this machine find a platform that `wharf up` started.
//!
//! `wharf up` writes it when it is ready and removes it when it ends. After a crash the file is stale, which a client
//! notices because nothing answers at its address. It names the file with the token, and does not hold the token itself.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A platform that runs on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// Address of the API, such as `http://127.0.0.1:7070`.
    pub api: String,
    /// Address of the ingress.
    pub http: String,
    pub token_file: PathBuf,
}

/// Writes the file; a reader sees the old one or the new one, never half of it.
pub fn write(local: &Local) -> anyhow::Result<()> {
    write_json(&path()?, local)
}

/// Removes the file, if it still names this platform: another one may have been started since.
pub fn remove(local: &Local) -> anyhow::Result<()> {
    remove_at(&path()?, local)
}

/// The local platform, if one was started and has not ended in good order.
pub fn read() -> anyhow::Result<Option<Local>> {
    read_json(&path()?)
}

fn path() -> anyhow::Result<PathBuf> {
    Ok(config_dir()?.join("local.json"))
}

/// `~/.config/wharf`, or what `XDG_CONFIG_HOME` says instead.
pub fn config_dir() -> anyhow::Result<PathBuf> {
    directories::ProjectDirs::from("", "", "wharf")
        .map(|dirs| dirs.config_dir().to_owned())
        .context("the home folder is unknown: set HOME, or XDG_CONFIG_HOME")
}

/// Reads a file of ours. None: it is not there.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("could not read {}", path.display())),
    };
    let parsed = serde_json::from_slice(&bytes).with_context(|| {
        format!("{} is damaged: remove it, or write it anew with `wharf login`", path.display())
    })?;
    Ok(Some(parsed))
}

/// Writes a file that only its owner may read, beside its place first and then moved there.
pub fn write_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let folder = path.parent().context("a file of ours always lies in a folder")?;
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
        serde_json::to_writer_pretty(&mut file, value)?;
        file.write_all(b"\n")?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("could not write {}", path.display()))
}

fn remove_at(path: &Path, local: &Local) -> anyhow::Result<()> {
    if read_json::<Local>(path).ok().flatten().as_ref() != Some(local) {
        return Ok(());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(port: u16) -> Local {
        Local {
            api: format!("http://127.0.0.1:{port}"),
            http: "http://127.0.0.1:8080".into(),
            token_file: "/data/token".into(),
        }
    }

    #[test]
    fn what_is_written_is_read_and_only_by_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/local.json");
        assert_eq!(read_json::<Local>(&path).unwrap(), None);
        write_json(&path, &local(1)).unwrap();
        write_json(&path, &local(2)).unwrap();
        assert_eq!(read_json(&path).unwrap(), Some(local(2)));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_file_of_a_platform_started_later_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("local.json");
        write_json(&path, &local(2)).unwrap();
        remove_at(&path, &local(1)).unwrap();
        assert!(path.exists());
        remove_at(&path, &local(2)).unwrap();
        remove_at(&path, &local(2)).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("local.json");
        std::fs::write(&path, "{").unwrap();
        let error = format!("{:#}", read_json::<Local>(&path).unwrap_err());
        assert!(error.contains("local.json is damaged"), "{error}");
    }
}
