//! The log of a build: what whoever pushed sees, kept in a file, and followed while it grows.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use tracing::warn;
use wharf_types::BuildId;

/// What is kept of one log. What comes later was said to whoever pushed, and is not kept.
const MAX_BYTES: u64 = 8 << 20;

pub(crate) fn path_in(dir: &Path, build: BuildId) -> PathBuf {
    dir.join(format!("{build}.log"))
}

/// A log that is being written.
#[derive(Debug)]
pub(crate) struct BuildLog {
    file: Mutex<Option<File>>,
    /// How much there is. Closed: it has ended.
    bytes: watch::Sender<u64>,
}

impl BuildLog {
    pub(crate) fn create(dir: &Path, build: BuildId) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path_in(dir, build))?;
        Ok(Self { file: Mutex::new(Some(file)), bytes: watch::Sender::new(0) })
    }

    /// Adds a line. A log that cannot be written must not end the deploy.
    pub(crate) fn line(&self, text: &str) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = file.as_mut() else { return };
        let written = *self.bytes.borrow();
        let line = if written > MAX_BYTES {
            "(what comes now is not kept)\n".to_owned()
        } else {
            format!("{text}\n")
        };
        if let Err(error) = open.write_all(line.as_bytes()) {
            warn!("a line of a build's log was lost: {error}");
        }
        if written > MAX_BYTES {
            *file = None;
        }
        self.bytes.send_modify(|bytes| *bytes += line.len() as u64);
    }

    /// Grows with the log; it is closed when the log has ended.
    pub(crate) fn growth(&self) -> watch::Receiver<u64> {
        self.bytes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_has_its_lines_and_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let id = BuildId::new();
        let log = BuildLog::create(dir.path(), id).unwrap();
        log.line("-----> Building");
        assert_eq!(fs::read_to_string(path_in(dir.path(), id)).unwrap(), "-----> Building\n");
        for _ in 0..10 {
            log.line(&"x".repeat(1 << 20));
        }
        let bytes = fs::metadata(path_in(dir.path(), id)).unwrap().len();
        assert!(bytes < MAX_BYTES + (2 << 20), "{bytes}");
        assert_eq!(*log.growth().borrow(), bytes);
    }
}
