//! A disk that is soon full.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// A small file system of its own, as far as this user may make one.
#[derive(Debug)]
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// None: it may not, which is said.
    pub fn mount(mib: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={mib}m");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        let why = match mounted {
            Ok(output) if output.status.success() => return Some(Self(folder)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        // Not by a macro, whose words are shown for failed tests only.
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let told = format!("SKIPPED {test}: only root can make a small disk: {why}\n");
        std::io::stderr().write_all(told.as_bytes()).unwrap();
        None
    }

    /// For the data of a platform.
    pub fn data(&self) -> PathBuf {
        self.0.path().join("data")
    }

    /// Such as `ro`.
    pub fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        let done = Command::new("mount").args(["-o", &options]).arg(self.0.path()).status().unwrap();
        assert!(done.success());
    }

    /// Leaves no room at all. The file that is returned takes it.
    pub fn fill(&self) -> PathBuf {
        let path = self.filler();
        let mut file = std::fs::File::create(&path).unwrap();
        for chunk in [1 << 20, 4096, 1] {
            while file.write_all(&vec![b'x'; chunk]).is_ok() {}
        }
        path
    }

    /// Takes away what [`Self::fill`] has put there.
    pub fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the platform that uses it may end a moment later.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
