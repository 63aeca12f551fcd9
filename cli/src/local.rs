//! The files of local platforms: how clients on this machine find a platform that `wharf up` started.
//!
//! Each platform has a file of its own, named after the address of its API, so that several of one user do not get in each
//! other's way. `wharf up` writes it when it is ready and removes it when it ends. After a crash the file is stale, which a
//! client notices because nothing answers at its address; the next `wharf up` clears it away. It names the file with the
//! token, and does not hold the token itself.

use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// For a connection within this machine.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);

/// A platform that runs on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Local {
    /// Address of the API, such as `http://127.0.0.1:7070`.
    pub api: String,
    /// Address of the ingress.
    pub http: String,
    pub token_file: PathBuf,
}

/// Writes the file; a reader sees the old one or the new one, never half of it. Files that crashed platforms left are
/// removed.
pub fn write(local: &Local) -> anyhow::Result<()> {
    let folder = folder()?;
    write_json(&file_in(&folder, local), local)?;
    remove_dead(&folder, answers)
}

/// Removes the file, if it still names this platform: another one may have been started at its address since.
pub fn remove(local: &Local) -> anyhow::Result<()> {
    remove_at(&file_in(&folder()?, local), local)
}

/// The platforms that were started and have not ended in good order, the oldest first.
pub fn read() -> anyhow::Result<Vec<Local>> {
    read_in(&folder()?)
}

fn folder() -> anyhow::Result<PathBuf> {
    Ok(config_dir()?.join("local"))
}

fn file_in(folder: &Path, local: &Local) -> PathBuf {
    let address = local.api.split_once("://").map_or(local.api.as_str(), |(_, address)| address);
    folder.join(format!("{address}.json"))
}

fn read_in(folder: &Path) -> anyhow::Result<Vec<Local>> {
    let mut found = Vec::new();
    for path in files_in(folder)? {
        // Whatever ends meanwhile is gone.
        let (Ok(metadata), Some(local)) = (std::fs::metadata(&path), read_json::<Local>(&path)?) else {
            continue;
        };
        let written = metadata.modified().with_context(|| format!("could not read {}", path.display()))?;
        found.push((written, path, local));
    }
    found.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
    Ok(found.into_iter().map(|(_, _, local)| local).collect())
}

fn files_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("could not read {}", folder.display())),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let paths: Vec<PathBuf> =
        paths.collect::<Result<_, _>>().with_context(|| format!("could not read {}", folder.display()))?;
    // A file that is being written has another name for a moment.
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "json")).collect())
}

/// Removes the files of platforms for which `answers` says no.
fn remove_dead(folder: &Path, answers: impl Fn(&Local) -> bool) -> anyhow::Result<()> {
    for local in read_in(folder)? {
        if !answers(&local) {
            remove_at(&file_in(folder, &local), &local)?;
        }
    }
    Ok(())
}

/// Whether something may listen at the platform's address. Only a refusal says that nothing does.
fn answers(local: &Local) -> bool {
    let address = local.api.strip_prefix("http://").and_then(|address| address.parse().ok());
    address.is_none_or(|address| {
        !TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    })
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
    fn platforms_are_found_in_the_order_of_their_start_and_dead_ones_are_cleared_away() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_in(&folder.path().join("not there")).unwrap(), []);
        for (port, secs) in [(3, 1), (1, 2), (2, 3)] {
            let path = file_in(folder.path(), &local(port));
            write_json(&path, &local(port)).unwrap();
            let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        std::fs::write(folder.path().join(".tmp1"), "half a fi").unwrap();
        assert_eq!(read_in(folder.path()).unwrap(), [local(3), local(1), local(2)]);
        remove_dead(folder.path(), |platform| *platform != local(1)).unwrap();
        assert_eq!(read_in(folder.path()).unwrap(), [local(3), local(2)]);
    }

    #[test]
    fn only_an_address_that_refuses_is_dead() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(answers(&local(port)));
        drop(listener);
        assert!(!answers(&local(port)));
        assert!(answers(&Local { api: "nonsense".into(), ..local(port) }));
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
